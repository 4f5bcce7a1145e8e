"""How a token is chosen: what convmodel adds to transformers' processors, by hand."""

import math
from typing import Any

import pytest
import torch
from transformers.generation.logits_process import TopPLogitsWarper

from convmodel.generation.engine.sampling import Sampler, TopP

PROMPT = [9, 1, 2, 3, 9, 1, 2, 4, 9]  # two turns between separators
SEPARATOR = 9


def scores(said: list[int], **options: Any) -> list[float]:
    """What is left of logits that are all 1 after some tokens."""
    sampler = Sampler(options, PROMPT, [SEPARATOR])
    found: list[float] = sampler._processors(torch.tensor([PROMPT + said]), torch.ones(1, 10))[0].tolist()  # type: ignore[arg-type]
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


def test_the_likeliest_is_taken_without_drawing() -> None:
    logits = torch.tensor([[0.0, 3.0, 2.0]])
    assert Sampler({}, [0], [0]).is_plain
    assert Sampler({"temperature": 5.0, "top_k": 50}, [0], [0]).is_plain  # which only drawing looks at
    assert Sampler({"logit_bias": {2: 2.0}}, [0], [0]).choose(torch.tensor([[0]]), logits) == 2


NO_IDS = torch.empty(1, 0, dtype=torch.long)


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


@pytest.mark.parametrize("options", [{}, {"min_new_tokens": 1}])
def test_a_processor_of_the_caller_may_change_scores_in_place(options: dict[str, Any]) -> None:
    def prefer_two(input_ids: Any, scores: Any) -> Any:
        scores[:, 2] += 100.0
        return scores

    logits = torch.zeros(1, 10)
    sampler = Sampler({"logits_processor": [prefer_two], **options}, PROMPT, [SEPARATOR])
    assert sampler.choose(torch.tensor([[*PROMPT, 1]]), logits) == 2
    assert torch.equal(logits, torch.zeros(1, 10))


def test_ends_are_forbidden_until_the_response_is_long_enough() -> None:
    assert forbidden([1], min_new_tokens=2) == [SEPARATOR]
    assert forbidden([1, 2], min_new_tokens=2) == []


def test_drawing_follows_the_probabilities() -> None:
    logits = torch.tensor([[0.0, math.log(3.0), -math.inf, 0.0]])
    sampler = Sampler({"do_sample": True}, [0], [0], seed=0)
    drawn = [sampler.choose(torch.tensor([[0]]), logits) for _ in range(4000)]
    counts = [drawn.count(index) / 4000 for index in range(4)]
    assert counts == pytest.approx([0.2, 0.6, 0.0, 0.2], abs=0.03)


def test_a_seed_repeats_and_leaves_torchs_random_state_alone() -> None:
    logits = torch.zeros(1, 1000)

    def draw(seed: int | None) -> list[int]:
        sampler = Sampler({"do_sample": True}, [0], [0], seed=seed)
        return [sampler.choose(torch.tensor([[0]]), logits) for _ in range(5)]

    torch.manual_seed(1)
    before = torch.get_rng_state()
    assert draw(7) == draw(7) != draw(8)
    assert torch.equal(torch.get_rng_state(), before)
    unseeded = draw(None), draw(None)
    assert unseeded[0] != unseeded[1]
    torch.manual_seed(1)
    assert (draw(None), draw(None)) == unseeded


class _OnlyOdd:
    """Legal are odd ids; the response has 7 in the place of 5."""

    def legal(self, length: int, size: int) -> torch.Tensor:
        return torch.arange(size) % 2 == 1

    def forced(self, length: int) -> int:
        return 3

    def accept(self, length: int, token: int) -> int:
        return 7 if token == 5 else token


@pytest.mark.parametrize(
    ("options", "likeliest", "chosen"),
    [
        ({}, [4, 9], 9),
        ({"do_sample": True, "top_k": 1}, [4, 9], 9),
        ({"do_sample": True, "top_p": 0.01}, [4, 8, 1], 1),
        ({"logit_bias": {4: 100.0}}, [9], 9),
        ({"suppress_tokens": [*range(10)]}, [9], 3),
        ({"do_sample": True, "suppress_tokens": [1, 3, 5, 7, 9]}, [9], 3),
        ({}, [5], 7),
    ],
)
def test_only_legal_tokens_are_chosen(options: dict[str, Any], likeliest: list[int], chosen: int) -> None:
    sampler = Sampler(options, [2, 2], [0], seed=0, legal_tokens=_OnlyOdd())
    logits = torch.zeros(1, 10)
    logits[0, likeliest] = torch.tensor([30.0 - number for number, _ in enumerate(likeliest)])
    assert not sampler.is_plain
    assert sampler.choose(torch.tensor([[2, 2, 4]]), logits) == chosen
