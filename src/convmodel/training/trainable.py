"""Which weights of a model a run trains.

Owns: adding or merging adapters and converting weights before a run, and restoring the model's flags after it.
"""

import logging
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from convmodel.errors import ConfigError
from convmodel.hf_model.adapter_files import require_base
from convmodel.hf_model.fingerprint import base_fingerprint
from convmodel.hf_model.float32 import in_half_precision, to_float32
from convmodel.hf_model.lora import (
    add_adapters,
    has_adapters,
    merge_trained_rows,
    remove_adapters,
    require_same_options,
    train_adapters,
)
from convmodel.hf_model.quantization import count_parameters, is_quantized
from convmodel.hf_model.reward_model import without_reward_model
from convmodel.layout.tokenizer import ConversationTokenizer
from convmodel.training.config import FitConfig
from convmodel.training.sharding import is_sharded

if TYPE_CHECKING:
    from transformers import PreTrainedModel

logger = logging.getLogger(__name__)


def require_adapters(hf_model: "PreTrainedModel", config: FitConfig) -> None:
    """Raises a `ConfigError` if a run would change packed weights, which are too coarse for an update."""
    if not is_quantized(hf_model):
        return
    if config.lora is False:
        raise ConfigError(
            "the weights of a quantized model cannot be trained, only adapters over them: pass lora=True (--lora), or "
            "load it without quantize"
        )
    if config.merge:
        raise ConfigError(
            "merge adds the adapters to the weights, which quantize has rounded: leave merge out, load the trained "
            "adapters without quantize, and call merge_adapters()"
        )


@contextmanager
def trainable(hf_model: "PreTrainedModel", tokenizer: ConversationTokenizer, config: FitConfig) -> Iterator[None]:
    """Makes a model's weights or adapters trainable inside the block; an error removes new adapters again."""
    with without_reward_model(hf_model), _with_gradients(hf_model, tokenizer, config):
        yield


@contextmanager
def _with_gradients(hf_model: "PreTrainedModel", tokenizer: ConversationTokenizer, config: FitConfig) -> Iterator[None]:
    # Weak references, since sharding replaces the parameters.
    flags = [(weakref.ref(parameter), parameter.requires_grad) for parameter in hf_model.parameters()]
    added, had_adapters, before = False, has_adapters(hf_model), None
    try:
        added = _make_trainable(hf_model, tokenizer, config)
        before = base_fingerprint(hf_model)
        yield
        if not has_adapters(hf_model):
            hf_model.name_or_path = str(Path(config.output_dir).resolve()) if config.output_dir else ""
    except BaseException:
        if added and has_adapters(hf_model):
            remove_adapters(hf_model, merge=False)
            trained = False
        else:
            trained = before is not None and (is_sharded(hf_model) or base_fingerprint(hf_model) != before)
        # Below adapters it stays what it was loaded from; without them, a run that merged earlier ones changed it, too.
        if not has_adapters(hf_model) and (trained or had_adapters):
            hf_model.name_or_path = ""
        raise
    finally:
        hf_model.eval()
        if has_adapters(hf_model):
            merge_trained_rows(hf_model)
        for reference, wanted in flags:
            if (parameter := reference()) is not None:
                parameter.requires_grad_(wanted)


def _make_trainable(hf_model: "PreTrainedModel", tokenizer: ConversationTokenizer, config: FitConfig) -> bool:
    """Makes the weights float32, or adds adapters; returns whether it added any."""
    if config.lora is not False:
        options = config.lora if isinstance(config.lora, dict) else {}
        if config.output_dir is not None:
            require_base(hf_model, config.output_dir, alone=not config.merge)
        if config.merge and config.objective != "sft" and has_adapters(hf_model):
            logger.info("merging the adapters first: what the model is with them is the reference")
            remove_adapters(hf_model, merge=True)
        added = not has_adapters(hf_model)
        if added:
            trained = add_adapters(hf_model, tokenizer, options, seed=config.seed)
        else:  # training continues with these
            require_same_options(hf_model, options)
            trained = train_adapters(hf_model)
        logger.info("training %s of %s parameters", f"{trained:,}", f"{count_parameters(hf_model):,}")
        return added
    if has_adapters(hf_model):
        logger.info("merging the adapters, since all weights are trained")
        remove_adapters(hf_model, merge=True)
    if in_half_precision(hf_model):
        logger.info("converting weights from %s to float32 for training", hf_model.dtype)
        to_float32(hf_model)
    return False
