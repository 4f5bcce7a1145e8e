"""Weights of a Hugging Face model, from a folder or the hub.

Owns: loading them whole or not at all, adapters with their base, devices and dtypes, and making random ones.
"""

import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from transformers import AutoModelForCausalLM, PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

from convmodel.errors import ConfigError
from convmodel.files.hub import HUB_OPTIONS, adapter_base, adapter_folder, base_options, load_error, resolve_builtin
from convmodel.hf_model.embedding import grow_embedding
from convmodel.hf_model.lora import load_adapters, merge_trained_rows, require_peft
from convmodel.layout.architecture import embeds_token_types
from convmodel.layout.tokenizer import ConversationTokenizer

MODEL_OPTIONS = HUB_OPTIONS | {"dtype", "device_map", "attn_implementation", "low_cpu_mem_usage"}
"""Arguments of Hugging Face's `from_pretrained` that are passed on."""


def check_options(options: Mapping[str, Any]) -> None:
    """Refuses what `from_pretrained` does not know.

    Raises:
        ConfigError: If an option does not exist.
    """
    unknown = options.keys() - MODEL_OPTIONS
    if unknown:
        raise ConfigError(
            f"from_pretrained has no option {', '.join(sorted(unknown))}; there are device, use_token_types, "
            "quantize, " + ", ".join(sorted(MODEL_OPTIONS))
        )


def make_weights(
    config: PretrainedConfig, tokenizer: ConversationTokenizer | PreTrainedTokenizerBase, *, seed: int
) -> tuple[PreTrainedModel, ConversationTokenizer]:
    """Makes a model with random weights, and its tokenizer with token types if the architecture embeds them."""
    types = embeds_token_types(config)
    if not isinstance(tokenizer, ConversationTokenizer):
        tokenizer = ConversationTokenizer(tokenizer, use_token_types=types)
    elif tokenizer.layout.use_token_types != types:
        layout = replace(tokenizer.layout, use_token_types=types)
        tokenizer = ConversationTokenizer(tokenizer.hf_tokenizer, layout=layout)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return AutoModelForCausalLM.from_config(config), tokenizer


def load(
    name: str, options: dict[str, Any], *, device: str | torch.device | None, use_token_types: bool | None
) -> tuple[PreTrainedModel, ConversationTokenizer]:
    """Loads a model and its layout and puts the model on a device.

    Args:
        name: A folder, a Hub id or a model of the package.
        options: Some of `MODEL_OPTIONS`.
        device: Where to put the model; by default a GPU if there is one. `device_map` takes precedence.
        use_token_types: Whether to tell speakers apart by token types, for a model that convmodel has not saved.

    Raises:
        ConfigError: If an option does not exist.
        ModelLoadError: If there is no model.
    """
    check_options(options)
    hub_options = {name: value for name, value in options.items() if name in HUB_OPTIONS}
    tokenizer = ConversationTokenizer.from_pretrained(name, use_token_types=use_token_types, **hub_options)
    hf_model = load_weights(name, tokenizer, options)
    return (hf_model.eval() if options.get("device_map") else place(hf_model, device)), tokenizer


def load_weights(name: str, tokenizer: ConversationTokenizer, options: dict[str, Any]) -> PreTrainedModel:
    """Loads a model, or the base of saved adapters and these into it.

    Args:
        name: A folder, a hub id or a model of the package.
        tokenizer: Its layout.
        options: Arguments of Hugging Face's `from_pretrained`.

    Raises:
        ModelLoadError: If there is no model, or weights are missing.
        MissingExtraError: If there are adapters, and peft is not installed.
        ConfigError: If there is no such dtype.
    """
    _check_dtype(options.get("dtype"))
    hub_options = {key: value for key, value in options.items() if key in HUB_OPTIONS}
    adapters = adapter_folder(name, hub_options)
    if adapters is None:
        return _load(name, options)
    base = adapter_base(adapters)
    require_peft()
    hf_model = _load(base, base_options(options))
    grow_embedding(hf_model, tokenizer.sep_token_id + 1)  # for a row that comes with the adapters
    try:
        load_adapters(hf_model, adapters)
    except (OSError, KeyError, ValueError, SafetensorError) as error:
        raise load_error("adapters", name, error) from error
    merge_trained_rows(hf_model)
    return hf_model


def _load(name: str, options: dict[str, Any]) -> PreTrainedModel:
    """Loads a model's weights, all of them."""
    load: Any = AutoModelForCausalLM.from_pretrained
    try:
        hf_model, report = load(resolve_builtin(name), output_loading_info=True, **options)
    except Exception as error:  # safetensors raises errors of its own
        raise load_error("weights", name, error) from error
    if report["missing_keys"]:
        # transformers would go on with random numbers.
        missing = ", ".join(sorted(report["missing_keys"])[:3])
        raise load_error("weights", name, ValueError(f"{len(report['missing_keys'])} are missing, {missing}, ..."))
    # Adapters will name it, and may be loaded from anywhere.
    hf_model.name_or_path = str(Path(name).resolve()) if Path(name).is_dir() else name
    return _without_quantization(hf_model) if options.get("gguf_file") else hf_model


def _without_quantization(hf_model: PreTrainedModel) -> PreTrainedModel:
    """Copies a model read from a GGUF file, whose weights are floats though transformers calls it quantised.

    Such a model can be neither saved nor trained.
    """
    settings = {name: value for name, value in hf_model.config.to_dict().items() if name != "quantization_config"}
    fresh = AutoModelForCausalLM.from_config(type(hf_model.config).from_dict(settings), dtype=hf_model.dtype)
    fresh.load_state_dict(hf_model.state_dict())
    fresh.generation_config = hf_model.generation_config
    copied: PreTrainedModel = fresh
    return copied


def place(hf_model: PreTrainedModel, device: str | torch.device | None) -> PreTrainedModel:
    """Puts a model on a device, by default a GPU if there is one, in evaluation mode."""
    # Of several processes on one machine, each takes the GPU of its number; torchrun gives it.
    gpu = f"cuda:{os.environ.get('LOCAL_RANK', '0')}"
    device = device or (gpu if torch.cuda.is_available() else "cpu")
    try:
        hf_model.to(torch.device(device))  # type: ignore[arg-type]
    except (RuntimeError, AssertionError) as error:
        raise ConfigError(f"device is {device!r}, which cannot be used: {str(error).splitlines()[0]}") from error
    hf_model.eval()
    return hf_model


def _check_dtype(dtype: Any) -> None:
    if isinstance(dtype, str) and dtype != "auto" and not isinstance(getattr(torch, dtype, None), torch.dtype):
        raise ConfigError(f"dtype is {dtype!r}: it must be auto, or a type of torch such as float32 or bfloat16")
