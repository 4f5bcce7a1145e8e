"""Chats to conversations: where one ends, which messages are one turn, and who speaks.

Owns: gaps, joined turns, and the names that speakers have in training. Knows no file format.
"""

import math
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from itertools import pairwise

from convmodel.conversation import DEFAULT_SPEAKERS, LONGEST_TURN, Conversation
from convmodel.data.importing.exports.messages import Chat, Message
from convmodel.data.reading.decoding import encodable
from convmodel.data.reading.messages import nobody
from convmodel.data.reading.problems import Problems
from convmodel.errors import ConfigError, ConversationError

DEFAULT_GAP = timedelta(hours=1)
"""The pause between conversations if there are too few pauses to choose from."""

ROUND_GAPS = tuple(
    timedelta(minutes=minutes) for minutes in (10, 15, 20, 30, 45, 60, 120, 180, 240, 360, 480, 720, 1440)
)
"""The durations to which a chosen gap is rounded."""

_STEP_BACK = timedelta(days=1)  # a longer one is the start of another export in the same file; clocks may be changed

_MIN_PAUSES = 50  # needed to estimate the threshold
_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days"}


@dataclass(frozen=True, slots=True)
class Segmenting:
    """How messages become conversations.

    Attributes:
        me: The speaker to learn, who becomes `assistant`; None keeps all names.
        merge_others: Whether all others become `user`, for models with only two speakers.
        keep_messages: Whether consecutive messages of one speaker stay separate turns.
    """

    gap: timedelta = DEFAULT_GAP
    me: str | None = None
    merge_others: bool = False
    keep_messages: bool = False


def parse_gap(text: str) -> timedelta:
    """Reads a duration such as `30m`, `1h` or `2d`.

    Raises:
        ConfigError: If the text is not a duration.
    """
    number, unit = text[:-1], text[-1:].lower()
    if not (number.isascii() and number.isdigit() and int(number) and unit in _UNITS and len(number) < 7):
        raise ConfigError(f"gap is {text!r}: write a number and s, m, h or d, such as 30m or 1h")
    return timedelta(**{_UNITS[unit]: int(number)})


def show_gap(gap: timedelta) -> str:
    """Writes a duration as `parse_gap` reads it: `2h`."""
    seconds = round(gap.total_seconds())
    unit = next(size for size in (86400, 3600, 60, 1) if seconds % size == 0)
    return f"{seconds // unit}{ {86400: 'd', 3600: 'h', 60: 'm', 1: 's'}[unit] }"


def choose_gap(chats: Iterable[Chat]) -> tuple[timedelta, str]:
    """Chooses the gap between conversations from the pauses between messages, with the reason.

    Pauses are of two kinds, within and between conversations. The threshold is Otsu's, which makes the variance
    between the two kinds largest (N. Otsu 1979, "A threshold selection method from gray-level histograms"), over the
    logarithm of pauses from 1 minute to 7 days, rounded to a usual duration.
    """
    pauses = (
        (later.time - earlier.time).total_seconds()
        for chat in chats
        if chat.parted
        for earlier, later in pairwise(chat.messages)
        if earlier.time and later.time
    )
    logs = sorted(math.log(pause) for pause in pauses if 60 <= pause <= 7 * 86400)
    if len(logs) < _MIN_PAUSES:
        return DEFAULT_GAP, f"since {len(logs)} pauses of a minute or more are too few to choose from"
    total, below, best, threshold = sum(logs), 0.0, -1.0, logs[0]
    for number, (pause, following) in enumerate(pairwise(logs), 1):
        below += pause
        rest = len(logs) - number
        variance = number * rest * (below / number - (total - below) / rest) ** 2
        if variance > best:
            best, threshold = variance, (pause + following) / 2
    gap = min(ROUND_GAPS, key=lambda gap: abs(math.log(gap.total_seconds()) - threshold))
    return gap, "since most pauses here are much shorter or much longer"


def speakers_of(chats: Iterable[Chat]) -> Counter[str]:
    """Counts each speaker's messages."""
    return Counter(message.speaker for chat in chats for message in chat.messages)


def silent(me: str) -> str:
    """Returns the reason for leaving out a conversation without the speaker to learn."""
    return f"{me} has no turn"


def is_silent(conversation: Conversation, me: str | None) -> bool:
    """Returns whether a conversation has no turn of the speaker to learn, if there is one."""
    return me is not None and me not in conversation.turn_speakers[conversation.pinned :]


def segment(
    chats: Sequence[Chat], how: Segmenting, dropped: Counter[str], problems: Problems | None = None
) -> Iterator[Conversation]:
    """Cuts chats into conversations, whose ids are the places of their first messages.

    Conversations without a turn of the speaker to learn are left out, and counted in `dropped`. One with a turn that is
    too long, alone or joined, is a problem, by default an error.

    Raises:
        ConversationError: If the speaker to learn never speaks; the message lists who does.
    """
    problems = problems or Problems()
    if how.me is not None and how.me not in (speakers := speakers_of(chats)):
        raise ConversationError(nobody([how.me], speakers))
    for chat in chats:
        if not chat.messages:
            continue
        names = _names({message.speaker: None for message in chat.messages}, how)
        for part in parts_of(chat, how.gap):
            if how.me is not None and all(message.speaker != how.me for message in part):
                dropped[silent(how.me)] += 1
                continue
            try:
                conversation = Conversation(
                    [message.text for message in part],
                    [names[message.speaker] for message in part],
                    id=encodable(part[0].place).removeprefix(chat.folder),
                    started_at=part[0].time,
                )
                conversation = conversation if how.keep_messages else conversation.joined()
            except ConversationError as error:
                problems.add(f"{part[0].place}: in the conversation that begins here, {error}", rows=len(part))
            else:
                yield conversation


def parts_of(chat: Chat, gap: timedelta) -> Iterator[Sequence[Message]]:
    """Yields the messages of each conversation of a chat."""
    return _parts(chat.messages, gap) if chat.parted else iter([chat.messages])


def rename(conversation: Conversation, how: Segmenting) -> Conversation:
    """Gives the speakers of a complete conversation their names in training."""
    pinned, speakers = conversation.pinned, conversation.turn_speakers
    names = _names(dict.fromkeys(speakers[pinned:]), how)
    renamed = replace(conversation, speakers=[*speakers[:pinned], *(names[name] for name in speakers[pinned:])])
    return renamed if how.keep_messages else renamed.joined()


def require_joinable(conversation: Conversation, how: Segmenting) -> None:
    """Checks that a complete conversation can be renamed: joined turns have the same weight, and are not too long.

    Raises:
        ConversationError: If not; the message has no place.
    """
    length = sum(map(len, conversation.turns)) + len(conversation.turns) - 1  # joined by line ends
    is_plain = conversation.weights is None and length <= LONGEST_TURN
    if not is_plain and not is_silent(conversation, how.me):
        rename(conversation, how)


def _names(speakers: dict[str, None], how: Segmenting) -> dict[str, str]:
    """Names the speakers of a chat: the speaker to learn is the assistant, a single other one the user."""
    if how.me is None:
        return {name: name for name in speakers}
    user, assistant = DEFAULT_SPEAKERS
    others = [name for name in speakers if name != how.me]
    to_user = how.merge_others or len(others) == 1
    # Somebody else of that name must not be confused with the speaker to learn.
    named = {name: f"{name} (2)" if name == assistant else name for name in others}
    return {name: user if to_user else named[name] for name in others} | {how.me: assistant}


def _parts(messages: Sequence[Message], gap: timedelta) -> Iterator[Sequence[Message]]:
    part: list[Message] = []
    last = None
    for message in messages:
        pause = message.time - last if message.time and last else timedelta(0)
        if part and (pause > gap or -pause > max(gap, _STEP_BACK)):
            yield part
            part = []
        last = message.time or last
        part.append(message)
    if part:
        yield part
