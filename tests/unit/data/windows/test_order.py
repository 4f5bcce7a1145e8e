"""The order of windows: every one once an epoch, the same for the same seed and epoch, and little padding."""

import hashlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from convmodel.data.windows import order as ordering
from convmodel.data.windows.order import (
    Blank,
    GroupedSampler,
    PackedSampler,
    Rows,
    ShardedBatches,
    grouped_order,
    packed_order,
)
from convmodel.errors import ConfigError

LENGTHS = st.lists(st.integers(1, 64), min_size=1, max_size=300).map(lambda lengths: np.array(lengths, np.int32))
SEEDS = st.integers(0, 2**32 - 1)


@settings(max_examples=50)
@given(LENGTHS, SEEDS, st.integers(0, 3), st.integers(1, 17))
def test_grouping_gives_every_window_once_and_depends_on_seed_and_epoch_only(
    lengths: np.ndarray, seed: int, epoch: int, group: int
) -> None:
    order = grouped_order(lengths, group, seed=seed, epoch=epoch).tolist()

    assert sorted(order) == list(range(len(lengths)))
    assert order == grouped_order(lengths, group, seed=seed, epoch=epoch).tolist()


def test_grouping_differs_between_epochs_and_seeds() -> None:
    lengths = np.arange(1, 101, dtype=np.int32)
    orders = {tuple(grouped_order(lengths, 4, seed=seed, epoch=epoch)) for seed in (0, 1) for epoch in (0, 1)}

    assert len(orders) == 4


def test_a_group_holds_windows_of_similar_length_and_the_longest_comes_first() -> None:
    lengths = np.random.default_rng(0).integers(1, 512, 4000).astype(np.int32)

    order = grouped_order(lengths, 8, seed=3, epoch=1)

    batches = lengths[order].reshape(-1, 8)
    assert batches[0].max() == lengths.max()
    assert batches.max(axis=1).sum() * 8 < 1.05 * lengths.sum()


@settings(max_examples=100)
@given(LENGTHS, SEEDS, st.integers(0, 3))
def test_packing_gives_every_window_once_in_rows_that_fit(lengths: np.ndarray, seed: int, epoch: int) -> None:
    rows = list(packed_order(lengths, 64, seed=seed, epoch=epoch))

    assert sorted(index for row in rows for index in row) == list(range(len(lengths)))
    assert all(sum(int(lengths[index]) for index in row) <= 64 for row in rows)
    assert rows == list(packed_order(lengths, 64, seed=seed, epoch=epoch))


def test_packing_differs_between_epochs_and_seeds() -> None:
    lengths = np.random.default_rng(0).integers(1, 64, 300).astype(np.int32)
    packings = {tuple(packed_order(lengths, 64, seed=seed, epoch=epoch)) for seed in (0, 1) for epoch in (0, 1)}

    assert len(packings) == 4


def test_packing_by_hand() -> None:
    """7 and 3, 6 and 4, 5 and 5 fill rows of 10; what fits best is taken, not what comes first."""
    lengths = np.array([3, 5, 6, 4, 5, 7], np.int32)

    rows = packed_order(lengths, 10, seed=0, epoch=0)

    assert sorted(sorted(int(lengths[index]) for index in row) for row in rows) == [[3, 7], [4, 6], [5, 5]]


def test_packing_more_windows_than_the_buffer_holds_wastes_little() -> None:
    lengths = np.random.default_rng(0).integers(5, 200, 10_000).astype(np.int32)

    rows = packed_order(lengths, 512, seed=0, epoch=0)

    assert lengths.sum() / (512 * len(rows)) > 0.99


def test_a_window_longer_than_a_row_is_refused() -> None:
    with pytest.raises(ConfigError, match="a window of 65 tokens does not fit in a row of 64"):
        packed_order(np.array([3, 65], np.int32), 64, seed=0, epoch=0)


@settings(max_examples=50)
@given(LENGTHS, SEEDS)
def test_a_sampler_gives_as_many_rows_in_every_epoch(lengths: np.ndarray, seed: int) -> None:
    sampler = PackedSampler(lengths, 64, seed)

    for epoch in range(4):
        sampler.set_epoch(epoch)
        rows = list(sampler)
        assert len(rows) == len(sampler)
        assert sorted(index for row in rows for index in row) == list(range(len(lengths)))


def test_the_order_of_an_epoch_never_changes() -> None:
    """A resumed run continues in the order that the run began with, whatever version wrote its checkpoint."""
    lengths = np.array([(7 * i * i + 3 * i) % 29 + 1 for i in range(24)], np.int32)
    many = (np.arange(20_000, dtype=np.int64) ** 2 % 509 + 1).astype(np.int32)
    sampler = PackedSampler(many, 512, seed=7)
    sampler.set_epoch(2)

    first, later = (grouped_order(lengths, 4, seed=seed, epoch=epoch).tolist() for seed, epoch in ((0, 1), (42, 3)))
    rows = list(packed_order(lengths, 40, seed=42, epoch=3))
    digest = hashlib.sha256(repr(list(sampler)).encode()).hexdigest()

    assert first == [15, 14, 20, 17, 3, 16, 11, 1, 4, 19, 23, 0, 21, 7, 5, 9, 6, 8, 10, 2, 13, 22, 18, 12]
    assert later == [15, 21, 20, 9, 3, 1, 11, 8, 10, 22, 18, 23, 14, 5, 7, 17, 16, 6, 4, 2, 13, 19, 0, 12]
    assert rows == [(11, 1, 8, 4), (15, 16), (21, 20, 12, 0), (2, 13, 22, 19, 23, 18), (9, 3, 6), (14, 7), (5, 17, 10)]
    assert digest == "76c2ee6fedf0c8a54c49384677149db758b0d9da3c2d8d21e24bc692f31bf2b4"


def test_a_sampler_repeats_an_epoch_exactly() -> None:
    sampler = GroupedSampler(np.arange(1, 50, dtype=np.int32), 4, seed=5)
    first = list(sampler)
    sampler.set_epoch(1)
    second = list(sampler)
    sampler.set_epoch(0)

    assert list(sampler) == first != second
    assert len(sampler) == 49


@pytest.mark.parametrize("more", [0, 1, 3])
def test_epochs_whose_packings_differ_have_as_many_rows(more: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whether an epoch's own packing has fewer rows or more than the first's, every window comes once."""
    lengths = np.random.default_rng(0).integers(5, 60, 3000).astype(np.int32)
    first = packed_order(lengths, 64, seed=0, epoch=0)

    def packed(lengths: np.ndarray, max_length: int, *, seed: int, epoch: int) -> Rows:
        own = packed_order(lengths, max_length, seed=seed, epoch=epoch)
        return first if epoch == 0 else own.split(len(first) + more * 5)

    monkeypatch.setattr(ordering, "packed_order", packed)
    sampler = PackedSampler(lengths, 64, seed=0)
    seen = set()
    for epoch in range(4):
        sampler.set_epoch(epoch)
        rows = list(sampler)
        seen.add(tuple(rows))
        assert len(rows) == len(sampler)
        assert sorted(index for row in rows for index in row) == list(range(len(lengths)))
        assert all(sum(int(lengths[index]) for index in row) <= 64 for row in rows)
    assert len(seen) == 4


@settings(max_examples=50)
@given(LENGTHS, SEEDS, st.integers(1, 5), st.integers(1, 4), st.booleans())
def test_several_processes_batches_are_those_of_one_with_larger_batches(
    lengths: np.ndarray, seed: int, batch_size: int, world: int, packed: bool
) -> None:
    order = PackedSampler(lengths, 64, seed) if packed else GroupedSampler(lengths, batch_size * world, seed)
    together = ShardedBatches(order, batch_size * world)
    shares = [ShardedBatches(order, batch_size, rank=rank, world=world) for rank in range(world)]
    for batches in (together, *shares):
        batches.set_epoch(2)

    found = [[*share] for share in shares]

    assert {len(share) for share in shares} == {len(batches) for batches in found} == {len(together)}
    for whole, parts in zip(together, zip(*found, strict=True), strict=True):
        rows = [row for part in parts for row in part]
        assert sorted(row for row in rows if not isinstance(row, Blank)) == sorted(whole)
        # A process without a share of a last, short batch computes one that counts for nothing.
        assert [len(part) == 1 and isinstance(part[0], Blank) for part in parts] == [
            rank >= len(whole) for rank in range(world)
        ]
        assert max(map(len, parts)) <= batch_size
