"""Fields of a JSON export's entries, checked: text, times, names; and entries as messages of a chat.

Owns: what a field must be, and the account of entries that are not. Knows no format.
"""

from collections.abc import Callable, Iterable
from datetime import UTC, datetime, timedelta
from typing import Any, TypeAlias

from convmodel.data.importing.exports.messages import Chat, Message
from convmodel.data.reading.problems import Problems
from convmodel.errors import ConversationError

Entry: TypeAlias = dict[str, Any]
"""One message as the export writes it."""

Found: TypeAlias = Message | str
"""What an entry turned out to be: a message, or why it is left out."""

YEARS = range(1990, 2100)
"""When messages may have been sent; other times are mistakes."""

CURE = "mend or remove it, or skip bad data"

_EPOCH = datetime(1970, 1, 1)


def add_entries(
    chat: Chat, entries: Iterable[tuple[str, Any]], problems: Problems, read_entry: Callable[[Entry, str], Found]
) -> None:
    """Adds every entry to a chat, as a message or as one left out; malformed ones go to the problems.

    Args:
        chat: What they are added to.
        entries: The entries, each with its place.
        problems: What takes note of malformed entries.
        read_entry: Makes an entry at a place a message, or tells why it is left out; raises if it is malformed.

    Raises:
        ConversationError: If an entry is malformed, and problems are errors.

    Example:
        >>> chat = Chat("Ann")
        >>> add_entries(chat, [("a.json: message 1", {})], Problems(), lambda entry, place: "media")
        >>> chat.dropped
        Counter({'media': 1})
    """
    for place, entry in entries:
        try:
            found = read_entry(an_object(entry), place)
        except ConversationError as error:
            problems.add(f"{place}: {error}: {CURE}")
        else:
            if isinstance(found, str):
                chat.dropped[found] += 1
            else:
                chat.messages.append(found)


def add_list(
    chat: Chat, value: Any, key: str, place: str, problems: Problems, read_entry: Callable[[Entry, str], Found]
) -> None:
    """Adds the list of entries in a field of an export's object to a chat.

    Raises:
        ConversationError: If there is no such list or an entry is malformed, and problems are errors.
    """
    add_entries(chat, placed(place, list_in(value, key, place, problems)), problems, read_entry)


def placed(file: object, entries: Iterable[Any]) -> list[tuple[str, Any]]:
    """Gives each entry of a file its place.

    Example:
        >>> placed("a.json", ["Hi"])
        [('a.json: message 1', 'Hi')]
    """
    return [(f"{file}: message {number}", entry) for number, entry in enumerate(entries, 1)]


def sort_by_time(chat: Chat) -> None:
    """Puts the messages of a chat in order of time; of equal times, in the order that the rest suggests.

    Example:
        >>> sent = [Message("Ann", "Bye", datetime(2024, 5, 2), ""), Message("Bob", "Hi", datetime(2024, 5, 1), "")]
        >>> chat = Chat("Us", sent)
        >>> sort_by_time(chat)
        >>> [message.text for message in chat.messages]
        ['Hi', 'Bye']
    """
    messages = chat.messages
    if messages and _time(messages[0]) > _time(messages[-1]):
        messages.reverse()  # the export is written from the last message to the first
    messages.sort(key=_time)


def an_object(value: Any) -> Entry:
    """Returns the value, which must be a JSON object.

    Raises:
        ConversationError: If it is not.

    Example:
        >>> an_object({})
        {}
    """
    if not isinstance(value, dict):
        raise ConversationError(f"{type(value).__name__} instead of an object")
    return value


def a_list(entry: Entry, key: str) -> list[Any]:
    """Returns a field that must be a list; missing, it is empty.

    Raises:
        ConversationError: If it is something else.

    Example:
        >>> a_list({"files": None}, "files")
        []
    """
    value = entry.get(key)
    if value is None:
        return []
    if not isinstance(value, list):
        raise ConversationError(f"{key} is {type(value).__name__}, not a list")
    return value


def list_in(value: Any, key: str, place: str, problems: Problems) -> list[Any]:
    """Returns the list in a field of what should be an object; an empty one, and a problem, if it is not that.

    Raises:
        ConversationError: If it is not that, and problems are errors.

    Example:
        >>> list_in({"messages": ["Hi"]}, "messages", "a.json", Problems())
        ['Hi']
    """
    try:
        return a_list(an_object(value), key)
    except ConversationError as error:
        problems.add(f"{place}: {error}: {CURE}")
        return []


def a_string(entry: Entry, key: str) -> str:
    r"""Returns a field that must be text, without white space around it; missing, it is empty.

    Raises:
        ConversationError: If it is something else, or no encoding of text can hold it.

    Example:
        >>> a_string({"text": "Hi\n"}, "text")
        'Hi'
    """
    value = entry.get(key)
    return "" if value is None else checked_text(value, key).strip()


def checked_text(value: Any, what: str) -> str:
    """Returns a value that must be text, as it is.

    Raises:
        ConversationError: If it is no text, or holds half a surrogate pair.

    Example:
        >>> checked_text("Hi ", "text")
        'Hi '
    """
    if not isinstance(value, str):
        raise ConversationError(f"{what} is {type(value).__name__}, not text")
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise ConversationError(f"{what} holds half a surrogate pair, which no encoding can hold") from error
    return value


def name_or(entry: Any, key: str, otherwise: str) -> str:
    """Returns the name in a field, or another name where it has none that can be shown.

    Example:
        >>> name_or({"name": None}, "name", "chat 3")
        'chat 3'
    """
    try:
        return a_string(an_object(entry), key) or otherwise
    except ConversationError:
        return otherwise


def unix_time(value: Any, what: str, unit: float = 1.0) -> datetime:
    """Reads seconds since 1970, or another unit of time, as UTC without the zone.

    Raises:
        ConversationError: If it is no number, or far from the years in which there were messages.

    Example:
        >>> unix_time("1700000000", "date")
        datetime.datetime(2023, 11, 14, 22, 13, 20)
    """
    try:
        if isinstance(value, bool) or not isinstance(value, int | float | str):
            raise TypeError
        time = _EPOCH + timedelta(seconds=float(value) * unit)
    except (TypeError, ValueError, OverflowError) as error:
        raise _no_time(value, what) from error
    return _checked(time, value, what)


def iso_time(value: Any, what: str) -> datetime:
    """Reads a time as ISO 8601 writes it: UTC where it names its zone, otherwise as written.

    Raises:
        ConversationError: If it is no time, or far from the years in which there were messages.

    Example:
        >>> iso_time("2024-05-01T12:30:00+02:00", "timestamp")
        datetime.datetime(2024, 5, 1, 10, 30)
    """
    try:
        time = datetime.fromisoformat(value)
        if time.tzinfo is not None:
            time = time.astimezone(UTC).replace(tzinfo=None)
    except (TypeError, ValueError, OverflowError) as error:
        raise _no_time(value, what) from error
    return _checked(time, value, what)


class Speakers:
    """Names people so that two of them never share a name, and that each has one.

    Example:
        >>> speakers = Speakers()
        >>> [speakers.name("1", "Ann"), speakers.name("2", "Ann"), speakers.name("1", "Annie")]
        ['Ann', 'Ann (2)', 'Ann']
    """

    def __init__(self) -> None:
        self._names: dict[tuple[bool, str], str] = {}

    def name(self, number: str, name: str) -> str:
        """Returns the name for the person that the export knows by a number; without one, by the name."""
        person = (bool(number), number or name)
        if person not in self._names:
            taken = set(self._names.values())
            numbered = (f"{name} ({count})" for count in range(2, len(taken) + 3))
            self._names[person] = next(free for free in (name, *numbered) if free not in taken)
        return self._names[person]


def _time(message: Message) -> datetime:
    return message.time or _EPOCH


def _checked(time: datetime, value: Any, what: str) -> datetime:
    if time.year not in YEARS:
        raise _no_time(value, what)
    return time


def _no_time(value: Any, what: str) -> ConversationError:
    return ConversationError(f"there is no {what}" if value is None else f"{what} {str(value)[:40]!r} is no time")
