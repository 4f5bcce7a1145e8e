"""Shares of several processes: every batch once, and as many for each where that is needed."""

import pytest
import torch

from convmodel.evaluation.processes import Processes


def shares(batches: int, count: int, *, in_step: bool) -> list[list[tuple[int, bool]]]:
    return [[*Processes(rank, count, in_step).own(range(batches))] for rank in range(count)]


@pytest.mark.parametrize("in_step", [False, True])
@pytest.mark.parametrize("count", [1, 2, 3, 8])
@pytest.mark.parametrize("batches", [0, 1, 2, 3, 7, 8, 9])
def test_every_batch_counts_once(batches: int, count: int, in_step: bool) -> None:
    parts = shares(batches, count, in_step=in_step)

    counted = [batch for part in parts for batch, counts in part if counts]
    assert sorted(counted) == [*range(batches)]
    lengths = {len(part) for part in parts}
    assert max(lengths) == -(-batches // count)
    assert max(lengths) - min(lengths) <= (0 if in_step else 1)


def test_one_process_measures_all_in_their_order() -> None:
    assert [*Processes().own("abc")] == [("a", True), ("b", True), ("c", True)]


def test_one_process_exchanges_nothing() -> None:
    values = torch.ones(3)  # without a group, torch would raise an error

    assert Processes().total(values) is values
