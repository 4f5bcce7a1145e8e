"""What a run learns from: windows, their order, and whether the model can take them as they are laid out.

Owns: making both sets of windows, the choice of the order, and the check that a model keeps packed windows apart.
"""

import logging
from collections.abc import Iterable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import torch

from convmodel.conversation import Conversation
from convmodel.data.windows.collate import pack, pad
from convmodel.data.windows.encoding import WindowSet
from convmodel.data.windows.order import GroupedSampler, PackedSampler
from convmodel.data.windows.store import prepare_windows
from convmodel.errors import ConfigError
from convmodel.hf_model.eval_mode import evaluation_mode
from convmodel.layout.architecture import window_length
from convmodel.layout.sequence import IGNORED, Window
from convmodel.layout.tokenizer import ConversationTokenizer
from convmodel.training.config import FitConfig

if TYPE_CHECKING:
    from transformers import PreTrainedModel

logger = logging.getLogger(__name__)

_TOLERANCE = {torch.float32: 1e-3}  # of the largest logit; windows that see each other differ by far more
_COARSE = 0.05  # in half precision


@dataclass(frozen=True, slots=True)
class FitData:
    """The data of one run.

    Attributes:
        train: What to learn from.
        valid: What to choose the best model by, if there is any.
        order: The order of the training windows, or of rows of them.
        max_length: The longest window, in tokens.
    """

    train: WindowSet
    valid: WindowSet | None
    order: GroupedSampler | PackedSampler
    max_length: int

    @classmethod
    def prepare(
        cls,
        hf_model: "PreTrainedModel",
        tokenizer: ConversationTokenizer,
        train: Iterable[Conversation],
        valid: Iterable[Conversation] | None,
        config: FitConfig,
        *,
        processes: int = 1,
    ) -> "FitData":
        """Encodes the conversations of a run, and says what of them is left out.

        `processes` is how many train together, each with batches of its own.

        Raises:
            ConversationError: If the data is malformed, or has no supervised turn.
        """
        max_length = window_length(hf_model.config, config.max_length)
        encode = partial(prepare_windows, tokenizer=tokenizer, max_length=max_length, loss_on=config.loss_on)
        made = encode(train), None if valid is None else encode(valid)
        for name, windows in zip(("training", "validation"), made, strict=True):
            if windows and windows.summary.left_out():
                logger.warning("%s data: %s", name, windows.summary.left_out())
        return cls(*made, _order(config, made[0], max_length, processes), max_length)


def _order(config: FitConfig, train: WindowSet, max_length: int, processes: int) -> GroupedSampler | PackedSampler:
    per_update = config.batch_size * config.gradient_accumulation_steps * processes
    if not config.packing:
        return GroupedSampler(train.lengths, per_update, config.seed)
    return PackedSampler(train.lengths, max_length, config.seed)


def require_packable(hf_model: "PreTrainedModel", tokenizer: ConversationTokenizer) -> None:
    """Computes two short windows packed and apart, and compares.

    Raises:
        ConfigError: If the model's architecture lets a window see the one before it.
    """
    ids = [(7 * number) % len(tokenizer) for number in range(16)]
    windows = [Window(part, [0] * len(part), [IGNORED] * len(part)) for part in (ids[:9], ids[9:])]
    types, pad_id = tokenizer.layout.use_token_types, tokenizer.pad_token_id

    def logits(batch: dict[str, torch.Tensor]) -> torch.Tensor:
        inputs = {name: tensor.to(hf_model.device) for name, tensor in batch.items() if name != "labels"}
        with evaluation_mode(hf_model), torch.inference_mode():
            found: torch.Tensor = hf_model(**inputs, use_cache=False).logits.float()
        return found

    try:
        # Two rows, since some attention recognises packing in batches of one row only.
        rows = logits(pack([windows, windows[::-1]], pad_id, use_token_types=types))
        packed = torch.cat([rows[0], rows[1, len(windows[1].input_ids) :], rows[1, : len(windows[1].input_ids)]])
    except TypeError as error:
        raise _refusal(hf_model, f"it takes no position ids ({error})") from error
    apart = torch.cat([logits(pad([window], pad_id, use_token_types=types))[0] for window in windows]).repeat(2, 1)
    tolerance = _TOLERANCE.get(hf_model.dtype, _COARSE)
    if not (packed - apart).abs().max() <= tolerance * apart.abs().max():
        raise _refusal(hf_model, "windows in one row would see each other")


def _refusal(hf_model: "PreTrainedModel", reason: str) -> ConfigError:
    return ConfigError(f"packing does not work with {hf_model.config.model_type}: {reason}; leave packing out")
