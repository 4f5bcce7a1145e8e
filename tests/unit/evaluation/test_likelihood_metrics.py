"""Metrics of likelihood, from sums that a reader can add up."""

import math

import numpy as np
import pytest
import torch

from convmodel import Conversation, ConversationModel
from convmodel.errors import ConfigError, LogitsError
from convmodel.evaluation import likelihood_metrics as metrics
from convmodel.evaluation.metric import Metric, compare_metrics
from convmodel.evaluation.turn_statistics import TurnStatistics, measure_turns


def turn(number: int, speaker: str, **sums: float) -> TurnStatistics:
    given = {"nats": 8.0, "text_nats": 6.0, "tokens": 4, "text_bytes": 10, "correct": 1, "closed": True}
    given |= {"stop": 0.5, "false_stop": 0.3, "ended_early": 0.2} | sums
    return TurnStatistics(number=number, speaker=speaker, **given)  # type: ignore[arg-type]


TALKS = [
    [turn(1, "ann"), turn(2, "bob", nats=4.0, text_nats=2.0, correct=3)],
    [turn(1, "ann", closed=False, stop=0.0, text_nats=8.0, tokens=3)],
    [],
]


def values(found: list[Metric]) -> dict[str, float]:
    return {metric.name: metric.estimate().value for metric in found}


def test_all_turns() -> None:
    found = values(metrics.likelihood_metrics(TALKS))

    assert found == pytest.approx(
        {
            "perplexity": math.exp(20 / 11),
            "loss": 20 / 11,
            "bits_per_byte": 16 / math.log(2) / 30,
            "token_accuracy": 5 / 11,
            "stop_probability": 1.0 / 2,  # two turns of three have an end
            "false_stop_rate": 0.9 / 9,  # three tokens of text each
            "ended_early": 0.6 / 3,
        }
    )


def test_a_conversation_without_turns_counts_for_nothing() -> None:
    assert [metric.estimate().conversations for metric in metrics.likelihood_metrics(TALKS)] == [2, 2, 2, 2, 1, 2, 2]


def test_each_speaker() -> None:
    found = metrics.metrics_by_speaker(TALKS)

    assert {name: values(each)["loss"] for name, each in found.items()} == {"ann": 16 / 7, "bob": 1.0}


def test_each_depth_and_the_deepest_together() -> None:
    deep = [[turn(number, "ann", nats=number) for number in range(1, 6)]]

    found = metrics.metrics_by_depth(deep, deepest=3)

    assert {name: values(each)["loss"] for name, each in found.items()} == {"1": 0.25, "2": 0.5, "3": 0.75, "4+": 9 / 8}


ENDS = ["Good thank you", "At 10", "See you soon", "そうですね", "No", "Then let us go home"]
CONVERSATIONS = [Conversation(["Hello", "How are you", end]) for end in ENDS]


@pytest.fixture
def model(unigram_folder: str) -> ConversationModel:
    return ConversationModel.from_pretrained(unigram_folder, device="cpu")


def test_the_next_turn_is_ranked_among_all_others(model: ConversationModel) -> None:
    found = values(
        metrics.next_turn_metrics(
            model.hf_model, model.tokenizer, [*CONVERSATIONS, Conversation(["Hi"])], distractors=9
        )
    )

    given = np.array([model.score(["Hello", "How are you"], ENDS)] * len(ENDS))
    given /= [len(model.tokenizer.encode(end)) + 1 for end in ENDS]
    ranks = (given >= given.diagonal()[:, None]).sum(axis=1)
    assert sorted(ranks) == [1, 2, 3, 4, 5, 6]
    assert found["hits_at_1"] == pytest.approx(1 / 6)
    assert found["hits_at_5"] == pytest.approx(5 / 6)
    assert found["mrr"] == pytest.approx(sum(1 / rank for rank in range(1, 7)) / 6)
    assert 0 <= found["gain_hits_at_1"] <= found["gain_hits_at_5"] <= 1


def test_ties_count_against_the_model(model: ConversationModel) -> None:
    with torch.no_grad():
        model.hf_model.get_output_embeddings().weight.zero_()

    found = values(metrics.next_turn_metrics(model.hf_model, model.tokenizer, CONVERSATIONS, distractors=5))

    assert (found["hits_at_1"], found["hits_at_5"]) == (0, 0)
    assert found["mrr"] == pytest.approx(1 / 6)


@pytest.mark.parametrize(
    ("scores", "rank"), [([2.0, 3.0, 1.0], 2), ([2.0, math.nan, 1.0], 2), ([math.nan, 3.0, 1.0], 3), ([math.nan], 1)]
)
def test_what_cannot_be_compared_counts_against_the_model(scores: list[float], rank: int) -> None:
    assert metrics._rank(scores) == [rank]


def test_turns_are_not_ranked_by_logits_that_are_not_numbers(model: ConversationModel) -> None:
    with torch.no_grad():
        model.hf_model.transformer.ln_f.weight[0] = math.nan

    with pytest.raises(LogitsError, match="the model's logits are not numbers"):
        metrics.next_turn_metrics(model.hf_model, model.tokenizer, CONVERSATIONS, distractors=5)


def test_distractors_depend_on_the_seed_but_not_on_the_order(model: ConversationModel) -> None:
    def rows(conversations: list[Conversation], seed: int) -> list[list[float]]:
        given = metrics.next_turn_metrics(model.hf_model, model.tokenizer, conversations, distractors=2, seed=seed)
        return np.concatenate([metric.rows for metric in given], axis=1).tolist()

    assert rows(CONVERSATIONS, 0) == rows(CONVERSATIONS[::-1], 0)[::-1]
    assert any(rows(CONVERSATIONS, 0) != rows(CONVERSATIONS, seed) for seed in range(1, 6))


def test_no_distractors_make_no_sense(model: ConversationModel) -> None:
    with pytest.raises(ConfigError, match="must be at least 1"):
        metrics.next_turn_metrics(model.hf_model, model.tokenizer, CONVERSATIONS, distractors=0)


@pytest.mark.slow
def test_turns_in_another_order_are_less_likely_to_a_model_that_has_learned_them(model: ConversationModel) -> None:
    talks = [["One", "Two", "Three", "Four"], ["Hi", "Hello", "Are you well?", "Yes, thanks"]] * 2
    model.fit(talks, max_steps=60, learning_rate=3e-3, warmup_steps=0, batch_size=4, seed=1, dropout=0.0)
    shuffled = [[talk[1], talk[3], talk[0], talk[2]] for talk in talks]
    first, second = (
        metrics.likelihood_metrics(
            conversation.turns
            for conversation in measure_turns(
                model.hf_model, model.tokenizer, map(Conversation.of, given), max_length=128, loss_on="all"
            ).conversations
        )[1]
        for given in (talks, shuffled)
    )

    assert compare_metrics(first, second).verdict == "worse"
