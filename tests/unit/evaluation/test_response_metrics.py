"""Metrics of responses, on a few that a reader can count through."""

import pytest

from convmodel import Conversation
from convmodel.evaluation.metric import Metric
from convmodel.evaluation.response_metrics import Exchange, response_metrics, unigram_f1


def exchange(response: str, reference: str = "x", context: str = "Hello", finish: str = "stop") -> Exchange:
    return Exchange(1, Conversation([context]), reference, response, finish)


def values(metrics: list[Metric]) -> dict[str, float]:
    return {metric.name: metric.value for metric in metrics}


def test_f1_counts_a_word_as_often_as_both_have_it() -> None:
    # 2 in common; precision 2/4, recall 2/3
    assert unigram_f1(["a", "b", "b", "b"], ["b", "a", "c"]) == pytest.approx(4 / 7)
    assert unigram_f1([], ["a"]) == 0
    assert unigram_f1(["a"], ["a"]) == 1


def test_f1_is_the_mean_over_responses_whatever_case_and_punctuation() -> None:
    found = values(response_metrics([exchange("Yes!", "yes"), exchange("No", "Maybe not")]))

    assert found["f1"] == 0.5


def test_f1_of_japanese_is_of_characters() -> None:
    assert values(response_metrics([exchange("暑いですね", "寒いですね")]))["f1"] == pytest.approx(4 / 5)


def test_distinct_counts_over_all_responses() -> None:
    # words: a b a | a b c: 3 different of 6; runs of 2: ab ba ab bc: 3 of 4; of 3: aba abc: 2 of 2
    found = values(response_metrics([exchange("a b a"), exchange("a b c")]))

    assert [found[f"distinct_{count}"] for count in (1, 2, 3)] == [0.5, 0.75, 1.0]


def test_distinct_has_no_interval() -> None:
    metrics = {metric.name: metric for metric in response_metrics([exchange("a b"), exchange("a c")])}

    assert metrics["distinct_1"].estimate().to_dict() == {"value": 0.75, "low": None, "high": None, "conversations": 2}


def test_repetition_within_a_response() -> None:
    # abc bca cab abc: 4 runs, one of them again; def: 1 run
    found = values(response_metrics([exchange("a b c a b c"), exchange("d e f"), exchange("g")]))

    assert found["repeats_itself"] == pytest.approx(1 / 5)


def test_repetition_of_the_context() -> None:
    exchanges = [exchange("I like green tea", context="Do you like green tea?"), exchange("Hello!", context="hello")]

    found = values(response_metrics(exchanges))

    assert found["repeats_context"] == 1 / 2  # "like green tea" of two runs
    assert found["said_before"] == 1 / 2


def test_lengths_and_ends() -> None:
    exchanges = [
        exchange("one two three", "one"),
        exchange("four", "two three", finish="length"),
        exchange(" ", "three"),
        exchange("", "four"),
    ]

    found = values(response_metrics(exchanges))

    assert found["length"] == 4 / 5
    assert (found["runaway"], found["empty"]) == (0.25, 0.5)
