"""KV caches of conversations that may continue, looked up by their tokens.

Owns: the longest common prefix, who may use which cache, and which caches are dropped when they take too much memory.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from convmodel.generation.engine.kv_cache import KVCache

LEAST_BYTES = 64 * 2**20
"""Memory that cached conversations may take in any case, in bytes."""

SHARE_OF_WEIGHTS = 0.25
"""Memory that cached conversations may take, as a fraction of the model's weights."""

_MIN_PREFIX = 4  # common tokens from which a copy pays off


@dataclass(slots=True)
class _Entry:
    ids: list[int]
    types: list[int]
    cache: KVCache
    scope: str | None


class PrefixCache:
    """Caches by the ids and types they were computed from; the least recently used is dropped first.

    A request finds caches of its own scope only. How many tokens it finds shows, as a count and as a shorter time to
    the first token, how far its prompt equals another one; across scopes nobody can read another's text in this way.
    """

    def __init__(self, limit: int) -> None:
        """Limits the caches to `limit` bytes; the newest stays even if it takes more."""
        self._limit = limit
        self._entries: list[_Entry] = []  # the most recently used last

    @property
    def nbytes(self) -> int:
        """Size of all caches in bytes."""
        return sum(entry.cache.nbytes for entry in self._entries)

    def __len__(self) -> int:
        return len(self._entries)

    def take(
        self,
        ids: Sequence[int],
        types: Sequence[int],
        *,
        room: int = 0,
        scope: str | None = None,
        ends: Collection[int] = (),
    ) -> KVCache | None:
        """Returns a cache of the longest known prefix of a prompt, at most of all its tokens but the last.

        A cache that is used as a whole is handed over; one of which only a prefix is used is copied.

        Args:
            ids: The prompt's token ids.
            types: Its token types; empty for a model without them.
            room: Positions that the cache will need.
            scope: Whose caches may be used.
            ends: If given, a part of a cache is used only up to one of these ids, the ends of turns. Then a turn is
                found as a whole or not at all, and cannot be guessed token by token.
        """
        longest = len(ids) - 1  # the last token must be processed for its logits
        best, common = None, _MIN_PREFIX - 1
        for entry in self._entries:
            if entry.scope != scope:
                continue
            shared = common_prefix(entry.ids, ids)
            if types and shared:
                shared = min(shared, common_prefix(entry.types, types))
            if ends and shared < len(entry.ids):
                shared = next((end for end in range(shared, 0, -1) if ids[end - 1] in ends), 0)
            shared = min(shared, longest)
            if shared > common or (best is not None and shared == common and len(entry.ids) == common):
                best, common = entry, shared
        if best is None:
            return None
        self._entries.remove(best)
        if common == len(best.ids):
            return best.cache
        self._entries.append(best)
        return best.cache.copy(length=common, room=room)

    def put(self, ids: Sequence[int], types: Sequence[int], cache: KVCache, *, scope: str | None = None) -> None:
        """Keeps the cache of one sequence; a scope's caches of its prefixes are dropped, since it contains them."""
        length = cache.length
        ids, types = list(ids[:length]), list(types[:length])
        self._entries = [
            entry
            for entry in self._entries
            if entry.scope != scope
            or common_prefix(entry.ids, ids) < len(entry.ids)
            or entry.types != types[: len(entry.types)]
        ]
        self._entries.append(_Entry(ids, types, cache, scope))
        while len(self._entries) > 1 and self.nbytes > self._limit:
            del self._entries[0]

    def clear(self) -> None:
        """Drops all caches."""
        self._entries.clear()


def common_prefix(one: Sequence[int], other: Sequence[int]) -> int:
    """Returns the length of the common prefix.

    Example:
        >>> common_prefix([5, 7, 5, 8], [5, 7, 5, 9, 5])
        3
    """
    low, high = 0, min(len(one), len(other))
    while low < high:  # bisection, since comparing slices is far faster than comparing ids one by one
        middle = (low + high + 1) // 2
        if one[low:middle] == other[low:middle]:
            low = middle
        else:
            high = middle - 1
    return low
