"""What another model is asked, and how its answer becomes training data."""

from pathlib import Path
from typing import Any

import pytest

from convmodel.conversation import Conversation
from convmodel.data.reading.reader import ConversationReader
from convmodel.errors import ConversationError
from convmodel.generation.recording.contexts import Contexts, contexts_of

WHOLE = Conversation(
    ["Be kind.", "Hi", "Hello", "And you?", "Fine"],
    ["system", "user", "assistant", "user", "assistant"],
    pinned=1,
    id="a:1",
    weights=[1, 1, 0, 1, 1],
)


def test_a_context_is_asked_for_as_it_is_and_only_its_answer_is_trained_on() -> None:
    [context] = contexts_of(Conversation(["Hi", "Hello", "And you?"], id="a:1"))

    assert context.messages() == [
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": "Hello"},
        {"role": "user", "content": "And you?"},
    ]
    answered = context.answered("Fine")
    assert answered == Conversation(["Hi", "Hello", "And you?", "Fine"], weights=[0, 0, 0, 1])
    assert answered.id == "a:1"


def test_each_turn_of_the_assistant_has_the_turns_before_it() -> None:
    contexts = [*contexts_of(WHOLE, each_turn=True)]

    assert [[message["content"] for message in context.messages()] for context in contexts] == [
        ["Be kind.", "Hi"],
        ["Be kind.", "Hi", "Hello", "And you?"],
    ]
    assert [context.turns.id for context in contexts] == ["a:1#3", "a:1#5"]
    assert contexts[1].answered("Good").weights == (0, 0, 0, 0, 1)
    assert contexts[1].answered("Good").pinned == 1


def test_a_turn_is_asked_for_once_where_it_is_in_several_messages() -> None:
    turns = ["Welcome", "Hi", "Hello", "How are you?", "Fine"]
    speakers = ["assistant", "user", "assistant", "assistant", "user"]
    contexts = contexts_of(Conversation(turns, speakers), each_turn=True)

    assert [len(context.turns.turns) for context in contexts] == [2]  # a greeting before all has no turns before it


@pytest.mark.parametrize(
    ("conversation", "options", "roles"),
    [
        (Conversation(["Hi", "Hello", "Well?"], ["Ann", "Bob", "Ann"]), {}, ["user", "assistant", "user"]),
        (Conversation(["Hi"], ["Ann"]), {}, ["user"]),
        (Conversation(["Hi", "Hello", "Well?"], ["Ann", "Bob", "Ann"]), {"reply_as": "Cem"}, None),
        (Conversation(["I am Bob.", "Hi"], ["persona", "Ann"], pinned=1), {}, ["system", "user"]),
        (Conversation(["Be kind.", "Hi"], ["developer", "user"], pinned=1), {}, ["developer", "user"]),
        (Conversation(["Hi"]), {"system": "Be kind."}, ["system", "user"]),
        (Conversation(["Be rude.", "Hi"], ["system", "user"], pinned=1), {"system": "Be kind."}, ["system", "user"]),
    ],
)
def test_roles(conversation: Conversation, options: dict[str, Any], roles: list[str] | None) -> None:
    if roles is None:
        with pytest.raises(ConversationError, match=r"3 speakers \(Ann, Bob, Cem\).*--merge-others"):
            [*contexts_of(conversation, **options)]
        return
    [context] = contexts_of(conversation, **options)
    assert [message["role"] for message in context.messages()] == roles
    assert context.answered("Yes").turn_speakers[-1] == context.responder


def test_a_system_message_is_part_of_the_training_data() -> None:
    [context] = contexts_of(Conversation(["Hi"]), system="Be kind.")

    answered = context.answered("Hello")
    assert (answered.turns, answered.pinned) == (("Be kind.", "Hi", "Hello"), 1)


@pytest.mark.parametrize(
    ("conversation", "each_turn", "message"),
    [
        (WHOLE, False, "a:1: the conversation does not end with a turn to answer: --each-turn"),
        (Conversation(["Be kind."], ["system"], pinned=1), False, "does not end with a turn to answer"),
        (Conversation(["Hi", "Hello"], ["Ann", "Bob"], id="a:2"), True, "a:2: no turn of assistant .*: --reply-as"),
        (Conversation(["Hi", "Hello"], ["assistant", "user"]), True, "no turn of assistant after another turn"),
    ],
)
def test_what_cannot_be_asked_is_an_error_with_its_place(
    conversation: Conversation, each_turn: bool, message: str
) -> None:
    with pytest.raises(ConversationError, match=message):
        [*contexts_of(conversation, each_turn=each_turn)]


def test_all_contexts_are_checked_before_the_first(tmp_path: Path) -> None:
    file = tmp_path / "contexts.jsonl"
    file.write_text('["Hi"]\n["Hi", "Hello"]\n["Well?"]\n')

    contexts = Contexts.read(ConversationReader(str(file), on_error="skip"), {})
    assert (contexts.count, [context.turns.turns for context in contexts]) == (2, [("Hi",), ("Well?",)])
    [problem] = contexts.problems
    assert problem.startswith(f"{file}:2: the conversation does not end")
    with pytest.raises(ConversationError, match=r"contexts.jsonl:2: the conversation does not end"):
        Contexts.read(ConversationReader(str(file)), {})
    file.write_text('["Hi", "Hello"]\n')
    with pytest.raises(ConversationError, match=r"has no context to answer: .*contexts.jsonl:1"):
        Contexts.read(ConversationReader(str(file), on_error="skip"), {})
