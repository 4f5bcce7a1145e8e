"""Comparisons and their verdicts, from values that a reader can check."""

import json
from dataclasses import replace
from typing import Any

import numpy as np

from convmodel import Conversation
from convmodel.evaluation.metric import Metric, Ratio, Topic
from convmodel.evaluation.response_metrics import Exchange
from convmodel.report.evaluation.evaluate import with_responses
from convmodel.report.evaluation.model_evaluation import ModelEvaluation, Settings
from convmodel.report.evaluation.results import (
    NEAREST,
    Comparison,
    compare_models,
    data_fingerprint,
    make_report,
    nearest_context,
)

LOSS = [3.0, 8.0, 2.0, 6.0, 4.0, 5.0, 7.0, 1.0]
TALKS = [Conversation([f"Hello number {index}", "Hi"]) for index in range(8)]


def mean(name: str, label: str, values: list[float], explanation: str = "what it means", **options: Any) -> Metric:
    definition: Ratio[float] = Ratio(
        name=name, label=label, topic=Topic.PREDICTION, explanation=explanation, above=lambda value: value, **options
    )
    return definition.measure([[value] for value in values])


def evaluated(name: str, loss: float = 0.0, hits: float = 0.0, tokenizer: str = "one") -> ModelEvaluation:
    lost = [nats + loss for nats in LOSS]
    return ModelEvaluation(
        name,
        {"tokenizer": tokenizer},
        [
            mean("perplexity", "perplexity", lost, better="lower", per_token=True, transform=np.exp),
            mean("loss", "loss", lost, explanation="", better="lower", per_token=True),
            mean("bits_per_byte", "bits per byte", lost, better="lower"),
            mean("hits_at_1", "hits@1", [hits] * 8, better="higher"),
            mean("length", "length", lost),
        ],
    )


def compare(first: ModelEvaluation, second: ModelEvaluation) -> Comparison:
    return Comparison(first.name, second.name, compare_models(first, second, seed=0))


def test_the_verdict_names_what_is_better_worse_and_the_same() -> None:
    found = compare(evaluated("A"), evaluated("B", loss=-0.5, hits=-0.25))

    assert found.verdict() == "B compared with A: better on: perplexity, bits per byte; worse on: hits@1."
    assert compare(evaluated("A"), evaluated("B", hits=0.25)).verdict() == (
        "B compared with A: better on: hits@1; no significant difference on: perplexity, bits per byte."
    )


def test_a_model_does_not_differ_from_itself() -> None:
    assert compare(evaluated("A"), evaluated("A")).verdict() == "A compared with A: no significant difference."


def test_metrics_per_token_are_compared_only_within_one_vocabulary() -> None:
    found = compare_models(evaluated("A"), evaluated("B", tokenizer="other"), seed=0)

    assert [each.definition.name for each in found] == ["bits_per_byte", "hits_at_1"]


def test_what_has_no_interval_or_only_describes_is_not_compared() -> None:
    distinct = mean("distinct_1", "distinct-1", [1.0] * 8, better="higher", resampled=False)
    first, second = evaluated("A"), evaluated("B")
    first.metrics.append(distinct)
    second.metrics.append(distinct)

    assert not {"length", "distinct_1"} & {each.definition.name for each in compare_models(first, second, seed=0)}


def test_models_are_compared_with_the_first_and_with_the_baselines() -> None:
    models, base = [evaluated("A"), evaluated("B"), evaluated("C")], evaluated("base", loss=1.0)

    report = make_report(models, TALKS, Settings(), data={"name": "test.jsonl"}, base=base)

    assert [(each.first, each.second) for each in report.comparisons] == [
        ("A", "B"), ("A", "C"), ("base", "A"), ("base", "B"), ("base", "C")
    ]  # fmt: skip
    assert [each.name for each in report.models] == ["A", "B", "C", "base"]
    assert report.comparisons[2].verdict().startswith("A compared with base: better on: perplexity, bits per byte")


def test_nearest_context_parrots_and_is_caught() -> None:
    training = [Conversation(["Do you like green tea?", "I drink it all day long, every day."])]
    exchange = Exchange(1, Conversation(["Do you like tea?"]), "Yes, I do", "No idea")
    model = with_responses(evaluated("A"), [exchange], training)

    baseline = nearest_context(model, training)

    assert baseline.name == NEAREST
    assert baseline.exchanges[0].response == "I drink it all day long, every day."
    values = {metric.name: metric.value for metric in baseline.metrics}
    assert (values["copied_whole"], values["references_copied_whole"]) == (1.0, 0.0)
    assert baseline.copies[0] is not None


def test_the_data_is_known_by_what_is_said_and_by_whom() -> None:
    same = data_fingerprint([Conversation(["Hi", "Hello"], id="other")])

    assert same == data_fingerprint([Conversation(["Hi", "Hello"])])
    assert len({same, data_fingerprint([Conversation(["Hi", "Hullo"])]), data_fingerprint([Conversation(["Hi"])])}) == 3
    assert same != data_fingerprint([Conversation(["Hi", "Hello"], ["a", "b"])])


def test_machines_get_json() -> None:
    report = make_report([evaluated("A"), evaluated("B", loss=-0.5)], TALKS, Settings(), data={"name": "test.jsonl"})

    found: dict[str, Any] = json.loads(json.dumps(report.to_dict(), allow_nan=False))

    assert found["data"]["conversations"] == 8
    assert found["models"][0]["metrics"]["loss"]["value"] == 4.5
    assert found["comparisons"][0]["differences"]["loss"]["difference"]["value"] == -0.5
    assert found["comparisons"][0]["differences"]["loss"]["verdict"] == "better"
    assert found["versions"]["convmodel"]


def test_a_response_that_a_model_could_not_give_leaves_the_others_in_their_places() -> None:
    exchanges = [Exchange(number, Conversation(["Hi"]), f"said {number}", f"A {number}") for number in (1, 2, 3)]
    first = replace(evaluated("A"), exchanges=exchanges)
    second = replace(evaluated("B"), exchanges=[replace(exchanges[2], response="B 3")])

    names, rows = make_report([first, second], TALKS, Settings(), data={"name": "test.jsonl"}).responses()

    assert names == ["A", "B"]
    assert [texts for _, texts in rows] == [
        ["said 1", "A 1", "(nothing)"],
        ["said 2", "A 2", "(nothing)"],
        ["said 3", "A 3", "B 3"],
    ]


def test_the_facts_repeat_the_evaluation() -> None:
    facts = dict(make_report([evaluated("A")], TALKS, Settings(seed=7), data={"name": "test.jsonl"}).facts())

    assert (facts["data: name"], facts["A: tokenizer"], facts["setting: seed"]) == ("test.jsonl", "one", "7")
    assert facts["data: sha256"] == data_fingerprint(TALKS)
    assert {"convmodel", "torch", "created at"} <= facts.keys()
