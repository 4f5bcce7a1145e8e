"""How probable a model finds conversations.

Owns: loss, perplexity and bits per byte, each a ratio of two sums, so that batch size, padding and order do not
matter. Takes a Hugging Face model and windows; knows no generation.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F

from convmodel.conversation import Conversation
from convmodel.data.batching import by_length, pad
from convmodel.data.window_set import WindowSet
from convmodel.errors import ConfigError, ContextTooLongError, ConversationError
from convmodel.head import Head
from convmodel.inference import evaluation_mode
from convmodel.layout import IGNORED, Window
from convmodel.tokenizer import ConversationTokenizer

if TYPE_CHECKING:
    from transformers import PreTrainedModel

BATCH_SIZE = 8
"""Windows evaluated together, unless the caller says otherwise."""


@dataclass(frozen=True, slots=True)
class EvaluationResult:
    """A model's likelihood of conversations.

    Attributes:
        loss: Nats per supervised token: the sum of -ln p over all supervised tokens, divided by their count.
        perplexity: exp(loss), per supervised token; comparable only between models of one vocabulary.
        bits_per_byte: Bits per UTF-8 byte of the supervised turns' text, separators left out since they have no
            bytes; comparable between any two models.
        tokens: Supervised tokens, closing separators included.
        text_bytes: UTF-8 bytes of the supervised turns' text.
        conversations: How many conversations were given.
        windows: How many windows they make.
        unsupervised: Conversations without a supervised turn; they count for nothing above.
        cut: Tokens left out of turns longer than a window; they count for nothing above.
        skipped: Rows and conversations that could not be used and were left out.
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

    def to_dict(self) -> dict[str, Any]:
        """The fields as a dictionary of numbers."""
        return asdict(self)


def evaluate_windows(
    hf_model: "PreTrainedModel",
    tokenizer: ConversationTokenizer,
    data: WindowSet,
    *,
    batch_size: int = BATCH_SIZE,
    progress: Callable[[int], None] | None = None,
) -> EvaluationResult:
    """Measures a model on encoded conversations.

    Args:
        hf_model: A causal language model; its mode is left as it was found.
        tokenizer: The layout the windows were made with.
        data: What `encode_windows` made.
        batch_size: Windows at a time; it changes the memory needed and the speed, not the result.
        progress: Called after each batch with the number of windows in it.
    """
    if batch_size < 1:
        raise ConfigError(f"batch_size is {batch_size}: it must be at least 1")
    separator, head = tokenizer.sep_token_id, Head.of(hf_model)
    all_nats: list[float] = []
    text_nats: list[float] = []
    for windows in by_length(data.windows, batch_size, data.lengths):
        nats, labels = token_nats(hf_model, tokenizer, windows, head=head)
        all_nats += nats.sum(dim=1).tolist()
        text_nats += nats.masked_fill(labels == separator, 0.0).sum(dim=1).tolist()
        if progress:
            progress(len(windows))
    # fsum is exact, so the order of the windows does not matter.
    tokens = data.tokens
    loss = math.fsum(all_nats) / tokens
    text_bytes = data.account.text_bytes
    return EvaluationResult(
        loss=loss,
        perplexity=math.inf if loss > _LARGEST_EXPONENT else math.exp(loss),
        bits_per_byte=math.fsum(text_nats) / math.log(2) / max(1, text_bytes),
        tokens=tokens,
        text_bytes=text_bytes,
        conversations=data.conversations,
        windows=len(data.windows),
        unsupervised=data.unsupervised,
        cut=data.cut,
        skipped=data.account.skipped,
    )


_LARGEST_EXPONENT = 700.0


def token_nats(
    hf_model: "PreTrainedModel",
    tokenizer: ConversationTokenizer,
    windows: Sequence[Window],
    *,
    head: Head | None = None,
    side: str = "right",
) -> tuple[torch.Tensor, torch.Tensor]:
    """Computes -ln p of each supervised token.

    Args:
        hf_model: A causal language model; its mode is left as it was found.
        tokenizer: The layout the windows were made with.
        windows: One batch.
        head: The model's parts: with them, logits are made for targets only, and never all at once.
        side: Where the padding goes; it does not change the result.

    Returns:
        Two tensors of shape (batch, seq - 1), on the CPU: nats in float64, 0 where there is no target; and the labels
        they belong to.
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
            found.append(F.cross_entropy(logits, label, reduction="none"))
    nats = torch.zeros(labels.shape, dtype=torch.float64)
    nats[where] = torch.cat(found).double().cpu()
    return nats, labels


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
    max_length: int,
) -> list[float]:
    """Returns ln p of each response and the separator that closes it, given the context, in nats.

    Oldest whole turns of the context are left out where it is too long.

    Raises:
        ConversationError: If a response is empty.
        ContextTooLongError: If a response alone is too long.
    """
    if isinstance(responses, str):
        raise ConversationError("responses are a list of responses, not one string")
    responder = tokenizer.responder(context, reply_as)
    windows = []
    for number, response in enumerate(responses, 1):
        conversation = context.with_turn(response, responder)
        [window] = tokenizer.windows(conversation, max_length=max_length, loss_on="last", context_share=1.0)
        if window.cut:
            raise ContextTooLongError(f"response {number} is {window.cut} tokens longer than {max_length} positions")
        windows.append(window)
    scores: list[float] = []
    for start in range(0, len(windows), BATCH_SIZE):
        nats, _ = token_nats(hf_model, tokenizer, windows[start : start + BATCH_SIZE])
        scores += (-nats.sum(dim=1)).tolist()
    return scores
