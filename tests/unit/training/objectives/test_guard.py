"""The guard: what it compares, and what it says."""

import pytest

from convmodel import Conversation
from convmodel.evaluation.likelihood import EvaluationResult
from convmodel.training.objectives.guard import CONTEXTS, RegressionGuard


def measured(perplexity: float) -> EvaluationResult:
    return EvaluationResult(1.0, perplexity, 1.0, tokens=10, text_bytes=10, conversations=1, windows=1)


def guard_of(ended: int, responses: int = 32) -> RegressionGuard:
    """A guard with a first measurement of perplexity 20, about to check another share of responses."""
    guard = RegressionGuard(0.05, [])
    before = {"perplexity": 20.0, "ended": 30, "responses": responses}
    guard.load_dict({"before": before, "lowest": 20.0, "reason": ""})
    guard.responses = ended, responses
    return guard


@pytest.mark.parametrize("perplexity", [5.0, 20.0, 20.99])
def test_a_perplexity_within_the_limit_passes(perplexity: float) -> None:
    guard = guard_of(30)

    assert guard.check(measured(perplexity))
    assert not guard.reason


@pytest.mark.parametrize("perplexity", [21.01, 1e9, float("nan"), float("inf")])
def test_a_perplexity_beyond_the_limit_stops_the_run(perplexity: float) -> None:
    guard = guard_of(30)

    assert not guard.check(measured(perplexity))
    assert guard.reason == f"the validation perplexity rose from 20.00 to {perplexity:.2f}, more than 5%"


def test_every_validation_is_compared_with_the_best_so_far() -> None:
    guard = RegressionGuard(0.05, [])
    for perplexity in (20.0, 20.9, 15.0, 15.7):  # replayed conversations lower it at first
        assert guard.check(measured(perplexity))
    assert not guard.check(measured(15.8))
    assert guard.reason == "the validation perplexity rose from 15.00 to 15.80, more than 5%"


@pytest.mark.parametrize(("ended", "passes"), [(32, True), (26, True), (25, False), (0, False)])
def test_fewer_responses_that_end_than_chance_explains_stop_the_run(ended: int, passes: bool) -> None:
    guard = guard_of(ended)  # 30 of 32 before: the interval begins at 0.799

    assert guard.check(measured(20.0)) == passes
    if not passes:
        assert guard.reason == f"{ended} of 32 responses end by themselves within 48 tokens, 30 of 32 did before"


def test_without_responses_only_the_perplexity_counts() -> None:
    guard = guard_of(0, responses=0)

    assert guard.check(measured(20.0))
    assert guard.ended is None


def test_contexts_are_conversations_with_something_to_respond_to() -> None:
    conversations = [
        Conversation(["Hi"]),
        Conversation(["Be kind.", "Hi"], ["system", "user"], pinned=1),
        Conversation(["Be kind.", "Hi", "Hello"], ["system", "user", "assistant"], pinned=1),
        *[Conversation([f"Question {number}", "Answer", "Thanks"]) for number in range(50)],
    ]
    contexts = RegressionGuard(0.05, conversations)._contexts

    assert len(contexts) == CONTEXTS
    assert contexts[0] == Conversation(["Be kind.", "Hi"], ["system", "user"], pinned=1)
    assert contexts[1].turns == ("Question 0", "Answer")


def test_the_state_comes_back() -> None:
    guard, other = guard_of(0), RegressionGuard(0.05, [])
    guard.check(measured(30.0))
    other.load_dict(guard.to_dict())

    assert (other.before, other.lowest, other.reason) == (guard.before, guard.lowest, guard.reason)
