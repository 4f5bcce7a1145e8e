"""Our forms of judged responses, of this and earlier versions, and which form a row has."""

from typing import Any

import pytest

from convmodel.conversation import Conversation
from convmodel.data.reading.judged_forms import form_of, judged_row
from convmodel.data.reading.judged_row import JudgedRow
from convmodel.errors import ConversationError


def message(role: str, content: Any, **more: Any) -> dict[str, Any]:
    return {"role": role, "content": content, **more}


OLD = [message("Ann", "Hi", weight=0), message("Bob", "Hey", weight=1)]
NAMED = Conversation(["Hi"], ["Ann"])

EXAMPLES: list[tuple[str, dict[str, Any], JudgedRow]] = [
    (
        "ours",
        {"context": [message("user", "Hi")], "responder": "Bob", "rejected": "Go", "kind": "thumb", "at": "now"},
        JudgedRow(Conversation(["Hi"]), "Bob", rejected="Go", facts={"kind": "thumb", "at": "now"}),
    ),
    ("ours", {"context": ["a", "b", "c"], "chosen": "d"}, JudgedRow(Conversation(["a", "b", "c"]), "assistant", "d")),
    (
        "ours",
        {"context": ["Hi"], "tie": ["x", "y"], "kind": "vote", "models": ["A", "B"], "chosen": None},
        JudgedRow(Conversation(["Hi"]), "assistant", "x", "y", undecided=True, facts={"kind": "vote"}),
    ),
    (
        "old votes",
        {"context": ["Hi"], "models": ["A", "B"], "responses": ["x", "y"], "winner": "B", "at": "now"},
        JudgedRow(
            Conversation(["Hi"]), "assistant", "y", "x", facts={"kind": "vote", "model": "B", "at": "now"}
        ),
    ),
    (
        "old votes",
        {"context": ["Hi"], "models": ["A", "B"], "responses": ["x", "y"], "winner": None},
        JudgedRow(
            Conversation(["Hi"]), "assistant", "x", "y", undecided=True, facts={"kind": "vote", "model": "A", "at": ""}
        ),
    ),
    (
        "old feedback",
        {"messages": OLD, "model": "m", "rating": "up", "at": "now"},
        JudgedRow(NAMED, "Bob", "Hey", facts={"kind": "thumb", "model": "m", "at": "now"}),
    ),
    (
        "old feedback",
        {"messages": OLD, "model": "m", "rating": "down"},
        JudgedRow(NAMED, "Bob", rejected="Hey", facts={"kind": "thumb", "model": "m"}),
    ),
    (
        "old feedback",
        {"messages": OLD, "model": "m", "rating": None, "said": "Go"},
        JudgedRow(NAMED, "Bob", "Hey", "Go", facts={"kind": "edit", "model": "m"}),
    ),
]  # fmt: skip


@pytest.mark.parametrize(("form", "value", "expected"), EXAMPLES)
def test_each_line_that_we_wrote_is_what_it_meant(form: str, value: dict[str, Any], expected: JudgedRow) -> None:
    assert form_of(value) == form
    assert judged_row(value) == expected
    assert judged_row(value).context.weights is None


def test_a_system_message_of_its_own_is_part_of_the_context() -> None:
    row = judged_row({"context": ["Hi"], "chosen": "Hello", "system": "Be kind."})

    assert row.context == Conversation(["Be kind.", "Hi"], ["system", "user"], pinned=1)


@pytest.mark.parametrize(
    "value", [["Hi"], "Hi", None, {}, {"turns": ["Hi"]}, {"messages": OLD}, {"messages": OLD, "rating": 5},
              {"context": "a text"}, {"prompt": "Hi", "response": "Yes"}]
)  # fmt: skip
def test_other_values_have_no_form(value: Any) -> None:
    assert form_of(value) is None


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ({"chosen": "a", "rejected": "b"}, r"no judgement in an object with chosen, rejected: write {\"context\""),
        ({}, "an object with no keys"),
        ([], r"'\[\]' is not a judgement: write"),
        ({"context": [], "chosen": "a"}, "context: the conversation is empty"),
        ({"context": "Hi", "chosen": "a"}, "context: a conversation is a list of turns, not one string"),
        ({"context": ["Hi", ""], "chosen": "a"}, "context: turn 2 is empty"),
        ({"context": [message("user", None, tool_calls=[1])], "chosen": "a"}, "context: message 1 calls a tool"),
        ({"context": [message("user", [{"type": "image_url"}])], "chosen": "a"}, "more than text"),
        ({"context": [message("assistant", "a")], "chosen": "b", "responder": "assistant"}, "ends with a turn of"),
        ({"context": ["Hi"], "tie": ["x"]}, "tie is .*: write a list of two texts"),
        ({"context": ["Hi"], "models": ["A", "B"], "responses": ["x", "y"], "winner": "C"}, "winner is 'C': it must"),
        ({"context": ["Hi"], "models": ["A"], "responses": ["x", "y"]}, "models is .*: write a list of two texts"),
        ({"messages": [message("assistant", "Hey")], "rating": "up"}, "no context before the response"),
    ],
)
def test_malformed_rows_are_errors_with_the_fix(value: Any, message: str) -> None:
    with pytest.raises(ConversationError, match=message):
        judged_row(value)
