"""The options of `fit` with their types, for editors and type checkers.

Owns: the types that `fit` accepts. `FitConfig` owns the options, and checks their values.
"""

import os
from typing import Any, TypedDict

from convmodel.layout.sequence import LossOn
from convmodel.training.schedule import Auto


class FitOptions(TypedDict, total=False):
    """The settings of `FitConfig`, as options of `ConversationModel.fit`."""

    epochs: float | Auto | None
    max_steps: int | None
    batch_size: int | None
    gradient_accumulation_steps: int
    learning_rate: float
    warmup_steps: int | None
    weight_decay: float
    max_grad_norm: float
    max_length: int | None
    packing: bool
    precision: str
    optim: str
    lora: Any  # whether to use LoRA, its options, or a `LoraConfig` of peft
    merge: bool
    dropout: float
    gradient_checkpointing: bool
    torch_compile: bool
    loss_on: LossOn | None
    objective: str
    beta: float
    sft_weight: float | None
    label_smoothing: float
    max_regression: float
    replay_weight: float
    regeneration_weight: float
    seed: int
    output_dir: str | os.PathLike[str] | None
    eval_steps: int | None
    save_steps: int | None
    save_minutes: float
    save_total_limit: int
    resume: bool | None
    logging_steps: int | None
    early_stopping_patience: int | None
    samples: int
    report_to: str
