"""The weights of a GGUF file as those of a transformers model.

Owns: dequantizing them, undoing the rotary factors of Llama 3, and refusing weights that the model does not have.
transformers undoes what llama.cpp's converter did to the others.
"""

import logging
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import GgufConfig, PretrainedConfig, PreTrainedModel

from convmodel.data.progress import size_text
from convmodel.errors import ModelLoadError
from convmodel.files.gguf import GgufFile, Tensor, byte_size, read_header

logger = logging.getLogger(__name__)

_ROPE_FACTORS = "rope_freqs.weight"  # a divisor for each rotary frequency
_FLOATS = {"F32": np.float32, "F16": np.float16, "BF16": None}
"""Types of weights that are not quantized, and numpy's for them; gguf converts bfloat16."""


def load_gguf_model(path: Path, empty: PreTrainedModel, options: dict[str, Any]) -> tuple[PreTrainedModel, Any]:
    """Returns a model with the weights of a GGUF file as floats, and transformers' report of what it loaded.

    Args:
        path: The file.
        empty: A model of its config, on the device `meta`.
        options: Arguments of `from_pretrained`, such as `dtype`.

    Raises:
        ModelLoadError: If the file has weights that the model does not have.
    """
    from transformers.integrations.gguf import GGUF_CONFIG_ARCHS

    file, config = read_header(path), empty.config
    load: Any = type(empty).from_pretrained
    options = {"config": config, "output_loading_info": True} | options
    if file.architecture in GGUF_CONFIG_ARCHS:  # transformers reads these itself; it would keep them packed
        packed = {"gguf_file": str(path.resolve()), "quantization_config": GgufConfig(dequantize=True)}
        with tempfile.TemporaryDirectory() as folder:
            hf_model, report = load(folder, **packed, **options)
        quantizer: Any = hf_model.hf_quantizer
        quantizer.remove_quantization_config(hf_model)  # or it could be neither saved nor trained
    else:
        hf_model, report = load(None, state_dict=_read_weights(file, empty), **options)
    kind = file.quantization
    memory = sum(weight.numel() * weight.element_size() for weight in hf_model.parameters())
    logger.info(
        "%s: the %s weights (%s) are loaded as %s, which takes %s of memory%s",
        path.name, kind, size_text(file.size), str(hf_model.dtype).removeprefix("torch."), size_text(memory),
        "" if kind in _FLOATS else "; the quality stays that of the quantized file",
    )  # fmt: skip
    return hf_model, report


def _read_weights(file: GgufFile, empty: PreTrainedModel) -> dict[str, torch.Tensor]:
    """Returns the state dict for a model; transformers' own reader takes minutes for a large vocabulary."""
    from transformers.modeling_gguf_pytorch_utils import TENSOR_PROCESSORS, TensorProcessor, get_gguf_hf_weights_map

    config = empty.config
    processor_class: Any = TENSOR_PROCESSORS.get(file.architecture, TensorProcessor)
    processor = processor_class(config=config.to_dict())
    names = get_gguf_hf_weights_map(empty, processor)
    weights: dict[str, torch.Tensor] = {}
    unknown = []
    data = np.memmap(file.path, mode="r", dtype=np.uint8)
    for tensor in file.tensors:
        values = _values(tensor, data[file.data_start + tensor.offset :], file.path)
        if tensor.name == _ROPE_FACTORS:
            _scale_as_llama3(config, values, file)
            continue
        placed = processor.process(
            weights=values,
            name=tensor.name,
            tensor_key_mapping=names,
            parsed_parameters={"tensors": weights, "config": config.to_dict()},
        )
        if placed.name in names:
            weights[names[placed.name]] = torch.from_numpy(np.array(placed.weights))
        elif placed.name is not None:  # else the processor has put it into the weights
            unknown.append(tensor.name)
    if unknown:
        raise ModelLoadError(
            f"{file.path} has {len(unknown)} weights that {config.model_type} does not have in transformers, such as "
            f"{unknown[0]}: give a folder or a Hub id of the model"
        )
    return weights


def _values(tensor: Tensor, data: np.ndarray, path: Path) -> np.ndarray:
    """Returns a weight in float32."""
    from gguf import GGMLQuantizationType, dequantize
    from gguf.quants import quant_shape_to_byte_shape

    kind = GGMLQuantizationType(tensor.kind)
    raw = np.asarray(data[: byte_size(tensor, path)])
    if dtype := _FLOATS.get(kind.name):
        return raw.view(dtype).reshape(tensor.shape).astype(np.float32)
    try:
        values: np.ndarray = dequantize(raw.reshape(quant_shape_to_byte_shape(tensor.shape, kind)), kind)
        return values
    except NotImplementedError as error:
        raise ModelLoadError(
            f"{path} has weights of the type {kind.name}, which the package gguf cannot convert: choose another "
            "quantization, such as Q8_0 or Q4_K_M"
        ) from error


def _scale_as_llama3(config: PretrainedConfig, factors: np.ndarray, file: GgufFile) -> None:
    """Sets the scaling of positions of Llama 3.1 and later, of which a GGUF file has only the result.

    Raises:
        ModelLoadError: If the factors are those of another scaling.
    """
    from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

    scaling = {
        "rope_type": "llama3",
        "factor": float(factors.max()),
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8192,
    }
    parameters: Any = config.rope_parameters
    plain = 1.0 / parameters["rope_theta"] ** (torch.arange(len(factors)) / len(factors))
    parameters.update(scaling)
    scaled, _ = ROPE_INIT_FUNCTIONS["llama3"](config, torch.device("cpu"))
    if not torch.allclose(plain / scaled, torch.from_numpy(factors), rtol=1e-3):
        raise ModelLoadError(
            f"{file.path} scales its positions in a way that is not that of Llama 3: give a folder or a Hub id of the "
            "model"
        )
