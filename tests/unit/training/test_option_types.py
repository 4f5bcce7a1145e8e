"""The types of the options of `fit` are those of `FitConfig`."""

import os
from typing import Any, get_type_hints

from convmodel import FitConfig
from convmodel.training.option_types import FitOptions

WIDER = {"output_dir": str | os.PathLike[str] | None, "lora": Any}
"""Options that `FitConfig` converts to the type of its own field."""


def test_every_setting_is_an_option_of_the_same_type() -> None:
    assert get_type_hints(FitOptions) == get_type_hints(FitConfig) | WIDER


def test_no_option_is_required() -> None:
    assert FitOptions.__required_keys__ == frozenset()
