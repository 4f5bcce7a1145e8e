"""How probable a model finds tokens, given those before.

Owns: ln p of each target of some windows, and of responses to a context. Knows no generation.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, TypeAlias

import torch
import torch.nn.functional as F

from convmodel.conversation import Conversation
from convmodel.data.windows.collate import pad
from convmodel.errors import ContextTooLongError, ConversationError
from convmodel.hf_model.eval_mode import evaluation_mode
from convmodel.hf_model.lm_head import Head
from convmodel.layout.architecture import positions, window_length
from convmodel.layout.sequence import IGNORED, Window
from convmodel.layout.tokenizer import ConversationTokenizer

if TYPE_CHECKING:
    from transformers import PreTrainedModel

BATCH_SIZE = 8
"""Windows computed together, unless the caller says otherwise."""

Measure: TypeAlias = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
"""Makes numbers of the logits of some targets and their labels."""


def token_nats(
    hf_model: "PreTrainedModel",
    tokenizer: ConversationTokenizer,
    windows: Sequence[Window],
    *,
    head: Head | None = None,
    side: str = "right",
) -> tuple[torch.Tensor, torch.Tensor]:
    """Computes -ln p of each supervised token; see `measure_targets`."""
    return measure_targets(hf_model, tokenizer, windows, _nats, head=head, side=side)


def measure_targets(
    hf_model: "PreTrainedModel",
    tokenizer: ConversationTokenizer,
    windows: Sequence[Window],
    measure: Measure,
    *,
    head: Head | None = None,
    side: str = "right",
) -> tuple[torch.Tensor, torch.Tensor]:
    """Measures something of each supervised token.

    Args:
        hf_model: A causal language model; its mode is left as it was found.
        tokenizer: The layout the windows were made with.
        windows: One batch.
        measure: Makes numbers of the logits of some targets, of shape (targets, vocabulary), and their labels: of
            shape (targets,) or (targets, numbers).
        head: The model's parts: with them, logits are made for targets only, and never all at once.
        side: Where the padding goes; it does not change the result.

    Returns:
        Two tensors on the CPU: what was measured, of shape (batch, seq - 1) or (batch, seq - 1, numbers), in float64
        and 0 where there is no target; and the labels it belongs to, of shape (batch, seq - 1).
    """
    batch = pad(windows, tokenizer.pad_token_id, use_token_types=tokenizer.layout.use_token_types, side=side)
    labels = batch.pop("labels")[:, 1:]
    batch.pop("weights", None)  # they are for training; here every supervised token counts alike
    inputs = {name: tensor.to(hf_model.device) for name, tensor in batch.items()}
    where = labels != IGNORED
    targets = labels[where].to(hf_model.device)
    found: list[torch.Tensor] = []
    with evaluation_mode(hf_model), torch.inference_mode():
        for logits in _logits_of_targets(hf_model, head, inputs, where.to(hf_model.device)):
            begin = sum(map(len, found))
            label = targets[begin : begin + len(logits)].to(logits.device)
            found.append(measure(logits, label))
    measured = torch.cat(found)
    values = torch.zeros(*labels.shape, *measured.shape[1:], dtype=torch.float64)
    values[where] = measured.double().cpu()
    return values, labels


def _nats(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    return F.cross_entropy(logits, labels, reduction="none")


def _logits_of_targets(
    hf_model: "PreTrainedModel", head: Head | None, inputs: dict[str, torch.Tensor], where: torch.Tensor
) -> Iterator[torch.Tensor]:
    """Yields the logits of the positions before targets, in float32 and in parts."""
    if head is not None:
        yield from head.logits(head.hidden(**inputs)[:, :-1][where])
        return
    # One row at a time: a whole batch in float32 beside its softmax would double the memory.
    for row, chosen in zip(hf_model(**inputs, use_cache=False).logits[:, :-1], where, strict=True):
        yield row[chosen].float()


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
    """Returns ln p of each response and the separator that closes it, given the context, in nats.

    Oldest whole turns of the context are left out where it is longer than `max_length` tokens; by default that is what
    the model can read.

    Raises:
        ConversationError: If a response is empty.
        ContextTooLongError: If a response alone is too long.
    """
    if isinstance(responses, str):
        raise ConversationError("responses are a list of responses, not one string")
    max_length = max_length or positions(hf_model.config) or window_length(hf_model.config)
    responder = tokenizer.responder(context, reply_as)
    windows = []
    for number, response in enumerate(responses, 1):
        conversation = context.with_turn(response, responder)
        [window] = tokenizer.windows(conversation, max_length=max_length, loss_on="last", context_share=1.0)
        if window.cut:
            raise ContextTooLongError(f"response {number} is {window.cut} tokens longer than {max_length} positions")
        windows.append(window)
    return log_probabilities(hf_model, tokenizer, windows, head=head)


def log_probabilities(
    hf_model: "PreTrainedModel",
    tokenizer: ConversationTokenizer,
    windows: Sequence[Window],
    *,
    head: Head | None = None,
) -> list[float]:
    """Returns ln p of all targets of each window, in nats; with the head, logits are made for targets only."""
    found: list[float] = []
    for start in range(0, len(windows), BATCH_SIZE):
        nats, _ = token_nats(hf_model, tokenizer, windows[start : start + BATCH_SIZE], head=head)
        found += (-nats.sum(dim=1)).tolist()
    return found
