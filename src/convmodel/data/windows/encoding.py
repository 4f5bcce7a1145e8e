"""Conversations to windows, with a summary of what was encoded and what was left out.

Owns: encoding many conversations, in chunks, and the summary. Knows no files and no processes.
"""

import hashlib
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import islice
from typing import Any

import numpy as np
import numpy.typing as npt

from convmodel.conversation import Conversation
from convmodel.data.reading.messages import nobody
from convmodel.data.reading.problems import OnError, Problems
from convmodel.errors import ContextTooLongError, ConversationError
from convmodel.layout.sequence import LossOn, Window, named_speakers
from convmodel.layout.tokenizer import ConversationTokenizer

CHUNK = 500
"""Conversations that are encoded together."""


@dataclass(slots=True)
class EncodingSummary:
    """Counts of what was encoded and what was left out.

    Attributes:
        unsupervised: Conversations without a supervised turn, and so without a window.
        skipped: Rows or conversations that were invalid and left out.
        cut: Tokens left out of turns longer than a window.
        shortened: Supervised turns with only the end of the turn before as context, since both do not fit in a window.
        bare: Supervised turns without any context, since they fill a window.
        dropped: First turns that were left out, since the model's chat template begins with the user.
        omitted: How many messages had something beside their text that was left out, by its name.
        tokens: Supervised tokens.
        text_bytes: UTF-8 bytes of the supervised turns' text.
        speakers: The speakers' names if all conversations share them, else empty; None before the first conversation.
        first_skipped: Why the first skipped item was invalid.
        turns: Number of turns by speaker where nothing was supervised, for the error.
    """

    conversations: int = 0
    unsupervised: int = 0
    skipped: int = 0
    cut: int = 0
    shortened: int = 0
    bare: int = 0
    dropped: int = 0
    omitted: dict[str, int] = field(default_factory=dict)
    tokens: int = 0
    text_bytes: int = 0
    speakers: tuple[str, ...] | None = None
    first_skipped: str = ""
    turns: dict[str, int] = field(default_factory=dict)

    def add(self, other: "EncodingSummary") -> None:
        """Adds the summary of further conversations."""
        for name in _COUNTS:
            setattr(self, name, getattr(self, name) + getattr(other, name))
        self.omitted = dict(Counter(self.omitted) + Counter(other.omitted)) if other.omitted else self.omitted
        self.first_skipped = self.first_skipped or other.first_skipped
        self.turns = dict(Counter(self.turns) + Counter(other.turns)) if other.turns else self.turns
        self.add_speakers(other.speakers)

    def add_problems(self, problems: Problems) -> None:
        """Adds what was left out while reading."""
        if problems.count:
            self.add(EncodingSummary(skipped=problems.count, first_skipped=problems.messages[0]))

    def add_speakers(self, speakers: tuple[str, ...] | None) -> None:
        """Adds the speakers of a further conversation."""
        if self.speakers is None:
            self.speakers = speakers
        elif speakers is not None and set(speakers) != set(self.speakers):
            self.speakers = ()

    def left_out(self) -> str:
        """Describes what was left out, in a sentence; empty if nothing was."""
        parts = []
        if self.unsupervised:
            parts.append(f"{self.unsupervised:,} of {self.conversations:,} conversations have no supervised turn")
        if self.skipped:
            parts.append(f"{self.skipped:,} could not be used, the first because of: {self.first_skipped}")
        if self.cut:
            parts.append(f"{self.cut:,} tokens of turns longer than a window were cut")
        if self.dropped:
            parts.append(
                f"{self.dropped:,} first turns were left out, since the model's chat template begins with the user"
            )
        parts += [
            f"{name} of {count:,} messages was left out: only text is used" for name, count in self.omitted.items()
        ]
        return "; ".join([*parts, *self.short_contexts()])

    def short_contexts(self) -> list[str]:
        """Describes the supervised turns whose context does not fit, in clauses; empty if there are none."""
        parts = []
        if self.shortened:
            parts.append(
                f"{self.shortened:,} supervised turns have only the end of the turn before as context, since both do "
                "not fit in a window"
            )
        if self.bare:
            parts.append(f"{self.bare:,} supervised turns have no context, since they fill a window")
        return parts


_COUNTS = ("conversations", "unsupervised", "skipped", "cut", "shortened", "bare", "dropped", "tokens", "text_bytes")


@dataclass(frozen=True, slots=True)
class WindowSet:
    """Encoded conversations, in memory or read from disk one by one, and their summary."""

    windows: Sequence[Window]
    lengths: npt.NDArray[np.int32]  # of each window, in tokens
    summary: EncodingSummary

    @property
    def tokens(self) -> int:
        """Supervised tokens."""
        return self.summary.tokens


_HASHED = 1000  # windows whose ids are hashed; of the others only the lengths


def windows_hash(data: WindowSet) -> str:
    """Counts windows, and hashes their lengths and the ids and labels of evenly spaced ones."""
    count = len(data.windows)
    digest = hashlib.sha256(data.lengths.astype("<i4").tobytes())
    for index in range(0, count, -(-count // _HASHED) or 1):
        window = data.windows[index]
        digest.update(repr((list(window.input_ids), list(window.types), list(window.labels), window.weights)).encode())
    return f"{count} windows {digest.hexdigest()[:12]}"


def encode_windows(
    conversations: Iterable[Conversation],
    tokenizer: ConversationTokenizer,
    *,
    max_length: int,
    loss_on: LossOn,
    on_error: OnError = "fail",
) -> WindowSet:
    """Encodes conversations as windows of at most `max_length` tokens, in memory.

    Raises:
        ConversationError: If a conversation cannot be laid out (the message names it), or none has a supervised turn.
        ContextTooLongError: If a conversation's pinned turns leave no room in a window.
    """
    windows: list[Window] = []
    summary = EncodingSummary()
    encode = partial(encode_chunk, tokenizer=tokenizer, max_length=max_length, loss_on=loss_on, on_error=on_error)
    for chunk, chunk_summary in map(encode, chunks(conversations)):
        windows += chunk
        summary.add(chunk_summary)
    require_windows(summary, loss_on)
    return WindowSet(windows, np.array([len(window.input_ids) for window in windows], np.int32), summary)


def require_windows(summary: EncodingSummary, loss_on: LossOn) -> None:
    """Checks that there is something to train on or to measure.

    Raises:
        ConversationError: If no conversation has a supervised turn.
    """
    if not summary.tokens:
        skipped = f" ({summary.left_out()})" if summary.skipped else ""
        raise ConversationError(
            f"none of {summary.conversations} conversations has a turn that loss_on={loss_on!r} supervises{skipped}"
            f"{_nobody(loss_on, summary.turns)}"
        )


def _nobody(loss_on: LossOn, turns: Mapping[str, int]) -> str:
    """Explains that `loss_on` names nobody, if so."""
    names = named_speakers(loss_on)
    if not names or not turns or turns.keys() & set(names):
        return ""
    return f": {nobody(names, turns)}"


EncodedChunk = tuple[list[Window], EncodingSummary]
"""The windows of consecutive conversations, and their summary."""

Numbered = tuple[int, Sequence[Conversation]]
"""Consecutive conversations, and the number of the first, counted from 1."""


def chunks(conversations: Iterable[Conversation]) -> Iterator[Numbered]:
    """Yields the conversations in lists of `CHUNK`, each with its first number."""
    remaining, first = iter(conversations), 1
    while chunk := list(islice(remaining, CHUNK)):
        yield first, chunk
        first += len(chunk)


def encode_chunk(
    numbered: Numbered,
    *,
    tokenizer: ConversationTokenizer,
    max_length: int,
    loss_on: LossOn,
    on_error: OnError = "fail",
) -> EncodedChunk:
    """Encodes consecutive conversations; each window's source is its conversation's id or number.

    Raises:
        ConversationError: If one cannot be laid out and `on_error` is `fail`; the message names it.
        ContextTooLongError: If its pinned turns leave no room in a window and `on_error` is `fail`.
    """
    first, conversations = numbered
    options: dict[str, Any] = {"max_length": max_length, "loss_on": loss_on}
    problems = Problems(on_error)
    try:
        windows_of = tokenizer.windows_batch(conversations, **options)
    except (ConversationError, ContextTooLongError):  # one by one, to find which
        windows_of = []
        for number, conversation in enumerate(conversations, first):
            try:
                windows_of += tokenizer.windows_batch([conversation], **options)
            except (ConversationError, ContextTooLongError) as error:
                message = f"conversation {conversation.id or number}: {error}"
                if on_error == "fail":
                    raise type(error)(message) from error
                problems.add(message)
                windows_of.append([])
    sources = [conversation.id or f"conversation {number}" for number, conversation in enumerate(conversations, first)]
    sourced = zip(sources, windows_of, strict=True)
    windows = [replace(window, source=source) for source, encoded in sourced for window in encoded]
    summary = EncodingSummary(
        conversations=len(conversations),
        unsupervised=sum(not encoded for encoded in windows_of) - problems.count,
        cut=sum(window.cut for window in windows),
        shortened=sum(bool(window.context_cut) for window in windows),
        bare=sum(window.context_cut is None for window in windows),
        dropped=sum(window.dropped for window in windows),
        omitted=dict(Counter(kind for conversation in conversations for kind in conversation.omitted)),
        tokens=sum(window.supervised_tokens for window in windows),
        text_bytes=sum(window.text_bytes for window in windows),
    )
    summary.add_problems(problems)
    for conversation in conversations:
        summary.add_speakers(conversation.speaker_names)
    if not summary.tokens:
        summary.turns = dict(Counter(name for conversation in conversations for name in conversation.turn_speakers))
    return windows, summary
