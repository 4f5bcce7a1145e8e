"""Rows that join and leave a batch, without a model."""

from collections.abc import Sequence

import pytest
import torch

from convmodel.generation.engine.batch import Batch, decode
from convmodel.generation.engine.kv_cache import KVCache
from convmodel.generation.engine.request import Request, Row
from convmodel.generation.engine.runner import Part, Runner
from convmodel.generation.engine.sampling import Sampler


class Counter(Runner):
    """Gives each row its number of tokens as the next token, and records how many rows each step has."""

    def __init__(self) -> None:
        self.rows: list[int] = []
        self.error: BaseException | None = None
        self.breaks = 1  # a part of this many rows

    def read(self, parts: Sequence[Part]) -> torch.Tensor:
        rows = [len(part.ids) for part in parts]
        self.rows.append(sum(rows))
        for part, count in zip(parts, rows, strict=True):
            part.cache.layers[0].update(torch.ones(count, 1, 1, 1), torch.ones(count, 1, 1, 1))
            if self.error is not None and count == self.breaks:
                raise self.error
        return torch.zeros(sum(rows), 5)

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
        decode([batch], runner)
        kept += batch.pop_done()
    assert [request.rows[0].tokens for request, _ in prompts] == [[0, 1, 2, 3], [0, 1, 2]]
    assert [row.finish_reason for row, _ in kept] == ["length", "stop"]
    assert [cache.length for _, cache in kept] == [3 + 2, 5 + 4]
    assert runner.rows == [2, 2, 1, 1]
    assert batch.rows == []


def test_a_late_prompt_takes_the_place_of_a_row_that_ended() -> None:
    batch, runner = Batch(), Counter()
    batch.join([prompt_of(5), prompt_of(5), prompt_of(5, new=2)])
    decode([batch], runner)
    batch.pop_done()
    late = prompt_of(4)
    batch.join([late])
    decode([batch], runner)
    assert runner.rows == [3, 3]
    assert late[0].rows[0].tokens == [0, 1]


def test_padding_counts_positions_up_to_the_longest() -> None:
    batch = Batch()
    batch.join([prompt_of(10), prompt_of(7)])
    assert batch.padding() == 3
    assert batch.padding([2]) == 11


def test_a_batch_takes_no_more_positions_than_the_model_has() -> None:
    batch, runner, lengths = Batch(positions=12), Counter(), []
    prompts = [prompt_of(10, new=3), prompt_of(7), prompt_of(6)]
    batch.join(prompts)
    while batch.cache:
        lengths.append(batch.cache.length)
        decode([batch], runner)
        batch.pop_done()
    assert lengths == [10, 11, 9, 10]
    assert [request.rows[0].tokens for request, _ in prompts] == [[0, 1, 2], [0, 1, 2, 3], [0, 1, 2, 3]]


def test_an_error_ends_all_rows_and_an_interruption_none() -> None:
    batch, runner, (request, cache) = Batch(), Counter(), prompt_of(5)
    batch.join([(request, cache)])
    runner.error = KeyboardInterrupt()
    with pytest.raises(KeyboardInterrupt):
        decode([batch], runner)
    runner.error = None
    decode([batch], runner)
    assert request.rows[0].tokens == [0, 1]
    runner.error = RuntimeError("no memory")
    decode([batch], runner)
    assert isinstance(request.error, RuntimeError)
    assert batch.rows == []


def test_several_responses_to_one_prompt_are_not_kept() -> None:
    batch, runner = Batch(), Counter()
    batch.join([prompt_of(5, new=2, rows=2)])
    decode([batch], runner)
    assert batch.pop_done() == []
    assert batch.rows == []


def test_batches_share_a_pass_and_an_error_ends_only_its_own() -> None:
    one, other, runner = Batch(), Batch(), Counter()
    first, second, third = prompt_of(5), prompt_of(9), prompt_of(9)
    one.join([first])
    other.join([second, third])
    decode([one, other], runner)
    assert runner.rows == [3]
    runner.error = RuntimeError("no memory")
    decode([one, other], runner)
    assert runner.rows == [3, 3, 1, 2]
    assert first[0].error is runner.error
    assert [request.rows[0].tokens for request, _ in (first, second, third)] == [[0, 1], [0, 1, 2], [0, 1, 2]]
    assert [cache.length for cache in (one.cache, other.cache) if cache] == [11]
