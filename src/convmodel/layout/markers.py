"""The control tokens around turns: the one interface of both layouts.

Owns: which ids stand before a turn, depending on the role before it, and which id ends it. Knows no text: `measuring`
finds a chat template's markers, `separator` those of the separator layout.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Protocol

from convmodel.conversation import DEFAULT_SPEAKERS

USER, ASSISTANT = DEFAULT_SPEAKERS
SYSTEM, TOOL = "system", "tool"

START = "start"
"""Stands for the role before a first turn."""

RESPONSE = "response"
"""Stands for the assistant's role in a last turn, which some templates open differently from earlier ones."""

TRIMS = ("strip", "lstrip", "rstrip")
"""String methods by which templates trim the text of turns."""


class Markers(Protocol):
    """The control tokens around turns."""

    @property
    def ids(self) -> frozenset[int]:
        """All ids that the layout inserts."""

    @property
    def end_ids(self) -> frozenset[int]:
        """The ids that end a turn, none of which is ever the id of text."""

    @property
    def reopens(self) -> bool:
        """Whether a response is opened differently once it is followed by another turn."""

    def follows(self, before: str, role: str) -> bool:
        """Returns whether a turn of `role` may follow one of the role `before`, or come first (`START`)."""

    def opening(self, before: str, role: str, *, is_last: bool = False) -> Sequence[int]:
        """Returns the ids between the text of a turn of role `before` and that of the next one, of `role`."""

    def end(self, role: str) -> int:
        """Returns the id that ends a turn."""


@dataclass(frozen=True, slots=True)
class SeparatorMarkers:
    """The separator before each turn and at the end, whoever speaks.

    Attributes:
        separator: The separator's id.
        bos: The id of the beginning-of-text token with which every sequence begins; None for none.
    """

    separator: int
    bos: int | None = None

    @property
    def ids(self) -> frozenset[int]:
        """The separator and, if there is one, the beginning-of-text token."""
        return frozenset(index for index in (self.separator, self.bos) if index is not None)

    @property
    def end_ids(self) -> frozenset[int]:
        """The separator."""
        return frozenset([self.separator])

    @property
    def reopens(self) -> bool:
        """Never."""
        return False

    def follows(self, before: str, role: str) -> bool:
        """Returns that any role may follow any other."""
        return True

    def opening(self, before: str, role: str, *, is_last: bool = False) -> Sequence[int]:
        """Returns the separator, in the beginning after the beginning-of-text token."""
        return (self.separator,) if self.bos is None or before != START else (self.bos, self.separator)

    def end(self, role: str) -> int:
        """Returns the separator."""
        return self.separator


@dataclass(frozen=True)
class TemplateMarkers:
    """The markers of a chat template, as measured from its renderings, and what else reproduces them.

    Attributes:
        openings: The ids before a turn, by the role of the turn before it (or `START`) and by its own (or `RESPONSE`,
            for a last turn of the assistant).
        ends: The id that ends a turn, by role.
        trims: The name of the string method that the template applies to a turn's text, by role; none if it is kept.
        leads: The text in front of a turn's text that is encoded with it, by role: a space, for some.
        word_prefix: Whether the vocabulary's space mark is put in front of a text that begins without space.
        switches: The template's variables that were set to make it stable.
        dated: Whether the template writes the date, which is then always `rendering.DATE`.
        template: The SHA-256 of the chat template.
    """

    openings: Mapping[str, Mapping[str, tuple[int, ...]]]
    ends: Mapping[str, int]
    trims: Mapping[str, str] = field(default_factory=dict)
    leads: Mapping[str, str] = field(default_factory=dict)
    word_prefix: bool = True
    switches: Mapping[str, bool] = field(default_factory=dict)
    dated: bool = False
    template: str = ""

    @cached_property
    def ids(self) -> frozenset[int]:
        """The ids of all openings and ends."""
        opening_ids = {index for after in self.openings.values() for ids in after.values() for index in ids}
        return frozenset({*opening_ids, *self.ends.values()})

    @cached_property
    def end_ids(self) -> frozenset[int]:
        """The ids that end a turn of any role that the model may speak for."""
        return frozenset(index for role, index in self.ends.items() if role in DEFAULT_SPEAKERS)

    @cached_property
    def reopens(self) -> bool:
        """Whether a past response begins differently from a new one: without thoughts, for example."""
        return any(RESPONSE in after and after[RESPONSE] != after[ASSISTANT] for after in self.openings.values())

    def follows(self, before: str, role: str) -> bool:
        """Returns whether the template was measured with a turn of `role` after one of the role `before`."""
        return role in self.openings.get(before, {})

    def opening(self, before: str, role: str, *, is_last: bool = False) -> Sequence[int]:
        """Returns the ids before a turn; before the sequence's last one, those that open a response."""
        after = self.openings[before]
        return after[RESPONSE] if is_last and role == ASSISTANT else after[role]

    def end(self, role: str) -> int:
        """Returns the id that ends a turn of a role."""
        return self.ends[role]

    def to_dict(self) -> dict[str, Any]:
        """Returns the fields as they are saved."""
        return {
            "openings": {
                before: {role: list(ids) for role, ids in after.items()} for before, after in self.openings.items()
            },
            "ends": dict(self.ends),
            "trims": dict(self.trims),
            "leads": dict(self.leads),
            "word_prefix": self.word_prefix,
            "switches": dict(self.switches),
            "dated": self.dated,
            "template": self.template,
        }

    @classmethod
    def from_dict(cls, content: Any) -> "TemplateMarkers":
        """Reads the saved fields.

        Raises:
            ValueError: If one is missing, unknown or invalid; the message names it.
        """
        if not isinstance(content, dict) or content.keys() != _FIELDS.keys():
            raise ValueError(f"the template's fields are not {', '.join(_FIELDS)}")
        for name, is_valid in _FIELDS.items():
            if not is_valid(content[name]):
                raise ValueError(f"the template's {name} are not valid")
        openings = {
            before: {role: tuple(ids) for role, ids in after.items()} for before, after in content["openings"].items()
        }
        return cls(**{**content, "openings": openings})


def _is_id(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _are_openings(value: Any) -> bool:
    if not isinstance(value, dict) or not all(isinstance(after, dict) for after in value.values()):
        return False
    lists = [ids for after in value.values() for ids in after.values()]
    complete = all((ASSISTANT in after) == (RESPONSE in after) for after in value.values())
    return complete and USER in value.get(START, {}) and all(isinstance(i, list) and all(map(_is_id, i)) for i in lists)


def _are_ends(value: Any) -> bool:
    return isinstance(value, dict) and {*DEFAULT_SPEAKERS} <= value.keys() and all(map(_is_id, value.values()))


_FIELDS: dict[str, Any] = {
    "openings": _are_openings,
    "ends": _are_ends,
    "trims": lambda value: isinstance(value, dict) and all(how in TRIMS for how in value.values()),
    "leads": lambda value: isinstance(value, dict) and all(isinstance(lead, str) for lead in value.values()),
    "word_prefix": lambda value: isinstance(value, bool),
    "switches": lambda value: isinstance(value, dict) and all(isinstance(on, bool) for on in value.values()),
    "dated": lambda value: isinstance(value, bool),
    "template": lambda value: isinstance(value, str),
}
