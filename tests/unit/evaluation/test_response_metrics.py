"""The figures of responses, on a few that a reader can count through."""

import pytest

from convmodel import Conversation
from convmodel.evaluation.bleu_chrf import overlap_figures
from convmodel.evaluation.metric import Figure
from convmodel.evaluation.response_metrics import Exchange, response_figures, unigram_f1
from convmodel.evaluation.verbatim_copies import copy_figures, find_copies


def exchange(response: str, reference: str = "x", context: str = "Hello", finish: str = "stop") -> Exchange:
    return Exchange(1, Conversation([context]), reference, response, finish)


def values(figures: list[Figure]) -> dict[str, float]:
    return {figure.name: figure.estimate().value for figure in figures}


def test_f1_counts_a_word_as_often_as_both_have_it() -> None:
    # 2 in common; precision 2/4, recall 2/3
    assert unigram_f1(["a", "b", "b", "b"], ["b", "a", "c"]) == pytest.approx(4 / 7)
    assert unigram_f1([], ["a"]) == 0
    assert unigram_f1(["a"], ["a"]) == 1


def test_f1_is_the_mean_over_responses_whatever_case_and_punctuation() -> None:
    found = values(response_figures([exchange("Yes!", "yes"), exchange("No", "Maybe not")]))

    assert found["f1"] == 0.5


def test_f1_of_japanese_is_of_characters() -> None:
    assert values(response_figures([exchange("暑いですね", "寒いですね")]))["f1"] == pytest.approx(4 / 5)


def test_distinct_counts_over_all_responses() -> None:
    # words: a b a | a b c: 3 different of 6; runs of 2: ab ba ab bc: 3 of 4; of 3: aba abc: 2 of 2
    found = values(response_figures([exchange("a b a"), exchange("a b c")]))

    assert [found[f"distinct_{count}"] for count in (1, 2, 3)] == [0.5, 0.75, 1.0]


def test_distinct_has_no_interval() -> None:
    figures = {figure.name: figure for figure in response_figures([exchange("a b"), exchange("a c")])}

    assert figures["distinct_1"].estimate().to_dict() == {"value": 0.75, "low": None, "high": None, "conversations": 2}


def test_repetition_within_a_response() -> None:
    # abc bca cab abc: 4 runs, one of them again; def: 1 run
    found = values(response_figures([exchange("a b c a b c"), exchange("d e f"), exchange("g")]))

    assert found["repeats_itself"] == pytest.approx(1 / 5)


def test_repetition_of_the_context() -> None:
    exchanges = [exchange("I like green tea", context="Do you like green tea?"), exchange("Hello!", context="hello")]

    found = values(response_figures(exchanges))

    assert found["repeats_context"] == 1 / 2  # "like green tea" of two runs
    assert found["said_before"] == 1 / 2


def test_lengths_and_ends() -> None:
    exchanges = [
        exchange("one two three", "one"),
        exchange("four", "two three", finish="length"),
        exchange(" ", "three"),
        exchange("", "four"),
    ]

    found = values(response_figures(exchanges))

    assert found["length"] == 4 / 5
    assert (found["runaway"], found["empty"]) == (0.25, 0.5)


def test_bleu_and_chrf_are_those_of_sacrebleu() -> None:
    from sacrebleu.metrics import BLEU, CHRF

    responses = ["the cat sat on the mat today", "there is a dog", ""]
    references = ["the cat sat on a mat", "there is a dog in the house", "yes"]

    figures, signatures = overlap_figures(responses, references)

    found = values(figures)
    assert found["bleu"] == pytest.approx(BLEU().corpus_score(responses, [references]).score)
    assert found["chrf"] == pytest.approx(CHRF().corpus_score(responses, [references]).score)
    assert 20 < found["bleu"] < 80
    assert "tok:13a" in signatures["bleu"]
    assert signatures["chrf"].startswith("nrefs:1|case:mixed|eff:yes|nc:6|nw:0")
    assert figures[0].estimate().low < found["bleu"] < figures[0].estimate().high


def test_the_same_is_100_and_nothing_in_common_0() -> None:
    same = values(overlap_figures(["今日はとても暑いですね"], ["今日はとても暑いですね"])[0])
    other = values(overlap_figures(["aaa bbb"], ["xyz"])[0])

    assert same == pytest.approx({"bleu": 100, "chrf": 100})
    assert other == {"bleu": 0, "chrf": 0}


TRAINING = [
    Conversation(["Hi", "I have lived in Osaka since I was born, really."]),
    Conversation(["The next train to the airport leaves at ten past eight from here.", "I see"]),
    Conversation(["昨日は友達と一緒に新しい映画を見に行って、とても楽しかったです。"]),
]


@pytest.mark.parametrize(
    ("response", "kind"),
    [
        ("i have lived in osaka since I was born -- really", "whole"),
        ("I know: the next train to the airport leaves at nine", "part"),
        ("I know: the next train to the airport is late", ""),
        ("I see", ""),  # whole, but everybody says so
        ("友達と一緒に新しい映画を見に行って、とても楽しい", "part"),
        ("友達と一緒に新しい映画を見に行くよ", ""),  # more than 8 characters are shared, but less than 20
        ("", ""),
    ],
)
def test_copies(response: str, kind: str) -> None:
    [copy] = find_copies([response], TRAINING)

    assert (copy.kind if copy else "") == kind
    assert copy is None or copy.source in [turn for each in TRAINING for turn in each.turns]


def test_a_model_that_parrots_is_caught() -> None:
    responses = [TRAINING[0].turns[1], TRAINING[1].turns[0] + " So run!", "No idea at all, ask somebody else", "I see"]

    found = values(copy_figures(find_copies(responses, TRAINING)))

    assert found == {"copied_whole": 0.25, "copied": 0.5}
