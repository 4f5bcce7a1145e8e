"""Judgements to windows: each response after its context, in the model's tokens.

Owns: the windows of a judgement's responses, and of responses to contexts that are not theirs; the counts of what does
not fit. Knows no files and no loss.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from convmodel.data.judgements.judgement import Judgement
from convmodel.data.windows.encoding import EncodingSummary, WindowSet
from convmodel.errors import ContextTooLongError, ConversationError
from convmodel.layout.sequence import IGNORED, Window
from convmodel.layout.tokenizer import ConversationTokenizer


@dataclass(frozen=True, slots=True)
class Example:
    """One judgement as windows.

    Attributes:
        chosen: The number of the liked response's window; None if there is none.
        rejected: The number of the disliked response's window; None if there is none.
        weight: The judgement's weight in the loss.
    """

    chosen: int | None
    rejected: int | None
    weight: float = 1.0

    @property
    def numbers(self) -> tuple[int, ...]:
        """The numbers of its windows."""
        return tuple(number for number in (self.chosen, self.rejected) if number is not None)


@dataclass(frozen=True, slots=True)
class ExampleSet:
    """Judgements as windows, whose targets are the response and the token that ends it.

    Attributes:
        examples: One for each judgement.
        windows: The windows of all responses.
        mismatched: For each of these windows, the same context with the response of another judgement; None without
            another judgement.
        left_out: What could not be used, in a sentence; empty if everything was.
    """

    examples: Sequence[Example]
    windows: WindowSet
    mismatched: Sequence[Window] | None
    left_out: str = ""

    def lengths(self) -> np.ndarray:
        """The tokens of each example's windows together."""
        return np.array([self.windows.lengths[[*example.numbers]].sum() for example in self.examples], np.int32)


@dataclass(slots=True)
class _Encoder:
    """Encodes judgements one by one, and counts those that do not fit."""

    tokenizer: ConversationTokenizer
    max_length: int
    pairs_only: bool
    used: list[Judgement] = field(default_factory=list)
    windows: list[Window] = field(default_factory=list)
    examples: list[Example] = field(default_factory=list)
    counts: dict[str, int] = field(default_factory=dict)

    def add(self, judgement: Judgement) -> None:
        """Adds a judgement, or counts why it cannot be used."""
        if not judgement.weight:
            self.count("have weight 0")
            return
        if self.pairs_only and not judgement.is_pair:
            self.count("have only one response")
            return
        texts = [text for text in (judgement.chosen, judgement.rejected) if text is not None]
        windows = response_windows(self.tokenizer, judgement, texts, self.max_length)
        if windows is None:
            self.count(f"do not fit in windows of {self.max_length:,} tokens")
            return
        first = len(self.windows)
        rejected = None if judgement.rejected is None else first + len(windows) - 1
        self.examples.append(Example(None if judgement.chosen is None else first, rejected, judgement.weight))
        self.windows += windows
        self.used.append(judgement)

    def count(self, reason: str) -> None:
        """Counts a judgement that cannot be used."""
        self.counts[reason] = self.counts.get(reason, 0) + 1


def encode_judgements(
    judgements: Iterable[Judgement],
    tokenizer: ConversationTokenizer,
    *,
    max_length: int,
    pairs_only: bool = False,
    mismatched: bool = False,
) -> ExampleSet:
    """Encodes judgements as windows of at most `max_length` tokens, in memory.

    A context that is too long loses its oldest whole turns, the same for both responses of a pair. A judgement with a
    response that is too long alone is left out. With `pairs_only`, so are those with only one response. With
    `mismatched`, each window gets its context's continuation by another judgement's response, as KTO's estimate needs.

    Raises:
        ConversationError: If no judgement can be used.
    """
    encoder = _Encoder(tokenizer, max_length, pairs_only)
    total, refused = 0, ""
    for total, judgement in enumerate(judgements, 1):
        try:
            encoder.add(judgement)
        except ConversationError as error:
            refused = refused or f", the first because of: {judgement.id or f'judgement {total}'}: {error}"
            encoder.count("cannot be laid out")
    counts = [f"{count:,} of {total:,} judgements {reason}" for reason, count in encoder.counts.items()]
    left_out = "; ".join(text + (refused if "laid out" in text else "") for text in counts)
    if not encoder.examples:
        fix = "; objective kto can learn from single responses" if "have only one response" in encoder.counts else ""
        raise ConversationError(f"no judgement can be used: {left_out or 'there is none'}{fix}")
    windows = encoder.windows
    summary = EncodingSummary(
        conversations=len(encoder.used),
        tokens=sum(window.supervised_tokens for window in windows),
        text_bytes=sum(window.text_bytes for window in windows),
    )
    for judgement in encoder.used:
        summary.add_speakers(judgement.context.with_turn("...", judgement.responder).speaker_names)
    lengths = np.array([len(window.input_ids) for window in windows], np.int32)
    others = _mismatched(encoder) if mismatched and len(encoder.used) > 1 else None
    return ExampleSet(encoder.examples, WindowSet(windows, lengths, summary), others, left_out)


def response_windows(
    tokenizer: ConversationTokenizer, judgement: Judgement, responses: Sequence[str], max_length: int
) -> list[Window] | None:
    """Returns the windows of responses to a judgement's context, which is the same in all; None if one does not fit.

    Raises:
        ConversationError: If a prompt for this response is refused, too.
    """
    tokenizer.responder(judgement.context, judgement.responder)
    conversations = [judgement.conversation(response) for response in responses]
    lengths = [len(tokenizer.encode(conversation.turns[-1])) for conversation in conversations]
    windows: list[Window] = []
    for conversation, length in zip(conversations, lengths, strict=True):
        limit = max_length - (max(lengths) - length)  # which leaves each response's context the same room
        try:
            fitting = tokenizer.windows(conversation, max_length=limit, loss_on="last", context_share=1.0)
        except ContextTooLongError:
            return None
        if len(fitting) != 1 or fitting[0].cut or fitting[0].context_cut != 0:
            return None
        windows.append(_named(fitting[0], judgement))
    return windows


def _named(window: Window, judgement: Judgement) -> Window:
    return Window(
        window.input_ids,
        window.types,
        window.labels,
        text_bytes=window.text_bytes,
        source=judgement.id or "a judgement",
    )


_TRIED = 20  # judgements whose responses are tried in the place of a window's own


def _mismatched(encoder: _Encoder) -> list[Window]:
    """Returns, for each window, its context with the response of a judgement of another context.

    The search begins half the judgements further on, since neighbours are often of one conversation, and depends on no
    order of batches. Without such a response that fits, it is the window itself without targets.
    """
    texts = [text for judgement in encoder.used for text in (judgement.chosen, judgement.rejected) if text is not None]
    windows: list[Window] = []
    for owner, example in enumerate(encoder.examples):
        for place, number in enumerate(example.numbers):
            window = encoder.windows[number]
            windows.append(_other_response(encoder, owner, place, texts) or without_targets(window))
    return windows


def _other_response(encoder: _Encoder, owner: int, place: int, texts: Sequence[str]) -> Window | None:
    """Returns a judgement's context with the response of another one; None if none of those tried suits."""
    judgement, count = encoder.used[owner], len(encoder.used)
    own = {judgement.chosen, judgement.rejected}
    for step in range(min(_TRIED, count - 1)):
        other = (owner + 1 + (count // 2 - 1 + step) % (count - 1)) % count
        numbers = encoder.examples[other].numbers
        text = texts[numbers[place % len(numbers)]]
        if encoder.used[other].context == judgement.context or text in own:
            continue
        if windows := response_windows(encoder.tokenizer, judgement, [text], encoder.max_length):
            return windows[0]
    return None


def without_targets(window: Window) -> Window:
    """Returns a window that counts nothing in a loss."""
    return replace(window, labels=[IGNORED] * len(window.labels), weights=None)
