"""Who the assistant is: the same in training as in the model that is saved."""

from collections.abc import Callable
from pathlib import Path

import pytest
from chat_templates import save_chat_model

from convmodel import Conversation, ConversationModel
from convmodel.layout.arranging import arrange
from convmodel.layout.tokenizer import ConversationTokenizer
from convmodel.training.roles import saved_speakers, settle_roles

ANN_FIRST = Conversation(["Hello", "Fine", "Good"], ["Ann", "Bob", "Ann"])
BOB_FIRST = Conversation(["Not really", "Yes", "No"], ["Bob", "Ann", "Bob"])
OTHERS = Conversation(["Hello", "Fine"], ["Bob", "Cem"])
USUAL = Conversation(["Hello", "Fine"])
SYSTEM = Conversation(["Be brief", "Hello", "Fine"], ["system", "Bob", "Ann"], pinned=1)


@pytest.fixture(scope="module")
def folder(make_once: Callable[..., Path]) -> Path:
    return make_once("chatml", lambda place: save_chat_model(place, "chatml"))


@pytest.fixture(scope="module")
def tokenizer(folder: Path) -> ConversationTokenizer:
    return ConversationTokenizer.from_pretrained(folder)


def assistant(tokenizer: ConversationTokenizer, conversation: Conversation) -> str:
    roles = arrange(conversation, tokenizer.layout, loss_on=tokenizer.layout.loss_on).roles
    [name] = [name for name, role in roles.items() if role == "assistant" and name in conversation.turn_speakers]
    return name


@pytest.mark.parametrize(
    ("talks", "loss_on", "expected"),
    [
        ([ANN_FIRST, BOB_FIRST], "all", ["Bob", "Bob"]),
        ([BOB_FIRST, ANN_FIRST], "responses", ["Ann", "Ann"]),
        ([ANN_FIRST, BOB_FIRST], "Ann", ["Ann", "Ann"]),
        ([ANN_FIRST, BOB_FIRST, OTHERS], "all", ["Bob", "Ann", "Cem"]),  # nobody is in all of them
        ([SYSTEM, SYSTEM], "all", ["Ann", "Ann"]),
        ([USUAL, OTHERS], "all", ["assistant", "Cem"]),
    ],
)
def test_roles_are_settled_for_all_conversations(
    tokenizer: ConversationTokenizer, talks: list[Conversation], loss_on: str, expected: list[str]
) -> None:
    settled = settle_roles(tokenizer, talks, loss_on)

    assert [assistant(settled, talk) for talk in talks] == expected


def test_who_was_the_assistant_stays_it_unless_somebody_is_named(tokenizer: ConversationTokenizer) -> None:
    first = settle_roles(tokenizer, [ANN_FIRST], "Ann")
    again = settle_roles(first, [ANN_FIRST, BOB_FIRST], "all")
    other = settle_roles(again, [ANN_FIRST], "Bob")

    assert (first.layout.speakers, again.layout.speakers, other.layout.speakers) == (
        ("Bob", "Ann"),
        ("Bob", "Ann"),
        ("Ann", "Bob"),
    )
    assert [assistant(each, BOB_FIRST) for each in (first, again, other)] == ["Ann", "Ann", "Bob"]


def test_the_order_that_decides_roles_is_saved(
    tokenizer: ConversationTokenizer, gpt2_tokenizer: ConversationTokenizer
) -> None:
    settled = settle_roles(tokenizer, [ANN_FIRST], "Ann")
    assert saved_speakers(settled, ("Ann", "Bob")) == ("Bob", "Ann")
    assert saved_speakers(settled, ()) == ()
    assert saved_speakers(settled, None) == ()
    assert settle_roles(gpt2_tokenizer, [ANN_FIRST], "Ann") is gpt2_tokenizer
    assert saved_speakers(gpt2_tokenizer, ("Ann", "Bob")) == ("Ann", "Bob")


@pytest.mark.parametrize("once", [False, True])
@pytest.mark.parametrize("names", [["Ann", "Bob"], ["Bob", "Ann"]])
def test_a_run_validates_what_evaluate_measures_later(folder: Path, names: list[str], once: bool) -> None:
    model = ConversationModel.from_pretrained(folder, device="cpu")
    model.fit([ANN_FIRST, BOB_FIRST], max_steps=1, loss_on="Ann", learning_rate=1e-3)
    talks = [Conversation(["Hello", "Fine"], names), Conversation(["Good", "Yes", "No"], [*names[::-1], names[1]])]

    result = model.fit(iter(talks) if once else talks, [BOB_FIRST], max_steps=2, learning_rate=1e-3)

    assert result.validation is not None
    assert model.evaluate([BOB_FIRST]).loss == pytest.approx(result.validation.loss, rel=1e-6)
    assert model.tokenizer.layout.speakers == ("Bob", "Ann")
