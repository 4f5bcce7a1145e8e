"""The training loss.

Owns: its one formula, a sum over supervised tokens divided by their count over a whole update.
"""

import torch
import torch.nn.functional as F

from convmodel.layout import IGNORED


def supervised_loss(logits: torch.Tensor, labels: torch.Tensor, supervised_tokens: torch.Tensor | int) -> torch.Tensor:
    """Sums -ln p over a batch's supervised tokens and divides by the count of the whole update.

    A mean over each batch, averaged over the batches of an update, would weigh a token of a short batch more than
    one of a long batch; with one divisor for the update, 8 x 1 and 1 x 8 windows train alike.

    Args:
        logits: Shape (batch, seq, vocab).
        labels: Shape (batch, seq), not shifted; `IGNORED` where there is no target.
        supervised_tokens: Targets in the whole update, over all batches and processes. 0 counts as 1, so that a
            batch without targets gives 0 rather than no number.

    Returns:
        A scalar in nats; summed over an update's batches it is the mean per supervised token.

    Example:
        >>> labels = torch.tensor([[IGNORED, 1, 2]])
        >>> round(supervised_loss(torch.zeros(1, 3, 4), labels, 2).item(), 4)  # ln 4
        1.3863
    """
    total = F.cross_entropy(
        logits[:, :-1].flatten(0, 1).float(), labels[:, 1:].flatten(), ignore_index=IGNORED, reduction="sum"
    )
    return total / max(1, int(supervised_tokens))
