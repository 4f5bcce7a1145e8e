"""Conversations to windows, with an account of what was left out.

Owns: encoding many conversations, in this process or in several, and the account. Where windows are kept is
`window_store.py`'s.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import islice
from typing import Any

import numpy as np
import numpy.typing as npt

from convmodel.conversation import Conversation
from convmodel.data.reading.problems import OnError, Problems
from convmodel.errors import ContextTooLongError, ConversationError
from convmodel.layout.sequence import LossOn, Window
from convmodel.layout.tokenizer import ConversationTokenizer

CHUNK = 500
"""Conversations that are encoded together."""


@dataclass(slots=True)
class Account:
    """What became of some conversations.

    Attributes:
        conversations: How many there were.
        unsupervised: How many have no supervised turn, and so no window.
        skipped: How many rows or conversations could not be used and were left out.
        cut: How many tokens were left out of turns longer than a window.
        tokens: Supervised tokens.
        text_bytes: UTF-8 bytes of the supervised turns' text.
        speakers: The speakers' names where all conversations share them, else none; None before the first.
        first_skipped: Why the first of them could not be used.
    """

    conversations: int = 0
    unsupervised: int = 0
    skipped: int = 0
    cut: int = 0
    tokens: int = 0
    text_bytes: int = 0
    speakers: tuple[str, ...] | None = None
    first_skipped: str = ""

    def add(self, other: "Account") -> None:
        """Adds the account of further conversations."""
        for name in ("conversations", "unsupervised", "skipped", "cut", "tokens", "text_bytes"):
            setattr(self, name, getattr(self, name) + getattr(other, name))
        self.first_skipped = self.first_skipped or other.first_skipped
        self.meet(other.speakers)

    def note(self, problems: Problems) -> None:
        """Adds what was left out before it could be encoded."""
        if problems.count:
            self.add(Account(skipped=problems.count, first_skipped=problems.messages[0]))

    def meet(self, speakers: tuple[str, ...] | None) -> None:
        """Takes note of who speaks in a further conversation."""
        if self.speakers is None:
            self.speakers = speakers
        elif speakers is not None and set(speakers) != set(self.speakers):
            self.speakers = ()

    def left_out(self) -> str:
        """Says what was left out, in a sentence; empty where nothing was."""
        parts = []
        if self.unsupervised:
            parts.append(f"{self.unsupervised:,} of {self.conversations:,} conversations have no supervised turn")
        if self.skipped:
            parts.append(f"{self.skipped:,} could not be used, the first because of: {self.first_skipped}")
        if self.cut:
            parts.append(f"{self.cut:,} tokens of turns longer than a window were cut")
        return "; ".join(parts)


@dataclass(frozen=True, slots=True)
class WindowSet:
    """Encoded conversations, and an account of them.

    Attributes:
        windows: The training sequences, conversation after conversation; in memory, or read from disk one by one.
        lengths: The length of each, in tokens.
        account: What became of the conversations.
    """

    windows: Sequence[Window]
    lengths: npt.NDArray[np.int32]
    account: Account

    @property
    def conversations(self) -> int:
        """How many conversations they come from."""
        return self.account.conversations

    @property
    def unsupervised(self) -> int:
        """How many conversations have no supervised turn, and so no window."""
        return self.account.unsupervised

    @property
    def cut(self) -> int:
        """How many tokens were left out of turns longer than a window."""
        return self.account.cut

    @property
    def tokens(self) -> int:
        """Supervised tokens."""
        return self.account.tokens

    def left_out(self) -> str:
        """Says what was left out, in a sentence; empty where nothing was."""
        return self.account.left_out()


@dataclass(frozen=True, slots=True)
class Chunk:
    """Some conversations after each other, encoded."""

    windows: list[Window]
    account: Account = field(default_factory=Account)


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
        ConversationError: If a conversation cannot be laid out (the message tells which), or none has a supervised
            turn.
        ContextTooLongError: If a conversation's pinned turns leave no room in a window.
    """
    windows: list[Window] = []
    account = Account()
    encode = partial(encode_chunk, tokenizer=tokenizer, max_length=max_length, loss_on=loss_on, on_error=on_error)
    for chunk in map(encode, chunks(conversations)):
        windows += chunk.windows
        account.add(chunk.account)
    require_windows(account, loss_on)
    return WindowSet(windows, np.array([len(window.input_ids) for window in windows], np.int32), account)


def require_windows(account: Account, loss_on: LossOn) -> None:
    """Checks that there is something to learn from or to measure.

    Raises:
        ConversationError: If no conversation has a supervised turn.
    """
    if not account.tokens:
        skipped = f" ({account.left_out()})" if account.skipped else ""
        raise ConversationError(
            f"none of {account.conversations} conversations has a turn that loss_on={loss_on!r} supervises{skipped}"
        )


Numbered = tuple[int, Sequence[Conversation]]
"""Conversations after each other, and the number of the first, counted from 1."""


def chunks(conversations: Iterable[Conversation]) -> Iterator[Numbered]:
    """Yields the conversations in lists of `CHUNK`."""
    rest, first = iter(conversations), 1
    while chunk := list(islice(rest, CHUNK)):
        yield first, chunk
        first += len(chunk)


def encode_chunk(
    numbered: Numbered,
    *,
    tokenizer: ConversationTokenizer,
    max_length: int,
    loss_on: LossOn,
    on_error: OnError = "fail",
) -> Chunk:
    """Encodes conversations together; each window says which it comes from, by its id or its number.

    Raises:
        ConversationError: If one cannot be laid out and `on_error` is `fail`; the message tells which.
        ContextTooLongError: Likewise, if its pinned turns leave no room in a window.
    """
    first, conversations = numbered
    options: dict[str, Any] = {"max_length": max_length, "loss_on": loss_on}
    problems = Problems(on_error)
    try:
        made = tokenizer.windows_batch(conversations, **options)
    except (ConversationError, ContextTooLongError):
        made = []
        for number, conversation in enumerate(conversations, first):
            try:
                made += tokenizer.windows_batch([conversation], **options)
            except (ConversationError, ContextTooLongError) as error:
                message = f"conversation {conversation.id or number}: {error}"
                if on_error == "fail":
                    raise type(error)(message) from error
                problems.found(message)
                made.append([])
    sources = [conversation.id or f"conversation {number}" for number, conversation in enumerate(conversations, first)]
    windows = [replace(window, source=source) for source, found in zip(sources, made, strict=True) for window in found]
    account = Account(
        conversations=len(conversations),
        unsupervised=sum(not found for found in made) - problems.count,
        skipped=problems.count,
        cut=sum(window.cut for window in windows),
        tokens=sum(window.supervised_tokens for window in windows),
        text_bytes=sum(window.text_bytes for window in windows),
        first_skipped=problems.messages[0] if problems.messages else "",
    )
    for conversation in conversations:
        account.meet(conversation.speaker_names)
    return Chunk(windows, account)
