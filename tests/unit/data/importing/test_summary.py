"""The summary of an import, and why nothing is left."""

from collections import Counter

from convmodel.data.importing.exports.messages import Chat, Message
from convmodel.data.importing.summary import ImportSummary


def test_a_summary_begins_empty_and_is_json() -> None:
    summary = ImportSummary()

    assert (summary.entries, summary.dropped, summary.to_dict()["speakers"]) == (0, {}, {})


def test_notes_of_chats_are_not_repeated() -> None:
    summary = ImportSummary(notes=["first"])

    for notes in (["a", "b", "a"], ["b", "c"]):
        summary.add_chat(Chat("chat", [Message("Ann", "Hi", None, "x:1", ("quote",))], Counter(media=2), notes))

    assert summary.notes == ["first", "a", "b", "c"]
    assert (summary.entries, summary.dropped_entries, summary.dropped_parts) == (6, {"media": 4}, {"quote": 2})
    assert "_noted" not in summary.to_dict()


def test_without_a_conversation_the_messages_are_counted() -> None:
    summary = ImportSummary(entries=3, dropped_entries=Counter({"media": 2, "deleted message": 1}))

    assert summary.why_nothing() == "none is left: 3 messages were read; 2 media and 1 deleted message were left out"


def test_several_kinds_are_listed() -> None:
    summary = ImportSummary(entries=9, dropped_entries=Counter({"system message": 4, "media": 3, "bot message": 2}))

    assert summary.why_nothing().endswith("4 system messages, 3 media and 2 bot messages were left out")


def test_conversations_that_do_not_fit_the_rules() -> None:
    summary = ImportSummary(entries=2, conversations=2, dropped=Counter({"fewer than 2 turns": 2}))

    assert summary.why_nothing() == "none of 2 conversations is left (2 fewer than 2 turns): relax the rules"
    summary.dropped_entries["media"] = 1
    assert summary.why_nothing().endswith("relax the rules (2 messages were read; 1 media were left out)")


def test_rows_that_could_not_be_read() -> None:
    summary = ImportSummary(entries=1, problems=1, first_problems=["a.csv:2: no id"])

    assert summary.why_nothing() == (
        "none is left: 1 message were read; 1 rows could not be read, the first because of: a.csv:2: no id"
    )
