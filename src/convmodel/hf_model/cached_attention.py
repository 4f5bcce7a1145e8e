"""Attention of new tokens of each row to those before them in a cache, and to themselves, with compiled kernels.

Owns: appending their keys and values to the cache, and which kernel attends: that for one token of each row, or that of
training for several.
"""

import struct
from array import array
from typing import NamedTuple

import torch

from convmodel.hf_model import kernels, training_kernels
from convmodel.hf_model.kernels import address
from convmodel.hf_model.training_kernels import Heads


class HeadNorms(NamedTuple):
    """RMS norms of each head's query and key."""

    query: torch.Tensor
    key: torch.Tensor
    epsilon: float


class CachedAttention:
    """Attention of new tokens, the same number of each row, to the earlier ones and to themselves."""

    def __init__(self, heads: Heads, rotated: int, norms: HeadNorms | None = None) -> None:
        """Takes how many values of each head are rotated, and norms that are applied before."""
        self._kept, self._heads = norms, heads
        query, key, epsilon = norms or (None, None, 0.0)
        shape = heads.count, heads.kv_count, heads.size, rotated
        self._kind = struct.pack("6q3d", *shape, address(query), address(key), epsilon, heads.scale, heads.cap or 0.0)

    def __call__(
        self,
        states: torch.Tensor,
        rotation: tuple[torch.Tensor, torch.Tensor] | None,
        buffers: tuple[torch.Tensor, torch.Tensor],
        firsts: torch.Tensor,
        position: int,
    ) -> torch.Tensor:
        """Writes the keys and values of the new tokens into buffers, and attends.

        Args:
            states: Queries, keys and values of each token side by side, (tokens, (heads + 2 * kv heads) * size);
                the tokens of a row are consecutive. Of several tokens of a row, the queries are overwritten.
            rotation: Cosines and signed sines of each token, (tokens, rotated); None if nothing is rotated.
            buffers: Keys and values, (rows, kv heads, room, size).
            firsts: The first position that the first new token of each row attends to, int64; later than itself where
                the row begins later.
            position: The position of the first new tokens in the buffers.

        Returns:
            Attended values, (tokens, heads * size); zeros for tokens before the first position.
        """
        if len(states) > len(firsts):
            return self._attend_several(states, rotation, buffers, firsts, position)
        results = torch.empty(len(states), self._heads.count * self._heads.size)
        cos, sin = rotation or (None, None)
        kernels.native.attend(
            self._kind,
            states.data_ptr(),
            address(cos),
            address(sin),
            buffers[0].data_ptr(),
            buffers[1].data_ptr(),
            firsts.data_ptr(),
            results.data_ptr(),
            len(states),
            buffers[0].shape[2],
            position,
            torch.get_num_threads(),
        )
        return results

    def _attend_several(
        self,
        states: torch.Tensor,
        rotation: tuple[torch.Tensor, torch.Tensor] | None,
        buffers: tuple[torch.Tensor, torch.Tensor],
        firsts: torch.Tensor,
        position: int,
    ) -> torch.Tensor:
        heads, (keys, values), rows = self._heads, buffers, len(firsts)
        tokens, room = len(states) // rows, keys.shape[2]
        cos, sin = rotation or (None, None)
        kernels.native.append(
            self._kind,
            states.data_ptr(),
            address(cos),
            address(sin),
            keys.data_ptr(),
            values.data_ptr(),
            rows,
            tokens,
            room,
            position,
            torch.get_num_threads(),
        )
        windows, longest = array("q"), 0
        for row, first in enumerate(firsts.tolist()):
            skipped, attended = min(max(0, first - position), tokens), max(0, position + tokens - first)
            windows.extend((row * tokens + skipped, tokens - skipped, row * heads.kv_count * room + first, attended))
            longest = max(longest, attended)
        has_padding = bool(firsts.max() > position)
        results = (torch.zeros if has_padding else torch.empty)(len(states), heads.count * heads.size)
        size = heads.size
        strides = (states.shape[1], size, size, results.shape[1]), (size, room * size, room * size, size)
        training_kernels.native.attend(
            heads.pack(*strides, rotated=0, is_bf16=False),
            states.data_ptr(),
            keys.data_ptr(),
            values.data_ptr(),
            0,  # without cosines and sines: queries and keys are rotated
            0,
            results.data_ptr(),
            *(0,) * 5,  # without gradients
            windows.buffer_info()[0],
            rows,
            longest,
            torch.get_num_threads(),
        )
        return results


def can_attend_several() -> bool:
    """Returns whether this installation has the kernel for several tokens of a row."""
    return training_kernels.are_compiled()
