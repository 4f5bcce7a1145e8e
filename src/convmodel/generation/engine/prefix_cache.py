"""Caches of conversations that may go on, found again by their tokens.

Owns: the longest common prefix, and which caches are given up when they take too much memory.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from convmodel.generation.engine.kv_cache import KVCache

LEAST_BYTES = 64 * 2**20
"""Memory that caches may always take."""

SHARE_OF_WEIGHTS = 0.25
"""How much memory caches may take besides, as a share of the model's weights."""

_FEWEST = 4  # tokens in common that are worth a copy

Key = tuple[list[int], list[int]]


@dataclass(slots=True)
class _Entry:
    ids: list[int]
    types: list[int]
    cache: KVCache


class PrefixCache:
    """Caches by the ids and types of what they were computed from, the least recently used first to go."""

    def __init__(self, limit: int) -> None:
        """Makes room for some bytes; the newest cache stays though it may take more."""
        self._limit = limit
        self._entries: list[_Entry] = []  # the most recently used last

    @property
    def nbytes(self) -> int:
        """Bytes that all of them hold."""
        return sum(entry.cache.nbytes for entry in self._entries)

    def __len__(self) -> int:
        return len(self._entries)

    def take(self, ids: Sequence[int], types: Sequence[int], *, room: int = 0) -> KVCache | None:
        """Returns a cache of the longest known beginning of a prompt, but at most of all its tokens but the last.

        A cache that is used as a whole is given away; of one that others may need too, a copy is made.

        Args:
            ids: The prompt's token ids.
            types: Its token types; empty for a model without them.
            room: Positions that the cache will need.
        """
        most = len(ids) - 1  # the last one must be read for its logits
        best, common = None, _FEWEST - 1
        for entry in self._entries:
            shared = min(common_prefix(entry.ids, ids), most)
            if types and shared:
                shared = min(shared, common_prefix(entry.types, types))
            if shared > common or (best is not None and shared == common and len(entry.ids) == common):
                best, common = entry, shared
        if best is None:
            return None
        self._entries.remove(best)
        if common == len(best.ids):
            return best.cache
        self._entries.append(best)
        return best.cache.copy(length=common, room=room)

    def put(self, ids: Sequence[int], types: Sequence[int], cache: KVCache) -> None:
        """Keeps the cache of one sequence; those of its beginnings go, since it has all that they have."""
        length = cache.length
        ids, types = list(ids[:length]), list(types[:length])
        self._entries = [
            entry
            for entry in self._entries
            if common_prefix(entry.ids, ids) < len(entry.ids) or entry.types != types[: len(entry.types)]
        ]
        self._entries.append(_Entry(ids, types, cache))
        while len(self._entries) > 1 and self.nbytes > self._limit:
            del self._entries[0]

    def clear(self) -> None:
        """Forgets all."""
        self._entries.clear()


def common_prefix(one: Sequence[int], other: Sequence[int]) -> int:
    """Counts the tokens with which both begin.

    Example:
        >>> common_prefix([5, 7, 5, 8], [5, 7, 5, 9, 5])
        3
    """
    low, high = 0, min(len(one), len(other))
    while low < high:  # halving, since comparing slices is far quicker than comparing numbers one by one
        middle = (low + high + 1) // 2
        if one[low:middle] == other[low:middle]:
            low = middle
        else:
            high = middle - 1
    return low
