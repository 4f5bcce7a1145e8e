"""The markers around turns as they are saved, and as both layouts have them."""

from typing import Any

import pytest

from convmodel.layout.markers import SeparatorMarkers, TemplateMarkers

OPENINGS = {
    "start": {"user": (1, 7), "system": (1, 6)},
    "system": {"user": (3, 7)},
    "user": {"assistant": (3, 8), "response": (3, 8, 9)},
    "assistant": {"user": (3, 7)},
}
MARKERS = TemplateMarkers(OPENINGS, {"user": 3, "assistant": 3}, trims={"user": "strip"}, template="abc")


def test_saved_and_read_they_are_the_same() -> None:
    assert TemplateMarkers.from_dict(MARKERS.to_dict()) == MARKERS


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("openings", {}),
        ("openings", {"start": {"user": [-1]}}),
        ("openings", {"start": {"user": [1]}, "user": {"assistant": [2]}}),
        ("openings", [1]),
        ("ends", {"user": 3}),
        ("ends", {"user": 3, "assistant": "3"}),
        ("trims", {"user": "upper"}),
        ("leads", {"user": 1}),
        ("word_prefix", 1),
        ("switches", {"enable_thinking": "no"}),
        ("dated", None),
        ("template", 5),
    ],
)
def test_an_invalid_field_is_named(name: str, value: Any) -> None:
    with pytest.raises(ValueError, match=f"the template's {name} are not valid"):
        TemplateMarkers.from_dict(MARKERS.to_dict() | {name: value})


@pytest.mark.parametrize("content", [None, [], {"openings": {}}, MARKERS.to_dict() | {"more": 1}])
def test_other_fields_are_refused(content: Any) -> None:
    with pytest.raises(ValueError, match="the template's fields are not openings, ends"):
        TemplateMarkers.from_dict(content)


def test_a_last_turn_of_the_assistant_is_opened_as_a_response() -> None:
    assert MARKERS.opening("user", "assistant", is_last=True) == (3, 8, 9)
    assert MARKERS.opening("user", "assistant") == (3, 8)
    assert MARKERS.opening("assistant", "user", is_last=True) == (3, 7)
    assert MARKERS.reopens
    assert MARKERS.ids == {1, 3, 6, 7, 8, 9}
    assert MARKERS.end_ids == {3}


def test_what_was_not_measured_does_not_follow() -> None:
    assert MARKERS.follows("start", "system")
    assert not MARKERS.follows("start", "assistant")
    assert not MARKERS.follows("tool", "assistant")


def test_the_separator_stands_before_every_turn() -> None:
    markers = SeparatorMarkers(5, bos=2)
    assert markers.opening("start", "anybody") == (2, 5)
    assert markers.opening("anybody", "else", is_last=True) == (5,)
    assert markers.end("anybody") == 5
    assert markers.follows("anybody", "else")
    assert (markers.ids, markers.end_ids, markers.reopens) == ({2, 5}, {5}, False)
