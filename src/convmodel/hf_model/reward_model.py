"""A reward model: how probable it is that people like a response.

Owns: the few weights that judgements fit, how well they predict judgements that they have not seen, and the file. What
they weigh is in `reward_features.py`.
"""

import json
import logging
import os
from collections.abc import Hashable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from convmodel.data.judgements.judgement import Judgement
from convmodel.data.progress import ProgressBar
from convmodel.errors import ConversationError, ModelLoadError
from convmodel.files.atomic import staged
from convmodel.hf_model.fingerprint import base_fingerprint
from convmodel.hf_model.reward_features import reward_features
from convmodel.layout.architecture import window_length
from convmodel.layout.sequence import Window
from convmodel.layout.tokenizer import ConversationTokenizer

if TYPE_CHECKING:
    from transformers import PreTrainedModel

logger = logging.getLogger(__name__)

FILE = "reward_model.json"
"""Not safetensors: vLLM loads all such files of a folder as weights of the model."""

FOLDS = 5
"""Parts of the judgements, of which each is predicted from the others."""

_PENALTY = 0.3  # on the squared weights of standardized features; 0.1 and 1 predict about as well
_MIN_DEVIATION = 1e-6
_CURE = "`convmodel reward` makes a new one"
_CONFIDENCE = 1.96  # standard errors to the end of a 95 % interval


@dataclass(frozen=True, slots=True, eq=False)
class RewardModel:
    """A logistic regression on what a model computes of a response.

    Attributes:
        weights: One per feature, float64, on the CPU.
        bias: The log-odds at features of zero.
        model: The fingerprint of the model that computes the features.
        liked: How many liked responses it was fitted to.
        disliked: How many disliked ones.
        auc: The probability that of a liked and a disliked response the liked one has the higher score, for responses
            that it was not fitted to; None if there were too few contexts to know.
        weight: How much ln p counts for the candidates of a response, unless the caller or the model's config decides.
    """

    weights: torch.Tensor
    bias: float
    model: str
    liked: int
    disliked: int
    auc: float | None
    weight: float = 1.0

    def log_probabilities(
        self, hf_model: "PreTrainedModel", tokenizer: ConversationTokenizer, windows: Sequence[Window]
    ) -> list[float]:
        """Returns ln p of each window's response, p being the probability that it is liked.

        The liked and the disliked responses count as if there had been as many of each. Unlike the log-odds, ln p
        has an upper limit, so that the best of many responses is not the one that exaggerates what is liked.
        """
        features = reward_features(hf_model, tokenizer, windows).double()
        if features.shape[1] != len(self.weights):
            raise ModelLoadError(f"{FILE} has {len(self.weights)} weights for {features.shape[1]} features: {_CURE}")
        return torch.nn.functional.logsigmoid(features @ self.weights + self.bias).tolist()

    @property
    def is_informative(self) -> bool:
        """Whether it predicts better than chance: the 95 % interval of `auc` is above one half."""
        return self.auc is not None and self.auc_interval[0] > 0.5

    @property
    def auc_interval(self) -> tuple[float, float]:
        """The 95 % interval of `auc`, whose ends may be beyond 0 and 1."""
        area, margin = 0.5 if self.auc is None else self.auc, _CONFIDENCE * self.auc_error
        return area - margin, area + margin

    @property
    def auc_error(self) -> float:
        """The standard error of `auc`.

        Hanley and McNeil 1982, "The meaning and use of the area under a receiver operating characteristic (ROC) curve",
        doi:10.1148/radiology.143.1.7063747.
        """
        area = 0.5 if self.auc is None else self.auc
        both_liked, both_disliked = area / (2 - area), 2 * area**2 / (1 + area)
        variance = area * (1 - area) + (self.liked - 1) * (both_liked - area**2)
        variance += (self.disliked - 1) * (both_disliked - area**2)
        return float((variance / (self.liked * self.disliked)) ** 0.5)

    def save(self, folder: str | os.PathLike[str]) -> None:
        """Writes the reward model into the folder of its model."""
        with staged(folder) as stage:
            (stage / FILE).write_text(self.to_json(), encoding="utf-8", newline="\n")

    def to_json(self) -> str:
        """Returns the content of the file, with weights of float32's precision."""
        facts = {name: getattr(self, name) for name in ("model", "liked", "disliked", "auc", "weight", "bias")}
        return json.dumps(facts | {"weights": [float(f"{weight:.8g}") for weight in self.weights.tolist()]}) + "\n"

    @classmethod
    def load(cls, folder: str | os.PathLike[str], hf_model: "PreTrainedModel") -> "RewardModel":
        """Reads the reward model of a model.

        Raises:
            ModelLoadError: If there is none, it is damaged, or it was fitted for other weights.
        """
        path = Path(folder, FILE)
        try:
            facts = json.loads(path.read_text(encoding="utf-8"))
            loaded = cls(
                torch.tensor(facts["weights"], dtype=torch.float64),
                float(facts["bias"]),
                str(facts["model"]),
                int(facts["liked"]),
                int(facts["disliked"]),
                None if facts["auc"] is None else float(facts["auc"]),
                float(facts["weight"]),
            )
        except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
            raise ModelLoadError(f"{path} cannot be read ({error}): {_CURE}") from error
        if loaded.model != base_fingerprint(hf_model):
            raise ModelLoadError(f"{path} was made for other weights ({loaded.model}): {_CURE}")
        return loaded


def fit_reward_model(
    hf_model: "PreTrainedModel", tokenizer: ConversationTokenizer, judgements: Iterable[Judgement]
) -> RewardModel:
    """Fits a reward model to judgements; the model itself stays unchanged.

    A judgement with both responses counts as a liked and a disliked one. The loss is the cross entropy, in which both
    sides weigh the same, plus a penalty on the squared weights of the standardized features. It is convex, so the
    result does not depend on the order of the judgements. `auc` is measured on each fifth of the contexts, predicted
    from the others; features of the context are used if it is higher with them.

    Raises:
        ConversationError: If no response is liked, or none disliked.
    """
    windows: list[Window] = []
    contexts: list[Hashable] = []
    labels: list[float] = []
    weights: list[float] = []
    longest = window_length(hf_model.config, tokenizer.layout.max_length)
    left_out = 0
    for judgement in judgements:
        for text, is_liked in ((judgement.chosen, 1.0), (judgement.rejected, 0.0)):
            if text is None or not judgement.weight:
                continue
            window = last_turn_window(tokenizer, judgement, text, longest)
            if window is None:
                left_out += 1
                continue
            windows.append(window)
            contexts.append(judgement.context.turns)
            labels.append(is_liked)
            weights.append(judgement.weight)
    if left_out:
        logger.warning("%d responses that are longer than %d tokens are left out", left_out, longest)
    if len({*labels}) < 2:
        side = "liked" if 0.0 in labels or not labels else "disliked"
        raise ConversationError(f"a reward model needs liked and disliked responses, and none is {side}")
    return _fitted(_read(hf_model, tokenizer, windows), labels, weights, contexts, base_fingerprint(hf_model))


def last_turn_window(
    tokenizer: ConversationTokenizer, judgement: Judgement, response: str, longest: int
) -> Window | None:
    """Encodes a response after its context, of which the oldest turns are left out if all is too long.

    None if the response alone is too long.
    """
    [window] = tokenizer.windows(
        judgement.conversation(response), max_length=longest, loss_on="last", context_share=1.0
    )
    return None if window.cut else window


def _read(hf_model: "PreTrainedModel", tokenizer: ConversationTokenizer, windows: Sequence[Window]) -> torch.Tensor:
    """Returns the features of windows that share nothing, the longest ones in batches of their own."""
    order = sorted(range(len(windows)), key=lambda number: -len(windows[number].input_ids))
    parts: list[torch.Tensor] = []
    step = 32  # windows per call; progress is shown in between
    with ProgressBar("reward model", len(order), unit="responses") as bar:
        for start in range(0, len(order), step):
            chosen = [windows[number] for number in order[start : start + step]]
            parts.append(reward_features(hf_model, tokenizer, chosen))
            bar.update(start + len(chosen))
    features = torch.cat(parts).double()
    return features[torch.tensor(order).argsort()]


def _fitted(
    features: torch.Tensor, labels: Sequence[float], weights: Sequence[float], groups: Sequence[Hashable], model: str
) -> RewardModel:
    """Fits a reward model to features of shape (responses, features).

    Those of the context are used if they help: with a few dozen judgements of a simple taste they do not.
    """
    liked, weight = torch.tensor(labels, dtype=torch.float64), torch.tensor(weights, dtype=torch.float64)
    count = features.shape[1]
    fits = [_regression(features[:, :used], liked, weight, groups) for used in (count // 2, count)]
    final, bias, auc = max(fits, key=lambda fit: fit[2] or 0.0)  # the first, if they are as good
    unused = final.new_zeros(count - len(final))
    positives = int((liked > 0).sum())
    return RewardModel(torch.cat([final, unused]), bias, model, positives, len(liked) - positives, auc)


def _regression(
    features: torch.Tensor, liked: torch.Tensor, weight: torch.Tensor, groups: Sequence[Hashable]
) -> tuple[torch.Tensor, float, float | None]:
    """Returns weights and bias of a logistic regression on features as they are, and its cross-validated AUC."""
    mean, scale = features.mean(0), features.std(0)
    scale[scale < _MIN_DEVIATION] = torch.inf  # a constant feature carries no information
    scale *= features.shape[1] ** 0.5
    points = (features - mean) / scale
    # In the space that the rows span, the regression is the same and has no more weights than there are rows.
    basis = torch.linalg.qr(points.T).Q
    points = points @ basis
    direction, bias = _logistic(points, liked, weight)
    final = basis @ direction / scale
    return final, float(bias - mean @ final), _cross_validated_auc(points, liked, weight, groups)


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


def _cross_validated_auc(
    points: torch.Tensor, liked: torch.Tensor, weight: torch.Tensor, groups: Sequence[Hashable]
) -> float | None:
    """Returns the AUC of scores that each part of the groups gets from the others; None if they are all of one side."""
    numbers = {group: number for number, group in enumerate(dict.fromkeys(groups))}
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
    better, worse = scores[liked > 0][:, None], scores[liked == 0][None]
    return float((better > worse).double().mean() + 0.5 * (better == worse).double().mean())


_ATTACHED = "convmodel_reward_model"  # an attribute of a model that has one


def attach_reward_model(hf_model: "PreTrainedModel", reward: RewardModel | None) -> None:
    """Gives a model the reward model that orders its candidates, or takes it away."""
    if reward is None:
        hf_model.__dict__.pop(_ATTACHED, None)
    else:
        hf_model.__dict__[_ATTACHED] = reward


@contextmanager
def without_reward_model(hf_model: "PreTrainedModel") -> Iterator[None]:
    """Takes a model's reward model away inside the block, and for good if the weights are others afterwards."""
    reward = reward_model_of(hf_model)
    attach_reward_model(hf_model, None)
    try:
        yield
    finally:
        if reward is not None and base_fingerprint(hf_model) == reward.model:
            attach_reward_model(hf_model, reward)
        elif reward is not None:
            logger.info(
                "the reward model, by which candidates were ordered, is not of the trained weights and left out; "
                "`convmodel reward` makes one"
            )


def load_reward_model(folder: str | os.PathLike[str], hf_model: "PreTrainedModel") -> None:
    """Gives a model the reward model in its folder, if any; one of other weights is left out, with a warning."""
    if Path(folder, FILE).exists():
        try:
            attach_reward_model(hf_model, RewardModel.load(folder, hf_model))
        except ModelLoadError as error:
            logger.warning("the model is used without its reward model: %s", error)


def reward_model_of(hf_model: "PreTrainedModel") -> RewardModel | None:
    """Returns the reward model of a model; None if it has none."""
    reward: RewardModel | None = getattr(hf_model, "__dict__", {}).get(_ATTACHED)
    return reward
