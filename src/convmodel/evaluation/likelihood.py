"""The likelihood of conversations under a model.

Owns: loss, perplexity and bits per byte, each a ratio of two sums, so that batch size, padding and order do not
matter. Takes a Hugging Face model and windows; does not know generation.
"""

import math
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING, Any

import torch

from convmodel.data.reading.reader import ConversationReader
from convmodel.data.windows.collate import indices_by_length
from convmodel.data.windows.encoding import EncodingSummary, WindowSet
from convmodel.data.windows.store import prepare_windows
from convmodel.errors import ConfigError
from convmodel.evaluation.custom_metric import TurnMetric
from convmodel.evaluation.installed_metrics import has_installed, measure_installed
from convmodel.evaluation.processes import Processes
from convmodel.evaluation.turn_statistics import CorpusStatistics, measure_turns
from convmodel.hf_model.lm_head import Head
from convmodel.hf_model.log_probs import BATCH_SIZE, measure_targets
from convmodel.hf_model.waiting import WAITING
from convmodel.layout.architecture import window_length
from convmodel.layout.sequence import LossOn
from convmodel.layout.tokenizer import ConversationTokenizer

if TYPE_CHECKING:
    from transformers import PreTrainedModel


_LARGEST_EXPONENT = 700.0


@dataclass(frozen=True, slots=True)
class EvaluationResult:
    """A model's likelihood of conversations.

    Attributes:
        loss: Nats per supervised token: the sum of -ln p over all supervised tokens, divided by their count.
        perplexity: exp(loss), per supervised token; comparable only between models of one vocabulary.
        bits_per_byte: Bits per UTF-8 byte of the supervised turns' text, the tokens that end turns left out since
            they have no bytes; comparable between any two models.
        tokens: Supervised tokens, those that end turns included.
        text_bytes: UTF-8 bytes of the supervised turns' text.
        conversations: How many conversations there were.
        windows: How many windows they make.
        unsupervised: Conversations without a supervised turn; they count for nothing above.
        cut: Tokens left out of turns longer than a window; they count for nothing above.
        skipped: Rows and conversations that could not be used and were left out.
        metrics: The values of the metrics of turns that installed packages add, by name.
    """

    loss: float
    perplexity: float
    bits_per_byte: float
    tokens: int
    text_bytes: int
    conversations: int
    windows: int
    unsupervised: int = 0
    cut: int = 0
    skipped: int = 0
    metrics: dict[str, float] = field(default_factory=dict, hash=False, repr=False)

    def to_dict(self) -> dict[str, Any]:
        """Returns the fields as a dictionary of numbers, with `metrics` if there are any."""
        fields = asdict(self)
        return fields if self.metrics else {name: value for name, value in fields.items() if name != "metrics"}


def evaluate(
    hf_model: "PreTrainedModel",
    tokenizer: ConversationTokenizer,
    data: ConversationReader,
    *,
    batch_size: int = BATCH_SIZE,
    max_length: int | None = None,
    loss_on: LossOn | None = None,
) -> EvaluationResult:
    """Measures a model on conversations, by default with the window length and the targets of its training.

    Installed packages may add metrics of turns; one that cannot be used is left out with a warning.
    """
    layout = tokenizer.layout
    max_length = window_length(hf_model.config, layout.max_length if max_length is None else max_length)
    loss_on = layout.loss_on if loss_on is None else loss_on
    if not has_installed(TurnMetric):
        windows = prepare_windows(data, tokenizer, max_length=max_length, loss_on=loss_on)
        return evaluate_windows(hf_model, tokenizer, windows, batch_size=batch_size)
    statistics = measure_turns(
        hf_model,
        tokenizer,
        data,
        max_length=max_length,
        loss_on=loss_on,
        batch_size=batch_size,
        on_error=data.problems.on_error,
    )
    statistics.summary.add_problems(data.problems)
    installed = measure_installed(TurnMetric, [conversation.turns for conversation in statistics.conversations])
    return replace(likelihood_of(statistics), metrics={metric.name: metric.value for metric in installed.metrics})


def evaluate_windows(
    hf_model: "PreTrainedModel",
    tokenizer: ConversationTokenizer,
    data: WindowSet,
    *,
    batch_size: int = BATCH_SIZE,
    progress: Callable[[int], None] | None = None,
    processes: Processes | None = None,
    allow_nan: bool = False,
) -> EvaluationResult:
    """Measures a model on encoded conversations; calls `progress` after each batch with its number of windows.

    The batch size changes memory and speed, not the result, and so do several `processes` that share the batches: all
    of them return the result of one, to the last bit. The model's mode does not change.

    Raises:
        LogitsError: If the model's logits are not numbers; with `allow_nan`, the result's values are not.
    """
    if batch_size < 1:
        raise ConfigError(f"batch_size is {batch_size}: it must be at least 1")
    processes = processes or Processes()
    ends, head = torch.tensor(sorted(tokenizer.end_ids)), Head.of(hf_model)
    sums = torch.zeros(2, len(data.windows), dtype=torch.float64)  # of all targets, and of those that are text
    with WAITING.adapting(hf_model.device):
        for indices, counts in processes.own(indices_by_length(data.lengths, batch_size)):
            WAITING.look()
            windows = [data.windows[index] for index in indices]
            nats, labels = measure_targets(hf_model, tokenizer, windows, head=head, allow_nan=allow_nan)
            if counts:
                sums[0, indices] = nats.sum(dim=1)
                sums[1, indices] = nats.masked_fill(torch.isin(labels, ends), 0.0).sum(dim=1)
            if progress:
                progress(len(indices))
    all_nats, text_nats = processes.total(sums).tolist()
    return _result(all_nats, text_nats, data.summary, len(data.windows))


def likelihood_of(statistics: CorpusStatistics) -> EvaluationResult:
    """Adds up the turns to the result that `evaluate_windows` has for the same conversations."""
    turns = [turn for conversation in statistics.conversations for turn in conversation.turns]
    nats, text_nats = [turn.nats for turn in turns], [turn.text_nats for turn in turns]
    return _result(nats, text_nats, statistics.summary, statistics.windows)


def _result(
    nats: Iterable[float], text_nats: Iterable[float], summary: EncodingSummary, windows: int
) -> EvaluationResult:
    # fsum is exact, so the order of the summands does not matter.
    loss = math.fsum(nats) / summary.tokens
    return EvaluationResult(
        loss=loss,
        perplexity=math.inf if loss > _LARGEST_EXPONENT else math.exp(loss),
        bits_per_byte=math.fsum(text_nats) / math.log(2) / max(1, summary.text_bytes),
        tokens=summary.tokens,
        text_bytes=summary.text_bytes,
        conversations=summary.conversations,
        windows=windows,
        unsupervised=summary.unsupervised,
        cut=summary.cut,
        skipped=summary.skipped,
    )
