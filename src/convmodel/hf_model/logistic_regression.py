"""A logistic regression on few or many examples.

Owns: its weights, and how well they predict examples that they were not fitted to.
"""

from collections.abc import Hashable, Sequence

import torch

FOLDS = 5
"""Parts of the groups, of which each is predicted from the others."""

_PENALTY = 0.3  # on the squared weights of standardized features; 0.1 and 1 predict about as well
_MIN_DEVIATION = 1e-6


def fit_logistic(
    features: torch.Tensor, liked: torch.Tensor, weight: torch.Tensor, groups: Sequence[Hashable]
) -> tuple[torch.Tensor, float, float | None]:
    """Fits a logistic regression in which both sides weigh the same, and measures how well it predicts.

    The loss is the cross entropy plus a penalty on the squared weights of the standardized features; it is convex.

    Args:
        features: Of shape (examples, features), float64.
        liked: 1 or 0 for each example.
        weight: How much each example counts.
        groups: Examples of one group are predicted together, from other groups.

    Returns:
        The weights of the unstandardized features, the bias, and the AUC of all examples, each fifth of the groups
        being predicted from the others; None if, without some fifth, only one side remains.
    """
    mean, scale = features.mean(0), features.std(0)
    scale[scale < _MIN_DEVIATION] = torch.inf  # a constant feature carries no information
    scale *= features.shape[1] ** 0.5
    points = (features - mean) / scale
    basis = None
    if len(points) < points.shape[1]:  # in the space that the rows span, the regression is the same
        basis = torch.linalg.qr(points.T).Q
        points = points @ basis
    direction, bias = _logistic(points, liked, weight)
    final = (direction if basis is None else basis @ direction) / scale
    return final, float(bias - mean @ final), _cross_validated(points, liked, weight, groups)


def _logistic(points: torch.Tensor, liked: torch.Tensor, weight: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Returns weights and bias of a logistic regression in which both sides weigh the same."""
    half = len(liked) / 2
    balanced = weight * torch.where(
        liked > 0, half / (weight * liked).sum().clamp_min(1e-9), half / (weight * (1 - liked)).sum().clamp_min(1e-9)
    )
    direction = torch.zeros(points.shape[1], dtype=torch.float64, requires_grad=True)
    bias = torch.zeros((), dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS([direction, bias], max_iter=1000, line_search_fn="strong_wolfe")

    def loss() -> torch.Tensor:
        optimizer.zero_grad()
        nats = torch.nn.functional.binary_cross_entropy_with_logits(points @ direction + bias, liked, weight=balanced)
        total: torch.Tensor = nats * len(liked) + _PENALTY / 2 * direction.square().sum()
        total.backward()
        return total

    with torch.enable_grad():
        optimizer.step(loss)
    return direction.detach(), bias.detach()


def _cross_validated(
    points: torch.Tensor, liked: torch.Tensor, weight: torch.Tensor, groups: Sequence[Hashable]
) -> float | None:
    """Returns the AUC of scores that each part of the groups gets from the others; None if they are all of one side."""
    numbers = {group: number for number, group in enumerate(sorted(set(groups), key=repr))}  # in any order the same
    fold = torch.tensor([numbers[group] % FOLDS for group in groups])
    scores = torch.zeros(len(points), dtype=torch.float64)
    for number in range(FOLDS):
        left_out = fold == number
        rest = liked[~left_out]
        if not len(rest) or rest.min() == rest.max():
            return None
        if left_out.any():
            direction, bias = _logistic(points[~left_out], rest, weight[~left_out])
            scores[left_out] = points[left_out] @ direction + bias
    return auc(scores[liked > 0], scores[liked == 0])


def auc(better: torch.Tensor, worse: torch.Tensor) -> float:
    """Returns the area under the ROC curve: how probably a better example has a higher score than a worse one.

    Example:
        >>> auc(torch.tensor([1.0, 2.0]), torch.tensor([0.0, 1.0]))
        0.875
    """
    ordered = worse.sort().values
    below, up_to = (torch.searchsorted(ordered, better, right=right) for right in (False, True))
    return float((below + up_to).double().sum() / (2 * len(better) * len(worse)))
