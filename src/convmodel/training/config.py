"""The settings of a fine-tuning run.

Owns: every training option's name, default, help text and check. The command line and the docs are made from it.
Imports nothing heavy, so that `--help` is quick.
"""

from __future__ import annotations

import json
import math
import os
import tomllib
from collections.abc import Sequence
from dataclasses import Field, asdict, dataclass, field, fields
from functools import cache
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from convmodel.arguments.names import did_you_mean
from convmodel.arguments.values import plain
from convmodel.errors import ConfigError
from convmodel.hf_model.lora_options import lora_options
from convmodel.layout.architecture import SHORTEST_WINDOW
from convmodel.layout.sequence import LossOn
from convmodel.training.schedule import AUTO, Auto


def _option(
    default: Any,
    help: str,
    *,
    at_least: float | None = None,
    above: float | None = None,
    choices: tuple[str, ...] = (),
) -> Any:
    return field(default=default, metadata={"help": help, "at_least": at_least, "above": above, "choices": choices})


@dataclass(frozen=True, slots=True, kw_only=True)
class FitConfig:
    """How to fine-tune; names are those of transformers' `TrainingArguments` where one exists.

    Raises:
        ConfigError: If a value is invalid; the message names the option and the fix.

    Example:
        >>> FitConfig(epochs=1, seed=0).learning_rate
        5e-05
    """

    epochs: float | Auto | None = _option(
        None,
        "Passes over the training data; fractions are allowed. auto, the default with validation data: 3, then 6 and "
        "12 more if validation improves and all are at most 1,000 steps. Without it, and for judgements: 3.",
        above=0,
        choices=(AUTO,),
    )
    max_steps: int | None = _option(None, "Steps after which to stop; overrides epochs.", at_least=1)
    batch_size: int | None = _option(
        None, "Windows in one forward pass; by default 8, and fewer for few windows if epochs is not given.", at_least=1
    )
    gradient_accumulation_steps: int = _option(
        1,
        "Forward passes per step; batch_size 1 with 8 passes gives the same step as batch_size 8, in less memory.",
        at_least=1,
    )
    learning_rate: float = _option(5e-5, "Peak learning rate; 5e-5 suits fine-tuning, 1e-3 a small new model.", above=0)
    warmup_steps: int | None = _option(
        None, "Steps over which the learning rate rises; by default a twentieth of the run.", at_least=0
    )
    weight_decay: float = _option(0.01, "AdamW's weight decay, for matrices only.", at_least=0)
    max_grad_norm: float = _option(
        1.0, "Maximum gradient norm; larger gradients are scaled down to it. 0 disables this.", at_least=0
    )
    max_length: int | None = _option(
        None, "Longest window in tokens; by default the model's positions, at most 1,024.", at_least=SHORTEST_WINDOW
    )
    packing: bool = _option(
        False,
        "Concatenate windows into rows of max_length, which avoids nearly all padding; batch_size counts rows.",
    )
    precision: str = _option(
        "auto",
        "Precision of matrix products: fp32, bf16, fp16 (on a GPU), or auto: bf16 where the processor has units for "
        "it, else fp32. Weights stay fp32.",
        choices=("auto", "fp32", "bf16", "fp16"),
    )
    optim: str = _option(
        "adamw",
        "adamw, or adafactor, which needs less memory: no first moments, and factored second moments.",
        choices=("adamw", "adafactor"),
    )
    lora: bool | dict[str, Any] = _option(
        False,
        "Train small matrices (LoRA) and leave the weights as they are; in a file, a table of peft's LoraConfig "
        "options. Use a higher learning_rate, such as 2e-4.",
    )
    merge: bool = _option(False, "With lora: merge the adapters into the weights at the end, and save a whole model.")
    dropout: float = _option(
        0.0,
        "Dropout rate, except for attention weights; 0 trains faster, and suits few epochs; 0.1 suits many epochs.",
        at_least=0,
    )
    gradient_checkpointing: bool = _option(
        False, "Recompute activations instead of keeping them: a third slower, in far less memory."
    )
    torch_compile: bool = _option(
        False,
        "Compile the model in the first step, for 20 seconds or more; pays off in long runs with packing.",
    )
    loss_on: LossOn | None = _option(
        None,
        "Whose turns are supervised: all, responses (every second speaker's), last, or a speaker's name; by default "
        "all. For judgements, in validation and replay; by default as in the model's own training.",
    )
    objective: str = _option(
        "sft",
        "What is learned: sft, the conversations themselves; or what judgements say: kto (liked or disliked responses, "
        "and pairs), dpo or orpo (pairs of a better and a worse response).",
        choices=("sft", "kto", "dpo", "orpo"),
    )
    beta: float = _option(
        0.1,
        "For kto and dpo: how strongly the model is held to what it was. For orpo: the weight of the odds.",
        above=0,
    )
    sft_weight: float | None = _option(
        None,
        "For kto and dpo: the weight of the supervised loss of good responses; by default 0 for kto and 1 for dpo.",
        at_least=0,
    )
    label_smoothing: float = _option(
        0.0, "For dpo: the share of judgements that may be the wrong way round, less than 0.5.", at_least=0
    )
    max_regression: float = _option(
        0.05,
        "For judgements: by how much the validation perplexity may rise above the lowest so far; then the run stops "
        "and keeps the last good model.",
        above=0,
    )
    replay_weight: float = _option(
        1.0, "For judgements: the weight of the supervised loss of replayed conversations.", at_least=0
    )
    regeneration_weight: float = _option(
        0.0,
        "For judgements: the weight of a response that was generated again and kept, beside that of other judgements.",
        at_least=0,
    )
    seed: int = _option(42, "Seed of the data's order and of dropout.", at_least=0)
    output_dir: str | None = _option(
        None,
        "Folder for the best model, written whenever validation improves; in Python, without one, it stays in memory.",
    )
    eval_steps: int | None = _option(
        None,
        "Steps between validations; by default an epoch or less, for judgements up to 8. The end is always validated.",
        at_least=1,
    )
    save_steps: int | None = _option(
        None,
        "Steps between checkpoints that are kept after the run: output_dir/checkpoint-STEP, to load or resume from.",
        at_least=1,
    )
    save_minutes: float = _option(
        15.0,
        "Minutes between checkpoints for resuming a stopped run, removed at the end of the run. 0 saves none.",
        at_least=0,
    )
    save_total_limit: int = _option(
        2, "Maximum number of checkpoints of save_steps; older ones are removed. 0 keeps all.", at_least=0
    )
    resume: bool | None = _option(
        None,
        "Resume the unfinished run in output_dir, which must exist, or start over; by default resume it if it exists.",
    )
    logging_steps: int | None = _option(
        None, "Steps between reports of the training loss; by default 10, fewer in runs of less than 100.", at_least=1
    )
    early_stopping_patience: int | None = _option(
        None, "Validations without improvement after which to stop; by default never if epochs is given.", at_least=1
    )
    samples: int = _option(
        0, "Validation contexts to respond to before training and at each validation, to samples.jsonl.", at_least=0
    )
    report_to: str = _option("none", "A tracker that transformers supports: tensorboard, trackio, wandb, mlflow, ...")

    def __post_init__(self) -> None:
        folder: object = self.output_dir
        if isinstance(folder, os.PathLike):
            object.__setattr__(self, "output_dir", os.fspath(folder))
        if hasattr(self.lora, "to_dict"):  # peft's own object
            object.__setattr__(self, "lora", lora_options(self.lora))
        for setting in fields(self):
            self._check(setting)
        if self.merge and self.lora is False:
            raise ConfigError("merge adds trained adapters to the weights: it needs lora")
        if self.dropout >= 1:
            raise ConfigError(f"dropout is {self.dropout}: it must be less than 1")
        self._check_objective()
        if self.seed >= 2**32:
            raise ConfigError(f"seed is {self.seed}: it must be less than 2**32")
        folders = {"save_steps": "a folder to save in", "samples": "a folder to write samples.jsonl in"}
        for name, needed in (folders | {"resume": "the folder of the run to resume"}).items():
            if getattr(self, name) and not self.output_dir:
                raise ConfigError(f"{name} needs {needed}: give output_dir too")

    def _check(self, setting: Field[Any]) -> None:
        """Checks one setting against its annotation, bounds and choices."""
        value = plain(getattr(self, setting.name))
        object.__setattr__(self, setting.name, value)
        if value is None and setting.default is None:
            return
        kinds, choices = setting_types()[setting.name], setting.metadata["choices"]
        if str not in kinds and value in choices:  # a word in place of a number
            return
        at_least, above = setting.metadata["at_least"], setting.metadata["above"]
        if not isinstance(value, kinds) or (isinstance(value, bool) and bool not in kinds):
            names = " or ".join(kind.__name__ for kind in kinds)
            words = "" if str in kinds else "".join(f", or {choice}" for choice in choices)
            raise ConfigError(f"{setting.name} is {value!r}: it must be of type {names}{words}")
        if (at_least is not None and not value >= at_least) or (above is not None and not value > above):
            bound = f"at least {at_least}" if above is None else f"more than {above}"
            raise ConfigError(f"{setting.name} is {value!r}: it must be {bound}")
        if above is not None and value == math.inf:
            raise ConfigError(f"{setting.name} is {value}: it must be finite")
        if str in kinds and choices and value not in choices:
            raise ConfigError(f"{setting.name} is {value!r}: it must be one of {', '.join(choices)}")

    def _check_objective(self) -> None:
        """Checks that the options of objectives suit the objective."""
        unused = {"sft": PREFERENCE_SETTINGS, "dpo": (), "kto": ("label_smoothing",)}
        unused["orpo"] = ("label_smoothing", "sft_weight")
        defaults = {setting.name: setting.default for setting in fields(self)}
        given = [name for name in unused[self.objective] if getattr(self, name) != defaults[name]]
        if given:
            raise ConfigError(f"{', '.join(given)} changes nothing with objective {self.objective}: leave it out")
        if self.label_smoothing >= 0.5:
            raise ConfigError(f"label_smoothing is {self.label_smoothing}: it must be less than 0.5")
        if self.objective != "sft" and self.epochs == AUTO:
            raise ConfigError(f"epochs is auto, which is not for objective {self.objective}: give a number of epochs")
        if self.objective != "sft" and self.early_stopping_patience:
            raise ConfigError(
                f"early_stopping_patience changes nothing with objective {self.objective}: max_regression stops the run"
            )

    def to_dict(self) -> dict[str, Any]:
        """The settings as a dictionary."""
        return asdict(self)

    @classmethod
    def from_options(cls, options: dict[str, Any]) -> FitConfig:
        """Creates a config from options by name.

        Raises:
            ConfigError: If an option does not exist; the message lists those that do.
        """
        names = [setting.name for setting in fields(cls)]
        unknown = [name for name in options if name not in names]
        if unknown:
            text = f"no training option is called {', '.join(unknown)}; the options are {', '.join(names)}"
            raise ConfigError(text + did_you_mean(unknown, names))
        return cls(**options)

    @classmethod
    def of(cls, config: FitConfig | None, options: dict[str, Any]) -> FitConfig:
        """Returns the config, or makes one from options by name.

        Raises:
            ConfigError: If both are given, the config is of another class, or an option does not exist.
        """
        if config is None:
            return cls.from_options(options)
        if options:
            raise ConfigError(f"give config or {', '.join(options)}, not both")
        if not isinstance(config, FitConfig):
            raise ConfigError(
                f"config is a {type(config).__name__}: it must be a FitConfig; give settings by name, such as epochs=1"
            )
        return config

    @classmethod
    def read_toml(cls, path: str | Path) -> dict[str, Any]:
        """Reads options from a TOML file, whose keys are the names of the settings.

        Raises:
            ConfigError: If the file is missing or not valid TOML, or a key is not a setting.
        """
        try:
            options = tomllib.loads(Path(path).read_text(encoding="utf-8"))
        except FileNotFoundError as error:
            raise ConfigError(f"there is no file {path}") from error
        except (tomllib.TOMLDecodeError, UnicodeDecodeError, OSError) as error:
            raise ConfigError(f"{path} cannot be read as TOML: {error}") from error
        try:
            cls.from_options({"output_dir": "given elsewhere"} | options)
        except ConfigError as error:
            raise ConfigError(f"{path}: {error}") from error
        return options

    def describe(self) -> str:
        """The settings that differ from their defaults, in one line."""
        changed = {one.name: getattr(self, one.name) for one in fields(self) if getattr(self, one.name) != one.default}
        return ", ".join(f"{name}={json.dumps(value)}" for name, value in changed.items()) or "all defaults"


PAIRS_ONLY = ("dpo", "orpo")
"""Objectives that learn from pairs of responses, and not from single ones."""

PREFERENCE_SETTINGS = (
    "beta", "sft_weight", "label_smoothing", "max_regression", "replay_weight", "regeneration_weight",
)  # fmt: skip
"""Settings that only objectives other than sft have."""


@cache
def setting_types() -> dict[str, tuple[type, ...]]:
    """Returns the classes that the value of each setting may have, beside None and words, by its annotation.

    Example:
        >>> setting_types()["epochs"], setting_types()["max_steps"], setting_types()["loss_on"]
        ((<class 'float'>, <class 'int'>), (<class 'int'>,), (<class 'str'>, <class 'list'>, <class 'tuple'>))
    """
    accepted = {float: (float, int), Sequence: (list, tuple)}  # other annotations accept their own class only
    types: dict[str, tuple[type, ...]] = {}
    for name, hint in get_type_hints(FitConfig).items():
        parts = get_args(hint) if get_origin(hint) in (Union, UnionType) else (hint,)
        classes = [get_origin(part) or part for part in parts if part is not NoneType and get_origin(part) != Literal]
        types[name] = tuple(kind for part in classes for kind in accepted.get(part, (part,)))
    return types
