"""What a model makes of each turn of each conversation, in one pass over the tokens.

Owns: the sums a turn, and attributing the targets of windows to turns. All figures of likelihood are made of these.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F

from convmodel.conversation import Conversation
from convmodel.data.reading.problems import OnError
from convmodel.data.windows.collate import by_length
from convmodel.data.windows.encoding import CHUNK, EncodingSummary, encode_chunk, require_windows
from convmodel.errors import ConfigError
from convmodel.hf_model.lm_head import Head
from convmodel.hf_model.log_probs import BATCH_SIZE, Measure, measure_targets
from convmodel.layout.sequence import IGNORED, LossOn, Window, supervised_turns
from convmodel.layout.tokenizer import ConversationTokenizer

if TYPE_CHECKING:
    from transformers import PreTrainedModel

BINS = 10
"""Into how many equal parts the probabilities of the separator are sorted."""

Array = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class TurnSums:
    """What a model makes of one supervised turn.

    Attributes:
        number: Its place in the conversation, from 1; pinned turns do not count.
        speaker: Who says it.
        tokens: Its targets: its tokens and, unless the turn was cut, the separator that closes it.
        nats: The sum of their -ln p.
        text_nats: The same without the separator.
        text_bytes: UTF-8 bytes of its text.
        correct: How many targets the model finds likelier than any other token.
        closed: Whether its end is a target.
        stop: p(separator) at the end; 0 if that is no target.
        false_stop: The sum of p(separator) at all its other targets, where the turn goes on.
        ended_early: The probability that a separator drawn at one of these would have ended it before its end:
            1 - the product of 1 - p(separator).
    """

    number: int
    speaker: str
    tokens: int
    nats: float
    text_nats: float
    text_bytes: int
    correct: int
    closed: bool
    stop: float
    false_stop: float
    ended_early: float

    @property
    def text_tokens(self) -> int:
        """Its targets without the separator."""
        return self.tokens - self.closed


@dataclass(frozen=True, slots=True, eq=False)
class ConversationSums:
    """What a model makes of one conversation.

    Attributes:
        conversation: The conversation, in the form the model gets it.
        turns: Its supervised turns; none if it has none or could not be used.
        stops: How sure the model is of separators, of shape (BINS, 3): for each tenth of p(separator) the number of
            targets, the sum of their p, and how many of them are separators.
    """

    conversation: Conversation
    turns: list[TurnSums] = field(default_factory=list)
    stops: Array = field(default_factory=lambda: np.zeros((BINS, 3)))

    @property
    def nats(self) -> float:
        """Of all its targets."""
        return sum(turn.nats for turn in self.turns)

    @property
    def tokens(self) -> int:
        """How many targets it has."""
        return sum(turn.tokens for turn in self.turns)


@dataclass(frozen=True, slots=True)
class Measured:
    """All conversations, in their order, and what became of them.

    Attributes:
        conversations: One entry for every conversation that was given.
        summary: What was left out.
        windows: How many windows they make.
    """

    conversations: list[ConversationSums]
    summary: EncodingSummary
    windows: int


def measure_turns(
    hf_model: "PreTrainedModel",
    tokenizer: ConversationTokenizer,
    conversations: Iterable[Conversation],
    *,
    max_length: int,
    loss_on: LossOn,
    batch_size: int = BATCH_SIZE,
    on_error: OnError = "fail",
) -> Measured:
    """Measures a model on each turn of each conversation.

    Args:
        hf_model: A causal language model; its mode is left as it was found.
        tokenizer: Its layout.
        conversations: Read once, and only some are in memory at a time.
        max_length: The longest window.
        loss_on: Whose turns are supervised.
        batch_size: Windows at a time; it changes the memory needed and the speed, not the result.
        on_error: Whether a conversation that cannot be laid out is an error, or left out and counted.

    Raises:
        ConfigError: If `batch_size` is less than 1.
        ConversationError: If a conversation cannot be laid out, or none has a supervised turn.
        ContextTooLongError: If a conversation's pinned turns leave no room in a window.
    """
    if batch_size < 1:
        raise ConfigError(f"batch_size is {batch_size}: it must be at least 1")
    head, summary, found, windows = Head.of(hf_model), EncodingSummary(), [], 0
    rest, first = iter(conversations), 1
    while chunk := list(islice(rest, CHUNK)):
        begun: list[ConversationSums] = []
        jobs: list[_Job] = []
        for number, conversation in enumerate(chunk, first):
            encoded = encode_chunk(
                (number, [conversation]), tokenizer=tokenizer, max_length=max_length, loss_on=loss_on, on_error=on_error
            )
            summary.add(encoded.summary)
            arranged = (
                conversation if tokenizer.layout.use_token_types or not encoded.windows else conversation.joined()
            )
            begun.append(ConversationSums(arranged))
            jobs += _jobs(begun[-1], encoded.windows, supervised_turns(arranged, loss_on), tokenizer.sep_token_id)
        _measure(hf_model, tokenizer, jobs, head, batch_size)
        found += begun
        windows += len(jobs)
        first += len(chunk)
    require_windows(summary, loss_on)
    return Measured(found, summary, windows)


@dataclass(frozen=True, slots=True, eq=False)
class _Job:
    """A window, and where the turns that it supervises belong."""

    window: Window
    of: ConversationSums
    turns: list[int]


def _jobs(of: ConversationSums, windows: Sequence[Window], supervised: list[bool], separator: int) -> Iterator[_Job]:
    """Gives each window its turns: each supervised turn is in one window, and they come in order."""
    order = iter([index for index, chosen in enumerate(supervised) if chosen])
    for window in windows:
        # A turn that was cut is alone in its window, without its end.
        closed = sum(label == separator for label in window.labels)
        yield _Job(window, of, list(islice(order, 1 if window.cut else closed)))


def _measure(
    hf_model: "PreTrainedModel", tokenizer: ConversationTokenizer, jobs: list[_Job], head: Head | None, batch_size: int
) -> None:
    """Measures the windows, and adds their turns to their conversations in order."""
    measure, owner = _measuring(tokenizer.sep_token_id), {id(job.window): job for job in jobs}
    for windows in by_length([job.window for job in jobs], batch_size):
        values, labels = measure_targets(hf_model, tokenizer, windows, measure, head=head)
        for window, row, label in zip(windows, values.numpy(), labels.numpy(), strict=True):
            where = label != IGNORED
            _add(owner[id(window)], row[where], label[where] == tokenizer.sep_token_id)
    for job in jobs:
        job.of.turns.sort(key=lambda turn: turn.number)


def _measuring(separator: int) -> Measure:
    """Returns what makes of logits: -ln p of the target, whether it is the likeliest token, and p(separator)."""

    def measure(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        nats = F.cross_entropy(logits, labels, reduction="none")
        stop = (logits[:, separator] - logits.logsumexp(dim=-1)).exp()
        return torch.stack([nats, (logits.argmax(dim=-1) == labels).float(), stop], dim=-1)

    return measure


def _add(job: _Job, values: Array, ends: npt.NDArray[np.bool_]) -> None:
    """Sums what was measured of the targets of a window, turn by turn."""
    nats, correct, stop = values.T
    text = ~ends
    turn_of: npt.NDArray[np.int64] = np.cumsum(ends) - ends

    def summed(numbers: Array) -> Array:
        found: Array = np.bincount(turn_of, weights=numbers, minlength=len(job.turns)).astype(np.float64)
        return found

    with np.errstate(divide="ignore"):
        ended_early = -np.expm1(summed(np.where(text, np.log1p(-np.minimum(stop, 1.0)), 0.0)))
    sums = [np.bincount(turn_of), *map(summed, (nats, nats * text, correct, ends, stop * ends, stop * text))]
    conversation = job.of.conversation
    for place, index in enumerate(job.turns):
        tokens, all_nats, text_nats, right, closed, at_end, inside = (float(column[place]) for column in sums)
        job.of.turns.append(
            TurnSums(
                number=index - conversation.pinned + 1,
                speaker=conversation.turn_speakers[index],
                tokens=int(tokens),
                nats=all_nats,
                text_nats=text_nats,
                text_bytes=job.window.text_bytes if job.window.cut else len(conversation.turns[index].encode()),
                correct=int(right),
                closed=bool(closed),
                stop=at_end,
                false_stop=inside,
                ended_early=float(ended_early[place]),
            )
        )
    tenth = np.minimum((stop * BINS).astype(int), BINS - 1)
    for column, numbers in enumerate((np.ones_like(stop), stop, ends.astype(np.float64))):
        job.of.stops[:, column] += np.bincount(tenth, weights=numbers, minlength=BINS)
