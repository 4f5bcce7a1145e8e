"""Loading a Hugging Face model's weights from a folder, a GGUF file or the Hub.

Owns: refusing incomplete weights, adapters and their base, devices and dtypes, and making models with random weights.
"""

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from transformers import AutoModelForCausalLM, PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

from convmodel.arguments.names import did_you_mean
from convmodel.errors import ConfigError, ModelLoadError
from convmodel.files.download import reachable_options
from convmodel.files.hub import (
    HUB_OPTIONS,
    adapter_base,
    adapter_folder,
    base_options,
    code_option,
    find_file,
    gguf_path,
    load_error,
    resolve_builtin,
)
from convmodel.hf_model.adapter_files import load_adapters, prepare_base, trained_over
from convmodel.hf_model.device_check import place
from convmodel.hf_model.gguf_weights import load_gguf_model
from convmodel.hf_model.int8_file import has_int8_file, load_int8_model
from convmodel.hf_model.lora import merge_trained_rows, require_peft
from convmodel.hf_model.quantization import quantize_weights
from convmodel.hf_model.reward_model import FILE as REWARD_FILE
from convmodel.hf_model.reward_model import load_reward_model
from convmodel.layout.architecture import embeds_token_types
from convmodel.layout.gguf import load_gguf_config
from convmodel.layout.tokenizer import ConversationTokenizer
from convmodel.layout.tokenizer_files import load_config

MODEL_OPTIONS = HUB_OPTIONS | {"dtype", "device_map", "attn_implementation", "low_cpu_mem_usage"}
"""Arguments of Hugging Face's `from_pretrained` that are passed on."""


def make_weights(
    config: PretrainedConfig,
    tokenizer: ConversationTokenizer | PreTrainedTokenizerBase,
    *,
    seed: int,
    use_token_types: bool | None = None,
) -> tuple[PreTrainedModel, ConversationTokenizer]:
    """Creates a model with random weights.

    In the separator layout it gets token types by default if the architecture embeds them.

    Raises:
        ConfigError: If the config is of another class.
    """
    if not isinstance(config, PretrainedConfig):
        raise ConfigError(
            f"config is a {type(config).__name__}: give a PretrainedConfig of transformers, such as "
            "AutoConfig.for_model('gpt2')"
        )
    types = embeds_token_types(config) if use_token_types is None else use_token_types
    if not isinstance(tokenizer, ConversationTokenizer):
        tokenizer = ConversationTokenizer(tokenizer, use_token_types=types)
    elif tokenizer.layout.template is None and tokenizer.layout.use_token_types != types:
        layout = replace(tokenizer.layout, use_token_types=types)
        tokenizer = ConversationTokenizer(tokenizer.hf_tokenizer, layout=layout)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return AutoModelForCausalLM.from_config(config), tokenizer


def load(
    name: str,
    options: dict[str, Any],
    layout: dict[str, Any],
    *,
    device: str | torch.device | None,
    quantize: str | None = None,
) -> tuple[PreTrainedModel, ConversationTokenizer]:
    """Loads a model and its layout and puts the model on a device, unless `options` have a `device_map`.

    `layout` are the arguments of `ConversationTokenizer.from_pretrained` that choose it. With `quantize`, adapters that
    were trained over a base packed so are loaded over such a base; everything else is left to be packed by the caller.
    """
    unknown = options.keys() - MODEL_OPTIONS
    if unknown:
        names = ["device", *layout, "quantize", *sorted(MODEL_OPTIONS)]
        raise ConfigError(
            f"from_pretrained has no option {', '.join(sorted(unknown))}; there are {', '.join(names)}"
            + did_you_mean(sorted(unknown), names)
        )
    dtype = options.get("dtype")
    if isinstance(dtype, str) and dtype != "auto" and not isinstance(getattr(torch, dtype, None), torch.dtype):
        raise ConfigError(f"dtype is {dtype!r}: it must be auto, or a torch dtype such as float32 or bfloat16")
    options = reachable_options(name, options)
    hub_options = {option: value for option, value in options.items() if option in HUB_OPTIONS}
    tokenizer = ConversationTokenizer.from_pretrained(name, **layout, **hub_options)
    adapters = adapter_folder(name, hub_options)
    packed = quantize if device is None or str(device).partition(":")[0] == "cpu" else None
    hf_model = _load(name, options) if adapters is None else _load_adapted(name, adapters, tokenizer, options, packed)
    # Not by its truth: the device map 0 is the first GPU.
    hf_model = place(hf_model, device) if options.get("device_map") is None else hf_model.eval()
    if tokenizer.layout_was_saved and (reward := find_file(resolve_builtin(name), REWARD_FILE, hub_options)):
        load_reward_model(reward.parent, hf_model)
    return hf_model, tokenizer


def _load_adapted(
    name: str, adapters: Path, tokenizer: ConversationTokenizer, options: dict[str, Any], quantize: str | None
) -> PreTrainedModel:
    """Loads the base of saved adapters, packed if `quantize` is how it was trained, and then the adapters."""
    base = adapter_base(adapters)
    require_peft()
    hf_model = _load(base, reachable_options(base, base_options(options)))
    try:
        prepare_base(hf_model, tokenizer, adapters)
        if quantize is not None and quantize == trained_over(adapters) and hf_model.device.type == "cpu":
            quantize_weights(hf_model, quantize)
        load_adapters(hf_model, adapters)
    except (OSError, KeyError, ValueError, SafetensorError) as error:
        raise load_error("adapters", name, error) from error
    merge_trained_rows(hf_model)
    return hf_model


def _load(name: str, options: dict[str, Any]) -> PreTrainedModel:
    """Loads a whole model; missing weights are an error."""
    load: Any = AutoModelForCausalLM.from_pretrained
    hf_model: PreTrainedModel
    try:
        if path := gguf_path(name, options):
            hf_model, report = load_gguf_model(path, _empty_model(load_gguf_config(path)), _of_weights(options))
        elif has_int8_file(Path(folder := resolve_builtin(name))):
            hf_model, report = load_int8_model(Path(folder), _empty_model(load_config(name, {})), _of_weights(options))
        else:
            hf_model, report = load(folder, output_loading_info=True, **code_option(options))
    except ModelLoadError:
        raise
    except Exception as error:  # safetensors raises its own errors
        raise load_error("weights", name, error) from error
    if report["missing_keys"]:
        # transformers would continue with random weights.
        missing = ", ".join(sorted(report["missing_keys"])[:3])
        raise load_error("weights", name, ValueError(f"{len(report['missing_keys'])} are missing, {missing}, ..."))
    # Adapters store this name, and may be loaded from another working directory.
    hf_model.name_or_path = str((path or Path(name)).resolve()) if path or Path(name).is_dir() else name
    return hf_model


def _empty_model(config: PretrainedConfig) -> PreTrainedModel:
    """Returns a model without weights."""
    with torch.device("meta"):
        empty: PreTrainedModel = AutoModelForCausalLM.from_config(config, **code_option({}))
    return empty


def _of_weights(options: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in options.items() if name not in HUB_OPTIONS}
