"""The settings of a run: each bad value is refused by the option's name and the cure; 0 is a value like any other."""

import json
import math
import subprocess
import sys
from dataclasses import FrozenInstanceError, fields
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from convmodel.errors import ConfigError
from convmodel.training.config import FitConfig

BAD = [
    ("epochs", 0, "more than 0"),
    ("epochs", -1.5, "more than 0"),
    ("epochs", math.nan, "more than 0"),
    ("epochs", math.inf, "finite"),
    ("epochs", "3", "of type float or int, or auto"),
    ("epochs", "Auto", "of type float or int, or auto"),
    ("epochs", True, "of type float or int"),
    ("packing", 1, "of type bool"),
    ("max_steps", 0, "at least 1"),
    ("max_steps", -1, "at least 1"),
    ("max_steps", 1.5, "of type int"),
    ("batch_size", 0, "at least 1"),
    ("batch_size", 8.0, "of type int"),
    ("gradient_accumulation_steps", 0, "at least 1"),
    ("learning_rate", 0, "more than 0"),
    ("learning_rate", -1e-4, "more than 0"),
    ("learning_rate", "1e-4", "of type float or int"),
    ("learning_rate", math.nan, "more than 0"),
    ("learning_rate", math.inf, "finite"),
    ("warmup_steps", -1, "at least 0"),
    ("warmup_steps", 0.1, "of type int"),
    ("weight_decay", -0.1, "at least 0"),
    ("max_grad_norm", -1.0, "at least 0"),
    ("max_length", 3, "at least 4"),
    ("precision", "bfloat16", "one of auto, fp32, bf16, fp16"),
    ("precision", None, "of type str"),
    ("optim", "sgd", "one of adamw, adafactor"),
    ("dropout", -0.1, "at least 0"),
    ("dropout", 1, "less than 1"),
    ("dropout", math.nan, "at least 0"),
    ("gradient_checkpointing", 1, "of type bool"),
    ("torch_compile", "yes", "of type bool"),
    ("lora", "yes", "of type bool or dict"),
    ("lora", 8, "of type bool or dict"),
    ("merge", 1, "of type bool"),
    ("loss_on", 5, "of type str or list or tuple"),
    ("objective", "ppo", "one of sft, kto, dpo, orpo"),
    ("beta", 0, "more than 0"),
    ("sft_weight", -1, "at least 0"),
    ("label_smoothing", -0.1, "at least 0"),
    ("max_regression", 0, "more than 0"),
    ("replay_weight", -1, "at least 0"),
    ("regeneration_weight", -1, "at least 0"),
    ("seed", -1, "at least 0"),
    ("seed", 2**32, r"less than 2\*\*32"),
    ("seed", None, "of type int"),
    ("output_dir", 5, "of type str"),
    ("eval_steps", 0, "at least 1"),
    ("save_steps", 0, "at least 1"),
    ("save_minutes", -1, "at least 0"),
    ("save_minutes", math.nan, "at least 0"),
    ("save_minutes", None, "of type float or int"),
    ("save_total_limit", -1, "at least 0"),
    ("save_total_limit", 1.5, "of type int"),
    ("resume", 1, "of type bool"),
    ("logging_steps", 0, "at least 1"),
    ("samples", -1, "at least 0"),
    ("samples", True, "of type int"),
    ("early_stopping_patience", 0, "at least 1"),
    ("report_to", None, "of type str"),
]


@pytest.mark.parametrize(("option", "value", "cure"), BAD)
def test_a_bad_value_is_refused_by_name_with_the_cure(option: str, value: Any, cure: str) -> None:
    with pytest.raises(ConfigError, match=f"^{option} is .*: it must be {cure}"):
        FitConfig(**{option: value})


def test_every_option_is_among_the_bad_values() -> None:
    assert {option for option, _, _ in BAD} == {setting.name for setting in fields(FitConfig)}


def test_every_option_says_what_it_does() -> None:
    for setting in fields(FitConfig):
        assert setting.metadata["help"].endswith("."), setting.name


def test_save_steps_need_a_folder() -> None:
    with pytest.raises(ConfigError, match="save_steps needs a folder to save in: give output_dir too"):
        FitConfig(save_steps=5)


def test_samples_need_a_folder() -> None:
    with pytest.raises(ConfigError, match=r"samples needs a folder to write samples\.jsonl in: give output_dir too"):
        FitConfig(samples=1)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"beta": 0.2}, "beta changes nothing with objective sft: leave it out"),
        ({"max_regression": 0.1, "replay_weight": 0}, "max_regression, replay_weight changes nothing with"),
        ({"objective": "kto", "label_smoothing": 0.1}, "label_smoothing changes nothing with objective kto"),
        ({"objective": "orpo", "sft_weight": 0.1}, "sft_weight changes nothing with objective orpo"),
        ({"objective": "dpo", "label_smoothing": 0.5}, "label_smoothing is 0.5: it must be less than 0.5"),
        ({"objective": "dpo", "early_stopping_patience": 2}, "changes nothing with objective dpo: max_regression"),
    ],
)
def test_options_that_an_objective_does_not_have_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        FitConfig(**options)


def test_going_on_needs_a_folder() -> None:
    with pytest.raises(ConfigError, match="resume needs the folder of the run to resume: give output_dir too"):
        FitConfig(resume=True)


@pytest.mark.parametrize(
    "options",
    [
        {"seed": 0},
        {"save_minutes": 0},
        {"save_total_limit": 0},
        {"resume": False},
        {"warmup_steps": 0},
        {"weight_decay": 0},
        {"max_grad_norm": 0},
        {"epochs": 0.25},
        {"epochs": "auto"},
        {"epochs": 2},
        {"loss_on": ["Ann", "Bob"]},
        {"loss_on": ("Ann",)},
        {"seed": 2**32 - 1},
        {"max_grad_norm": math.inf},
    ],
)
def test_values_at_the_edge_are_kept_as_they_are(options: dict[str, Any]) -> None:
    config = FitConfig(**options)

    assert {name: getattr(config, name) for name in options} == options


def test_a_config_does_not_change() -> None:
    config = FitConfig()

    with pytest.raises(FrozenInstanceError):
        config.seed = 1  # type: ignore[misc]


def test_options_by_name_make_the_same_config() -> None:
    assert FitConfig.from_options({"epochs": 1, "seed": 0}) == FitConfig(epochs=1, seed=0)


def test_an_unknown_option_is_named_and_the_known_ones_are_listed() -> None:
    with pytest.raises(ConfigError, match=r"no training option is called lr, wamup_steps; the options are epochs, .*"):
        FitConfig.from_options({"lr": 1e-4, "seed": 0, "wamup_steps": 5})


@pytest.mark.parametrize(
    ("unknown", "meant"), [("lr", "learning_rate"), ("num_train_epochs", "epochs"), ("wamup_steps", "warmup_steps")]
)
def test_an_option_that_is_nearly_right_is_suggested(unknown: str, meant: str) -> None:
    with pytest.raises(ConfigError, match=rf"did you mean {meant}\?$"):
        FitConfig.from_options({unknown: 1})


def test_numbers_of_numpy_are_numbers() -> None:
    config = FitConfig(batch_size=np.int64(2), learning_rate=np.float64(1e-4), packing=np.bool_(True))
    assert config == FitConfig(batch_size=2, learning_rate=1e-4, packing=True)
    assert json.loads(json.dumps(config.to_dict()))["batch_size"] == 2


@pytest.mark.parametrize("config", [{}, {"max_steps": 1}, "fit.toml"])
def test_a_config_of_another_class_is_refused(config: Any) -> None:
    with pytest.raises(ConfigError, match="must be a FitConfig; give settings by name"):
        FitConfig.of(config, {})


def test_a_config_goes_through_a_dictionary() -> None:
    config = FitConfig(epochs=1.5, loss_on=["Ann"], max_steps=3)

    assert FitConfig.from_options(config.to_dict()) == config


def test_a_toml_file_has_the_names_of_the_settings(tmp_path: Path) -> None:
    path = tmp_path / "fit.toml"
    path.write_text('epochs = 2\nlearning_rate = 1e-3\nseed = 0\nloss_on = ["Ann", "Zoë"]\n', encoding="utf-8")

    options = FitConfig.read_toml(path)

    assert options == {"epochs": 2, "learning_rate": 1e-3, "seed": 0, "loss_on": ["Ann", "Zoë"]}
    assert FitConfig.read_toml(str(path)) == options


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"epochs = x", "cannot be read as TOML: .*line 1"),
        (b"epochs = 1\nepochs = 2", "cannot be read as TOML"),
        (b'output_dir = "caf\xe9"', "cannot be read as TOML"),
        (b"lr = 1e-3", "no training option is called lr; the options are epochs"),
        (b"[fit]\nepochs = 1", "no training option is called fit"),
        (b'epochs = "2"', "epochs is '2': it must be of type float or int, or auto"),
        (b"epochs = inf", "epochs is inf: it must be finite"),
        (b"seed = -1", "seed is -1: it must be at least 0"),
        (b"seed = true", "seed is True: it must be of type int"),
    ],
)
def test_a_bad_toml_file_is_named(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "fit.toml"
    path.write_bytes(content)

    with pytest.raises(ConfigError, match=f"fit.toml:? {message}"):
        FitConfig.read_toml(path)


def test_a_missing_toml_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"there is no file .*fit.toml"):
        FitConfig.read_toml(tmp_path / "fit.toml")


def test_a_folder_is_no_toml_file(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"cannot be read as TOML: .*directory"):
        FitConfig.read_toml(tmp_path)


def test_a_config_describes_what_is_not_default() -> None:
    assert FitConfig().describe() == "all defaults"
    assert FitConfig(seed=0, batch_size=None).describe() == "seed=0"
    assert FitConfig(loss_on=("Ann", "Bob"), output_dir="m").describe() == 'loss_on=["Ann", "Bob"], output_dir="m"'


def test_the_settings_load_without_torch() -> None:
    code = "import sys, convmodel.training.config; sys.exit('torch' in sys.modules or 'transformers' in sys.modules)"

    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_an_output_folder_may_be_a_path() -> None:
    assert FitConfig(output_dir=Path("models") / "new").output_dir == "models/new"  # type: ignore[arg-type]
