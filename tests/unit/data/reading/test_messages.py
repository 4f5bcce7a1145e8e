"""What messages weigh: the ways in which data says which turns to train, each read as the same weights."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from convmodel.conversation import Conversation
from convmodel.data.reading.messages import conversation_of_messages
from convmodel.data.reading.reader import read_conversations
from convmodel.data.reading.shapes import conversations_of
from convmodel.data.reading.writing import to_record
from convmodel.errors import ConversationError

TURNS = ["Hi", "Go away", "Why?", "Sorry"]
WEIGHTED = Conversation(TURNS, weights=[1, 0, 1, 1])
SPEAKERS = list(WEIGHTED.turn_speakers)


def messages(*, said_by: str = "role", said: str = "content", **second: Any) -> list[dict[str, Any]]:
    """The turns as messages, the second of them with further keys."""
    plain = [{said_by: who, said: turn} for who, turn in zip(SPEAKERS, TURNS, strict=True)]
    return [plain[0], plain[1] | second, *plain[2:]]


@pytest.mark.parametrize(
    "value",
    [
        {"turns": TURNS, "speakers": SPEAKERS, "weights": [1, 0, 1, 1]},
        {"turns": TURNS, "weights": [1.0, 0.0, 1.0, 1.0]},
        {"dialog": TURNS, "weights": [1, 0, 1, 1]},
        {"conversation": TURNS, "speakers": SPEAKERS, "weights": [1, 0, 1, 1]},
        {"messages": messages(weight=0)},
        {"messages": messages(weight=0.0)},
        {"messages": messages(train=False)},
        {"messages": messages(training=False, weight=None)},
        {"messages": [*messages(train=False)[:2], *({**one, "train": True} for one in messages()[2:])]},
        {"conversations": messages(said_by="from", said="value", weight=0)},
        {"prompt": messages(weight=0)[:3], "completion": messages()[3:]},
        messages(weight=0),
    ],
    ids=lambda value: json.dumps(value)[:40],
)
def test_each_way_to_leave_a_turn_out_is_read(value: Any) -> None:
    assert conversations_of(value) == [WEIGHTED]


@pytest.mark.parametrize(
    "second", [{}, {"weight": 1}, {"weight": None}, {"train": True}, {"training": None, "train": None}]
)
def test_where_every_turn_counts_there_are_no_weights(second: dict[str, Any]) -> None:
    assert conversation_of_messages(messages(**second)).weights is None


def test_a_weight_is_any_number_from_0_up() -> None:
    assert conversation_of_messages(messages(weight=2.5)).weights == (1, 2.5, 1, 1)
    assert conversations_of({"turns": ["Hi", "Yes"], "weights": [0.25, 3]})[0].weights == (0.25, 3)


def test_a_system_message_beside_the_messages_moves_no_weight() -> None:
    [made] = conversations_of({"system": "Be kind.", "messages": messages(weight=0)})

    assert (made.pinned, made.turns[2], made.weights) == (1, "Go away", (1, 1, 0, 1, 1))


@pytest.mark.parametrize("column", ["weight,\n1,\n1,0\n2,\n2,0.5\n", "train,\n1,True\n1,FALSE\n2,\n2,true\n"])
def test_a_table_of_text_has_a_column_of_them(tmp_path: Path, column: str) -> None:
    kind, *cells = [line.split(",") for line in column.splitlines()]
    rows = [f"{key},{who},Hi,{cell}" for (key, cell), who in zip(cells, SPEAKERS, strict=True)]
    path = tmp_path / "table.csv"
    path.write_text("\n".join([f"chat_id,speaker,text,{kind[0]}", *rows]))

    first, second = read_conversations(path)

    assert first.weights == (1, 0)
    assert second.weights == ((1, 0.5) if kind[0] == "weight" else None)


def test_messages_in_a_row_become_one_turn_of_one_weight() -> None:
    row = [{"sender": "ann", "text": "Hi", "weight": 0}, {"sender": "ann", "text": "You?", "weight": 0.0}]
    answer = {"sender": "bob", "text": "Yes"}

    made = conversation_of_messages([row, answer])

    assert (made.turns, made.weights) == (("Hi\nYou?", "Yes"), (0, 1))
    with pytest.raises(ConversationError, match=r"message 2 is a list .* weights are 0, 1: give them the same weight"):
        conversation_of_messages([answer, [row[0], row[1] | {"weight": 1}]])


WRONG: list[tuple[Any, str]] = [
    ({"turns": ["Hi", "Yes"], "weights": [1]}, "weights must have one number per turn: 2 turns, weights [1]"),
    ({"turns": ["Hi", "Yes"], "weights": 0.5}, "weights must have one number per turn: 2 turns, weights 0.5"),
    ({"turns": ["Hi", "Yes"], "weights": [1, -1]}, "the weight of turn 2 is -1: it must be a number of at least 0"),
    ({"turns": ["Hi", "Yes"], "weights": [1, True]}, "the weight of turn 2 is True"),
    ({"turns": ["Hi", "Yes"], "weights": [None, 1]}, "the weight of turn 1 is None"),
    ({"turns": ["Hi", "Yes"], "weight": [0, 1]}, "weight is not a field: did you mean weights"),
    ({"dialog": ["Hi", "Yes"], "weights": [0]}, "weights must have one number per turn"),
    ({"messages": messages(weight="much")}, "the weight of turn 2 is 'much'"),
    ({"messages": messages(weight="inf")}, "the weight of turn 2 is inf"),
    ({"messages": messages(weight=False)}, "the weight of turn 2 is False"),
    ({"messages": messages(weight=[1])}, "the weight of turn 2 is [1]"),
    ({"conversations": messages(said_by="from", said="value", weight=-0.5)}, "the weight of turn 2 is -0.5"),
    ({"messages": messages(train=1)}, "train of message 2 is 1: write true or false, or a weight"),
    ({"messages": messages(training="maybe")}, "training of message 2 is 'maybe'"),
    ({"messages": messages(train=True, weight=0)}, "message 2 has weight and train: keep one of them"),
]


@pytest.mark.parametrize(("value", "message"), WRONG, ids=[message for _, message in WRONG])
def test_a_bad_weight_is_located_by_file_and_line(tmp_path: Path, value: Any, message: str) -> None:
    path = tmp_path / "talks.jsonl"
    path.write_text('["fine"]\n' + json.dumps(value) + "\n")

    with pytest.raises(ConversationError, match=f"^{re.escape(f'{path}:2: {message}')}"):
        read_conversations(path)


def test_what_is_read_from_messages_is_written_as_ours() -> None:
    assert to_record(conversation_of_messages(messages(train=False))) == {
        "turns": TURNS,
        "speakers": SPEAKERS,
        "weights": [1, 0, 1, 1],
    }
