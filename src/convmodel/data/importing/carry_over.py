"""What carries over of rows of messages, such as those of OpenAI's fine-tuning files: what is kept and what is not.

Owns: the kinds of content beside plain text, and how each is treated. Does not know files; the reader rejects what is
malformed.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from convmodel.conversation import DEFAULT_SPEAKERS, PINNED_ROLES, Conversation
from convmodel.data.reading.decoding import encodable
from convmodel.data.reading.messages import (
    ROLES,
    TEXT_PARTS,
    THOUGHTS,
    conversation_of_messages,
    speaker_key,
    text_key,
)
from convmodel.data.reading.rows import Row
from convmodel.data.reading.shapes import AUTO, shape_of
from convmodel.errors import ConversationError

CALLS, MEDIA, LATE_SYSTEM, REFUSALS = "tool calls", "images, audio or files", "later system messages", "refusals"
TOOLS, SYSTEM, WEIGHTS, NAMES = "definitions of tools", "several system messages", "weights", "participants' names"
RESULTS, REASONING, JUDGEMENTS = "results of tools without a call", "thoughts", "judgements"

KINDS = {
    WEIGHTS: "kept; 0 leaves the turn out of the loss",
    SYSTEM: "kept; all of them stay in the context",
    LATE_SYSTEM: "kept as text of the user's turn at their place, since chat templates have a place for a system "
    "message at the beginning only",
    REFUSALS: "kept as the texts of their turns",
    CALLS: "the conversation ends with the last response before the first call, since later responses rely on results "
    "that the model cannot look up",
    MEDIA: "the conversation ends with the last response before the first of them, since later responses rely on what "
    "the model cannot see",
    RESULTS: "kept as turns of a speaker called tool or function",
    TOOLS: "left out, since no layout has a place for definitions",
    NAMES: "left out, since the role is the speaker; `--redact` masks them in the texts",
    REASONING: "left out, since no layout has a place for them",
    JUDGEMENTS: "only good responses are kept, as turns to imitate; to learn from both responses, give the file itself "
    "to `convmodel fit --objective dpo`, or kto for single responses",
}
"""What rows have beside plain text, and how it is treated."""

_NOTHING_BEFORE = {CALLS: "no response before the first tool call", MEDIA: "no response before the first image or file"}
_DEFINITIONS = ("tools", "functions")
_CALLS = ("tool_calls", "function_call")
_RESULT_ROLES = ("tool", "function")
_PLAIN = {"role", "content"}


@dataclass(slots=True)
class CarryOver:
    """Edits rows of messages so that they can be read as text, and notes what each of them had beside text.

    Attributes:
        rows: How many rows of messages there were that can be read.
        places: The places of the rows with something of a kind, by the kind.
        left_out: Rows of which nothing is left, by reason.
        names: The participants' names in the newest row, which are left out, but may stand in its texts.

    Example:
        >>> carried = CarryOver()
        >>> messages = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello", "weight": 0}]
        >>> row = carried.edit(Row("chats.jsonl:1", {"messages": messages}))
        >>> carried.places
        {'weights': ['chats.jsonl:1']}
    """

    rows: int = 0
    places: dict[str, list[str]] = field(default_factory=dict)
    left_out: Counter[str] = field(default_factory=Counter)
    names: tuple[str, ...] = ()

    def edit(self, row: Row, shape: str = AUTO, check: Callable[[Conversation], object] | None = None) -> Row | None:
        """Returns a row to read; None if nothing of it can be used. A row that is not of messages stays as it is.

        `check` is that of the reader: what it rejects is not counted here, unless it is plain text.
        """
        self.names = ()
        name = None if row.error else shape_of(row.value, shape)
        if name == "judgements":
            self._note({JUDGEMENTS: True}, row.place)
        messages = row.value["messages"] if isinstance(row.value, Mapping) and name == "messages" else row.value
        is_list = isinstance(messages, list | tuple) and all(isinstance(message, Mapping) for message in messages)
        if name != "messages" or not is_list:
            return row
        defines = messages is not row.value and any(row.value.get(key) for key in _DEFINITIONS)
        if not defines and _is_plain(messages):
            self.rows += 1
            return row
        value = {} if messages is row.value else dict(row.value)
        end = next((number for number, message in enumerate(messages) if _ends(message)), None)
        kept = _without_late_system([_with_refusal(message) for message in messages[:end]])
        if end is not None:
            kept = _until_response(kept)
        result = replace(row, value={**value, "messages": kept} if value else kept)
        if (kept or end is None) and not _is_readable(kept, check):
            return result  # for the reader to reject: not counted here
        self.rows += 1
        self.names = tuple(dict.fromkeys(filter(None, map(_participant, messages))))
        before = messages[:end] if kept else []  # what is kept of what is cut off anyway is nothing
        self._note({TOOLS: defines, **_kinds_of(before), **_endings_of(messages)}, row.place)
        if not kept and end is not None:
            self.left_out[_NOTHING_BEFORE[CALLS if _calls(messages[end]) else MEDIA]] += 1
            return None
        return result

    def notes(self) -> Iterator[str]:
        """Describes each kind in a line: the number of rows, the first of them, and how it is treated."""
        if self.rows:
            changed = {place for kind, places in self.places.items() if kind != JUDGEMENTS for place in places}
            yield f"plain text in {self.rows - len(changed):,} of {_counted(self.rows)} of messages: kept"
        for kind in sorted(self.places, key=[*KINDS].index):
            places = self.places[kind]
            yield f"{kind} in {_counted(len(places))} (first: {places[0]}): {KINDS[kind]}"

    def to_dict(self) -> dict[str, Any]:
        """Returns for JSON how each kind is treated, and the places of all its rows."""
        kinds = sorted(self.places, key=[*KINDS].index)
        return {kind: {"result": KINDS[kind], "rows": self.places[kind]} for kind in kinds}

    def _note(self, kinds: Mapping[str, bool], place: str) -> None:
        for kind, is_there in kinds.items():
            if is_there:
                self.places.setdefault(kind, []).append(encodable(place))


def _is_plain(messages: Sequence[Mapping[str, Any]]) -> bool:
    """Returns quickly, for most rows, that there is nothing beside text, and no system message after the first."""
    return bool(messages) and all(
        message.keys() == _PLAIN
        and isinstance(message["content"], str)
        and message["content"].strip() != ""
        and (message["role"] in DEFAULT_SPEAKERS or (number == 0 and message["role"] == "system"))
        for number, message in enumerate(messages)
    )


def _is_readable(messages: Sequence[Mapping[str, Any]], check: Callable[[Conversation], object] | None = None) -> bool:
    try:
        conversation = conversation_of_messages(messages)
        if check:
            check(conversation)
    except ConversationError:
        return False
    return True


def _kinds_of(messages: Sequence[Mapping[str, Any]]) -> dict[str, bool]:
    pinned = [_is_pinned(message) for message in messages]
    first = pinned.index(False) if False in pinned else len(pinned)
    return {
        WEIGHTS: any(message.get("weight") is not None for message in messages),
        SYSTEM: first > 1,
        LATE_SYSTEM: any(pinned[first:]),
        REFUSALS: any(_refusal(message) for message in messages),
        RESULTS: any(_role(message) in _RESULT_ROLES for message in messages),
        NAMES: any(map(_participant, messages)),
        REASONING: any(message.get(key) for message in messages for key in THOUGHTS),
    }


def _participant(message: Mapping[str, Any]) -> str:
    """Returns the name of who speaks, beside the role; that of a function is no person's."""
    name = message.get("name") if "role" in message and _role(message) not in _RESULT_ROLES else None
    return str(name).strip() if name else ""


def _endings_of(messages: Sequence[Mapping[str, Any]]) -> dict[str, bool]:
    return {
        CALLS: any(map(_calls, messages)),
        MEDIA: any(_ends(message) and not _calls(message) for message in messages),
    }


def _role(message: Mapping[str, Any]) -> Any:
    role = message.get(speaker_key(message) or "")
    return ROLES.get(role.lower(), role) if isinstance(role, str) else None


def _is_pinned(message: Mapping[str, Any]) -> bool:
    return _role(message) in PINNED_ROLES


def _calls(message: Mapping[str, Any]) -> bool:
    return any(message.get(key) for key in _CALLS)


def _ends(message: Mapping[str, Any]) -> bool:
    """Returns whether a message has content that is not text, so that what follows cannot be understood without it."""
    parts = message.get(text_key(message) or "")
    has_media = isinstance(parts, list | tuple) and not all(_is_text(part) for part in parts)
    return _calls(message) or bool(message.get("audio")) or has_media


def _is_text(part: Any) -> bool:
    return not isinstance(part, Mapping) or part.get("type", "text") in (*TEXT_PARTS, "refusal")


def _refusal(message: Mapping[str, Any]) -> str | None:
    """Returns the text of a refusal, which stands beside an empty content or is a part of it."""
    parts = message.get("content")
    refusals = [message.get("refusal")]
    if isinstance(parts, list | tuple):
        refusals += [part.get("refusal") for part in parts if isinstance(part, Mapping)]
    return next((text for text in refusals if isinstance(text, str) and text), None)


def _with_refusal(message: Mapping[str, Any]) -> Mapping[str, Any]:
    text = _refusal(message)
    if text is None:
        return message
    parts = message.get("content")
    if isinstance(parts, list | tuple):
        texts = [part.get("refusal") or part.get("text") if isinstance(part, Mapping) else part for part in parts]
        return {**message, "content": texts}
    return {**message, "content": [parts, text] if parts else text}


def _without_late_system(messages: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Moves the text of system messages after the first turn into the user's turn before or after them."""
    result: list[Mapping[str, Any]] = []
    has_begun = was_moved = False  # whether the message before was moved
    for message in messages:
        has_begun |= not _is_pinned(message)
        is_moved = has_begun and _is_pinned(message)
        if is_moved:
            message = {**message, speaker_key(message) or "role": "user"}
        if (is_moved or was_moved) and result and _role(result[-1]) == _role(message) == "user":
            key = text_key(result[-1]) or "content"
            result[-1] = {**result[-1], key: [*_parts(result[-1]), *_parts(message)]}
        else:
            result.append(message)
        was_moved = is_moved
    return result


def _parts(message: Mapping[str, Any]) -> list[Any]:
    """Returns the parts of a message's content, which the reader joins by newlines."""
    content = message.get(text_key(message) or "")
    return list(content) if isinstance(content, list | tuple) else [content]


def _until_response(messages: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Returns the messages up to the last one of the assistant."""
    ends = [number for number, message in enumerate(messages, 1) if _role(message) == "assistant"]
    return list(messages[: ends[-1]]) if ends else []


def _counted(rows: int) -> str:
    return f"{rows:,} row" + "s" * (rows != 1)
