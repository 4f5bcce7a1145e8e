"""Copies of training data: whole turns and long runs of words."""

import pytest

from convmodel import Conversation
from convmodel.evaluation.verbatim_copies import REFERENCE_COPIES, copy_metrics, find_copies

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

    copies = find_copies(responses, TRAINING)

    assert {metric.name: metric.value for metric in copy_metrics(copies)} == {"copied_whole": 0.25, "copied": 0.5}
    assert [(metric.name, metric.value) for metric in copy_metrics(copies, REFERENCE_COPIES)] == [
        ("references_copied_whole", 0.25),
        ("references_copied", 0.5),
    ]
