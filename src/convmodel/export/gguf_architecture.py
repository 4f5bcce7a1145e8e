"""The architectures that llama.cpp computes as transformers does, and what a GGUF file says of them.

Owns: llama.cpp's name of each architecture, its hyperparameters, and refusing a model that llama.cpp would compute
otherwise. Most of this is fixed in llama.cpp's code for each architecture, so a file cannot say it.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch

from convmodel.errors import ConfigError
from convmodel.hf_model.decoder import Decoder, UnknownDecoderError, decoder_of
from convmodel.layout.architecture import positions

if TYPE_CHECKING:
    from gguf import GGUFWriter
    from transformers import PreTrainedModel


@dataclass(frozen=True, slots=True)
class Architecture:
    """What llama.cpp's code fixes for an architecture.

    Attributes:
        name: llama.cpp's name.
        activations: The activation functions of transformers that it computes.
        rotates_neighbors: Whether its rotary embedding rotates neighboring values of a query or key together, where
            transformers rotates the first half with the second.
        scalings: The types of rotary scaling that it reads.
        cap_names: The config's soft limits that it reads.
        has_rotary: Whether layer `i` has a rotary embedding, where some have none.
        window_of: Whether layer `i` attends to a window only, where it reads one; others attend to everything.
    """

    name: str
    activations: frozenset[str] = frozenset({"silu", "swish"})
    rotates_neighbors: bool = False
    scalings: frozenset[str] = frozenset({"default", "linear", "yarn"})
    cap_names: frozenset[str] = frozenset()
    has_rotary: Callable[[int], bool] = field(default=lambda layer: True)
    window_of: Callable[[int], bool] | None = None

    @property
    def rounds_activations(self) -> bool:
        """Whether it looks the activation function up in a table of float16, whatever the type of weights."""
        return self.activations == _GELU_TANH


_GELU_TANH = frozenset({"gelu_new", "gelu_pytorch_tanh"})
_LLAMA = Architecture("llama", rotates_neighbors=True, scalings=frozenset({"default", "linear", "yarn", "llama3"}))
ARCHITECTURES: Mapping[str, Architecture] = {
    "GPT2LMHeadModel": Architecture("gpt2", _GELU_TANH),
    "LlamaForCausalLM": _LLAMA,
    "MistralForCausalLM": _LLAMA,
    "Qwen2ForCausalLM": Architecture("qwen2"),
    "Qwen3ForCausalLM": Architecture("qwen3"),
    "SmolLM3ForCausalLM": Architecture(
        "smollm3", rotates_neighbors=True, has_rotary=lambda layer: (layer + 1) % 4 != 0
    ),
    "Phi3ForCausalLM": Architecture("phi3", scalings=frozenset({"default", "longrope"})),
    "Gemma2ForCausalLM": Architecture(
        "gemma2",
        _GELU_TANH,
        cap_names=frozenset({"attn_logit_softcapping", "final_logit_softcapping"}),
        window_of=lambda layer: layer % 2 == 0,
    ),
    "Gemma3ForCausalLM": Architecture(
        "gemma3",
        _GELU_TANH,
        scalings=frozenset({"default", "linear"}),
        window_of=lambda layer: (layer + 1) % 6 != 0,
    ),
}
"""By transformers' class."""

_CAPS = ("attn_logit_softcapping", "final_logit_softcapping")


@dataclass(frozen=True, slots=True)
class Shape:
    """A model whose architecture llama.cpp has.

    Attributes:
        architecture: What llama.cpp fixes.
        decoder: The model's parts.
        config: transformers' config of the language model.
        context: How many positions llama.cpp computes as transformers does.
    """

    architecture: Architecture
    decoder: Decoder
    config: Any
    context: int


def shape_of(hf_model: "PreTrainedModel") -> Shape:
    """Returns a model's architecture as llama.cpp has it.

    Raises:
        ConfigError: If llama.cpp has no such architecture, or would compute it otherwise.
    """
    name = type(hf_model).__name__
    architecture = ARCHITECTURES.get(name)
    if architecture is None:
        raise ConfigError(
            f"{name} cannot be exported to GGUF, only {', '.join(ARCHITECTURES)}: serve this model with "
            "`convmodel serve`"
        )
    try:
        decoder = decoder_of(hf_model)
    except UnknownDecoderError as error:
        raise ConfigError(f"this model cannot be exported to GGUF: {error}; load it again, unchanged") from error
    config = hf_model.config.get_text_config()
    for problem in _differences(architecture, decoder, config):
        raise ConfigError(
            f"this {name} cannot be exported to GGUF, since llama.cpp would compute it otherwise: {problem}"
        )
    return Shape(architecture, decoder, config, _context(architecture, decoder, config))


def _differences(architecture: Architecture, decoder: Decoder, config: Any) -> list[str]:
    """Describes what llama.cpp's code does not have; part of a sentence."""
    found = []
    activation = _first(config, "activation_function", "hidden_activation", "hidden_act")
    if activation not in architecture.activations:
        found.append(f"its activation function is {activation}")
    if any(abs(layer.scale - decoder.head_size**-0.5) > 1e-9 for layer in decoder.layers):
        found.append("its attention is not scaled by the square root of the head size")
    found += [
        f"its config has {name}" for name in _CAPS if getattr(config, name, None) and name not in architecture.cap_names
    ]
    for number, layer in enumerate(decoder.layers):
        if decoder.rotary_embedding is not None and (layer.rotary is not None) != architecture.has_rotary(number):
            found.append(f"layer {number} differs in whether it has a rotary embedding")
        if architecture.window_of and (layer.window is not None) != architecture.window_of(number):
            found.append(f"layer {number} differs in whether it attends to a window only")
    found += [f"its rotary scaling is {kind}" for kind in _scalings(config) if kind not in architecture.scalings]
    return found


def _scalings(config: Any) -> list[str]:
    return [parameters.get("rope_type", "default") for parameters in _rotary_parameters(config).values()]


def has_scaling(config: Any) -> bool:
    """Returns whether the rotary embedding of a config is scaled."""
    return any(kind != "default" for kind in _scalings(config))


def _rotary_parameters(config: Any) -> dict[str, dict[str, Any]]:
    """Returns the parameters of the rotary embedding by kind of layer; under an empty name if there is one kind."""
    parameters = getattr(config, "rope_parameters", None) or {}
    nested = {kind: values for kind, values in parameters.items() if isinstance(values, dict)}
    return nested or ({"": parameters} if parameters else {})


def _context(architecture: Architecture, decoder: Decoder, config: Any) -> int:
    """Returns up to how many positions llama.cpp computes what transformers does."""
    windows = [layer.window for layer in decoder.layers if layer.window is not None]
    limit = positions(config)
    limits = ([limit] if limit else []) + ([] if architecture.window_of else windows)
    # llama.cpp takes the factors for long sequences as soon as its context is longer than this, for short ones too.
    parameters = [each for each in _rotary_parameters(config).values() if each.get("rope_type") == "longrope"]
    limits += [_original_positions(config, each) for each in parameters]
    if not limits:
        raise ConfigError("this model cannot be exported to GGUF: its config has no number of positions")
    return min(limits)


def _first(config: Any, *names: str) -> Any:
    return next((value for name in names if (value := getattr(config, name, None)) is not None), None)


def write_hyperparameters(writer: "GGUFWriter", shape: Shape) -> None:
    """Writes what llama.cpp reads to compute the model."""
    decoder, config = shape.decoder, shape.config
    writer.add_context_length(shape.context)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(len(decoder.layers))
    writer.add_feed_forward_length(_first(config, "intermediate_size", "n_inner") or 4 * config.hidden_size)
    writer.add_head_count(decoder.heads)
    writer.add_head_count_kv(decoder.key_value_heads)
    writer.add_vocab_size(decoder.embedding.num_embeddings)
    (writer.add_layer_norm_rms_eps if decoder.norm.is_rms else writer.add_layer_norm_eps)(_epsilon(decoder.norm.module))
    if decoder.rotary_embedding is not None:
        writer.add_key_length(decoder.head_size)
        writer.add_value_length(decoder.head_size)
        _write_rotary(writer, shape)
    if shape.architecture.window_of:
        writer.add_sliding_window(max(layer.window or 0 for layer in decoder.layers))
    for name in shape.architecture.cap_names:
        if cap := getattr(config, name, None):
            getattr(writer, f"add_{name}")(cap)


def _epsilon(norm: Any) -> float:
    return float(_first(norm, "variance_epsilon", "eps"))


def _write_rotary(writer: "GGUFWriter", shape: Shape) -> None:
    """Writes base, scaled size and scaling of the rotary embedding."""
    from gguf import RopeScalingType

    kinds = _rotary_parameters(shape.config)
    parameters = kinds.get("full_attention") or next(iter(kinds.values()))
    writer.add_rope_freq_base(parameters["rope_theta"])
    if local := kinds.get("sliding_attention"):
        writer.add_rope_freq_base_swa(local["rope_theta"])
    partial = parameters.get("partial_rotary_factor") or getattr(shape.config, "partial_rotary_factor", None) or 1.0
    writer.add_rope_dimension_count(int(shape.decoder.head_size * partial))
    kind = parameters.get("rope_type", "default")
    if kind in ("linear", "yarn"):
        writer.add_rope_scaling_type(RopeScalingType(kind))
        writer.add_rope_scaling_factor(parameters["factor"])
    if kind in ("yarn", "longrope"):
        writer.add_rope_scaling_orig_ctx_len(_original_positions(shape.config, parameters))
    if kind == "longrope":
        writer.add_rope_scaling_attn_factors(float(shape.decoder.rotary_embedding.attention_scaling))


def _original_positions(config: Any, parameters: Mapping[str, Any]) -> int:
    name = "original_max_position_embeddings"
    return int(parameters.get(name) or getattr(config, name, None) or config.max_position_embeddings)


def rotary_factors(shape: Shape) -> dict[str, torch.Tensor]:
    """Returns what llama.cpp divides the frequencies of the rotary embedding by, by the name of the tensor.

    Of Llama 3 they follow from the frequencies themselves; of Phi-3 there are two sets, for short and long sequences.
    """
    kinds = _rotary_parameters(shape.config)
    parameters = next(iter(kinds.values()), {})
    kind = parameters.get("rope_type", "default")
    if kind == "longrope":
        return {f"rope_factors_{n}.weight": torch.tensor(parameters[f"{n}_factor"]).float() for n in ("long", "short")}
    if kind != "llama3":
        return {}
    size = shape.decoder.head_size
    plain = parameters["rope_theta"] ** (-torch.arange(0, size, 2, dtype=torch.float64) / size)
    return {"rope_freqs.weight": (plain / shape.decoder.rotary_embedding.inv_freq.cpu().double()).float()}
