"""A run's settings as arguments of transformers' `Trainer`.

Owns: the mapping from `FitConfig`, and which features of `Trainer` are off because convmodel replaces them. Does not
know the data.
"""

import logging
from typing import TYPE_CHECKING

from transformers import TrainingArguments

from convmodel.training.config import FitConfig
from convmodel.training.step.runtime import choose_precision

if TYPE_CHECKING:
    from transformers import PreTrainedModel

logger = logging.getLogger(__name__)

_OPTIMIZERS = {"adamw": "adamw_torch_fused", "adafactor": "adafactor"}


def training_arguments(config: FitConfig, hf_model: "PreTrainedModel") -> TrainingArguments:
    """Creates `Trainer`'s arguments; with several processes, this also joins their group.

    The caller sets epochs, batch size, warm-up and the default of `logging_steps`, which depend on the data, and the
    folder for trackers.
    """
    precision = choose_precision(config.precision, hf_model.device)
    args = TrainingArguments(
        max_steps=config.max_steps or -1,
        gradient_accumulation_steps=config.gradient_accumulation_steps,
        learning_rate=config.learning_rate,
        weight_decay=config.weight_decay,
        max_grad_norm=config.max_grad_norm,
        optim=_OPTIMIZERS[config.optim],
        bf16=precision == "bf16",
        fp16=precision == "fp16",
        logging_steps=config.logging_steps or 1,
        logging_nan_inf_filter=False,
        eval_strategy="no",
        save_strategy="no",
        report_to=config.report_to,
        seed=config.seed,
        disable_tqdm=True,
        remove_unused_columns=False,
        ddp_find_unused_parameters=False,  # there are none, and the search takes time
        use_cpu=hf_model.device.type == "cpu",
        dataloader_pin_memory=hf_model.device.type == "cuda",
        # `Trainer` writes this into the model's config, which is saved and must not change.
        use_cache=getattr(hf_model.config, "use_cache", False),
    )
    if args.n_gpu > 1:
        args._n_gpu = 1  # several GPUs need torchrun; `DataParallel` would average means
    if args.process_index == 0:
        logger.info("training in %s on %s", precision, hf_model.device.type)
    return args
