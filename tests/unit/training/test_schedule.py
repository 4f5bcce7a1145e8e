"""The length of a run that is left open follows from the number of windows."""

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import get_linear_schedule_with_warmup

from convmodel.errors import ConfigError
from convmodel.training.config import FitConfig
from convmodel.training.schedule import MAX_STEPS, Schedule, cycle_ends, cycle_factor

CHOSEN = ("epochs", "batch_size", "warmup_steps", "eval_steps", "early_stopping_patience")


def chosen(rows: int, valid_rows: int = 4, processes: int = 1, **options: Any) -> tuple[list[Any], tuple[int, ...]]:
    """The settings of a run on so many windows, and its cycles."""
    config = FitConfig(**options)
    schedule = Schedule.of(config.to_dict(), rows, valid_rows=valid_rows, processes=processes)
    settled = replace(config, **schedule.settings)  # checks the values, too
    return [getattr(settled, name) for name in CHOSEN], schedule.cycles


@pytest.mark.parametrize(
    ("rows", "settings", "cycles"),
    [
        pytest.param(3, [21.0, 1, 0, 3, 2], (9, 27, 63), id="three windows"),
        pytest.param(24, [21.0, 2, 1, 12, 2], (36, 108, 252), id="300 messages"),
        pytest.param(88, [21.0, 8, 1, 11, 2], (33, 99, 231), id="88 windows"),
        pytest.param(830, [9.0, 8, 15, 26, 8], (312, 936), id="3,000 messages"),
        pytest.param(8300, [3.0, 8, 155, 260, 7], (3114,), id="30,000 messages"),
    ],
)
def test_an_open_run_follows_from_the_number_of_windows(
    rows: int, settings: list[Any], cycles: tuple[int, ...]
) -> None:
    assert chosen(rows) == (settings, cycles)
    assert chosen(rows, epochs="auto") == (settings, cycles)


def test_the_table_of_the_docs_is_what_is_computed() -> None:
    page = Path(__file__, "../../../../docs/training.md").resolve().read_text(encoding="utf-8")
    rows = re.findall(r"^\| ([\d,]+)[^|]*\| (\d+) \| ([\d,]+) \| ([^|]+) \|$", page, re.MULTILINE)

    assert len(rows) == 4
    for windows, *expected, ends in rows:
        settings, cycles = chosen(int(windows.replace(",", "")))
        first_epoch = cycles[0] // 3
        assert expected == [str(settings[1]), f"{first_epoch:,}"]
        assert re.findall(r"[\d,]*\d", ends) == [f"{end:,}" for end in cycles]


def test_what_is_given_stays() -> None:
    given = {"batch_size": 4, "warmup_steps": 7, "eval_steps": 5, "early_stopping_patience": 9}

    assert chosen(24, **given) == ([21.0, *given.values()], (18, 54, 126))


@pytest.mark.parametrize("options", [{"epochs": 3}, {"epochs": 0.5}, {"max_steps": 20}, {"objective": "kto"}], ids=str)
def test_a_run_of_a_given_length_has_the_defaults_of_old(options: dict[str, Any]) -> None:
    settings, cycles = chosen(24, **options)

    assert settings == [options.get("epochs", 3.0), 8, None, None, None]
    assert cycles == ()


def test_without_validation_the_length_is_fixed() -> None:
    assert chosen(24, valid_rows=0) == ([3.0, 2, None, None, None], ())


def test_several_processes_share_the_windows_of_a_step() -> None:
    alone, together = chosen(200, gradient_accumulation_steps=2), chosen(200, processes=2)

    assert alone == together
    assert (alone[0][1], alone[1]) == (8, (39, 117, 273))


def test_much_validation_data_is_validated_less_often() -> None:
    often, seldom = (chosen(2000, valid_rows=rows)[0][3] for rows in (100, 1900))

    assert (often, seldom) == (63, 250)


def test_auto_needs_validation_data() -> None:
    with pytest.raises(ConfigError, match=r"epochs is auto, .*: pass valid too, or give a number of epochs"):
        chosen(24, valid_rows=0, epochs="auto")


def test_judgements_have_no_auto() -> None:
    with pytest.raises(ConfigError, match="epochs is auto, which is not for objective dpo: give a number of epochs"):
        FitConfig(epochs="auto", objective="dpo")


@pytest.mark.parametrize(
    ("rows", "processes", "options", "eval_steps"),
    [
        (200, 1, {}, 7),  # of 25 in an epoch: after 7, 14, 21, 28 ...
        (40, 1, {}, None),  # an epoch is short enough
        (200, 2, {}, 7),
        (200, 1, {"gradient_accumulation_steps": 25}, None),
        (200, 1, {"eval_steps": 50}, 50),
    ],
)
def test_a_run_on_judgements_is_validated_before_it_is_too_late(
    rows: int, processes: int, options: dict[str, Any], eval_steps: int | None
) -> None:
    options |= {"objective": "kto", "batch_size": 8}
    assert chosen(rows, processes=processes, **options)[0][3] == eval_steps


def test_a_run_on_judgements_without_validation_data_has_no_validations() -> None:
    assert chosen(200, valid_rows=0, objective="kto")[0][3] is None


@pytest.mark.parametrize("per_epoch", [1, 11, 47, 48, 111, 112, 5000])
def test_cycles_end_within_the_limit_and_the_first_always(per_epoch: int) -> None:
    ends = cycle_ends(per_epoch)

    assert ends[0] == 3 * per_epoch
    assert all(end <= MAX_STEPS for end in ends[1:])


def test_the_first_cycle_has_the_rates_of_a_run_of_three_epochs() -> None:
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    schedule = get_linear_schedule_with_warmup(optimizer, 3, 33)

    expected = [schedule.lr_lambdas[0](step) for step in range(33)]

    assert [cycle_factor(step, warmup=3, ends=(33, 99)) for step in range(33)] == expected


def test_each_cycle_rises_and_falls() -> None:
    rates = [cycle_factor(step, warmup=3, ends=(33, 99)) for step in range(100)]

    assert rates[33:37] == [0, pytest.approx(1 / 3), pytest.approx(2 / 3), 1]
    assert rates[36:] == sorted(rates[36:], reverse=True)
    assert rates[99] == 0
