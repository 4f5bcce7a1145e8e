"""A GGUF file of a conversation model, for llama.cpp, Ollama, LM Studio and others.

Owns: its metadata and the order of writing: one tensor at a time, so that memory holds the model once. What the tensors
and the vocabulary are is in `gguf_tensors` and `gguf_vocabulary`.
"""

import re
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from convmodel.errors import ConfigError
from convmodel.export.gguf_architecture import Shape, shape_of, write_hyperparameters
from convmodel.export.gguf_tensors import Tensor, encoded, stored_type, tensors_of
from convmodel.export.gguf_vocabulary import Vocabulary, vocabulary_of
from convmodel.export.options import TYPES
from convmodel.export.origin import Origin
from convmodel.export.turn_templates import TurnTemplates, turn_templates
from convmodel.files.gguf import END_NAMES, require_gguf
from convmodel.generation.defaults import all_chat_sampling, chat_candidates
from convmodel.hf_model.generation_config import PENALTIES, SAMPLING_OPTIONS
from convmodel.layout.tokenizer import ConversationTokenizer

if TYPE_CHECKING:
    from gguf import GGUFWriter
    from transformers import PreTrainedModel

WHOLE_CONTEXT = -1
"""How many tokens the repetition penalty covers: all, as in transformers; llama.cpp's default is the last 64."""

_OF_LLAMA_CPP = ("temperature", "top_p", "top_k", "min_p", "repetition_penalty")

UNPROVEN = "convmodel.unproven"
"""The key of a file that was not compared with the model."""


@dataclass(frozen=True, slots=True)
class GgufModel:
    """A model whose counterpart in llama.cpp is known.

    Attributes:
        shape: Its architecture.
        tensors: Its weights.
        vocabulary: Its vocabulary.
        templates: The texts around turns.
        stop_ids: The ids that end a response.
        sampling: The sampling settings that the file has as defaults, by the names of `generate`.
        dropped: The names of settings that llama.cpp does not have.
    """

    shape: Shape
    tensors: list[Tensor]
    vocabulary: Vocabulary
    templates: TurnTemplates
    stop_ids: list[int]
    sampling: dict[str, Any]
    dropped: list[str]


def gguf_model(hf_model: "PreTrainedModel", tokenizer: ConversationTokenizer) -> GgufModel:
    """Finds a model's counterpart in llama.cpp.

    Raises:
        ConfigError: If there is none.
    """
    require_gguf()
    if tokenizer.layout.use_token_types:
        raise ConfigError(
            "this model was trained with token types, which GGUF files cannot have: without them it predicts worse. "
            "Train one without (convmodel fit --token-types off, use_token_types=False in from_pretrained), or export "
            "it as a page (-o NAME.html), which has them"
        )
    shape = shape_of(hf_model)
    vocabulary = vocabulary_of(tokenizer, shape.decoder.embedding.num_embeddings)
    if len(tokenizer.stop_token_ids) > len(END_NAMES):
        raise ConfigError(
            f"this model has {len(tokenizer.stop_token_ids)} tokens that end a response, and a GGUF file has "
            f"{len(END_NAMES)}: remove some from generation_config.json"
        )
    templates = turn_templates(tokenizer, vocabulary)
    sampling, dropped = _sampling(hf_model)
    return GgufModel(shape, tensors_of(shape), vocabulary, templates, tokenizer.stop_token_ids, sampling, dropped)


def _sampling(hf_model: "PreTrainedModel") -> tuple[dict[str, Any], list[str]]:
    """Returns the settings of a chat that llama.cpp has, and the names of those that it does not have."""
    own, off = all_chat_sampling(hf_model), SAMPLING_OPTIONS | PENALTIES
    sampling = {name: own[name] for name in _OF_LLAMA_CPP} | {"min_p": own["min_p"] or 0.0}
    others = [name for name in off if name not in sampling and own[name] != off[name]]
    return sampling, [*others, *chat_candidates(hf_model)]


def write_gguf(
    model: GgufModel,
    path: Path,
    kind: str,
    origin: Origin,
    *,
    proven: bool = True,
) -> dict[str, int]:
    """Writes the file; returns how many tensors have each data type.

    Args:
        model: What to write.
        path: The file.
        kind: The type of weights, one of `TYPES`.
        origin: Names for the metadata.
        proven: Whether the file will be compared with the model; otherwise its metadata say so.
    """
    from gguf import GGUFWriter, LlamaFileType

    types = _types(model, kind)
    writer = GGUFWriter(path, model.shape.architecture.name)
    try:
        _write_metadata(writer, model, origin)
        mostly = "ALL_F32" if kind == "f32" else f"MOSTLY_{kind.upper()}"
        writer.add_file_type(LlamaFileType[mostly])
        writer.add_quantization_version(2)
        if not proven:
            writer.add_bool(UNPROVEN, True)
        for tensor in model.tensors:
            shape, stored = tensor.shape, types[tensor.name]
            writer.add_tensor_info(tensor.name, shape, np.dtype(np.float32), _nbytes(shape, stored), raw_dtype=stored)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_ti_data_to_file()
        for tensor in model.tensors:
            writer.write_tensor_data(encoded(tensor.read(), types[tensor.name], tensor.name))
    finally:
        writer.close()
    names = [each.name.lower() for each in types.values()]
    return {name: names.count(name) for name in dict.fromkeys(names)}


def file_size(model: GgufModel, kind: str) -> int:
    """Returns how many bytes the tensors of a file take, in a type of weights.

    Raises:
        ConfigError: If there is no such type.
    """
    types = _types(model, kind)
    return sum(_nbytes(tensor.shape, types[tensor.name]) for tensor in model.tensors)


def _types(model: GgufModel, kind: str) -> dict[str, Any]:
    """Returns the type that each tensor is written in."""
    from gguf import GGMLQuantizationType

    if kind not in TYPES:
        raise ConfigError(f"the type of weights is {kind!r}: it must be one of {', '.join(TYPES)}")
    return {tensor.name: GGMLQuantizationType[stored_type(tensor, kind).upper()] for tensor in model.tensors}


def _nbytes(shape: tuple[int, ...], kind: Any) -> int:
    from gguf import GGML_QUANT_SIZES

    block, size = GGML_QUANT_SIZES[kind]
    return int(np.prod(shape)) // block * size


_PHI3 = re.compile(r"phi-?3", re.IGNORECASE)
"""Of a file whose name contains this, llama.cpp looks up control tokens by the names that they have no more."""


def _write_metadata(writer: "GGUFWriter", model: GgufModel, origin: Origin) -> None:
    """Writes everything but the tensors: names, hyperparameters, vocabulary, template, ends, sampling."""
    writer.add_name(_PHI3.sub("Phi 3", origin.name))
    writer.add_quantized_by(f"convmodel {version('convmodel')}")
    if origin.license:
        writer.add_license(origin.license)
    if origin.base:
        writer.add_base_model_count(1)
        writer.add_base_model_name(0, origin.base.rpartition("/")[2])
        writer.add_base_model_repo_url(0, f"https://huggingface.co/{origin.base}")
    write_hyperparameters(writer, model.shape)
    model.vocabulary.write(writer)
    writer.add_chat_template(model.templates.jinja())
    for key, index in zip(END_NAMES, model.stop_ids, strict=False):
        getattr(writer, f"add_{key}_token_id")(index)
    if len(model.stop_ids) == 1:
        writer.add_eot_token_id(model.stop_ids[0])
    begins = next((i for i, name in model.vocabulary.names.items() if name == model.templates.bos), None)
    if begins is not None:
        writer.add_bos_token_id(begins)
    writer.add_add_bos_token(begins is not None)
    writer.add_add_eos_token(False)
    writer.add_sampling_temp(model.sampling["temperature"])
    writer.add_sampling_top_p(model.sampling["top_p"])
    writer.add_sampling_top_k(model.sampling["top_k"])
    writer.add_sampling_min_p(model.sampling["min_p"])
    writer.add_sampling_penalty_repeat(model.sampling["repetition_penalty"])
    writer.add_sampling_penalty_last_n(WHOLE_CONTEXT)
