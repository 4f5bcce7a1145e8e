"""The objective that a run's settings name, and how its data is read and encoded.

Owns: that choice. Only it knows both kinds of objectives.
"""

import logging
from typing import TYPE_CHECKING

from convmodel.data.judgements.reader import JudgementReader, JudgementSource
from convmodel.data.reading.reader import ConversationReader, ConversationSource
from convmodel.training.config import FitConfig
from convmodel.training.fit_data import FitData, Sources
from convmodel.training.objectives.objective import Objective, SupervisedObjective
from convmodel.training.objectives.preference import PreferenceObjective
from convmodel.training.objectives.preference_data import PreferenceData
from convmodel.training.objectives.reference import Reference
from convmodel.training.schedule import BATCH_SIZE
from convmodel.training.step.runtime import choose_precision

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from convmodel.layout.tokenizer import ConversationTokenizer

logger = logging.getLogger(__name__)


def readers(
    config: FitConfig,
    train: ConversationSource | JudgementSource,
    valid: ConversationSource | None,
    replay: ConversationSource | None,
) -> Sources:
    """Returns readers of a run's data: of judgements to train on, unless the objective is `sft`.

    A run on judgements reads the others more than once: those that cannot be read again are read into memory.
    """
    others = [None if source is None else ConversationReader.of(source) for source in (valid, replay)]
    if config.objective == "sft":
        return Sources(ConversationReader.of(train), *others)  # type: ignore[arg-type]
    others = [reader and reader.repeatable() for reader in others]
    if not isinstance(train, JudgementReader):
        train = JudgementReader(train, regeneration_weight=config.regeneration_weight)  # type: ignore[arg-type]
    return Sources(train, *others)


def prepare_data(
    hf_model: "PreTrainedModel",
    tokenizer: "ConversationTokenizer",
    sources: Sources,
    config: FitConfig,
    *,
    processes: int = 1,
) -> FitData:
    """Encodes the data of a run, and logs what is left out of it.

    Args:
        hf_model: The model to train.
        tokenizer: Its tokenizer.
        sources: What `readers` returns.
        config: The run's settings.
        processes: How many processes train together.

    Raises:
        ConversationError: If the data is malformed, or nothing of it can be used.
    """
    data: FitData
    if config.objective == "sft":
        data = FitData.prepare(hf_model, tokenizer, sources.train, sources.valid, config, processes=processes)
    else:
        data = PreferenceData.of(hf_model, tokenizer, sources, config, processes=processes)
    if left_out := data.left_out():
        logger.warning("training data: %s", left_out)
    if data.valid is not None and (left_out := data.valid.summary.left_out()):
        logger.warning("validation data: %s", left_out)
    return data


def make_objective(
    hf_model: "PreTrainedModel", tokenizer: "ConversationTokenizer", data: FitData, config: FitConfig
) -> Objective:
    """Creates the objective of a run; its model computes log-probabilities and losses once it is prepared."""
    if not isinstance(data, PreferenceData):
        return SupervisedObjective()
    reference = Reference(
        hf_model,
        tokenizer,
        data.train.windows,
        data.examples.mismatched,
        precision=choose_precision(config.precision, hf_model.device),
        batch_size=2 * (config.batch_size or BATCH_SIZE),
    )
    return PreferenceObjective(hf_model, data, config, reference)
