"""The table of hyperparameters: what the docs show, what is sent, and what `convmodel fit` gets."""

from pathlib import Path
from typing import Any

import pytest
from openai.types.fine_tuning import dpo_hyperparameters_param, supervised_hyperparameters_param

from convmodel.server.errors import ApiError
from convmodel.server.fine_tuning.hyperparameters import TABLE, Method, fit_settings, markdown_table, resolve
from convmodel.training.config import FitConfig

DOCS = Path(__file__).parents[4] / "docs/fine-tuning-service.md"


def test_the_docs_have_the_table() -> None:
    assert markdown_table() in DOCS.read_text(encoding="utf-8")


def test_openais_client_sends_these_and_no_others() -> None:
    supervised = supervised_hyperparameters_param.SupervisedHyperparametersParam.__annotations__
    dpo = dpo_hyperparameters_param.DpoHyperparametersParam.__annotations__
    assert {row.name for row in TABLE if "supervised" in row.methods} == supervised.keys()
    assert {row.name for row in TABLE if "dpo" in row.methods} == dpo.keys()


@pytest.mark.parametrize("method", ["supervised", "dpo"])
def test_bounds_are_valid_settings(method: Method) -> None:
    for bound in ("low", "high"):
        values = {row.name: getattr(row, bound) for row in TABLE if method in row.methods}
        assert FitConfig(**fit_settings(method, resolve(method, values, ""), seed=1)).seed == 1


def test_auto_is_what_the_commands_do_by_themselves() -> None:
    auto: dict[str, Any] = dict.fromkeys([row.name for row in TABLE if "supervised" in row.methods], "auto")
    config = FitConfig(**fit_settings("supervised", resolve("supervised", auto, ""), seed=FitConfig().seed))
    assert config == FitConfig(loss_on="assistant")
    settings = fit_settings("dpo", resolve("dpo", {}, ""), seed=1)
    assert (settings["lora"], settings["learning_rate"], settings["beta"]) == (True, 5e-4, 0.2)


@pytest.mark.parametrize("value", [0, -1, "3", 1e9, float("nan"), True, [], {}, 10**400])
def test_values_out_of_bounds_are_refused(value: Any) -> None:
    for row in TABLE:
        with pytest.raises(ApiError, match=f"h.{row.name} is .*: it must be a .*number from .* to .*, or auto"):
            resolve("dpo", {row.name: value}, "h")
