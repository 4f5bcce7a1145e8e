"""Weights stored in 8 bits, half the size of half precision, for the model inside the package.

Owns: the file and its rounding: 64 values of a row share a scale, as in llama.cpp's Q8_0, where 32 do
(https://github.com/ggml-org/ggml/blob/master/docs/gguf.md). Loaded, the weights are floats, as of any other model.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors.torch import load_file, save_file
from transformers import GenerationConfig

from convmodel.hf_model.int8_rounding import LARGEST

if TYPE_CHECKING:
    from transformers import PreTrainedModel

INT8_FILE = "model.int8.safetensors"
"""Its name is not one of transformers', which would take the integers for the weights."""

SCALES = ".scales"
"""The suffix of the name of a matrix's scales."""

_BLOCK = 64  # values with one scale


def has_int8_file(folder: Path) -> bool:
    """Returns whether a folder has such weights."""
    return (folder / INT8_FILE).is_file()


def save_int8_model(hf_model: "PreTrainedModel", folder: Path) -> None:
    """Writes a model's config, and its weights: matrices in 8 bits, vectors in half precision, tied ones once."""
    hf_model.config.save_pretrained(folder)
    stored: dict[str, torch.Tensor] = {}
    for name, weight in hf_model.named_parameters():
        if weight.ndim == 1:
            stored[name] = weight.detach().half()
        else:
            stored[name], stored[name + SCALES] = _round(weight.detach().float())
    save_file(stored, folder / INT8_FILE, metadata={"format": "pt"})


def load_int8_model(folder: Path, empty: "PreTrainedModel", options: dict[str, Any]) -> tuple["PreTrainedModel", Any]:
    """Returns the model of a folder with weights in 8 bits, and transformers' report of what it loaded.

    Args:
        folder: The folder.
        empty: A model of its config, on the device `meta`.
        options: Arguments of `from_pretrained`, such as `dtype`.
    """
    stored = load_file(folder / INT8_FILE)
    weights = {
        name: _restore(values, stored[name + SCALES]) if values.dtype == torch.int8 else values.float()
        for name, values in stored.items()
        if not name.endswith(SCALES)
    }
    load: Any = type(empty).from_pretrained
    loaded: tuple[PreTrainedModel, Any] = load(
        None, config=empty.config, state_dict=weights, output_loading_info=True, **options
    )
    loaded[0].generation_config = GenerationConfig.from_pretrained(folder)
    return loaded


def _round(weight: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Returns integers of a matrix's shape, and float16 scales of shape (rows, blocks); the last block may be short."""
    blocks = torch.nn.functional.pad(weight, (0, -weight.shape[1] % _BLOCK)).unflatten(1, (-1, _BLOCK))
    # The smallest number of float16 that is not subnormal, so that the scale of zeros divides them.
    scales = (blocks.abs().amax(-1) / LARGEST).half().clamp_min(torch.finfo(torch.float16).tiny)
    integers = (blocks / scales.float().unsqueeze(-1)).round().clamp(-LARGEST, LARGEST).to(torch.int8)
    return integers.flatten(1)[:, : weight.shape[1]].contiguous(), scales


def _restore(integers: torch.Tensor, scales: torch.Tensor) -> torch.Tensor:
    columns = scales.float().repeat_interleave(_BLOCK, dim=1)[:, : integers.shape[1]]
    return integers * columns
