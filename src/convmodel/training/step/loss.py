"""The training loss.

Owns: its one formula, a weighted sum over supervised tokens divided by their weight over a whole step; from logits,
or from hidden states in chunks.
"""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F

from convmodel.hf_model.lm_head import Head, chunk_size
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
    nats = F.cross_entropy(
        logits[:, :-1].flatten(0, 1).float(), labels[:, 1:].flatten(), ignore_index=IGNORED, reduction="none"
    )
    if weights is not None:
        nats = nats * weights[:, 1:].flatten()
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
    loss = summed(chosen, head.weight, head.bias, targets[rows], chosen_weights)
    return loss / (float(total_weight) or 1.0)


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
        weight: torch.Tensor,
        bias: torch.Tensor | None,
        labels: torch.Tensor,
        weights: torch.Tensor | None,
    ) -> torch.Tensor:
        device, size = weight.device, chunk_size(weight)
        dtype = torch.get_autocast_dtype(device.type) if torch.is_autocast_enabled(device.type) else weight.dtype
        # float16 rounds small probabilities to 0 before `GradScaler` can scale the loss up.
        grad_dtype = torch.float32 if dtype == torch.float16 else dtype
        sum_dtype = torch.promote_types(weight.dtype, torch.float32)  # FSDP passes weights in bf16
        with torch.autocast(device.type, enabled=False):
            matrix, grad_matrix = weight.detach().to(dtype), weight.detach().to(grad_dtype)
            offset = None if bias is None else bias.to(dtype)
            by_hidden = torch.empty_like(hidden, dtype=torch.promote_types(hidden.dtype, grad_dtype))
            by_weight = torch.zeros_like(weight, dtype=sum_dtype) if ctx.needs_input_grad[1] else None
            by_bias = torch.zeros_like(bias) if bias is not None and ctx.needs_input_grad[2] else None
            total = torch.zeros((), dtype=torch.float64, device=device)
            for start in range(0, len(hidden), size):
                chunk = slice(start, start + size)
                count = len(hidden[chunk])
                states = _rounded_up(hidden[chunk].to(device, dtype))
                by_logits, nats = _by_logits(
                    F.linear(states, matrix, offset)[:count],
                    labels[chunk].to(device),
                    None if weights is None else weights[chunk].to(device),
                )
                total += nats
                if by_bias is not None:
                    by_bias += by_logits.sum(0)
                by_logits = _rounded_up(by_logits.to(grad_dtype))
                by_hidden[chunk] = (by_logits @ grad_matrix)[:count].to(by_hidden)
                if by_weight is not None:
                    _add_product(by_weight, by_logits.t(), states.to(grad_dtype))
        ctx.save_for_backward(by_hidden, by_weight, by_bias)
        return total.to(hidden.device, torch.float32)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> Any:
        [outer] = gradients
        # In place: the graph is gone after one backward pass, and a second matrix would double the memory.
        return *(None if kept is None else kept.mul_(outer.to(kept)) for kept in ctx.saved_tensors), None, None


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
    """Returns the gradient of the sum of -w ln p by the logits, in float32, and that sum in float64."""
    log_probs = torch.log_softmax(logits, dim=1, dtype=torch.float32)
    columns = labels[:, None]
    nats = -log_probs.gather(1, columns)
    gradient = log_probs.exp_()
    gradient.scatter_add_(1, columns, torch.full_like(nats, -1.0))
    if weights is not None:
        gradient.mul_(weights[:, None])
        nats = nats * weights[:, None]
    return gradient, nats.sum(dtype=torch.float64)
