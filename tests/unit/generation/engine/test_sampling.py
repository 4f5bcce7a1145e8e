"""How a token is chosen from logits."""

import math
from typing import Any

import pytest
import torch

from convmodel.generation.engine.sampling import Sampler

PROMPT = [9, 1, 2, 3, 9, 1, 2, 4, 9]  # two turns between separators
SEPARATOR = 9


def test_the_likeliest_is_taken_without_drawing() -> None:
    logits = torch.tensor([[0.0, 3.0, 2.0]])
    assert Sampler({}, [0], [0]).is_plain
    assert Sampler({"temperature": 5.0, "top_k": 50}, [0], [0]).is_plain  # which only drawing looks at
    assert Sampler({"logit_bias": {2: 2.0}}, [0], [0]).choose(torch.tensor([[0]]), logits) == 2


@pytest.mark.parametrize("options", [{}, {"min_new_tokens": 1}])
def test_a_processor_of_the_caller_may_change_scores_in_place(options: dict[str, Any]) -> None:
    def prefer_two(input_ids: Any, scores: Any) -> Any:
        scores[:, 2] += 100.0
        return scores

    logits = torch.zeros(1, 10)
    sampler = Sampler({"logits_processor": [prefer_two], **options}, PROMPT, [SEPARATOR])
    assert sampler.choose(torch.tensor([[*PROMPT, 1]]), logits) == 2
    assert torch.equal(logits, torch.zeros(1, 10))


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
