"""The formulas of learning from judgements.

Owns: DPO's, KTO's and ORPO's losses of log-probabilities, one value per pair or response, without weights and sums.

Sources: DPO, Rafailov et al. 2023, arXiv:2305.18290, equation 7; label smoothing, Mitchell 2023, "A note on DPO with
noisy preferences"; KTO, Ethayarajh et al. 2024, arXiv:2402.01306, equations 7 and 8; ORPO, Hong et al. 2024,
arXiv:2403.07691, equations 4 to 6. All arguments are tensors of one shape, log-probabilities in nats, each summed over
a response and the token that ends it.
"""

import torch
import torch.nn.functional as F


def dpo_loss(chosen: torch.Tensor, rejected: torch.Tensor, beta: float, label_smoothing: float = 0.0) -> torch.Tensor:
    """Returns -ln sigmoid(beta (chosen - rejected)) of each pair.

    Args:
        chosen: ln(p / p_reference) of the better responses.
        rejected: The same of the worse ones.
        beta: How strongly the model is held to the reference.
        label_smoothing: The probability that a judgement is the wrong way round.

    Example:
        >>> dpo_loss(torch.zeros(1), torch.zeros(1), beta=0.1)
        tensor([0.6931])
    """
    margin = beta * (chosen - rejected)
    return -(1 - label_smoothing) * F.logsigmoid(margin) - label_smoothing * F.logsigmoid(-margin)


def kto_loss(ratio: torch.Tensor, is_liked: torch.Tensor, kl: torch.Tensor, beta: float) -> torch.Tensor:
    """Returns 1 - sigmoid(beta (ratio - kl)) of each liked response, and 1 - sigmoid(beta (kl - ratio)) of the others.

    Args:
        ratio: ln(p / p_reference) of the responses.
        is_liked: Whether each is liked.
        kl: How far the model is from the reference as a whole, at least 0; a constant, through which no gradient flows.
        beta: How quickly a response's value saturates.

    Example:
        >>> kto_loss(torch.zeros(2), torch.tensor([True, False]), torch.tensor(0.0), beta=0.1)
        tensor([0.5000, 0.5000])
    """
    sign = is_liked.to(ratio.dtype) * 2 - 1
    return 1 - torch.sigmoid(beta * sign * (ratio - kl))


def orpo_loss(chosen: torch.Tensor, rejected: torch.Tensor) -> torch.Tensor:
    """Returns -ln sigmoid(ln odds(chosen) - ln odds(rejected)) of each pair, where odds(p) = p / (1 - p).

    Args:
        chosen: ln p of the better responses per token: the sums divided by their numbers of tokens.
        rejected: The same of the worse ones.

    Example:
        >>> orpo_loss(torch.tensor([-1.0]), torch.tensor([-1.0]))
        tensor([0.6931])
    """
    return -F.logsigmoid((chosen - rejected) - (_log_complement(chosen) - _log_complement(rejected)))


def _log_complement(log_probs: torch.Tensor) -> torch.Tensor:
    """Returns ln(1 - p); of a p that rounds to 1, that of the largest number below it."""
    return torch.log(-torch.expm1(log_probs.clamp(max=-1e-7)))
