"""How weights are rounded to 8 bits.

Owns: the scales of rows and columns, and freeing the weights meanwhile. Each row is scaled to integers by its largest
value (Dettmers et al. 2022, "LLM.int8()", arXiv:2208.07339, section 2: absmax, vector-wise). Some inputs have much
larger weights than others, which would take most of a row's 8 bits. Therefore columns are scaled, too, and activations
by the inverse, as in SmoothQuant (Xiao et al. 2022, arXiv:2211.10438), here for the weights alone.
"""

import ctypes
import mmap
import sys
from collections.abc import Sequence

import torch

LARGEST = 127
"""The largest integer of a weight."""

_AT_ONCE = 1 << 19  # weights that are rounded at a time, because that needs a copy of them
_BLOCKS, _ROWS = 8, 256  # of rows that are looked at for the scales of columns


def column_scales(matrices: Sequence[torch.Tensor]) -> torch.Tensor:
    """Returns a scale for each column of matrices with the same inputs, 1 in the median.

    It is the square root of the largest value in a column, relative to the largest one of its row. Of large matrices
    only some rows are looked at, so that few pages of a mapped file are read. For SmolLM2-135M, this reduces the
    divergence from float32 by 15 %.

    Example:
        >>> column_scales([torch.tensor([[4.0, 1.0, 1.0], [0.0, 1.0, 1.0]])])
        tensor([1., 1., 1.])
        >>> column_scales([torch.tensor([[16.0, 1.0, 1.0], [8.0, 0.5, 0.0]])])
        tensor([4., 1., 1.])
    """
    largest = torch.zeros(matrices[0].shape[1])
    for matrix in matrices:
        rows = len(matrix) if len(matrix) <= _BLOCKS * _ROWS else _ROWS
        for start in range(0, len(matrix) - rows + 1, max(rows, len(matrix) // _BLOCKS)):
            values = matrix[start : start + rows].detach().float().abs()
            values.div_(values.amax(-1, keepdim=True).clamp_min_(torch.finfo(torch.float32).tiny))
            torch.maximum(largest, values.amax(0), out=largest)
    used = largest[largest > 0]
    return torch.where(largest > 0, (largest / used.median()).sqrt_(), 1.0) if len(used) else torch.ones_like(largest)


def absmax(
    values: torch.Tensor, columns: torch.Tensor | None = None, *, release: bool = False
) -> tuple[torch.Tensor, torch.Tensor]:
    """Scales each row by its largest value: returns integers of shape (rows, columns), and scales of shape (rows, 1).

    Before, columns are divided by their scales, if given. With `release`, the memory of the values is freed meanwhile.
    Only a part of them is copied at a time.

    Example:
        >>> absmax(torch.tensor([[0.0, 1.0, -2.0]]))
        (tensor([[   0,   64, -127]], dtype=torch.int8), tensor([[0.0157]]))
    """
    values = values.detach()
    integers = torch.empty(values.shape, dtype=torch.int8)
    scales = torch.empty(len(values), 1)
    rows = max(1, _AT_ONCE // values.shape[1])
    for start in range(0, len(values), rows):
        part = slice(start, start + rows)
        divided = values[part].float() if columns is None else values[part] / columns
        torch.amax(divided.abs(), -1, keepdim=True, out=scales[part])
        scales[part].div_(LARGEST).clamp_min_(torch.finfo(torch.float32).tiny)
        integers[part] = (divided / scales[part]).round_()
        if release:
            release_memory(values[part])
    return integers, scales


def release_memory(values: torch.Tensor) -> None:
    """Returns the memory pages of a tensor that is no longer used to the system.

    transformers maps the weights file, so all pages that were read stay in memory while any weight is in use.
    """
    if sys.platform != "linux" or not values.is_contiguous():  # other tensors may use memory between its rows
        return
    begin = -(-values.data_ptr() // mmap.PAGESIZE) * mmap.PAGESIZE
    length = (values.data_ptr() + values.nbytes) // mmap.PAGESIZE * mmap.PAGESIZE - begin
    if length > 0:
        ctypes.CDLL(None).madvise(ctypes.c_void_p(begin), ctypes.c_size_t(length), mmap.MADV_DONTNEED)
