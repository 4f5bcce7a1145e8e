"""Whose turns have which role in the template layout, and what it has no place for."""

from dataclasses import replace
from typing import Any

import pytest

from convmodel.conversation import Conversation
from convmodel.errors import ConfigError, ConversationError
from convmodel.layout.arranging import Arrangement, arrange, require_alternation, require_no_user_named
from convmodel.layout.config import LayoutConfig
from convmodel.layout.markers import TemplateMarkers

OPENINGS: dict[str, dict[str, tuple[int, ...]]] = {
    "start": {"user": (7,), "system": (6,)},
    "system": {"user": (3, 7)},
    "user": {"assistant": (3, 8), "response": (3, 8)},
    "assistant": {"user": (3, 7), "tool": (3, 5)},
    "tool": {"assistant": (3, 8), "response": (3, 8)},
}
LAYOUT = LayoutConfig(None, None, False, template=TemplateMarkers(OPENINGS, {"user": 3, "assistant": 3}))
NO_SYSTEM = LayoutConfig(
    None, None, False, template=TemplateMarkers({**OPENINGS, "start": {"user": (7,)}}, {"user": 3, "assistant": 3})
)


def roles(*speakers: str, layout: LayoutConfig = LAYOUT, **options: Any) -> list[str]:
    arranged = arrange(Conversation(["x"] * len(speakers), speakers), layout, **options)
    return [arranged.roles[speaker] for speaker in arranged.conversation.turn_speakers]


@pytest.mark.parametrize(
    ("speakers", "options", "expected"),
    [
        (("user", "assistant"), {}, ["user", "assistant"]),
        (("Ann", "Bob", "Ann"), {}, ["user", "assistant", "user"]),
        (("user", "Bob"), {}, ["user", "assistant"]),
        (("Ann", "assistant"), {}, ["user", "assistant"]),
        (("Bob", "Ann", "Bob"), {"loss_on": "Bob"}, ["user", "assistant"]),  # Bob's first turn cannot begin
        (("Ann",), {"responder": "Bob"}, ["user"]),
        (("Ann",), {}, ["user"]),
        (("user", "assistant", "tool", "assistant"), {}, ["user", "assistant", "tool", "assistant"]),
    ],
)
def test_roles(speakers: tuple[str, ...], options: dict[str, Any], expected: list[str]) -> None:
    assert roles(*speakers, **options) == expected


def test_roles_do_not_depend_on_whose_turns_are_measured() -> None:
    trained = replace(LAYOUT, loss_on="Bob")
    assert roles("Ann", "Bob", layout=trained, loss_on="Ann") == ["user", "assistant"]


def test_with_names_before_texts_one_speaker_is_the_assistant() -> None:
    with pytest.raises(ConfigError, match="loss_on names Ann, Bob, but with names='prefix' one speaker"):
        roles("Ann", "Cem", "Bob", layout=replace(LAYOUT, names="prefix"), loss_on=["Ann", "Bob"])


def test_the_speakers_of_the_training_data_keep_their_roles() -> None:
    layout = replace(LAYOUT, speakers=("system", "Ann", "Bob"))
    assert roles("Bob", "Ann", "Bob", layout=layout) == ["user", "assistant"]


def test_first_turns_of_the_assistant_are_left_out_and_counted() -> None:
    conversation = Conversation(["Welcome!", "Anyone?", "Hi", "Hello"], ["assistant", "assistant", "user", "assistant"])
    arranged = arrange(conversation, LAYOUT)
    assert arranged.conversation.turns == ("Hi", "Hello")
    assert (arranged.dropped, arranged.sizes) == (2, [1, 1])
    assert arranged.starts(2) == [2, 3]
    assert arranged.count_left_out(1) == 3


def test_pinned_turns_are_one_turn_of_the_system() -> None:
    conversation = Conversation(
        ["Be kind.", "I am Ann.", "Hi", "Are you there?"], ["system", "persona", "u", "u"], pinned=2
    )
    arranged = arrange(conversation, LAYOUT)
    assert arranged.conversation.turns == ("Be kind.\nI am Ann.", "Hi\nAre you there?")
    assert arranged.conversation.pinned == 1
    assert [arranged.roles[name] for name in arranged.conversation.turn_speakers] == ["system", "user"]
    assert arranged.starts(2) == [0, 2]


def test_texts_are_trimmed_as_the_template_does() -> None:
    assert LAYOUT.template is not None
    template = replace(LAYOUT.template, trims={"user": "strip", "assistant": "lstrip"})
    arranged = arrange(Conversation([" a ", " b "]), replace(LAYOUT, template=template))
    assert arranged.conversation.turns == ("a", "b ")


def test_names_are_put_before_texts() -> None:
    layout = replace(LAYOUT, names="prefix")
    conversation = Conversation(["Hi", "Hello", "Hey", "What?"], ["Ann", "Cem", "Bob", "Cem"])
    arranged = arrange(conversation, layout, loss_on="Bob")
    assert arranged.conversation.turns == ("Ann: Hi\nCem: Hello", "Hey", "Cem: What?")
    assert arranged.conversation.turn_speakers == ("user", "Bob", "user")
    assert arranged.roles["Bob"] == "assistant"


@pytest.mark.parametrize(
    ("speakers", "options", "assistant"),
    [
        (("Ann", "Bob", "Cem"), {}, "Bob"),
        (("Ann", "Bob"), {"responder": "Cem"}, "Cem"),
        (("Ann", "Bob", "Cem", "Bob"), {"responder": "Cem"}, "Cem"),
        (("Ann", "Bob", "Cem"), {"responder": "Ann"}, "Bob"),
        (("Ann", "Bob", "Ann"), {"loss_on": "last"}, "Bob"),
        (("Ann", "Bob", "Cem"), {"loss_on": "last"}, "Cem"),
        (("Ann", "Bob", "tool"), {"loss_on": "last"}, "Bob"),
        (("Ann", "assistant"), {"responder": "Cem"}, "assistant"),
        (("Ann", "Bob"), {"responder": "Cem", "loss_on": "Bob"}, "Bob"),
    ],
)
def test_with_names_before_texts_a_further_speaker_who_responds_is_the_assistant(
    speakers: tuple[str, ...], options: dict[str, Any], assistant: str
) -> None:
    arranged = arrange(Conversation(["x"] * len(speakers), speakers), replace(LAYOUT, names="prefix"), **options)
    assert [name for name, role in arranged.roles.items() if role == "assistant"] == [assistant]


@pytest.mark.parametrize(
    ("speakers", "trained", "loss_on", "assistant"),
    [
        (("Ann", "Bob", "Ann"), "Bob", "Ann", "Bob"),
        (("Ann", "Bob", "Cem"), "Bob", ["Cem"], "Bob"),
        (("Ann", "assistant"), "all", "Ann", "assistant"),
        (("user", "Ann", "assistant"), "all", "user", "assistant"),
    ],
)
def test_with_names_before_texts_only_the_assistant_is_supervised_by_name(
    speakers: tuple[str, ...], trained: str, loss_on: str | list[str], assistant: str
) -> None:
    layout = replace(LAYOUT, names="prefix", loss_on=trained)
    conversation = Conversation(["x"] * len(speakers), speakers)
    arranged = arrange(conversation, layout, loss_on=loss_on)
    with pytest.raises(
        ConversationError, match=f"can name the assistant only, here {assistant}: name that one, or give"
    ):
        require_no_user_named(conversation, arranged, layout, loss_on)
    for other in (assistant, "all", "responses", "last", "Dan"):
        require_no_user_named(conversation, arrange(conversation, layout, loss_on=other), layout, other)


def test_without_names_before_texts_and_of_one_user_any_speaker_is_supervised() -> None:
    for speakers, names, loss_on in ((("Ann", "assistant"), None, "Ann"), (("user", "Bob"), "prefix", "user")):
        conversation = Conversation(["x", "y"], speakers)
        layout = replace(LAYOUT, names=names)
        require_no_user_named(conversation, arrange(conversation, layout, loss_on=loss_on), layout, loss_on)


@pytest.mark.parametrize(
    ("speakers", "pinned", "layout", "reason"),
    [
        (("Ann", "Bob", "Cem"), 0, LAYOUT, r"3 speakers \(Ann, Bob, Cem\).*names='prefix'"),
        (("system", "user"), 1, NO_SYSTEM, "a turn of the system, but this model's chat template has no place for one"),
        (("user", "tool"), 0, LAYOUT, "a turn of 'tool' after one of 'user', for which .* has no place"),
        (("user", "system"), 0, LAYOUT, "a turn of the system that is not pinned"),
        (("assistant",), 0, LAYOUT, "no turn with which this model's chat template can begin"),
    ],
)
def test_what_has_no_place_is_an_error(
    speakers: tuple[str, ...], pinned: int, layout: LayoutConfig, reason: str
) -> None:
    with pytest.raises(ConversationError, match=reason):
        arrange(Conversation(["x"] * len(speakers), speakers, pinned), layout)


def test_in_the_separator_layout_with_types_nothing_changes() -> None:
    conversation = Conversation(["a", "b", "c"], ["Ann", "Ann", "Cem"])
    assert arrange(conversation, LayoutConfig(5, "<sep>", True)) == Arrangement(conversation, {}, [1, 1, 1])
    assert arrange(conversation, LayoutConfig(5, "<sep>", False)).sizes == [2, 1]


def test_without_types_a_speaker_cannot_respond_to_itself() -> None:
    with pytest.raises(ConversationError, match="'Ann' spoke last and is to respond"):
        require_alternation(Conversation(["a"], ["Ann"]), "Ann")


@pytest.mark.parametrize("loss_on", [5, [], ["Ann", ""], " "])
def test_what_names_nobody_is_refused_as_without_roles(loss_on: Any) -> None:
    with pytest.raises(ConfigError, match="use all, responses, last, or speakers' names"):
        arrange(Conversation(["x", "y"], ["Ann", "Bob"]), LAYOUT, loss_on=loss_on)
