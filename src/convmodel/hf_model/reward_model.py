"""A reward model: how probable it is that people like a response.

Owns: which judgements it is fitted to, its error, its file, and whose it is. What it weighs is in `reward_features.py`,
how the weights are found in `logistic_regression.py`.
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
from convmodel.hf_model.logistic_regression import fit_logistic
from convmodel.hf_model.reward_features import reward_features
from convmodel.layout.architecture import window_length
from convmodel.layout.sequence import Window
from convmodel.layout.tokenizer import ConversationTokenizer

if TYPE_CHECKING:
    from transformers import PreTrainedModel

logger = logging.getLogger(__name__)

FILE = "reward_model.json"
"""Not safetensors: vLLM loads all such files of a folder as weights of the model."""

_SHARE_CONTEXT = 4  # from so many responses on, their context is read once
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

        Raises:
            ModelLoadError: If the file has weights for other features.
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
    from the others; products with the state before the response are used if it is higher with them, by more than its
    standard error.

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
    return _fitted(_read(hf_model, tokenizer, windows, contexts), labels, weights, contexts, base_fingerprint(hf_model))


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


def _read(
    hf_model: "PreTrainedModel",
    tokenizer: ConversationTokenizer,
    windows: Sequence[Window],
    contexts: Sequence[Hashable],
) -> torch.Tensor:
    """Returns the features of windows, of which those with the same context share a batch, or of similar length."""
    places: dict[Hashable, list[int]] = {}
    for number, context in enumerate(contexts):
        places.setdefault(context, []).append(number)
    shared = [numbers for numbers in places.values() if len(numbers) >= _SHARE_CONTEXT]
    single = [number for numbers in places.values() if len(numbers) < _SHARE_CONTEXT for number in numbers]
    single.sort(key=lambda number: -len(windows[number].input_ids))
    step = 32  # windows per call; progress is shown in between
    batches = [*shared, *(single[start : start + step] for start in range(0, len(single), step))]
    parts: list[torch.Tensor] = []
    read = 0
    with ProgressBar("reward model", len(windows), unit="responses") as bar:
        for numbers in batches:
            parts.append(reward_features(hf_model, tokenizer, [windows[number] for number in numbers]))
            bar.update(read := read + len(numbers))
    order = torch.tensor([number for numbers in batches for number in numbers])
    return torch.cat(parts).double()[order.argsort()]


def _fitted(
    features: torch.Tensor, labels: Sequence[float], weights: Sequence[float], groups: Sequence[Hashable], model: str
) -> RewardModel:
    """Fits a reward model to features of shape (responses, features).

    Products with the context, the second half, are used if the AUC is higher with them by more than its standard error.
    """
    liked, weight = torch.tensor(labels, dtype=torch.float64), torch.tensor(weights, dtype=torch.float64)
    count, positives = features.shape[1], int((liked > 0).sum())

    def of_first(used: int) -> RewardModel:
        found, bias, auc = fit_logistic(features[:, :used], liked, weight, groups)
        padded = torch.cat([found, found.new_zeros(count - used)])
        return RewardModel(padded, bias, model, positives, len(liked) - positives, auc)

    alone, both = of_first(count // 2), of_first(count)
    if alone.auc is None or both.auc is None:
        return alone
    return both if both.auc > alone.auc + alone.auc_error else alone


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
