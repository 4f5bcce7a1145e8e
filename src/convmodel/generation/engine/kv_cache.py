"""Keys and values of the tokens processed so far, of one sequence or of a batch that is padded on the left.

Owns: growing in place, truncating, and sequences that join and leave a batch. All sequences of a batch end at the same
position, as transformers' models expect: relative positions, sliding windows included, stay correct.
"""

from typing import Any, cast

import torch
from transformers.cache_utils import Cache, DynamicLayer

_SPARE = 64
"""Positions that are added to a full buffer."""


class LayerCache(DynamicLayer):
    """One layer's keys and values, (rows, heads, positions, head size), in buffers with room to grow.

    `DynamicLayer` allocates a new tensor for each token and copies all earlier keys and values into it.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.length = 0
        self.room = 0

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Appends new keys and values, and returns all."""
        end = self.length + key_states.shape[2]
        if self.keys is None or end > self.keys.shape[2]:
            self._grow(key_states, value_states, end)
        assert self.keys is not None
        assert self.values is not None
        self.keys[:, :, self.length : end] = key_states
        self.values[:, :, self.length : end] = value_states
        self.length = end
        return self.keys[:, :, :end], self.values[:, :, :end]

    def extend(self, rows: int, new: int, shape: tuple[int, int]) -> tuple[torch.Tensor, torch.Tensor]:
        """Adds positions to each row, whose keys and values the caller writes into the buffers that this returns.

        The shape is that of the key of a token: (heads, head size).
        """
        end = self.length + new
        if self.keys is None or end > self.keys.shape[2]:
            states = torch.empty(rows, shape[0], 0, shape[1]) if self.keys is None else self.keys
            self._grow(states, states if self.values is None else self.values, end)
        assert self.keys is not None
        assert self.values is not None
        self.length = end
        return self.keys, self.values

    def _grow(self, key_states: torch.Tensor, value_states: torch.Tensor, end: int) -> None:
        size = max(end, self.room) if self.keys is None else end + _SPARE
        buffers = []
        for old, states in ((self.keys, key_states), (self.values, value_states)):
            buffer = states.new_empty((*states.shape[:2], size, states.shape[3]))
            if old is not None:
                buffer[:, :, : self.length] = old[:, :, : self.length]
            buffers.append(buffer)
        self.keys, self.values = buffers
        self.is_initialized = True

    def fill(self, keys: torch.Tensor, values: torch.Tensor, length: int) -> None:
        """Uses the given buffers, whose first `length` positions are in use."""
        self.keys, self.values, self.length = keys, values, length
        self.is_initialized = True

    def get_seq_length(self) -> int:
        """Returns how many positions are in use."""
        return self.length


class KVCache(Cache):
    """The keys and values of one or several sequences.

    Attributes:
        starts: For each row, the position at which the sequence begins; earlier positions are padding.
    """

    layers: list[LayerCache]  # type: ignore[assignment]

    def __init__(self, layers: int, *, room: int = 0) -> None:
        """Creates an empty cache of one row.

        Args:
            layers: How many layers the model has.
            room: Positions that are allocated at first.
        """
        super().__init__(layers=[LayerCache() for _ in range(layers)])
        for layer in self.layers:
            layer.room = room
        self.starts = [0]

    @property
    def length(self) -> int:
        """Positions in use, padding included."""
        return self.layers[0].length

    @property
    def nbytes(self) -> int:
        """Size in bytes."""
        return sum(part.nbytes for layer in self.layers for part in self._parts(layer))

    @property
    def position_bytes(self) -> int:
        """Bytes per position of one row."""
        return sum(part[0, :, 0].nbytes for layer in self.layers for part in self._parts(layer))

    def mask(self, new: int) -> torch.Tensor | None:
        """Returns the attention mask for `new` more tokens: (rows, positions), 0 at padding; None without padding."""
        if not any(self.starts):
            return None
        keys = self.layers[0].keys
        assert keys is not None
        positions = torch.arange(self.length + new, device=keys.device)
        starts = torch.tensor(self.starts, device=keys.device)
        return (positions >= starts[:, None]).long()

    def keep(self, length: int) -> None:
        """Truncates to the first `length` positions, also if an interruption left only some layers longer."""
        for layer in self.layers:
            layer.length = min(layer.length, length)

    def copy(self, *, length: int | None = None, room: int = 0) -> "KVCache":
        """Copies a cache of one row, or its first `length` tokens."""
        copied = KVCache(len(self.layers), room=room)
        for source, target in zip(self.layers, copied.layers, strict=True):
            keys, values = (part[:, :, : self.length if length is None else length] for part in self._parts(source))
            target.update(keys, values)
        return copied

    def place(self, row: int, other: "KVCache") -> None:
        """Puts a sequence, at most as long as this cache, into a row."""
        begin = self.length - other.length
        for layer, other_layer in zip(self.layers, other.layers, strict=True):
            for target, source in zip(self._parts(layer), self._parts(other_layer), strict=True):
                target[row, :, :begin] = 0  # since 0 * NaN is NaN, also at masked positions
                target[row, :, begin : self.length] = source[0, :, : other.length]
        self.starts[row] = begin

    @classmethod
    def merge(cls, parts: "list[tuple[KVCache, list[int]]]") -> "KVCache":
        """Creates a batch of rows of some caches, padded on the left to the longest; copies only if necessary."""
        (first, rows), *others = parts
        if not others and rows == [*range(len(first.starts))] and 0 in first.starts:
            return first
        begins = [min(cache.starts[row] for row in rows) for cache, rows in parts]
        length = max(cache.length - begin for (cache, _), begin in zip(parts, begins, strict=True))
        merged = cls(len(first.layers))
        merged.starts = [cache.starts[row] + length - cache.length for cache, rows in parts for row in rows]
        for number, layer in enumerate(merged.layers):
            pairs = [cls._parts(cache.layers[number]) for cache, _ in parts]
            buffers: list[torch.Tensor] = []
            for part in range(2):
                _, heads, _, size = pairs[0][part].shape
                # Zeros, since 0 * NaN is NaN, also at masked positions.
                buffer = pairs[0][part].new_zeros((len(merged.starts), heads, length + _SPARE, size))
                row = 0
                for (cache, rows), begin, pair in zip(parts, begins, pairs, strict=True):
                    first_position = length - cache.length + begin
                    buffer[row : row + len(rows), :, first_position:length] = pair[part][rows, :, begin : cache.length]
                    row += len(rows)
                buffers.append(buffer)
            layer.fill(buffers[0], buffers[1], length)
        return merged

    @staticmethod
    def _parts(layer: LayerCache) -> tuple[torch.Tensor, ...]:
        return () if layer.keys is None else (layer.keys, cast(torch.Tensor, layer.values))
