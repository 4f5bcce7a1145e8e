"""One forward pass and one choice of tokens, with a forward pass that records what it is given."""

import math
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel

from convmodel.errors import LogitsError
from convmodel.generation.engine.kv_cache import KVCache
from convmodel.generation.engine.lean import LeanForward, NewTokens
from convmodel.generation.engine.request import Request
from convmodel.generation.engine.runner import Part, Runner
from convmodel.generation.engine.sampling import Sampler


class Recorder:
    """A forward pass of one layer that keeps its inputs."""

    layers, shares_weights = 1, True

    def __init__(self) -> None:
        self.inputs: list[Any] = []

    def __call__(self, parts: Sequence[NewTokens]) -> torch.Tensor:
        for ids, types, positions, cache in parts:
            self.inputs.append([None if part is None else part.tolist() for part in (ids, types, positions)])
            states = torch.zeros(len(ids), 1, ids.shape[1], 1)
            cache.layers[0].update(states, states)
        return torch.zeros(sum(len(part.ids) for part in parts), 5)


@pytest.fixture
def runner() -> Runner:
    config = GPT2Config(vocab_size=5, n_embd=4, n_layer=1, n_head=1, n_positions=16, bos_token_id=0, eos_token_id=0)
    runner = Runner(GPT2LMHeadModel(config).eval())
    runner.refresh(0)
    return runner


def request_of(*, alternatives: int = 0, **options: Any) -> Request:
    made = Request([1, 2], [], [Sampler(options, [1, 2], [4])], stop_ids=frozenset([4]), max_new_tokens=3)
    made.alternatives = alternatives
    return made


def test_a_gpt2_runs_on_the_lean_pass(runner: Runner) -> None:
    assert isinstance(runner.forward, LeanForward)


def test_positions_continue_those_of_each_row_and_unused_rows_read_zeros(runner: Runner) -> None:
    runner.forward = recorder = Recorder()
    cache = KVCache(1)
    cache.layers[0].update(torch.zeros(3, 1, 6, 1), torch.zeros(3, 1, 6, 1))
    cache.starts = [0, 4, 1]

    runner.read([Part([[7], [8], []], [[1], [0], []], cache)])

    assert recorder.inputs == [[[[7], [8], [0]], [[1], [0], [0]], [[6], [2], [0]]]]
    assert cache.length == 7


def test_a_model_without_types_gets_none(runner: Runner) -> None:
    runner.forward = recorder = Recorder()
    runner.read([Part([[7, 8]], [[]], KVCache(1))])
    assert recorder.inputs == [[[[7, 8]], None, [[0, 1]]]]


def test_a_model_that_keeps_nothing_is_an_error(runner: Runner) -> None:
    runner.forward = recorder = Recorder()
    with pytest.raises(RuntimeError, match="use_cache=False"):
        runner.read([Part([[7]], [[]], KVCacheThatForgets(recorder.layers))])


class KVCacheThatForgets(KVCache):
    """Stays empty whatever is appended."""

    @property
    def length(self) -> int:
        return 0


def test_log_probabilities_and_alternatives_are_those_of_the_unchanged_logits(runner: Runner) -> None:
    request = request_of(alternatives=2, do_sample=True, temperature=9.0, top_k=1)
    logits = torch.tensor([[0.0, 3.0, 1.0, 2.0, -1.0]])
    runner.choose(request.rows, logits)
    [row] = request.rows
    expected = logits.log_softmax(-1)[0]
    assert row.tokens == [1]
    assert row.log_probabilities == pytest.approx([expected[1].item()])
    assert [index for index, _ in row.alternatives[0]] == [1, 3]
    assert row.alternatives[0][1][1] == pytest.approx(expected[3].item())
    assert request.progress == 1


def test_an_error_of_a_processor_ends_only_its_request(runner: Runner) -> None:
    def fail(ids: Any, scores: Any) -> Any:
        raise ValueError("no")

    bad, good = request_of(logits_processor=[fail]), request_of()
    runner.choose([*bad.rows, *good.rows], torch.tensor([[0.0, 1.0, 0.0, 0.0, 0.0]] * 2))
    assert isinstance(bad.error, ValueError)
    assert (bad.rows[0].tokens, good.rows[0].tokens, good.error) == ([], [1], None)


@pytest.mark.parametrize("value", [math.nan, math.inf])
@pytest.mark.parametrize("options", [{}, {"do_sample": True, "top_k": 1}], ids=str)
def test_logits_that_are_not_numbers_end_only_their_request(
    runner: Runner, options: dict[str, Any], value: float
) -> None:
    bad, good = request_of(**options), request_of(**options)
    runner.choose([*bad.rows, *good.rows], torch.tensor([[0.0, 1.0, value, 0.0, 0.0], [0.0, 1.0, 0.0, 0.0, 0.0]]))
    assert isinstance(bad.error, LogitsError)
    assert (bad.rows[0].tokens, good.rows[0].tokens, good.error) == ([], [1], None)


def test_no_likeliest_tokens_are_looked_for_unless_asked(runner: Runner, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.Tensor, "topk", None)
    request = request_of()
    runner.choose(request.rows, torch.tensor([[0.0, 2.0, 1.0]]))
    assert request.rows[0].tokens == [1]
    assert request.rows[0].alternatives == [[]]
