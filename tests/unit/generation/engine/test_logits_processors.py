"""What changes logits beside transformers' processors, by hand; and that top-p is transformers'."""

import math
from typing import Any

import pytest
import torch
from transformers.generation.logits_process import TopPLogitsWarper

from convmodel.generation.engine.logits_processors import TopP, make_processors

PROMPT = [9, 1, 2, 3, 9, 1, 2, 4, 9]  # two turns between separators
SEPARATOR = 9
NO_IDS = torch.empty(1, 0, dtype=torch.long)


def scores(said: list[int], **options: Any) -> list[float]:
    """What is left of logits that are all 1 after some tokens."""
    processors = make_processors(options, PROMPT, [SEPARATOR], "cpu")
    found: list[float] = processors(torch.tensor([PROMPT + said]), torch.ones(1, 10))[0].tolist()  # type: ignore[arg-type]
    return found


def forbidden(said: list[int], **options: Any) -> list[int]:
    return [index for index, score in enumerate(scores(said, **options)) if score == -math.inf]


def test_a_frequency_penalty_counts_the_response_and_not_the_context() -> None:
    assert scores([5, 6, 5], frequency_penalty=0.5) == [1, 1, 1, 1, 1, 0, 0.5, 1, 1, 1]


def test_a_presence_penalty_is_the_same_however_often() -> None:
    assert scores([5, 6, 5], presence_penalty=0.5) == [1, 1, 1, 1, 1, 0.5, 0.5, 1, 1, 1]


def test_both_penalties_add_up_and_may_be_negative() -> None:
    found = scores([5, 6, 5], presence_penalty=0.5, frequency_penalty=-1.0)
    assert found == [1, 1, 1, 1, 1, 2.5, 1.5, 1, 1, 1]


def test_nothing_said_is_nothing_to_punish() -> None:
    assert scores([], presence_penalty=0.5, frequency_penalty=0.5) == [1.0] * 10


@pytest.mark.parametrize("bias", [{3: 2.0, 7: -1.5}, {"3": 2, "7": -1.5}], ids=["ids", "JSON"])
def test_a_bias_is_added(bias: dict[Any, float]) -> None:
    assert scores([], logit_bias=bias) == [1, 1, 1, 3, 1, 1, 1, -0.5, 1, 1]


def test_n_grams_of_the_response_are_not_said_again() -> None:
    assert forbidden([5, 6, 7, 5, 6], no_repeat_ngram_size=3) == [7]
    assert forbidden([5, 6], no_repeat_ngram_size=1) == [5, 6]


def test_those_of_the_context_may_be_said_unless_that_is_asked_for_too() -> None:
    assert forbidden([1, 2], no_repeat_ngram_size=3) == []
    assert forbidden([1, 2], no_repeat_context_ngram_size=3) == [3, 4]
    assert forbidden([1], no_repeat_context_ngram_size=2) == [2]
    assert forbidden([1, 2], no_repeat_context_ngram_size=4) == []


def test_a_response_may_end_where_turns_of_the_context_do() -> None:
    assert forbidden([1, 2, 3], no_repeat_context_ngram_size=2) == []
    assert forbidden([], no_repeat_context_ngram_size=1) == [1, 2, 3, 4]


def test_too_little_said_for_an_n_gram_forbids_nothing() -> None:
    assert forbidden([1], no_repeat_context_ngram_size=3) == []
    assert forbidden([], no_repeat_ngram_size=2, no_repeat_context_ngram_size=2) == []


def test_ends_are_forbidden_until_the_response_is_long_enough() -> None:
    assert forbidden([1], min_new_tokens=2) == [SEPARATOR]
    assert forbidden([1, 2], min_new_tokens=2) == []


@pytest.mark.parametrize("vocabulary", [100, 8_000, 50_257])
def test_top_p_keeps_the_tokens_that_transformers_keeps(vocabulary: int) -> None:
    random = torch.Generator().manual_seed(vocabulary)
    normal = torch.randn(1, vocabulary, generator=random)
    for scale in (0.01, 1.0, 3.0, 8.0, 30.0):  # from nearly uniform to nearly certain
        logits = scale * normal
        fewest = logits.masked_fill(logits < logits.topk(20).values[:, -1:], -math.inf)  # as top-k leaves them
        for top_p in (0.0, 0.01, 0.5, 0.9, 0.95, 0.999):
            for scores in (logits, fewest):
                assert torch.equal(TopP(top_p)(NO_IDS, scores), TopPLogitsWarper(top_p)(NO_IDS, scores))  # type: ignore[arg-type]


def test_top_p_sorts_a_vocabulary_only_if_it_must(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []
    sort = TopPLogitsWarper.__call__
    monkeypatch.setattr(TopPLogitsWarper, "__call__", lambda *values: asked.append(1) or sort(*values))
    peaked, flat = 10.0 * torch.eye(1, 5_000), torch.zeros(1, 5_000)
    assert TopP(0.8)(NO_IDS, peaked).isfinite().sum() == 1
    assert not asked
    assert TopP(0.5)(NO_IDS, flat).isfinite().sum() == pytest.approx(2_500, abs=2)
    assert asked == [1]
    TopP(0.8)(NO_IDS, torch.cat([peaked, torch.full_like(peaked, math.nan)]))
    assert asked == [1, 1]


def test_top_p_filters_each_row_by_itself() -> None:
    logits = torch.tensor([[1.0], [8.0], [30.0]]) * torch.randn(3, 8_000, generator=torch.Generator().manual_seed(0))
    expected = TopPLogitsWarper(0.4)(NO_IDS, logits)  # type: ignore[arg-type]
    assert torch.equal(TopP(0.4)(NO_IDS, logits), expected)
    assert len(set((expected > -math.inf).sum(-1).tolist())) == 3
