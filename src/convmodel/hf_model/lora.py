"""LoRA: small trainable matrices added to frozen weights, in place, so that the model stays the same object.

Owns: which layers get adapters, the new separator's row, and merging and removing adapters. Their files are in
`adapter_files`.
Hu et al. 2021, arXiv:2106.09685: a layer with the matrix W computes (W + (alpha / r) B A) x, where only A and B, of
rank r, are trained, and B starts as zero.
"""

import importlib.util
import warnings
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import nn
from transformers.pytorch_utils import Conv1D

from convmodel.arguments.names import did_you_mean
from convmodel.errors import ConfigError, MissingExtraError
from convmodel.hf_model.embedding import embed, new_row_sources
from convmodel.hf_model.fingerprint import base_fingerprint
from convmodel.hf_model.float32 import compute_buffers, in_half_precision
from convmodel.hf_model.int8_adapters import are_tied, float_stand_ins, is_new_row
from convmodel.hf_model.int8_layers import Int8Embedding, Int8Linear, count_rows
from convmodel.hf_model.lora_options import LORA_OPTIONS
from convmodel.hf_model.quantization import is_quantized, require_unquantized
from convmodel.layout.tokenizer import ConversationTokenizer

if TYPE_CHECKING:
    from peft import LoraConfig
    from transformers import PreTrainedModel

BASE_FINGERPRINT = "base_fingerprint"
"""An attribute set on a model with adapters."""

ROW_SOURCE = "new_rows_from"
"""Another: the row that `set_new_rows` copied, or None."""

ADAPTER_NAME = "default"
"""peft's name of a model's only adapters."""

_DEFAULTS: dict[str, Any] = {"r": 16, "lora_alpha": 32, "target_modules": "all-linear"}


def require_peft() -> None:
    """Raises a `MissingExtraError` unless peft is installed."""
    if importlib.util.find_spec("peft") is None:
        raise MissingExtraError("LoRA adapters need peft", "train")


def has_adapters(hf_model: "PreTrainedModel") -> bool:
    """Returns whether a model has adapters that are not merged into its weights."""
    return bool(getattr(hf_model, "_hf_peft_config_loaded", False))


def add_adapters(
    hf_model: "PreTrainedModel", tokenizer: ConversationTokenizer, options: Mapping[str, Any], *, seed: int = 0
) -> int:
    """Adds adapters to all linear layers except the head, and freezes all other weights.

    If the separator's embedding row is still untrained, it is trained as well, and no other row. The options are
    arguments of peft's `LoraConfig`. Returns the number of trainable parameters.

    Raises:
        MissingExtraError: If peft is not installed.
        ConfigError: If an option does not exist or does not match the model.
    """
    require_peft()
    with float_stand_ins(hf_model):
        config = _lora_config(hf_model, options)
    config.trainable_token_indices = _new_rows(hf_model, tokenizer)
    hf_model.__dict__[ROW_SOURCE] = tokenizer.end_of_text_id
    before = embed(hf_model, tokenizer.stop_token_ids)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        inject(hf_model, config)
    if not torch.equal(before, embed(hf_model, tokenizer.stop_token_ids)):
        remove_adapters(hf_model, merge=False)
        kind = hf_model.config.model_type
        raise ConfigError(f"lora cannot train the row that {kind} got for the separator: leave lora out")
    return train_adapters(hf_model)


def train_adapters(hf_model: "PreTrainedModel") -> int:
    """Freezes all weights except the adapters, and returns the number of trainable parameters."""
    for rows in _trained_rows(hf_model):
        if rows.merged:
            rows.unmerge()
    for name, parameter in hf_model.named_parameters():
        parameter.requires_grad_(_is_adapter(name))
    return sum(parameter.numel() for parameter in hf_model.parameters() if parameter.requires_grad)


def merge_trained_rows(hf_model: "PreTrainedModel") -> None:
    """Merges trained rows into their matrix; otherwise peft copies the whole matrix in each forward pass."""
    for rows in _trained_rows(hf_model):
        if not rows.merged:
            rows.merge()


def require_same_options(hf_model: "PreTrainedModel", options: Mapping[str, Any]) -> None:
    """Raises a `ConfigError` if the options of a model's adapters differ from the requested ones."""
    config: Any = hf_model.peft_config[ADAPTER_NAME]
    current = config.to_dict()
    for name, value in options.items():
        actual, wanted = (sorted(item) if isinstance(item, set | list) else item for item in (current.get(name), value))
        if actual != wanted and (name, wanted) != ("target_modules", _DEFAULTS["target_modules"]):
            raise ConfigError(f"lora's {name} is {value!r}, but the model's adapters have {actual!r}: merge them first")


def inject(hf_model: "PreTrainedModel", config: Any) -> None:
    """Adds the layers of a peft config to a model, in float32; if they do not match, the model stays unchanged."""
    base = base_fingerprint(hf_model)
    if getattr(config, "use_dora", False) and is_quantized(hf_model):
        raise ConfigError("lora's use_dora needs float weights: leave out use_dora or quantize")
    try:
        with warnings.catch_warnings(), float_stand_ins(hf_model):
            # peft's own patterns for experts, which name parameters; it looks for them among modules only.
            warnings.filterwarnings("ignore", r"The following \w+ keys did not match any.*_proj'", RuntimeWarning)
            hf_model.add_adapter(config, ADAPTER_NAME)
        _require_products(hf_model)
    except Exception as error:
        remove_adapters(hf_model, merge=False)
        if not isinstance(error, TypeError | ValueError | AttributeError):  # the last, of a layer named as another
            raise
        raise ConfigError(f"lora does not fit this model: {str(error).splitlines()[0]}") from error
    hf_model.__dict__[BASE_FINGERPRINT] = base
    for name, parameter in hf_model.named_parameters():
        if _is_adapter(name):
            parameter.data = parameter.data.float()  # the base may stay in half precision
    for layer in hf_model.modules():
        rows: Any = getattr(layer, "token_adapter", None)
        base_layer = None if rows is None else rows.get_base_layer()
        if getattr(base_layer, "bias", None) is not None and not isinstance(base_layer, Int8Linear):
            rows.register_forward_hook(_add_bias)


def _add_bias(rows: Any, inputs: Any, result: torch.Tensor) -> torch.Tensor:
    """Adds a head's bias, which peft leaves out while the rows that it trains are not merged."""
    return result if rows.merged or rows.disable_adapters else result + rows.get_base_layer().bias


def _is_product(layer: Any) -> bool:
    """Returns whether a linear layer computes just that; a router of experts may choose some and return a tuple.

    A layer with a forward of its own is tried, since it may compute the same, as Falcon's does.
    """
    if not isinstance(layer, nn.Linear) or type(layer).forward is nn.Linear.forward:
        return True
    weight = layer.weight
    inputs = torch.linspace(-1, 1, weight.shape[1], dtype=weight.dtype, device=weight.device)[None]
    with torch.no_grad():
        expected = F.linear(inputs, weight, layer.bias)
        try:
            result = layer(inputs)
        except Exception:  # whatever the layer's own code raises for something else than its usual input
            return False
    return (
        isinstance(result, torch.Tensor)
        and result.shape == expected.shape
        and bool((result - expected).abs().max() <= 0.01 * expected.abs().max())
    )


def _require_products(hf_model: "PreTrainedModel") -> None:
    """Raises a ValueError if an adapter was added to a layer whose result is not that of its weight."""
    for name, layer in hf_model.named_modules():
        if hasattr(layer, "lora_A") and isinstance(layer.get_base_layer(), Int8Embedding):
            raise ValueError(
                f"{name} is an embedding in int8: leave it out of target_modules, or load without quantize"
            )
        if hasattr(layer, "lora_A") and not _is_product(layer.get_base_layer()):
            kind = type(layer.get_base_layer()).__name__
            raise ValueError(f"{name} is a {kind}, which does more than multiply; name others as target_modules")


def _is_adapter(name: str) -> bool:
    return "lora_" in name or "trainable_tokens" in name


def _trained_rows(hf_model: "PreTrainedModel") -> Iterator[Any]:
    """Yields peft's layers of single rows, once each: a tied head shares the embedding's."""
    layers = (getattr(module, "token_adapter", None) for module in hf_model.modules())
    yield from (rows for rows in layers if rows is not None and rows.tied_adapter is None)


def _lora_config(hf_model: "PreTrainedModel", options: Mapping[str, Any]) -> "LoraConfig":
    from peft import LoraConfig

    chosen = _DEFAULTS | dict(options)
    unknown = chosen.keys() - LORA_OPTIONS
    if unknown:
        raise ConfigError(
            f"lora has no option {', '.join(sorted(unknown))}; there are {', '.join(sorted(LORA_OPTIONS))}"
            + did_you_mean(sorted(unknown), LORA_OPTIONS)
        )
    for name, minimum in (("r", 1), ("lora_alpha", 0), ("lora_dropout", 0)):
        value = chosen.get(name, minimum)
        if isinstance(value, bool) or not isinstance(value, int if name == "r" else int | float) or value < minimum:
            raise ConfigError(f"lora's {name} is {value!r}: it must be a number of at least {minimum}")
    transposed = any(isinstance(layer, Conv1D) for layer in hf_model.modules())  # as in GPT-2
    if chosen["target_modules"] == _DEFAULTS["target_modules"] and "exclude_modules" not in chosen:
        chosen["exclude_modules"] = [name for name, layer in hf_model.named_modules() if not _is_product(layer)] or None
    if chosen["target_modules"] == _DEFAULTS["target_modules"] and chosen.get("layers_to_transform") is not None:
        chosen["target_modules"] = _linear_names(hf_model)  # peft takes numbers of layers beside names only
    try:
        return LoraConfig(task_type="CAUSAL_LM", fan_in_fan_out=transposed, **chosen)
    except (TypeError, ValueError) as error:
        raise ConfigError(f"lora's options do not go together: {str(error).splitlines()[0]}") from error


def _linear_names(hf_model: "PreTrainedModel") -> list[str]:
    """Returns the last parts of the names of all linear layers except the head."""
    head = hf_model.get_output_embeddings()
    linear = [
        name for name, layer in hf_model.named_modules() if isinstance(layer, nn.Linear | Conv1D) and layer is not head
    ]
    return sorted({name.rpartition(".")[2] for name in linear})


def _new_rows(hf_model: "PreTrainedModel", tokenizer: ConversationTokenizer) -> dict[str, list[int]] | None:
    """Returns the separator's row by layer name, if it still has the values set by `fit_embedding`; else None."""
    separator, end = tokenizer.layout.separator_id, tokenizer.end_of_text_id
    if separator is None:
        return None
    embedding: Any = hf_model.get_input_embeddings()
    if not is_new_row(embedding, separator, new_row_sources(count_rows(embedding), separator, end)):
        return None
    head: Any = hf_model.get_output_embeddings()
    tied = head is None or are_tied(embedding, head)  # peft ties it to the embedding
    layers = [embedding] if tied else [embedding, head]
    return {name: [separator] for name, module in hf_model.named_modules() if module in layers}


def remove_adapters(hf_model: "PreTrainedModel", *, merge: bool) -> None:
    """Removes the adapters, after adding them to the weights if `merge`; the model is plain and trainable again.

    Raises:
        ConfigError: If they are to be merged into packed weights.
    """
    if merge:
        require_unquantized(hf_model, "merged with adapters")
    from peft.tuners.tuners_utils import BaseTunerLayer
    from peft.utils.other import AuxiliaryTrainingWrapper

    rounds = merge and in_half_precision(hf_model)
    if rounds:
        hf_model.float()  # half precision would round the update
    train_adapters(hf_model)  # unmerges trained rows
    layers = {
        name: layer
        for name, layer in hf_model.named_modules()
        if isinstance(layer, BaseTunerLayer | AuxiliaryTrainingWrapper) and ".token_adapter" not in name
    }
    for name, layer in layers.items():
        if any(name.startswith(f"{other}.") for other in layers):
            continue  # the wrappers of experts' parameters are nested: the outermost stands for all
        if hasattr(layer, "unload_and_optionally_merge_module"):
            plain = layer.unload_and_optionally_merge_module(merge=merge, safe_merge=False, adapter_names=None)
        else:
            if merge:
                layer.merge()
            plain = layer.get_base_layer()
        hf_model.set_submodule(name, plain)
    if not is_quantized(hf_model):  # whose packed layers are tied for good
        hf_model.tie_weights()
    hf_model._hf_peft_config_loaded = False
    hf_model.__dict__.pop("peft_config", None)
    hf_model.requires_grad_(not is_quantized(hf_model))
    if rounds:
        compute_buffers(hf_model)
