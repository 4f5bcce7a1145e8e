"""Statistics of each turn of each conversation, in one pass over the tokens.

Owns: the sums per turn, and attributing the targets of windows to turns. All metrics of likelihood are made of these.
"""

from collections.abc import Iterable, Iterator, Sequence, Set
from dataclasses import dataclass, field
from itertools import islice
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt
import torch

from convmodel.conversation import Conversation
from convmodel.data.reading.problems import OnError
from convmodel.data.windows.collate import by_length
from convmodel.data.windows.encoding import CHUNK, EncodingSummary, encode_chunk, require_windows
from convmodel.errors import ConfigError
from convmodel.hf_model.lm_head import Head
from convmodel.hf_model.log_probs import BATCH_SIZE, Measure, measure_targets, nats
from convmodel.hf_model.waiting import WAITING
from convmodel.layout.sequence import IGNORED, LossOn, Window, supervised_turns
from convmodel.layout.tokenizer import ConversationTokenizer

if TYPE_CHECKING:
    from transformers import PreTrainedModel

BINS = 10
"""Into how many equal parts the probabilities of an end are sorted."""

Array: TypeAlias = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class TurnStatistics:
    """Sums over the targets of one supervised turn."""

    number: int  # its place in the conversation, from 1; pinned turns do not count
    speaker: str
    text_bytes: int  # UTF-8 bytes of its text
    tokens: float  # its targets: its tokens and, unless the turn was cut, the one that ends it
    nats: float  # the sum of their -ln p
    text_nats: float  # the same without its end
    correct: float  # how many targets the model finds likelier than any other token
    closed: float  # 1 if its end is a target, else 0
    stop: float  # p(end) at the end; 0 if that is not a target
    false_stop: float  # the sum of p(end) at all its other targets, where the turn continues
    ended_early: float  # the probability that sampling ends it at one of these: 1 - the product of 1 - p(end)


CALIBRATION = ("targets", "probability", "ends")
"""The rows of a calibration: how many targets are in each tenth of p(end), the sum of their p(end), and how
many of them end a turn. Calibrations of parts add up to that of the whole."""


def calibrate(stop: Array, is_end: npt.NDArray[np.bool_]) -> Array:
    """Sorts targets by p(end), and returns their calibration, of shape (3, `BINS`)."""
    tenth = np.minimum((stop * BINS).astype(int), BINS - 1)
    return np.stack([np.bincount(tenth, values, BINS) for values in (np.ones_like(stop), stop, is_end)])


@dataclass(slots=True, eq=False)
class ConversationStatistics:
    """What was measured of one conversation, in the form that the model reads.

    It has no turns if none is supervised, or if it could not be used.
    """

    conversation: Conversation
    turns: list[TurnStatistics] = field(default_factory=list)
    calibration: Array = field(default_factory=lambda: np.zeros((len(CALIBRATION), BINS)))


@dataclass(frozen=True, slots=True)
class CorpusStatistics:
    """What was measured of all conversations, in their order, what was left out, and how many windows they make."""

    conversations: list[ConversationStatistics]
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
) -> CorpusStatistics:
    """Measures a model on each turn of each conversation.

    The conversations are read once. `on_error` is for one that cannot be laid out: an error, or left out and counted.

    Raises:
        ConfigError: If `batch_size` is less than 1.
        ConversationError: If a conversation cannot be laid out, or none has a supervised turn.
        ContextTooLongError: If a conversation's pinned turns leave no room in a window.
        LogitsError: If the model's logits are not numbers.
    """
    if batch_size < 1:
        raise ConfigError(f"batch_size is {batch_size}: it must be at least 1")
    head, summary, statistics, windows = Head.of(hf_model), EncodingSummary(), [], 0
    numbered = enumerate(conversations, 1)
    with WAITING.adapting(hf_model.device):
        while chunk := list(islice(numbered, CHUNK)):
            jobs: list[_Job] = []
            for number, conversation in chunk:
                encoded, chunk_summary = encode_chunk(
                    (number, [conversation]),
                    tokenizer=tokenizer,
                    max_length=max_length,
                    loss_on=loss_on,
                    on_error=on_error,
                )
                summary.add(chunk_summary)
                arranged = tokenizer.arrange(conversation, loss_on) if encoded else None
                joined = arranged.conversation if arranged else conversation
                statistics.append(ConversationStatistics(joined))
                supervised = supervised_turns(joined, loss_on, arranged.roles if arranged else None)
                jobs += _jobs(statistics[-1], encoded, supervised, tokenizer.end_ids)
            _measure(hf_model, tokenizer, jobs, head, batch_size)
            windows += len(jobs)
    require_windows(summary, loss_on)
    return CorpusStatistics(statistics, summary, windows)


class _TargetStatistics(NamedTuple):
    """What is measured of targets, in tensors or arrays of shape (targets,)."""

    nats: Any  # -ln p of each target
    correct: Any  # 1 if it is the likeliest token, else 0
    stop: Any  # p(end) in its place


@dataclass(frozen=True, slots=True, eq=False)
class _Job:
    """A window, and the numbers of the turns of a conversation that it supervises."""

    window: Window
    statistics: ConversationStatistics
    turns: list[int]


def _jobs(
    statistics: ConversationStatistics, windows: Sequence[Window], supervised: list[bool], end_ids: Set[int]
) -> Iterator[_Job]:
    """Gives each window its turns: each supervised turn is in one window, and they come in order."""
    order = iter([index for index, is_supervised in enumerate(supervised) if is_supervised])
    for window in windows:
        # A turn that was cut is alone in its window, without its end.
        closed = sum(label in end_ids for label in window.labels)
        yield _Job(window, statistics, list(islice(order, 1 if window.cut else closed)))


def _measure(
    hf_model: "PreTrainedModel", tokenizer: ConversationTokenizer, jobs: list[_Job], head: Head | None, batch_size: int
) -> None:
    """Measures the windows, and adds their turns to their conversations in order."""
    ends, owner = sorted(tokenizer.end_ids), {id(job.window): job for job in jobs}
    measure = _measure_of_targets(ends)
    for windows in by_length([job.window for job in jobs], batch_size):
        WAITING.look()
        values, labels = measure_targets(hf_model, tokenizer, windows, measure, head=head)
        for window, row, label in zip(windows, values.numpy(), labels.numpy(), strict=True):
            is_target = label != IGNORED
            targets = _TargetStatistics(*row[is_target].T)
            _add(owner[id(window)], targets, np.isin(label[is_target], ends))
    for job in jobs:
        job.statistics.turns.sort(key=lambda turn: turn.number)


def _measure_of_targets(ends: list[int]) -> Measure:
    """Returns the function that measures `_TargetStatistics` of logits and labels, as columns of one tensor."""

    def measure(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        columns = _TargetStatistics(
            nats=nats(logits, labels),
            correct=(logits.argmax(dim=-1) == labels).float(),
            stop=(logits[:, ends].logsumexp(dim=-1) - logits.logsumexp(dim=-1)).exp(),
        )
        return torch.stack(columns, dim=-1)

    return measure


def _add(job: _Job, targets: _TargetStatistics, is_end: npt.NDArray[np.bool_]) -> None:
    """Sums the targets of a window turn by turn."""
    is_text = ~is_end
    turn_of: npt.NDArray[np.int64] = np.cumsum(is_end) - is_end

    def per_turn(values: Array) -> Array:
        return np.bincount(turn_of, weights=values, minlength=len(job.turns)).astype(np.float64)

    with np.errstate(divide="ignore"):
        continues = np.where(is_text, np.log1p(-np.minimum(targets.stop, 1.0)), 0.0)
        ended_early = -np.expm1(per_turn(continues))
    columns = {
        "tokens": per_turn(np.ones_like(targets.nats)),
        "nats": per_turn(targets.nats),
        "text_nats": per_turn(targets.nats * is_text),
        "correct": per_turn(targets.correct),
        "closed": per_turn(is_end.astype(np.float64)),
        "stop": per_turn(targets.stop * is_end),
        "false_stop": per_turn(targets.stop * is_text),
        "ended_early": ended_early,
    }
    conversation = job.statistics.conversation
    for place, index in enumerate(job.turns):
        job.statistics.turns.append(
            TurnStatistics(
                number=index - conversation.pinned + 1,
                speaker=conversation.turn_speakers[index],
                text_bytes=job.window.text_bytes if job.window.cut else len(conversation.turns[index].encode()),
                **{name: float(column[place]) for name, column in columns.items()},
            )
        )
    job.statistics.calibration += calibrate(targets.stop, is_end)
