"""Log-probabilities of tokens.

Owns: ln p of each target of some windows, and of responses to a context; refusing a model that computes no numbers.
Does not generate.
"""

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, TypeAlias

import torch
from torch.nn.utils.rnn import pad_sequence

from convmodel.conversation import Conversation
from convmodel.data.windows.collate import pad
from convmodel.errors import ContextTooLongError, ConversationError, LogitsError
from convmodel.hf_model.eval_mode import evaluation_mode
from convmodel.hf_model.lm_head import Head
from convmodel.hf_model.shared_context import SharedContext, read_shared
from convmodel.layout.architecture import positions, shared_length, window_length
from convmodel.layout.sequence import IGNORED, Window
from convmodel.layout.tokenizer import ConversationTokenizer

if TYPE_CHECKING:
    from transformers import PreTrainedModel

BATCH_SIZE = 8
"""The default number of windows per batch."""

Measure: TypeAlias = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
"""Computes values from the logits of some targets and their labels."""


def label_log_probs(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Returns ln p of each label, from logits of shape (labels, vocabulary).

    On CPUs, torch's `log_softmax` and `cross_entropy` exponentiate less exactly: with 49,152 entries they differ from
    float64 by 2.5e-6 nats per token in the mean, always in one direction, and this by 2e-8.
    """
    largest = logits.detach().amax(1, keepdim=True)
    sums = logits.sub(largest).exp_().sum(1)
    # Not `logsumexp`, which adds the largest logit again: what it rounds away is all there is of a likely token.
    return (logits.gather(1, labels[:, None]) - largest).squeeze(1) - sums.log()


def nats(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Returns -ln p of each label."""
    return -label_log_probs(logits, labels)


def measure_targets(
    hf_model: "PreTrainedModel",
    tokenizer: ConversationTokenizer,
    windows: Sequence[Window],
    measure: Measure = nats,
    *,
    head: Head | None = None,
    context: SharedContext | None = None,
    allow_nan: bool = False,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Applies a function to the logits of each supervised token of a batch of windows; by default, returns -ln p.

    `measure` returns values of shape (targets,) or (targets, values) for logits of shape (targets, vocabulary) and
    labels. With a `head`, logits are computed for targets only, in chunks. With a `context`, the windows are what
    follows it. `allow_nan` is for callers that handle values that are not numbers.

    Returns:
        Two tensors on the CPU: the values, of shape (batch, seq - 1) or (batch, seq - 1, values), in float64 and 0 at
        positions without target; and the labels, of shape (batch, seq - 1).

    Raises:
        LogitsError: If a value is not a number, unless that is allowed.
    """
    limit = shared_length(hf_model.config)
    if limit is not None and len(windows) > 1 and max(len(window.input_ids) for window in windows) > limit:
        alone = partial(measure_targets, hf_model, tokenizer, measure=measure, head=head, allow_nan=allow_nan)
        parts = [alone(windows=[window]) for window in windows]
        return (
            pad_sequence([values[0] for values, _ in parts], batch_first=True),
            pad_sequence([labels[0] for _, labels in parts], batch_first=True, padding_value=IGNORED),
        )
    batch = pad(windows, tokenizer.pad_token_id, use_token_types=tokenizer.layout.use_token_types)
    labels = batch.pop("labels")[:, 1:]
    batch.pop("weights", None)  # for training only; here every supervised token counts equally
    inputs: dict[str, Any] = {name: tensor.to(hf_model.device) for name, tensor in batch.items()}
    if context is not None:
        inputs |= context.arguments(hf_model, inputs["attention_mask"])
    is_target = labels != IGNORED
    targets = labels[is_target].to(hf_model.device)
    measured_parts: list[torch.Tensor] = []
    with evaluation_mode(hf_model), torch.inference_mode():
        for logits in _target_logits(hf_model, head, inputs, is_target.to(hf_model.device)):
            begin = sum(map(len, measured_parts))
            measured_parts.append(measure(logits, targets[begin : begin + len(logits)].to(logits.device)))
    measured = torch.cat(measured_parts)
    values = torch.zeros(*labels.shape, *measured.shape[1:], dtype=torch.float64)
    values[is_target] = measured.cpu().double()
    if not allow_nan:
        _require_numbers(hf_model, windows, values)
    return values, labels


def _require_numbers(hf_model: "PreTrainedModel", windows: Sequence[Window], values: torch.Tensor) -> None:
    """Raises a `LogitsError` if a value is not a number; sums and ranks of such values mean nothing."""
    is_wrong = values.flatten(1).isnan().any(dim=1).tolist()
    if not any(is_wrong):
        return
    sources = dict.fromkeys(window.source for window, wrong in zip(windows, is_wrong, strict=True) if wrong)
    raise logits_error(hf_model, next((f" in {source}" for source in sources if source), ""))


def logits_error(hf_model: "PreTrainedModel", place: str = "") -> LogitsError:
    """Returns the error for logits that are not numbers, with its fix."""
    fix = "its weights are damaged or too large: use other weights"
    if hf_model.dtype == torch.float16:
        fix = (
            'float16 overflows: load the model with dtype="float32" or "bfloat16", and save it, for the command line, '
            "with save_pretrained"
        )
    return LogitsError(f"the model's logits are not numbers{place}; {fix}")


def _target_logits(
    hf_model: "PreTrainedModel", head: Head | None, inputs: dict[str, Any], is_target: torch.Tensor
) -> Iterator[torch.Tensor]:
    """Yields the logits of the positions before targets, in float32 and in parts."""
    if head is not None:
        yield from head.logits(head.hidden(**inputs)[:, :-1][is_target])
        return
    # One row at a time: a whole batch in float32 and its softmax would double the memory.
    for row, mask in zip(hf_model(**{"use_cache": False, **inputs}).logits[:, :-1], is_target, strict=True):
        yield row[mask].float()


def score_responses(
    hf_model: "PreTrainedModel",
    tokenizer: ConversationTokenizer,
    context: Conversation,
    responses: Sequence[str],
    *,
    reply_as: str | None = None,
    max_length: int | None = None,
    head: Head | None = None,
) -> list[float]:
    """Returns ln p of each response and its closing separator, given the context, in nats.

    If the longest sequence is longer than `max_length` tokens, by default the model's positions, the oldest whole turns
    of the context are left out, and the beginning of its newest one if that alone is too long, for all responses alike.

    Raises:
        ConversationError: If the responses are one string.
        ContextTooLongError: If a response alone is too long.
        LogitsError: If the model's logits are not numbers.
    """
    if isinstance(responses, str):
        raise ConversationError("responses are a list of responses, not one string")
    max_length = max_length or positions(hf_model.config) or window_length(hf_model.config)
    responder = tokenizer.responder(context, reply_as)
    conversations = [context.with_turn(response, responder) for response in responses]
    lengths = [len(tokenizer.encode(conversation.turns[-1])) for conversation in conversations]
    windows: dict[int, Window] = {}
    # The longest first: if it fits, the others fit in their lower limits.
    for number in sorted(range(len(lengths)), key=lambda number: -lengths[number]):
        limit = max_length - (max(lengths) - lengths[number])  # which leaves each response's context the same room
        [window] = tokenizer.windows(conversations[number], max_length=limit, loss_on="last", context_share=1.0)
        if window.cut:
            raise ContextTooLongError(
                f"response {number + 1} is {window.cut} tokens longer than {max_length} positions"
            )
        windows[number] = window
    ordered = [windows[number] for number in range(len(lengths))]
    return log_probabilities(hf_model, tokenizer, ordered, head)


def log_probabilities(
    hf_model: "PreTrainedModel", tokenizer: ConversationTokenizer, windows: Sequence[Window], head: Head | None = None
) -> list[float]:
    """Returns the sum of ln p over the targets of each window, in nats; what all windows begin with is read once."""
    totals: list[float] = []
    context, windows = read_shared(hf_model, tokenizer, windows)
    for start in range(0, len(windows), BATCH_SIZE):
        batch = windows[start : start + BATCH_SIZE]
        losses, _ = measure_targets(hf_model, tokenizer, batch, head=head, context=context)
        totals += (-losses.sum(dim=1)).tolist()
    return totals
