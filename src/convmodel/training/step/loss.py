"""The training loss, and log-probabilities that losses are made of.

Owns: the formula of supervised training, a weighted sum over supervised tokens divided by their weight over a whole
step, and the log-probability of each window's targets; both from logits, or from hidden states in chunks.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
import torch.nn.functional as F

from convmodel.hf_model.devices import sum_dtype
from convmodel.hf_model.int8_matrix import Int8Matrix
from convmodel.hf_model.lm_head import Head, chunk_size
from convmodel.hf_model.log_probs import label_log_probs
from convmodel.layout.sequence import IGNORED


def supervised_loss(
    logits: torch.Tensor,
    labels: torch.Tensor,
    total_weight: torch.Tensor | float,
    weights: torch.Tensor | None = None,
) -> torch.Tensor:
    """Sums -w ln p over a batch's supervised tokens and divides by the sum of w over the whole step, in nats.

    With means of batches, averaged over a step, a token of a short batch would weigh more than one of a long batch;
    with one divisor for the step, a batch of 8 and 8 batches of 1 give the same step.

    Args:
        logits: Shape (batch, seq, vocab).
        labels: Shape (batch, seq), not shifted; `IGNORED` where there is no target.
        total_weight: The weight of all targets in the step, over all batches and processes: their count, where each
            weighs 1. 0 counts as 1, so that a batch without targets gives 0 rather than nan.
        weights: Shape (batch, seq): each target's weight; without them each weighs 1.
    """
    targets = labels[:, 1:].flatten()
    rows = (targets != IGNORED).nonzero().squeeze(1)
    nats = -label_log_probs(logits[:, :-1].flatten(0, 1)[rows].float(), targets[rows])
    if weights is not None:
        nats = nats * weights[:, 1:].flatten()[rows]
    return nats.sum() / (float(total_weight) or 1.0)


def head_loss(
    head: Head,
    hidden: torch.Tensor,
    labels: torch.Tensor,
    total_weight: torch.Tensor | float,
    weights: torch.Tensor | None = None,
) -> torch.Tensor:
    """Computes `supervised_loss` of a head's logits without ever holding them all.

    Takes the same arguments, but the hidden states of shape (batch, seq, width) in place of logits. Positions without
    a target cost nothing.
    """
    targets = labels[:, 1:].flatten()
    rows = (targets != IGNORED).nonzero().squeeze(1)
    chosen = hidden[:, :-1].flatten(0, 1)[rows]
    chosen_weights = None if weights is None else weights[:, 1:].flatten()[rows]
    summed: Callable[..., torch.Tensor] = _HeadLoss.apply
    loss = summed(chosen, *_weights(head), (targets[rows], chosen_weights))
    return loss / (float(total_weight) or 1.0)


def window_log_probs(
    hidden: torch.Tensor,
    head: Head | None,
    labels: torch.Tensor,
    segments: torch.Tensor,
    count: int,
    weights: torch.Tensor | None = None,
) -> torch.Tensor:
    """Sums w ln p of the targets of each window; differentiable, and without ever holding all logits of a head.

    Args:
        hidden: Hidden states of shape (batch, seq, width); without a head, logits of shape (batch, seq, vocab).
        head: The head that computes logits of hidden states.
        labels: Shape (batch, seq), not shifted; `IGNORED` where there is no target.
        segments: Shape (batch, seq): the number of the window that each position belongs to.
        count: The number of windows in the batch.
        weights: Shape (batch, seq): each target's weight w; without them each weighs 1.

    Returns:
        Shape (count,), in nats, float32; 0 for a window without targets.
    """
    targets = labels[:, 1:].flatten()
    rows = (targets != IGNORED).nonzero().squeeze(1)
    chosen, columns = hidden[:, :-1].flatten(0, 1)[rows], targets[rows]
    if head is None:
        log_probs = label_log_probs(chosen.float(), columns)
    else:
        computed: Callable[..., torch.Tensor] = _HeadLogProbs.apply
        log_probs = computed(chosen, *_weights(head), columns)
    if weights is not None:
        log_probs = log_probs * weights[:, 1:].flatten()[rows].to(log_probs)
    numbers = segments[:, 1:].flatten()[rows].to(log_probs.device)
    return torch.zeros(count, device=log_probs.device).index_add(0, numbers, log_probs)


_Matrix = torch.Tensor | Int8Matrix


def _weights(head: Head) -> tuple[_Matrix, torch.Tensor | None, torch.Tensor | None, list[int] | None]:
    """Returns a head's matrix, its bias, and the values and numbers of the rows that are trained if others are not."""
    numbers, values = head.trained_rows or (None, None)
    weight = head.weight
    if values is not None and isinstance(weight, torch.Tensor):
        weight = weight.detach()
    return weight, head.bias, values, numbers


def _dtype(weight: _Matrix, hidden: torch.Tensor) -> torch.dtype:
    """Returns the dtype of products with a head's matrix."""
    if torch.is_autocast_enabled(weight.device.type):
        return torch.get_autocast_dtype(weight.device.type)
    return weight.dtype if isinstance(weight, torch.Tensor) else hidden.dtype


def _values(weight: _Matrix, dtype: torch.dtype) -> torch.Tensor:
    """Returns a head's matrix in a dtype."""
    return weight.detach().to(dtype) if isinstance(weight, torch.Tensor) else weight.values(dtype)


class _HeadLogProbs(torch.autograd.Function):
    """Computes ln p of each target; the backward pass computes each chunk's logits again.

    How much a token's gradient weighs is known only when all log-probabilities of its judgement are.
    """

    @staticmethod
    def forward(
        ctx: Any,
        hidden: torch.Tensor,
        weight: _Matrix,
        bias: torch.Tensor | None,
        values: torch.Tensor | None,
        numbers: list[int] | None,
        labels: torch.Tensor,
    ) -> torch.Tensor:
        ctx.dtype = _dtype(weight, hidden)
        is_float = isinstance(weight, torch.Tensor)
        ctx.save_for_backward(hidden, weight if is_float else None, bias, labels)
        ctx.packed, ctx.numbers = None if is_float else weight, numbers
        log_probs = torch.empty(len(hidden), device=weight.device)
        for chunk, _, logits, columns in _logits(_values(weight, ctx.dtype), hidden, bias, labels):
            log_probs[chunk] = label_log_probs(logits.float(), columns)
        return log_probs.to(hidden.device)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> Any:
        [outer] = gradients
        hidden, weight, bias, labels = ctx.saved_tensors
        weight = ctx.packed if weight is None else weight
        weights = -outer.to(weight.device, torch.float32)  # `_by_logits` is the gradient of -ln p
        matrix = _values(weight, ctx.dtype)
        kept = _HeadGradients(matrix, hidden, weight, bias, ctx.needs_input_grad, ctx.numbers)
        for chunk, states, logits, columns in _logits(matrix, hidden, bias, labels):
            kept.add(chunk, states, _by_logits(logits, columns, weights[chunk])[0])
        return kept.by_hidden.to(hidden), kept.by_weight, kept.by_bias, kept.by_rows, None, None


class _HeadLoss(torch.autograd.Function):
    """Sums -w ln p, and computes the gradients in the forward pass, while each chunk's logits are in memory.

    d(-ln p_y)/d(logit_j) = p_j - [j = y]. Only the gradients by the hidden states, the head's matrix and its bias are
    kept, and multiplied in the backward pass by the gradient of what follows. `F.linear_cross_entropy` of torch 2.13
    does the same, but without weights per target, and its loss and the head's gradient are in the input's precision.
    """

    @staticmethod
    def forward(
        ctx: Any,
        hidden: torch.Tensor,
        weight: _Matrix,
        bias: torch.Tensor | None,
        values: torch.Tensor | None,
        numbers: list[int] | None,
        targets: tuple[torch.Tensor, torch.Tensor | None],
    ) -> torch.Tensor:
        device, (labels, weights) = weight.device, targets
        matrix = _values(weight, _dtype(weight, hidden))
        kept = _HeadGradients(matrix, hidden, weight, bias, ctx.needs_input_grad, numbers)
        total = torch.zeros((), dtype=sum_dtype(device), device=device)
        for chunk, states, logits, columns in _logits(matrix, hidden, bias, labels):
            chosen = None if weights is None else weights[chunk].to(device)
            by_logits, nats = _by_logits(logits, columns, chosen)
            total += nats
            kept.add(chunk, states, by_logits)
        ctx.save_for_backward(kept.by_hidden, kept.by_weight, kept.by_bias, kept.by_rows)
        return total.to(hidden.device, torch.float32)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> Any:
        [outer] = gradients
        # In place: the graph is gone after one backward pass, and a second matrix would double the memory.
        return *(None if kept is None else kept.mul_(outer.to(kept)) for kept in ctx.saved_tensors), None, None


def _logits(
    matrix: torch.Tensor, hidden: torch.Tensor, bias: torch.Tensor | None, labels: torch.Tensor
) -> Iterator[tuple[slice, torch.Tensor, torch.Tensor, torch.Tensor]]:
    """Yields, chunk by chunk: its place, its hidden states rounded up to `_ROWS`, its logits and its labels."""
    device, dtype, size = matrix.device, matrix.dtype, chunk_size(matrix)
    offset = None if bias is None else bias.to(dtype)
    for start in range(0, len(hidden), size):
        chunk = slice(start, start + size)
        with torch.autocast(device.type, enabled=False):
            states = _rounded_up(hidden[chunk].to(device, dtype))
            logits = F.linear(states, matrix, offset)[: len(hidden[chunk])]
        yield chunk, states, logits, labels[chunk].to(device)


class _HeadGradients:
    """The gradients by a head's hidden states, matrix and bias, from those by the logits of one chunk after another.

    With the numbers of some rows, also those by these rows of the matrix. `matrix` is `weight` in the products' dtype.
    """

    def __init__(
        self,
        matrix: torch.Tensor,
        hidden: torch.Tensor,
        weight: _Matrix,
        bias: torch.Tensor | None,
        needed: Sequence[bool],
        numbers: list[int] | None,
    ) -> None:
        # float16 rounds small probabilities to 0 before `GradScaler` can scale the loss up.
        self._dtype = torch.float32 if matrix.dtype == torch.float16 else matrix.dtype
        self._matrix = matrix if matrix.dtype == self._dtype else _values(weight, self._dtype)
        sum_dtype = torch.promote_types(self._dtype, torch.float32)
        self.by_hidden = torch.empty_like(hidden, dtype=torch.promote_types(hidden.dtype, self._dtype))
        self.by_weight = torch.zeros_like(matrix, dtype=sum_dtype) if needed[1] else None
        self.by_bias = torch.zeros_like(bias) if bias is not None and needed[2] else None
        self._numbers = numbers
        self.by_rows = None if numbers is None else matrix.new_zeros(len(numbers), matrix.shape[1], dtype=sum_dtype)

    def add(self, chunk: slice, states: torch.Tensor, by_logits: torch.Tensor) -> None:
        """Adds a chunk's part; `states` are its hidden states, rounded up to `_ROWS`."""
        with torch.autocast(by_logits.device.type, enabled=False):
            if self.by_bias is not None:
                self.by_bias += by_logits.sum(0)
            if self.by_rows is not None:
                rows = by_logits[:, self._numbers].to(self.by_rows)
                self.by_rows += rows.t() @ states[: len(rows)].to(self.by_rows)
            count = len(by_logits)
            by_logits = _rounded_up(by_logits.to(self._dtype))
            self.by_hidden[chunk] = (by_logits @ self._matrix)[:count].to(self.by_hidden)
            if self.by_weight is not None:
                _add_product(self.by_weight, by_logits.t(), states.to(self._dtype))


def _add_product(total: torch.Tensor, left: torch.Tensor, right: torch.Tensor) -> None:
    """Adds a matrix product to a matrix: in place, unless the product is computed in less precision."""
    if left.dtype == total.dtype:
        total.addmm_(left, right)
    else:
        total += left @ right


_ROWS = 64


def _rounded_up(rows: torch.Tensor) -> torch.Tensor:
    """Adds rows of zeros up to a multiple of `_ROWS`.

    oneDNN keeps what it compiles for each shape of a product, a megabyte for a large vocabulary. Every batch has
    another number of targets, so that memory would grow by a gigabyte in a thousand batches.
    """
    missing = -len(rows) % _ROWS
    return F.pad(rows, (0, 0, 0, missing)) if missing else rows


def _by_logits(
    logits: torch.Tensor, labels: torch.Tensor, weights: torch.Tensor | None
) -> tuple[torch.Tensor, torch.Tensor]:
    """Returns the gradient of the sum of -w ln p by the logits, in float32, and that sum in `sum_dtype`."""
    logits = logits.float()
    columns = labels[:, None]
    # Not `log_softmax`, which is less exact: see `label_log_probs`.
    largest = logits.amax(1, keepdim=True)
    gradient = logits.sub(largest).exp_()
    total = gradient.sum(1, keepdim=True)
    nats = total.log() - (logits.gather(1, columns) - largest)
    gradient.div_(total)
    gradient.scatter_add_(1, columns, torch.full_like(nats, -1.0))
    if weights is not None:
        gradient.mul_(weights[:, None])
        nats = nats * weights[:, None]
    return gradient, nats.sum(dtype=sum_dtype(nats.device))
