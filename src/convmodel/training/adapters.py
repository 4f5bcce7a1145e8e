"""LoRA: small trainable matrices beside frozen weights, in place, so that a model stays the object that it is.

Owns: which layers get adapters, the new separator's row, taking adapters off again, and their files.
Hu et al. 2021, arXiv:2106.09685: a layer with the matrix W computes (W + (alpha / r) B A) x, where only A and B, of
rank r, are learned, and B begins as zero.
"""

import importlib.util
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from transformers.pytorch_utils import Conv1D

from convmodel.errors import ConfigError, MissingExtraError
from convmodel.tokenizer import ConversationTokenizer

if TYPE_CHECKING:
    from peft import LoraConfig
    from transformers import PreTrainedModel

ADAPTER_WEIGHTS = "adapter_model.safetensors"
"""What peft calls the file of adapters' weights."""

_NAME = "default"  # what peft calls a model's only adapters
_DEFAULTS: dict[str, Any] = {"r": 16, "lora_alpha": 32, "target_modules": "all-linear"}
_IN_FILE = "base_model.model."  # what peft puts before each name


def require_peft() -> None:
    """Checks that peft is there, which adapters need to be trained and to be loaded.

    Raises:
        MissingExtraError: If it is not.
    """
    if importlib.util.find_spec("peft") is None:
        raise MissingExtraError("LoRA adapters need peft: pip install 'convmodel[train]'")


def has_adapters(hf_model: "PreTrainedModel") -> bool:
    """Tells whether a model has adapters that are not merged into its weights."""
    return bool(getattr(hf_model, "_hf_peft_config_loaded", False))


def add_adapters(
    hf_model: "PreTrainedModel", tokenizer: ConversationTokenizer, options: Mapping[str, Any], *, seed: int = 0
) -> int:
    """Puts adapters beside all linear layers but the head, and freezes everything else.

    Where the separator's row in the embedding was never trained, it is trained too, and no other row.

    Args:
        hf_model: The model.
        tokenizer: Its layout.
        options: Arguments of peft's `LoraConfig`; by default `r=16, lora_alpha=32` and no dropout.
        seed: Seeds the adapters' first weights.

    Returns:
        How many parameters are trained.

    Raises:
        MissingExtraError: If peft is not installed.
        ConfigError: If an option does not exist or does not fit the model.
    """
    require_peft()
    config = _lora_config(hf_model, options)
    config.trainable_token_indices = _new_rows(hf_model, tokenizer)
    try:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            hf_model.add_adapter(config, _NAME)
    except ValueError as error:
        remove_adapters(hf_model, merge=False)
        raise ConfigError(f"lora does not fit this model: {error}") from error
    trained = [parameter for parameter in hf_model.parameters() if parameter.requires_grad]
    for parameter in trained:
        parameter.data = parameter.data.float()  # the base may stay in half precision, what is learned may not
    return sum(parameter.numel() for parameter in trained)


def _lora_config(hf_model: "PreTrainedModel", options: Mapping[str, Any]) -> "LoraConfig":
    from peft import LoraConfig

    transposed = any(isinstance(layer, Conv1D) for layer in hf_model.modules())  # as in GPT-2
    own = {"task_type": "CAUSAL_LM", "fan_in_fan_out": transposed}
    try:
        return LoraConfig(**(_DEFAULTS | own | dict(options)))
    except (TypeError, ValueError) as error:
        raise ConfigError(f"lora: {error}; its options are those of peft's LoraConfig: r, lora_alpha, ...") from error


def _new_rows(hf_model: "PreTrainedModel", tokenizer: ConversationTokenizer) -> dict[str, list[int]] | None:
    """Names the row of a separator that still has the values it was given: those of the end of text."""
    separator, end = tokenizer.sep_token_id, tokenizer.hf_tokenizer.eos_token_id
    embedding: Any = hf_model.get_input_embeddings()
    if end is None or separator == end or not torch.equal(embedding.weight[separator], embedding.weight[end]):
        return None
    layers = [embedding]
    head: Any = hf_model.get_output_embeddings()
    if head is not None and head.weight is not embedding.weight:  # peft ties it to the embedding otherwise
        layers.append(head)
    names = {module: name for name, module in hf_model.named_modules()}
    return {names[layer]: [separator] for layer in layers}


def remove_adapters(hf_model: "PreTrainedModel", *, merge: bool) -> None:
    """Takes adapters off, so that the model is a plain one again, all of whose weights can be trained.

    Args:
        hf_model: The model.
        merge: Whether to add what they learned to the weights first.
    """
    from peft.tuners.tuners_utils import BaseTunerLayer
    from peft.utils.other import AuxiliaryTrainingWrapper

    layers = [
        (name, layer)
        for name, layer in hf_model.named_modules()
        if isinstance(layer, BaseTunerLayer | AuxiliaryTrainingWrapper) and ".token_adapter" not in name
    ]
    for name, layer in layers:
        if isinstance(layer, AuxiliaryTrainingWrapper):
            plain = layer.unload_and_optionally_merge_module(merge=merge, safe_merge=False, adapter_names=None)
        else:
            if merge:
                layer.merge()
            plain = layer.get_base_layer()
        hf_model.set_submodule(name, plain)
    hf_model.tie_weights()
    hf_model._hf_peft_config_loaded = False
    hf_model.__dict__.pop("peft_config", None)
    hf_model.requires_grad_(True)


def require_base(hf_model: "PreTrainedModel") -> None:
    """Checks that adapters saved alone would say of which model they are.

    Raises:
        ConfigError: If the base has no name, because it was made or trained in memory.
    """
    if not hf_model.name_or_path:
        raise ConfigError(
            "the adapters would be saved alone, but their base model is nowhere: save it and load it first, or give "
            "merge=True (--merge) for a whole model"
        )


def save_adapters(hf_model: "PreTrainedModel", folder: Path) -> None:
    """Writes the adapters alone, in peft's form."""
    from peft.utils.save_and_load import get_peft_model_state_dict
    from safetensors.torch import save_file

    config = hf_model.peft_config[_NAME]
    base = str(hf_model.name_or_path)
    # A folder's place is given whole, since the model may be loaded from anywhere.
    config.base_model_name_or_path = str(Path(base).resolve()) if base and Path(base).is_dir() else base
    config.save_pretrained(folder)
    # Left to itself, peft asks the hub for the base's vocabulary, and saves the whole embedding if ours is larger.
    own = get_peft_model_state_dict(hf_model, adapter_name=_NAME, save_embedding_layers=False)
    named = {f"{_IN_FILE}{name}": value.detach().cpu().contiguous() for name, value in own.items()}
    save_file(named, folder / ADAPTER_WEIGHTS, metadata={"format": "pt"})
    hf_model.generation_config.save_pretrained(folder)


def load_adapters(hf_model: "PreTrainedModel", folder: Path) -> None:
    """Puts saved adapters into the model whose adapters they are, in place."""
    from peft.utils.save_and_load import set_peft_model_state_dict
    from safetensors.torch import load_file

    saved = {name.removeprefix(_IN_FILE): value for name, value in load_file(folder / ADAPTER_WEIGHTS).items()}
    set_peft_model_state_dict(hf_model, saved, adapter_name=_NAME)
