"""Shapes: the ways in which real data sets keep conversations, each made exactly the conversation it means."""

from datetime import datetime
from typing import Any

import pytest

from convmodel.conversation import Conversation
from convmodel.data.reading.reader import ConversationReader, read_conversations
from convmodel.data.reading.shapes import SHAPES, conversations_of, read_time, shape_of
from convmodel.errors import ConfigError, ConversationError

US = ("user", "assistant")

EXAMPLES: list[tuple[str, Any, Conversation]] = [
    ("turns", ["Hi", "Hello"], Conversation(["Hi", "Hello"])),
    ("turns", {"turns": ["Hi", "Hello"], "messages": None}, Conversation(["Hi", "Hello"])),
    ("messages", {"messages": [{"role": "user", "content": "Hi"}], "turns": 1}, Conversation(["Hi"])),
    (
        "messages",
        {
            "messages": [
                {"role": "developer", "content": "Be brief."},
                {"role": "user", "content": [{"type": "text", "text": "One"}, {"type": "text", "text": "two"}]},
                {"role": "assistant", "content": "Three"},
            ]
        },
        Conversation(["Be brief.", "One\ntwo", "Three"], ["developer", *US], pinned=1),
    ),
    (
        "messages",
        {"system": "Be kind.", "messages": [{"role": "user", "content": "Hi"}], "idx": 3},
        Conversation(["Be kind.", "Hi"], ["system", "user"], pinned=1),
    ),
    (
        "messages",
        [{"role": "user", "content": "Hi", "from": None}, {"role": None, "from": "gpt", "value": "Yes"}],
        Conversation(["Hi", "Yes"]),
    ),
    (
        "messages",
        {
            "ratings": {"witty": 1},
            "start": "2018-05-02T19:38:15Z",
            "messages": [
                [
                    {"text": "Hi", "timestamp": "2018-05-02T19:38:15Z", "sender": "ann"},
                    {"text": "Tea?", "timestamp": "2018-05-02T19:38:20Z", "sender": "ann"},
                ],
                [{"text": "Please", "timestamp": "2018-05-02T19:39:00Z", "sender": "cem"}],
            ],
        },
        Conversation(["Hi\nTea?", "Please"], ["ann", "cem"]),
    ),
    (
        "sharegpt",
        {
            "id": "q1",
            "conversations": [
                {"from": "system", "value": "Be kind."},
                {"from": "human", "value": "Hi"},
                {"from": "gpt", "value": "Hello"},
            ],
        },
        Conversation(["Be kind.", "Hi", "Hello"], ["system", *US], pinned=1),
    ),
    (
        "sharegpt",
        {"system": "Be kind.", "conversations": [{"from": "human", "value": "Hi"}]},
        Conversation(["Be kind.", "Hi"], ["system", "user"], pinned=1),
    ),
    (
        "conversation",
        {"dialog": ["Any plans ?", "A walk ."], "act": [2, 1], "emotion": [0, 4]},
        Conversation(["Any plans ?", "A walk ."]),
    ),
    (
        "conversation",
        {"conversation": [{"speaker": 0, "utterance": "Hi"}, {"speaker": 1, "utterance": "Yes"}], "turns": 2},
        Conversation(["Hi", "Yes"], ["0", "1"]),
    ),
    (
        "personachat",
        {
            "personality": ["i sail .", "i am 40 ."],
            "utterances": [
                {"candidates": ["no .", "at sea ."], "history": ["where are you ?"]},
                {"candidates": ["no .", "aye ."], "history": ["where are you ?", "at sea .", "alone ?"]},
            ],
        },
        Conversation(
            ["i sail .\ni am 40 .", "where are you ?", "at sea .", "alone ?", "aye ."],
            ["persona", *US, *US],
            pinned=1,
        ),
    ),
    ("personachat", {"personality": [], "history": ["Hi", "Yo"], "candidates": None}, Conversation(["Hi", "Yo"])),
    ("pairs", {"instruction": "Add.", "input": "1 and 2", "output": "3"}, Conversation(["Add.\n1 and 2", "3"])),
    ("pairs", {"instruction": "Sing.", "input": "", "output": "La"}, Conversation(["Sing.", "La"])),
    (
        "pairs",
        {"instruction": "Who?", "context": "Ann sings.", "response": "Ann"},
        Conversation(["Who?\nAnn sings.", "Ann"]),
    ),
    ("pairs", {"question": "2 + 2?", "answer": "4"}, Conversation(["2 + 2?", "4"])),
    (
        "pairs",
        {"system": "Be kind.", "prompt": "Hi", "response": "Hello"},
        Conversation(["Be kind.", "Hi", "Hello"], ["system", *US], pinned=1),
    ),
    (
        "pairs",
        {
            "prompt": [{"role": "system", "content": "Be kind."}, {"role": "user", "content": "Hi"}],
            "completion": [{"role": "assistant", "content": "Hello"}],
        },
        Conversation(["Be kind.", "Hi", "Hello"], ["system", *US], pinned=1),
    ),
    ("pairs", {"prompt": "Hi", "completion": [{"role": "assistant", "content": "Yes"}]}, Conversation(["Hi", "Yes"])),
    ("pairs", {"prompt": "Hi", "completion": "Yes", "label": "greeting"}, Conversation(["Hi", "Yes"])),
    (
        "judgements",
        {"prompt": "Hi", "completion": "Go away", "label": False},
        Conversation(["Hi", "Go away"], weights=[0, 0]),
    ),
    (
        "judgements",
        {"context": ["Hi"], "chosen": "Hello", "rejected": "Go away", "kind": "edit", "model": None},
        Conversation(["Hi", "Hello"], weights=[0, 1]),
    ),
    (
        "judgements",
        {"system": "Be kind.", "prompt": "Hi", "chosen": "Hello", "rejected": "Go away"},
        Conversation(["Be kind.", "Hi", "Hello"], ["system", *US], pinned=1, weights=[0, 0, 1]),
    ),
    ("rows", {"conv_id": 7, "speaker": "Ann", "text": "Hi"}, Conversation(["Hi"], ["Ann"])),
]


@pytest.mark.parametrize(("shape", "value", "expected"), EXAMPLES)
def test_real_data_becomes_the_conversation_it_means(shape: str, value: Any, expected: Conversation) -> None:
    assert shape_of(value) == shape
    assert conversations_of(value) == [expected]
    assert conversations_of(value, shape) == [expected]


def test_every_shape_has_an_example() -> None:
    assert {shape for shape, _, _ in EXAMPLES} == set(SHAPES)


OTHERS = [(shape, value) for shape in SHAPES for _, value, _ in EXAMPLES if shape_of(value, shape) != shape]


@pytest.mark.parametrize(("shape", "value"), OTHERS)
def test_another_format_than_the_given_one_is_an_error(shape: str, value: Any) -> None:
    with pytest.raises(ConversationError, match=f"of the shape {shape_of(value)}, not {shape}: leave --format out"):
        conversations_of(value, shape)


def test_a_given_format_chooses_among_several() -> None:
    both = {"prompt": "Hi", "response": "Yes", "messages": [{"role": "user", "content": "Hi"}]}

    assert [len(conversations_of(both, shape)[0].turns) for shape in ("auto", "messages", "pairs")] == [1, 1, 2]


def test_an_unknown_format_is_an_error_of_the_caller() -> None:
    with pytest.raises(ConfigError, match="there is no format xml; there are auto, turns"):
        ConversationReader([["Hi"]], shape="xml")


def test_chatterbot_keeps_several_conversations_in_one_object() -> None:
    value = {"categories": ["tea"], "conversations": [["Hi", "Hello"], ["Tea?", "Please"]]}

    assert conversations_of(value) == [Conversation(["Hi", "Hello"]), Conversation(["Tea?", "Please"])]


def persona(conv_id: Any, *said: str) -> dict[str, Any]:
    """A row of PersonaChat; all but the last of what was said is its history."""
    return {"personality": ["i sail ."], "candidates": ["no .", said[-1]], "history": [*said[:-1]], "conv_id": conv_id}


def test_rows_of_personachat_are_the_longest_of_them() -> None:
    rows = [persona(0, "a", "b"), persona(0, "a", "b", "c", "d"), persona(1, "e", "f")]
    reader = ConversationReader(rows)

    assert [(one.id, one.turns) for one in reader] == [
        ("0", ("i sail .", "a", "b", "c", "d")),
        ("1", ("i sail .", "e", "f")),
    ]
    assert reader.shapes == {"personachat": 3}
    assert read_conversations(reversed(rows[:2])) == read_conversations(rows[:2])


def test_rows_of_personachat_that_are_not_one_conversation_are_reported() -> None:
    with pytest.raises(ConversationError, match=r"^conversation 1: its rows are not one conversation"):
        read_conversations([persona(0, "a", "b"), persona(0, "x", "y", "z")])


def row(conversation: Any, speaker: str, text: str, **more: Any) -> dict[str, Any]:
    """One message of a table."""
    return {"conversation_id": conversation, "speaker": speaker, "text": text, **more}


def test_rows_become_one_conversation_by_their_id() -> None:
    rows = [row(1, "Ann", "Hi", time="1700000000"), row(1, "Bob", "Yes"), row("2", "Ann", "So?")]
    first, second = read_conversations(rows)

    assert first == Conversation(["Hi", "Yes"], ["Ann", "Bob"])
    assert (first.id, first.started_at) == ("1", datetime(2023, 11, 14, 22, 13, 20))
    assert (second.id, second.turns) == ("2", ("So?",))


def test_rows_that_are_not_together_are_reported() -> None:
    rows = [row(1, "Ann", "Hi"), row(2, "Ann", "Hi"), row(1, "Bob", "Yes"), row(1, "Bob", "Yes")]
    with pytest.raises(ConversationError, match=r"^conversation 3: 1 continues after other rows: sort the rows"):
        read_conversations(rows)

    reader = ConversationReader(rows, on_error="skip")
    assert [one.id for one in reader] == ["1", "2"]
    assert (reader.rows, reader.shapes.total(), reader.problems.count) == (4, 2, 2)


@pytest.mark.parametrize("nothing", [None, ""])
def test_rows_without_a_conversation_are_not_taken_for_one(nothing: Any) -> None:
    with pytest.raises(ConversationError, match=r"^conversation 1: conversation_id is empty"):
        read_conversations([row(nothing, "Ann", "Hi"), row(nothing, "Bob", "Hi")])


BAD: list[tuple[Any, str]] = [
    ({"date": 1, "username": "Ann", "message": "Hi"}, "it has text (message), but no conversation id and speaker: add"),
    (
        {"sender": "Ann", "text": "Hi"},
        "it has speaker (sender) and text (text), but no conversation id: add it, or name",
    ),
    ({"label": 1}, 'in an object with label: write {"messages": [{"role": ..., "content": ...}, ...]} or '),
    (
        {"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": None, "tool_calls": [{}]}]},
        "message 2 calls a tool (tool_calls), which is not text: leave it out",
    ),
    (
        {
            "messages": [
                {"role": "user", "content": "Hi"},
                {"role": "assistant", "content": "Let me look", "tool_calls": [{}]},
            ]
        },
        "message 2 calls a tool (tool_calls), which is not text: leave it out",
    ),
    (
        {"messages": [{"creator": {}, "body": "Hi"}]},
        "message 1 needs a role and a content: it has creator, body; see docs",
    ),
    ({"turns": ["Hi"], "started_at": "last Tuesday"}, "started_at is 'last Tuesday': write a time such as"),
    ({"prompt": "Hi", "response": None}, "response: neither text nor a list of messages"),
    ({"prompt": [], "response": "Hi"}, "prompt: neither text"),
    ({"instruction": "Add.", "input": 5, "output": "5"}, "instruction and input: neither text"),
    ({"personality": ["x"], "history": ["Hi"], "candidates": 5}, "candidates are not lists"),
    ({"personality": [5], "history": ["Hi"]}, "personality and candidates are not lists of strings"),
    ({"personality": ["x"], "utterances": []}, "utterances are not a list of histories"),
    ({"personality": ["x"], "utterances": ["Hi"]}, "the history is not a list"),
    ({"conversations": "Hi"}, "not one string"),
    ({"conversations": [["Hi"], "Yes"]}, "turn 1 is list"),
    ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, "message 1 contains more than text"),
    (
        {
            "messages": [
                {"role": "user", "content": [{"type": "reasoning", "text": "So"}, {"type": "text", "text": "Hi"}]}
            ]
        },
        "message 1 contains more than text",
    ),
    ({"messages": [[{"sender": "a", "text": "Hi"}, {"sender": "a", "text": None}]]}, "turn 2 is NoneType"),
    ({"turns": ["Hi"], "speakers": ["\ud83c"]}, "contains half a surrogate pair"),
    ({"turns": ["Hi"], "id": "\ud83c"}, "contains half a surrogate pair"),
]


@pytest.mark.parametrize(("value", "message"), BAD, ids=[message for _, message in BAD])
def test_a_bad_value_is_an_error_or_counted(value: Any, message: str) -> None:
    with pytest.raises(ConversationError) as caught:
        read_conversations([value])
    assert str(caught.value).startswith("conversation 1: ")
    assert message in str(caught.value)

    reader = ConversationReader([["fine"], value], on_error="skip")
    assert list(reader) == [Conversation(["fine"])]
    assert (reader.rows, reader.problems.count, reader.problems.messages[0][:14]) == (2, 1, "conversation 2")
    assert reader.describe() == "1 conversations (1 turns); 1 rows left out"


def test_fields_of_the_callers_are_no_misspellings() -> None:
    assert read_conversations([{"turns": ["Hi"], "idx": 1, "uid": 2, "message": "x", "turn": 3}]) == [
        Conversation(["Hi"])
    ]


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("2024-01-31T21:41:00+02:00", datetime(2024, 1, 31, 19, 41)),
        ("2024-01-31", datetime(2024, 1, 31)),
        (1700000000, datetime(2023, 11, 14, 22, 13, 20)),
        ("1700000000", datetime(2023, 11, 14, 22, 13, 20)),
        ("1700000000000", datetime(2023, 11, 14, 22, 13, 20)),
        (1700000000000, datetime(2023, 11, 14, 22, 13, 20)),
        (10**400, None),
        (float("nan"), None),
        (True, None),
        ("soon", None),
    ],
)
def test_times_are_read_as_utc(value: Any, expected: datetime | None) -> None:
    assert read_time(value) == expected


def test_what_stands_beside_a_pair_is_read_too() -> None:
    history = {"instruction": "And now?", "output": "Rain", "history": [["Weather?", "Sun"]], "system": "Be brief."}
    asked = {"question": "Who?", "answer": "Ann", "context": "Ann left.", "system_prompt": "Answer."}

    assert conversations_of(history)[0].turns == ("Be brief.", "Weather?", "Sun", "And now?", "Rain")
    assert conversations_of(asked)[0].turns == ("Answer.", "Who?\nAnn left.", "Ann")
    with pytest.raises(ConversationError, match="the history is not a list of pairs"):
        conversations_of({"instruction": "a", "output": "b", "history": ["x"]})


def test_thoughts_beside_a_text_are_counted() -> None:
    answer = {"role": "assistant", "content": "Hello", "reasoning_content": "They greet me."}
    [conversation] = ConversationReader([{"messages": [{"role": "user", "content": "Hi"}, answer, answer]}])
    assert conversation.omitted == ("reasoning_content",) * 2
    assert conversation.turns == ("Hi", "Hello", "Hello")
