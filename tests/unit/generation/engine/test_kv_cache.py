"""Caches of one sequence and of batches: growing, truncating, merging."""

import torch

from convmodel.generation.engine.kv_cache import KVCache


def cache_of(*numbers: int) -> KVCache:
    """A cache of one layer and one head whose keys are the numbers, and whose values are their negatives."""
    cache = KVCache(1)
    keys = torch.tensor(numbers).view(1, 1, -1, 1).float()
    cache.layers[0].update(keys, -keys)
    return cache


def keys_of(cache: KVCache) -> list[list[float]]:
    keys = cache.layers[0].keys
    assert keys is not None
    return keys[:, 0, : cache.length, 0].tolist()


def test_it_grows_in_place_and_keeps_what_it_has() -> None:
    cache = KVCache(1, room=4)
    for number in range(200):
        keys, values = cache.layers[0].update(torch.full((1, 1, 1, 1), number), torch.full((1, 1, 1, 1), -number))
    assert keys.flatten().tolist() == [*range(200)]
    assert values.flatten().tolist() == [-number for number in range(200)]


def test_extending_makes_room_for_what_the_caller_writes() -> None:
    layer = KVCache(1, room=4).layers[0]
    for number in range(0, 99, 3):
        for buffer in layer.extend(2, 3, (1, 1)):
            buffer[:, 0, number : number + 3, 0] = torch.arange(number, number + 3)
    assert layer.length == 99
    assert layer.keys is not None
    assert layer.keys.shape[:2] == (2, 1)
    assert layer.keys[1, 0, :99, 0].tolist() == [*range(99)]


def test_keep_truncates_layers_that_have_read_more() -> None:
    cache = KVCache(2)
    for layer, length in zip(cache.layers, (5, 3), strict=True):
        layer.update(torch.zeros(1, 1, length, 1), torch.zeros(1, 1, length, 1))
    cache.keep(3)
    assert [layer.length for layer in cache.layers] == [3, 3]


def test_a_copy_of_a_prefix_is_independent() -> None:
    cache = cache_of(1, 2, 3, 4)
    copied = cache.copy(length=2)
    copied.layers[0].update(torch.full((1, 1, 1, 1), 9.0), torch.zeros(1, 1, 1, 1))
    assert (keys_of(copied), keys_of(cache)) == ([[1, 2, 9]], [[1, 2, 3, 4]])


def test_rows_are_padded_on_the_left_and_masked() -> None:
    merged = KVCache.merge([(cache_of(1, 2, 3), [0, 0]), (cache_of(4), [0])])
    assert keys_of(merged) == [[1, 2, 3], [1, 2, 3], [0, 0, 4]]
    assert merged.starts == [0, 0, 2]
    mask = merged.mask(1)
    assert mask is not None
    assert mask.tolist() == [[1, 1, 1, 1], [1, 1, 1, 1], [0, 0, 1, 1]]
    assert cache_of(1).mask(3) is None


def test_padding_that_no_row_needs_is_dropped() -> None:
    merged = KVCache.merge([(cache_of(1, 2, 3, 4, 5), [0]), (cache_of(6, 7), [0])])
    assert keys_of(KVCache.merge([(merged, [1])])) == [[6, 7]]


def test_a_sequence_takes_the_place_of_another() -> None:
    merged = KVCache.merge([(cache_of(1, 2, 3), [0]), (cache_of(4, 5, 6), [0])])
    merged.place(1, cache_of(8, 9))
    assert (keys_of(merged), merged.starts) == ([[1, 2, 3], [0, 8, 9]], [0, 1])


def test_sizes_count_keys_and_values() -> None:
    cache = KVCache(3, room=10)
    for layer in cache.layers:
        layer.update(torch.zeros(2, 4, 6, 8), torch.zeros(2, 4, 6, 8))
    assert cache.position_bytes == 3 * 2 * 4 * 8 * 4
    assert cache.nbytes == 2 * 10 * cache.position_bytes
