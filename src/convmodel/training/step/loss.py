"""The training loss.

Owns: its one formula, a weighted sum over supervised tokens divided by their weight over a whole update; from logits,
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
    """Sums -w ln p over a batch's supervised tokens and divides by the sum of w over the whole update.

    A mean over each batch, averaged over the batches of an update, would weigh a token of a short batch more than
    one of a long batch; with one divisor for the update, 8 x 1 and 1 x 8 windows train alike.

    Args:
        logits: Shape (batch, seq, vocab).
        labels: Shape (batch, seq), not shifted; `IGNORED` where there is no target.
        total_weight: The weight of all targets in the update, over all batches and processes: their count, where each
            weighs 1. 0 counts as 1, so that a batch without targets gives 0 rather than no number.
        weights: Shape (batch, seq): each target's weight; without them each weighs 1.

    Returns:
        A scalar in nats; summed over an update's batches it is the mean per supervised token.

    Example:
        >>> labels = torch.tensor([[IGNORED, 1, 2]])
        >>> round(supervised_loss(torch.zeros(1, 3, 4), labels, 2).item(), 4)  # ln 4
        1.3863
    """
    nats = F.cross_entropy(
        logits[:, :-1].flatten(0, 1).float(), labels[:, 1:].flatten(), ignore_index=IGNORED, reduction="none"
    )
    if weights is not None:
        nats = nats * weights[:, 1:].flatten()
    return nats.sum() / _divisor(total_weight)


def head_loss(
    head: Head,
    hidden: torch.Tensor,
    labels: torch.Tensor,
    total_weight: torch.Tensor | float,
    weights: torch.Tensor | None = None,
) -> torch.Tensor:
    """Computes `supervised_loss` of a head's logits without ever holding them all.

    Takes the same arguments, but the hidden states of shape (batch, seq, width) in place of logits. Positions that are
    no targets cost nothing.
    """
    targets = labels[:, 1:].flatten()
    where = (targets != IGNORED).nonzero().squeeze(1)
    chosen = hidden[:, :-1].flatten(0, 1)[where]
    chosen_weights = None if weights is None else weights[:, 1:].flatten()[where]
    summed: Callable[..., torch.Tensor] = _HeadLoss.apply
    loss = summed(chosen, head.weight, head.bias, targets[where], chosen_weights)
    return loss / _divisor(total_weight)


class _HeadLoss(torch.autograd.Function):
    """Sums -w ln p, and computes the gradients chunk by chunk on the way, while a chunk's logits are at hand.

    d(-ln p_y)/d(logit_j) = p_j - [j = y]. Only the gradients by the hidden states and by the head's matrix are kept.
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
        device = weight.device
        autocast = torch.is_autocast_enabled(device.type)
        dtype = torch.get_autocast_dtype(device.type) if autocast else weight.dtype
        wanted = ctx.needs_input_grad
        # A small p is nothing in float16, and the factor that should save it (GradScaler's) comes only afterwards.
        finer = torch.float32 if dtype == torch.float16 else dtype
        with torch.autocast(device.type, enabled=False):
            matrix, finer_matrix = weight.detach().to(dtype), weight.detach().to(finer)
            by_hidden = torch.empty_like(hidden, dtype=torch.promote_types(hidden.dtype, finer))
            summed = torch.promote_types(weight.dtype, torch.float32)  # FSDP gives weights in bf16
            by_weight = torch.zeros_like(weight, dtype=summed) if wanted[1] else None
            by_bias = torch.zeros_like(bias) if bias is not None and wanted[2] else None
            total = torch.zeros((), dtype=torch.float64, device=device)
            for start in range(0, len(hidden), chunk_size(weight)):
                part = slice(start, start + chunk_size(weight))
                states, count = _rounded_up(hidden[part].to(device, dtype)), len(hidden[part])
                gradient, nats = _by_logits(
                    F.linear(states, matrix, None if bias is None else bias.to(dtype))[:count],
                    labels[part].to(device),
                    None if weights is None else weights[part].to(device),
                )
                total += nats
                if by_bias is not None:
                    by_bias += gradient.sum(0)
                rounded = _rounded_up(gradient.to(finer))
                by_hidden[part] = (rounded @ finer_matrix)[:count].to(by_hidden)
                if by_weight is not None:
                    by_weight += rounded.t() @ states.to(finer)
        ctx.save_for_backward(*(each for each in (by_hidden, by_weight, by_bias) if each is not None))
        ctx.kept = [each is not None for each in (by_hidden, by_weight, by_bias)]
        return total.to(hidden.device, torch.float32)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> Any:
        [outer] = gradients
        saved = iter(ctx.saved_tensors)
        found = [next(saved) if kept else None for kept in ctx.kept]
        return *(None if each is None else each * outer.to(each) for each in found), None, None


_ROWS = 64


def _rounded_up(rows: torch.Tensor) -> torch.Tensor:
    """Adds rows of zeros up to a multiple of `_ROWS`.

    oneDNN keeps what it has compiled for each shape of a product, a megabyte for a large vocabulary. The number of
    targets is another in every batch, so that a run would take a gigabyte more after a thousand batches.
    """
    missing = -len(rows) % _ROWS
    return F.pad(rows, (0, 0, 0, missing)) if missing else rows


def _by_logits(
    logits: torch.Tensor, labels: torch.Tensor, weights: torch.Tensor | None
) -> tuple[torch.Tensor, torch.Tensor]:
    """Returns the gradient of the sum of -w ln p by the logits, in float32, and that sum in float64."""
    logs = torch.log_softmax(logits, dim=1, dtype=torch.float32)
    rows = labels[:, None]
    nats = -logs.gather(1, rows)
    gradient = logs.exp_()
    gradient.scatter_add_(1, rows, torch.full_like(nats, -1.0))
    if weights is not None:
        gradient.mul_(weights[:, None])
        nats = nats * weights[:, None]
    return gradient, nats.sum(dtype=torch.float64)


def _divisor(total_weight: torch.Tensor | float) -> float:
    return float(total_weight) or 1.0
