"""Validated fields of the entries in a JSON export (text, times, names), and entries as messages of a chat.

Owns: the checks of fields, and the reports of malformed entries. Knows no format.
"""

import re
from collections.abc import Callable, Iterable
from datetime import UTC, datetime, timedelta
from typing import Any, TypeAlias

from convmodel.data.importing.exports.calendars import YEARS
from convmodel.data.importing.exports.messages import Chat, Message
from convmodel.data.reading.problems import Problems
from convmodel.errors import ConversationError

Entry: TypeAlias = dict[str, Any]
"""One message as the export writes it."""

EntryReader: TypeAlias = Callable[[Entry, str], Message | str]
"""Reads an entry at a place as a message, or returns why it is left out; raises if it is malformed."""

QUOTE = "quote"
"""The name of a part of a message that is somebody else's words."""

DELETED = "Deleted account"
"""The speaker where the export has neither a name nor an id."""

FIX = "fix or remove it, or skip bad data"

_EPOCH = datetime(1970, 1, 1)
_QUOTED = re.compile(r"^(?:>>> [\s\S]*|> .*\n?)", re.MULTILINE)


def add_entries(chat: Chat, entries: Iterable[tuple[str, Any]], problems: Problems, read_entry: EntryReader) -> None:
    """Adds the entries, each with its place, to a chat, as messages or as left out; malformed ones are problems."""
    for place, entry in entries:
        try:
            result = read_entry(an_object(entry), place)
        except ConversationError as error:
            problems.add(f"{place}: {error}: {FIX}")
        else:
            if isinstance(result, str):
                chat.dropped[result] += 1
            else:
                chat.messages.append(result)


def add_list(chat: Chat, value: Any, key: str, place: str, problems: Problems, read_entry: EntryReader) -> None:
    """Adds the entries of the list in a field of an export's object to a chat."""
    add_entries(chat, placed(place, list_in(value, key, place, problems)), problems, read_entry)


def placed(file: object, entries: Iterable[Any]) -> list[tuple[str, Any]]:
    """Pairs each entry with its place: `file: message 1`, `file: message 2`, ..."""
    return [(f"{file}: message {number}", entry) for number, entry in enumerate(entries, 1)]


def sort_by_time(chat: Chat) -> None:
    """Sorts the messages of a chat by time; equal times keep their order, or the reverse in a reversed export."""
    messages = chat.messages
    if messages and _time(messages[0]) > _time(messages[-1]):
        messages.reverse()  # the export starts with the last message
    messages.sort(key=_time)


def an_object(value: Any) -> Entry:
    """Returns a value that must be a JSON object.

    Raises:
        ConversationError: If it is not.
    """
    if not isinstance(value, dict):
        raise ConversationError(f"{type(value).__name__} instead of an object")
    return value


def a_list(entry: Entry, key: str) -> list[Any]:
    """Returns a field that must be a list; empty if it is missing.

    Raises:
        ConversationError: If it is something else.
    """
    value = entry.get(key)
    if value is None:
        return []
    if not isinstance(value, list):
        raise ConversationError(f"{key} is {type(value).__name__}, not a list")
    return value


def list_in(value: Any, key: str, place: str, problems: Problems) -> list[Any]:
    """Returns the list in a field of what should be an object; empty, and a problem, if there is none."""
    try:
        return a_list(an_object(value), key)
    except ConversationError as error:
        problems.add(f"{place}: {error}: {FIX}")
        return []


def a_string(entry: Entry, key: str) -> str:
    """Returns a field that must be text, stripped; empty if it is missing.

    Raises:
        ConversationError: If it is something else, or cannot be encoded.
    """
    value = entry.get(key)
    return "" if value is None else checked_text(value, key).strip()


def checked_text(value: Any, what: str) -> str:
    """Returns a value that must be text, unchanged.

    Raises:
        ConversationError: If it is not text, or contains half a surrogate pair.
    """
    if not isinstance(value, str):
        raise ConversationError(f"{what} is {type(value).__name__}, not text")
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise ConversationError(f"{what} contains half a surrogate pair, which cannot be encoded") from error
    return value


def unquoted(text: str) -> tuple[str, tuple[str, ...]]:
    r"""Returns a text without the lines that quote somebody else (`> `), and what was left out: `QUOTE`, or nothing.

    Example:
        >>> unquoted("> At six?\nYes")
        ('Yes', ('quote',))
    """
    if ">" not in text or not _QUOTED.search(text):
        return text, ()
    return _QUOTED.sub("", text).strip(), (QUOTE,)


def name_or(entry: Any, key: str, default: str) -> str:
    """Returns the name in a field, or a default if it has no valid one."""
    try:
        return a_string(an_object(entry), key) or default
    except ConversationError:
        return default


def unix_time(value: Any, what: str, unit: float = 1.0) -> datetime:
    """Reads a number of units (in seconds) since 1970, as UTC without the zone.

    Raises:
        ConversationError: If it is not a number, or outside `YEARS`.
    """
    try:
        if isinstance(value, bool) or not isinstance(value, int | float | str):
            raise TypeError
        time = _EPOCH + timedelta(seconds=float(value) * unit)
    except (TypeError, ValueError, OverflowError) as error:
        raise _not_a_time(value, what) from error
    return _plausible(time, value, what)


def iso_time(value: Any, what: str) -> datetime:
    """Reads an ISO 8601 time: as UTC if it has a zone, otherwise as written.

    Raises:
        ConversationError: If it is not a time, or outside `YEARS`.
    """
    try:
        time = datetime.fromisoformat(value)
        if time.tzinfo is not None:
            time = time.astimezone(UTC).replace(tzinfo=None)
    except (TypeError, ValueError, OverflowError) as error:
        raise _not_a_time(value, what) from error
    return _plausible(time, value, what)


class Speakers:
    """Gives every person one name that nobody else has.

    Example:
        >>> speakers = Speakers()
        >>> [speakers.name("1", "Ann"), speakers.name("2", "Ann"), speakers.name("1", "Annie")]
        ['Ann', 'Ann (2)', 'Ann']
    """

    def __init__(self) -> None:
        self._names: dict[tuple[bool, str], str] = {}

    def name(self, number: str, name: str) -> str:
        """Returns the name of the person with a number in the export; without one, people are known by their name."""
        person = (bool(number), number or name)
        if person not in self._names:
            taken = set(self._names.values())
            numbered = (f"{name} ({count})" for count in range(2, len(taken) + 3))
            self._names[person] = next(free for free in (name, *numbered) if free not in taken)
        return self._names[person]


def _time(message: Message) -> datetime:
    return message.time or _EPOCH


def _plausible(time: datetime, value: Any, what: str) -> datetime:
    if time.year not in YEARS:
        raise _not_a_time(value, what)
    return time


def _not_a_time(value: Any, what: str) -> ConversationError:
    return ConversationError(f"there is no {what}" if value is None else f"{what} {str(value)[:40]!r} is not a time")
