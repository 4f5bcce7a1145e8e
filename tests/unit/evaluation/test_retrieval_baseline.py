"""The baseline of the nearest training context."""

import sys

import pytest

from convmodel import Conversation
from convmodel.errors import ConversationError, MissingExtraError
from convmodel.evaluation.retrieval_baseline import NearestContext

TRAINING = [
    Conversation(["Do you like tea?", "Yes, green tea.", "And coffee?", "Only in the morning."]),
    Conversation(["Where do you live?", "In Osaka."]),
    Conversation(["今日は暑いですね", "海に行きたいです"]),
]


@pytest.mark.parametrize(
    ("context", "response"),
    [
        (["Tell me, where do you live?"], "In Osaka."),
        (["Hi", "Do you like tea?"], "Yes, green tea."),
        (["Green tea is good", "And coffee?"], "Only in the morning."),
        (["明日も暑いですか"], "海に行きたいです"),
        (["..."], "Yes, green tea."),  # nothing to compare
    ],
)
def test_the_response_to_the_most_similar_context(context: list[str], response: str) -> None:
    assert NearestContext(TRAINING).respond(Conversation(context)) == response


def test_pinned_turns_are_not_compared() -> None:
    pinned = Conversation(["Where do you live?", "Do you like tea?"], ["system", "user"], pinned=1)

    assert NearestContext(TRAINING).respond(pinned) == "Yes, green tea."


def test_training_data_without_responses_is_refused() -> None:
    with pytest.raises(ConversationError, match="no response"):
        NearestContext([Conversation(["Hi"])])


def test_without_bm25s_the_fix_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "bm25s", None)
    with pytest.raises(MissingExtraError, match=r"needs bm25s \(the extra eval\): .*pip install "):
        NearestContext(TRAINING)
