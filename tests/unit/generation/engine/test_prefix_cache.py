"""Which cache a prompt gets, and which are dropped."""

import torch

from convmodel.generation.engine.kv_cache import KVCache
from convmodel.generation.engine.prefix_cache import PrefixCache

BYTES = 2 * 2 * 4  # of one position of `cache_of`: keys and values, 2 numbers each


def cache_of(length: int) -> KVCache:
    cache = KVCache(1, room=length)
    numbers = torch.arange(length).view(1, 1, length, 1).expand(1, 1, length, 2).float()
    cache.layers[0].update(numbers, numbers)
    return cache


def test_the_longest_common_prefix_is_copied_and_a_whole_cache_handed_over() -> None:
    caches, whole = PrefixCache(10**6), cache_of(6)
    caches.put([1, 2, 3, 4, 5, 6], [], whole)

    part = caches.take([1, 2, 3, 4, 9, 9], [])
    assert part is not None
    assert (part.length, len(caches)) == (4, 1)
    assert caches.take([1, 2, 3, 4, 5, 6, 7], []) is whole
    assert len(caches) == 0


def test_the_last_token_is_left_to_be_read() -> None:
    caches = PrefixCache(10**6)
    caches.put([1, 2, 3, 4, 5, 6], [], cache_of(6))
    found = caches.take([1, 2, 3, 4, 5, 6], [])
    assert found is not None
    assert found.length == 5


def test_too_little_in_common_is_not_worth_a_copy() -> None:
    caches = PrefixCache(10**6)
    caches.put([1, 2, 3, 4, 5], [], cache_of(5))
    assert caches.take([1, 2, 3, 9, 9], []) is None


def test_equal_ids_of_other_types_are_not_in_common() -> None:
    caches = PrefixCache(10**6)
    caches.put([1, 2, 3, 4, 5, 6], [0, 0, 0, 0, 1, 1], cache_of(6))
    found = caches.take([1, 2, 3, 4, 5, 6, 7], [0, 0, 0, 0, 0, 0, 0])
    assert found is not None
    assert found.length == 4


def test_the_least_recently_used_is_dropped_and_the_newest_stays() -> None:
    caches = PrefixCache(12 * BYTES)
    for first in (10, 20, 30):
        caches.put([first, 2, 3, 4, 5, 6], [], cache_of(6))
    assert caches.take([10, 2, 3, 4, 5, 9], []) is None
    assert caches.take([20, 2, 3, 4, 5, 9], []) is not None
    caches.put([*range(100, 200)], [], cache_of(100))
    assert len(caches) == 1
    assert caches.nbytes == 100 * BYTES


def test_a_longer_cache_replaces_those_of_its_prefixes() -> None:
    caches = PrefixCache(10**6)
    caches.put([1, 2, 3, 4], [], cache_of(4))
    caches.put([1, 2, 3, 4, 5, 6], [], cache_of(6))
    assert len(caches) == 1


def test_a_scope_neither_finds_nor_drops_the_caches_of_another() -> None:
    caches, ids = PrefixCache(10**6), [1, 2, 3, 4, 5, 6]
    caches.put(ids, [], cache_of(6), scope="one")
    for scope in (None, "two"):
        assert caches.take([*ids, 7], [], scope=scope) is None
        caches.put([*ids, 7, 8], [], cache_of(8), scope=scope)
    assert len(caches) == 3
    found = caches.take([*ids, 7, 8, 9], [], scope="one")
    assert found is not None
    assert found.length == 6


def test_with_ends_a_turn_is_found_as_a_whole_or_not_at_all() -> None:
    caches, end = PrefixCache(10**6), 0
    caches.put([end, 2, 3, 4, end, 6, 7, 8], [], cache_of(8))

    def found(*ids: int) -> int:
        cache = caches.take([*ids], [], ends={end})
        return 0 if cache is None else cache.length

    assert found(end, 2, 3, 4, 9, 9) == 0  # a part of the first turn
    assert found(end, 2, 3, 4, end, 9, 9) == 5
    assert found(end, 2, 3, 4, end, 6, 7, 9) == 5  # a part of the second
    assert found(end, 2, 3, 4, end) == 4  # the whole first turn; its end must be processed
    assert found(end, 2, 3, 4, end, 6, 7, 8, end, 9) == 8  # the whole cache, handed over
    assert len(caches) == 0
