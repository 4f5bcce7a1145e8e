"""Rows that join and leave a batch, without a model."""

from collections.abc import Sequence

import pytest
import torch

from convmodel.generation.engine.batch import Batch
from convmodel.generation.engine.kv_cache import KVCache
from convmodel.generation.engine.request import Request, Row
from convmodel.generation.engine.runner import Runner
from convmodel.generation.engine.sampling import Sampler


class Counter(Runner):
    """Gives each row its number of tokens as the next token, and records how many rows each step has."""

    def __init__(self) -> None:
        self.rows: list[int] = []
        self.error: BaseException | None = None

    def read(self, ids: Sequence[Sequence[int]], types: Sequence[Sequence[int]], cache: KVCache) -> torch.Tensor:
        self.rows.append(len(ids))
        cache.layers[0].update(torch.ones(len(ids), 1, 1, 1), torch.ones(len(ids), 1, 1, 1))
        if self.error is not None:
            raise self.error
        return torch.zeros(len(ids), 5)

    def choose(self, rows: Sequence[Row], logits: torch.Tensor) -> None:
        assert len(rows) == len(logits)
        for row in rows:
            row.add(len(row.tokens), 0.0)


Prefilled = tuple[Request, KVCache]


def prompt_of(length: int, *, new: int = 9, rows: int = 1) -> Prefilled:
    samplers = [Sampler({}, [], [])] * rows
    request = Request([7] * length, [], samplers, stop_ids=frozenset([4]), max_new_tokens=new)
    cache = KVCache(1)
    cache.layers[0].update(torch.zeros(1, 1, length, 1), torch.zeros(1, 1, length, 1))
    for row in request.rows:
        row.add(0, 0.0)
    return request, cache


def test_rows_decode_together_until_each_ends() -> None:
    batch, runner = Batch(), Counter()
    prompts = [prompt_of(5), prompt_of(3, new=3)]
    batch.join(prompts)
    kept = []
    for _ in range(6):
        batch.step(runner)
        kept += batch.pop_done()
    assert [request.rows[0].tokens for request, _ in prompts] == [[0, 1, 2, 3], [0, 1, 2]]
    assert [row.finish_reason for row, _ in kept] == ["length", "stop"]
    assert [cache.length for _, cache in kept] == [3 + 2, 5 + 4]
    assert runner.rows == [2, 2, 1, 1]
    assert batch.rows == []


def test_a_late_prompt_takes_the_place_of_a_row_that_ended() -> None:
    batch, runner = Batch(), Counter()
    batch.join([prompt_of(5), prompt_of(5), prompt_of(5, new=2)])
    batch.step(runner)
    batch.pop_done()
    late = prompt_of(4)
    batch.join([late])
    batch.step(runner)
    assert runner.rows == [3, 3]
    assert late[0].rows[0].tokens == [0, 1]


def test_padding_counts_positions_up_to_the_longest() -> None:
    batch = Batch()
    batch.join([prompt_of(10), prompt_of(7)])
    assert batch.padding() == 3
    assert batch.padding([2]) == 11


def test_an_error_ends_all_rows_and_an_interruption_none() -> None:
    batch, runner, (request, cache) = Batch(), Counter(), prompt_of(5)
    batch.join([(request, cache)])
    runner.error = KeyboardInterrupt()
    with pytest.raises(KeyboardInterrupt):
        batch.step(runner)
    runner.error = None
    batch.step(runner)
    assert request.rows[0].tokens == [0, 1]
    runner.error = RuntimeError("no memory")
    batch.step(runner)
    assert isinstance(request.error, RuntimeError)
    assert batch.rows == []


def test_several_responses_to_one_prompt_are_not_kept() -> None:
    batch, runner = Batch(), Counter()
    batch.join([prompt_of(5, new=2, rows=2)])
    batch.step(runner)
    assert batch.pop_done() == []
    assert batch.rows == []
