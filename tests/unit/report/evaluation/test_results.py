"""Comparisons and their verdicts, from figures that a reader can check."""

import json
from typing import Any

import numpy as np
import pytest

from convmodel import Conversation
from convmodel.evaluation.metric import Figure, ratio
from convmodel.evaluation.response_metrics import Exchange
from convmodel.report.evaluation.evaluate import Evaluated, Settings, with_responses
from convmodel.report.evaluation.explanations import number
from convmodel.report.evaluation.results import (
    NEAREST,
    Comparison,
    data_identity,
    differences,
    make_card,
    nearest_context,
)

ONE = [1] * 8
LOSS = [3.0, 8.0, 2.0, 6.0, 4.0, 5.0, 7.0, 1.0]
TALKS = [Conversation([f"Hello number {index}", "Hi"]) for index in range(8)]


def evaluated(name: str, loss: float = 0.0, hits: float = 0.0, tokenizer: str = "one") -> Evaluated:
    lost = [nats + loss for nats in LOSS]
    return Evaluated(
        name,
        {"tokenizer": tokenizer},
        [
            ratio("perplexity", "perplexity", lost, ONE, better="lower", transform=np.exp),
            ratio("loss", "loss", lost, ONE, better="lower"),
            ratio("bits_per_byte", "bits a byte", lost, ONE, better="lower"),
            ratio("hits_at_1", "hits@1", [hits] * 8, ONE, better="higher"),
            ratio("length", "length", lost, ONE),
        ],
    )


def compare(first: Evaluated, second: Evaluated) -> Comparison:
    return Comparison(first.name, second.name, differences(first, second, seed=0))


def test_the_verdict_names_what_is_better_worse_and_the_same() -> None:
    found = compare(evaluated("A"), evaluated("B", loss=-0.5, hits=-0.25))

    assert found.verdict() == "B against A: better on: perplexity, bits a byte; worse on: hits@1."
    assert compare(evaluated("A"), evaluated("B", hits=0.25)).verdict() == (
        "B against A: better on: hits@1; no difference on: perplexity, bits a byte."
    )


def test_a_model_does_not_differ_from_itself() -> None:
    assert compare(evaluated("A"), evaluated("A")).verdict() == "A against A: no difference shows."


def test_figures_a_token_are_compared_only_within_one_vocabulary() -> None:
    found = differences(evaluated("A"), evaluated("B", tokenizer="other"), seed=0)

    assert [each.name for each in found] == ["bits_per_byte", "hits_at_1"]


def test_what_has_no_interval_or_only_describes_is_not_compared() -> None:
    distinct = Figure("distinct_1", "distinct-1", np.ones((8, 1)), lambda sums: sums[..., 0], "higher", resampled=False)
    first, second = evaluated("A"), evaluated("B")
    first.figures.append(distinct)
    second.figures.append(distinct)

    assert not {"length", "distinct_1"} & {each.name for each in differences(first, second, seed=0)}


def test_models_are_compared_with_the_first_and_with_the_baselines() -> None:
    models, base = [evaluated("A"), evaluated("B"), evaluated("C")], evaluated("base", loss=1.0)

    card = make_card(models, TALKS, Settings(), data={"name": "test.jsonl"}, base=base)

    assert [(each.first, each.second) for each in card.comparisons] == [
        ("A", "B"), ("A", "C"), ("base", "A"), ("base", "B"), ("base", "C")
    ]  # fmt: skip
    assert [each.name for each in card.models] == ["A", "B", "C", "base"]
    assert card.comparisons[2].verdict().startswith("A against base: better on: perplexity, bits a byte")


def test_nearest_context_parrots_and_is_caught() -> None:
    training = [Conversation(["Do you like green tea?", "I drink it all day long, every day."])]
    exchange = Exchange(1, Conversation(["Do you like tea?"]), "Yes, I do", "No idea")
    model = with_responses(evaluated("A"), [exchange], training)

    baseline = nearest_context(model, training)

    assert baseline.name == NEAREST
    assert baseline.exchanges[0].response == "I drink it all day long, every day."
    values = {figure.name: figure.estimate().value for figure in baseline.figures}
    assert (values["copied_whole"], values["references_copied_whole"]) == (1.0, 0.0)
    assert baseline.copies[0] is not None


def test_the_data_is_known_by_what_is_said_and_by_whom() -> None:
    same = data_identity([Conversation(["Hi", "Hello"], id="other")])

    assert same == data_identity([Conversation(["Hi", "Hello"])])
    assert len({same, data_identity([Conversation(["Hi", "Hullo"])]), data_identity([Conversation(["Hi"])])}) == 3
    assert same != data_identity([Conversation(["Hi", "Hello"], ["a", "b"])])


def test_machines_get_json() -> None:
    card = make_card([evaluated("A"), evaluated("B", loss=-0.5)], TALKS, Settings(), data={"name": "test.jsonl"})

    found: dict[str, Any] = json.loads(json.dumps(card.to_dict(), allow_nan=False))

    assert found["data"]["conversations"] == 8
    assert found["models"][0]["figures"]["loss"]["value"] == 4.5
    assert found["comparisons"][0]["differences"]["loss"]["difference"]["value"] == -0.5
    assert found["comparisons"][0]["differences"]["loss"]["verdict"] == "better"
    assert found["versions"]["convmodel"]


@pytest.mark.parametrize(
    ("value", "percent", "expected"), [(0.5, True, "50.0"), (99.99, False, "99.99"), (-0.12345, False, "-0.123")]
)
def test_numbers(value: float, percent: bool, expected: str) -> None:
    assert number(value, percent) == expected
