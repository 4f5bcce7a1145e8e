"""What rows of messages have beside text: each kind is kept, moved or cut, and always noted with its place."""

from typing import Any

import pytest

from convmodel.data.importing.carry_over import (
    CALLS,
    JUDGEMENTS,
    KINDS,
    LATE_SYSTEM,
    MEDIA,
    NAMES,
    REASONING,
    REFUSALS,
    RESULTS,
    SYSTEM,
    TOOLS,
    WEIGHTS,
    CarryOver,
)
from convmodel.data.reading.reader import ConversationReader
from convmodel.data.reading.rows import Row

Message = dict[str, Any]


def user(content: Any, **more: Any) -> Message:
    return {"role": "user", "content": content, **more}


def assistant(content: Any, **more: Any) -> Message:
    return {"role": "assistant", "content": content, **more}


def system(content: str) -> Message:
    return {"role": "system", "content": content}


CALL = {"role": "assistant", "tool_calls": [{"id": "c1", "type": "function", "function": {"name": "f"}}]}
RESULT = {"role": "tool", "tool_call_id": "c1", "content": "12 degrees"}
IMAGE = [{"type": "text", "text": "What is this?"}, {"type": "image_url", "image_url": {"url": "https://x.example"}}]


def read(*rows: Any) -> tuple[list[list[str]], CarryOver]:
    """The turns that are read of some rows, and what was noted."""
    carried = CarryOver()
    values = [row if isinstance(row, dict) else {"messages": row} for row in rows]
    reader = ConversationReader(values, edit=carried.edit)
    return [list(one.turns) for one in reader], carried


def test_plain_text_carries_over_whole() -> None:
    turns, carried = read([user("Hi"), assistant("Hello")], [system("Be kind."), user("Hi"), assistant("Hello")])

    assert turns == [["Hi", "Hello"], ["Be kind.", "Hi", "Hello"]]
    assert (carried.rows, carried.places) == (2, {})
    assert [*carried.notes()] == ["plain text in 2 of 2 rows of messages: kept"]


@pytest.mark.parametrize(
    ("messages", "turns", "kinds"),
    [
        ([user("Hi"), assistant("Hello", weight=0)], ["Hi", "Hello"], {WEIGHTS}),
        ([system("A"), {"role": "developer", "content": "B"}, user("Hi"), assistant("Hello")],
         ["A", "B", "Hi", "Hello"], {SYSTEM}),
        ([user("Hi"), assistant(None, refusal="I cannot.")], ["Hi", "I cannot."], {REFUSALS}),
        ([user("Hi"), assistant([{"type": "refusal", "refusal": "I cannot."}])], ["Hi", "I cannot."], {REFUSALS}),
        ([user("Hi"), assistant("Well,", refusal="I cannot.")], ["Hi", "Well,\nI cannot."], {REFUSALS}),
        ([user("Hi", name="Ann"), assistant("Hello")], ["Hi", "Hello"], {NAMES}),
        ([user("Hi"), assistant("Hello", reasoning_content="Hm")], ["Hi", "Hello"], {REASONING}),
        ([user("Hi"), assistant("Hello"), user("Is it warm?"), CALL, RESULT, assistant("12 degrees")],
         ["Hi", "Hello"], {CALLS}),
        ([user("Hi"), assistant("Hello"), user(IMAGE), assistant("A cat")], ["Hi", "Hello"], {MEDIA}),
        ([user("Hi"), assistant("Hello"), user("Say it"), assistant(None, audio={"id": "a"})],
         ["Hi", "Hello"], {MEDIA}),
    ],
)  # fmt: skip
def test_each_kind(messages: list[Message], turns: list[str], kinds: set[str]) -> None:
    read_turns, carried = read(messages)

    assert read_turns == [turns]
    assert carried.places.keys() == kinds
    assert not carried.left_out


@pytest.mark.parametrize(
    ("messages", "turns"),
    [
        ([user("Hi"), assistant("Hello"), system("Now rude."), user("And?"), assistant("Go.")],
         ["Hi", "Hello", "Now rude.\nAnd?", "Go."]),
        ([user("Hi"), system("Now rude."), assistant("Go.")], ["Hi\nNow rude.", "Go."]),
        ([user("Hi"), assistant("Hello"), system("Say more."), assistant("More.")],
         ["Hi", "Hello", "Say more.", "More."]),
        ([user("Hi"), assistant("Hello"), system("One."), system("Two."), user([{"type": "text", "text": "And?"}]),
          assistant("Go.")], ["Hi", "Hello", "One.\nTwo.\nAnd?", "Go."]),
        ([user("Hi"), user("Anyone?"), assistant("Hello"), system("End."), user("Bye"), user("Really"),
          assistant("Bye")], ["Hi", "Anyone?", "Hello", "End.\nBye", "Really", "Bye"]),
    ],
)  # fmt: skip
def test_a_later_system_message_becomes_text_of_the_users_turn(messages: list[Message], turns: list[str]) -> None:
    read_turns, carried = read(messages)

    assert read_turns == [turns]
    assert LATE_SYSTEM in carried.places


def test_without_a_response_before_it_a_call_or_an_image_leaves_the_row_out() -> None:
    turns, carried = read(
        [system("Use tools."), user("Is it warm?"), CALL, RESULT, assistant("12 degrees")],
        [user(IMAGE), assistant("A cat")],
        [user("Hi"), assistant("Hello")],
    )

    assert turns == [["Hi", "Hello"]]
    assert [*carried.left_out.values()] == [1, 1]
    assert carried.places == {CALLS: ["conversation 1"], MEDIA: ["conversation 2"]}


def test_what_is_cut_off_is_not_noted_as_kept() -> None:
    after = [CALL, RESULT, assistant("12 degrees", weight=0, name="Bot"), system("Now rude."),
             assistant(None, refusal="I cannot."), user(IMAGE)]  # fmt: skip
    turns, carried = read([user("Hi"), assistant("Hello"), user("Is it warm?"), *after], [user("Hi", name="Ann"), CALL])

    assert turns == [["Hi", "Hello"]]
    assert carried.places == {CALLS: ["conversation 1", "conversation 2"], MEDIA: ["conversation 1"]}


@pytest.mark.parametrize(
    "messages",
    [
        [],
        [user("Hi"), {"role": "assistant"}],
        [user("Hi"), assistant(None)],
        [user(" "), assistant("Hello")],
        [user("Hi"), assistant("Hello", weight="all")],
        [user("Hi"), assistant([{"type": "text"}])],
        [{"role": 7, "content": "Hi"}, assistant("Hello")],
        [user("Hi"), {"role": "assistant"}, assistant("Hello"), CALL],
    ],
)
def test_rows_that_cannot_be_read_are_counted_as_such_alone(messages: list[Message]) -> None:
    carried = CarryOver()
    rows = [{"messages": messages}, {"messages": [user("Hi"), assistant("Hello")]}]
    reader = ConversationReader(rows, edit=carried.edit, on_error="skip")

    assert [one.turns for one in reader] == [("Hi", "Hello")]
    assert reader.problems.count == 1
    assert [*carried.notes()] == ["plain text in 1 of 1 row of messages: kept"]


def test_a_reader_whose_rows_were_all_left_out_is_no_error() -> None:
    reader = ConversationReader([{"messages": [user("Is it warm?"), CALL]}], edit=CarryOver().edit)

    assert [*reader] == []
    assert (reader.rows, reader.left_out) == (1, 1)


def test_definitions_of_tools_are_left_out_of_a_conversation_without_calls() -> None:
    turns, carried = read({"messages": [user("Hi"), assistant("Hello")], "tools": [{"type": "function"}]})

    assert turns == [["Hi", "Hello"]]
    assert carried.places.keys() == {TOOLS}


def test_texts_of_a_tool_without_calls_stay() -> None:
    turns, carried = read([user("Is it warm?"), RESULT, assistant("12 degrees")])

    assert turns == [["Is it warm?", "12 degrees", "12 degrees"]]
    assert carried.places.keys() == {RESULTS}


def test_preferences_are_noted_with_the_command_that_learns_from_them() -> None:
    pair = {"preferred_output": [assistant("Hello")], "non_preferred_output": [assistant("What?")]}
    turns, carried = read({"input": {"messages": [user("Hi")]}, **pair})

    assert turns == [["Hi", "Hello"]]
    assert carried.rows == 0
    [note] = carried.notes()
    assert note.startswith("judgements in 1 row (first: conversation 1): only good responses are kept")
    assert "convmodel fit --objective dpo" in note


def test_the_notes_count_rows_and_name_the_first() -> None:
    carried = CarryOver()
    for line in range(1, 1201):
        weight = {"weight": 0} if line % 2 == 0 else {}
        carried.edit(Row(f"chats.jsonl:{line}", {"messages": [user("Hi"), assistant("Hello", **weight)]}))

    assert [*carried.notes()] == [
        "plain text in 600 of 1,200 rows of messages: kept",
        f"weights in 600 rows (first: chats.jsonl:2): {KINDS[WEIGHTS]}",
    ]
    assert carried.to_dict() == {
        WEIGHTS: {"result": KINDS[WEIGHTS], "rows": [f"chats.jsonl:{line}" for line in range(2, 1201, 2)]}
    }


@pytest.mark.parametrize(
    "row",
    [
        Row("a:1", error="not JSON"),
        Row("a:1", {"messages": "Hi"}),
        Row("a:1", {"messages": ["Hi", "Hello"]}),
        Row("a:1", {"turns": ["Hi", "Hello"]}),
        Row("a:1", {"messages": [user("Hi")], "turns": ["Hi"]}),
        Row("a:1", ["Hi", "Hello"]),
        Row("a:1", 7),
    ],
)
def test_what_is_not_a_list_of_messages_stays_as_it_is(row: Row) -> None:
    carried = CarryOver()

    assert carried.edit(row) is row
    assert not carried.rows
    assert JUDGEMENTS not in carried.places


def test_the_row_of_the_caller_stays_as_it_was() -> None:
    messages = [user("Hi"), assistant("Hello"), system("Now rude."), user("And?"), CALL]
    value = {"messages": [dict(message) for message in messages], "tools": [1]}

    CarryOver().edit(Row("a:1", value))

    assert value == {"messages": messages, "tools": [1]}


def test_a_bare_list_of_messages_is_a_row_of_messages() -> None:
    carried = CarryOver()
    row = carried.edit(Row("a:1", [user("Hi"), assistant("Hello"), user("Is it warm?"), CALL]))

    assert row is not None
    assert row.value == [user("Hi"), assistant("Hello")]
