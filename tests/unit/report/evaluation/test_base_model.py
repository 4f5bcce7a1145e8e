"""The model that a saved one was fine-tuned from."""

import json
from pathlib import Path

import pytest

from convmodel.report.evaluation.base_model import recorded_base
from convmodel.training.best import FINE_TUNED_FROM


@pytest.mark.parametrize(
    ("card", "base"),
    [(f"# Mine\n\n| {FINE_TUNED_FROM} | `gpt2` |\n", "gpt2"), ("# Mine\n", None), (None, None)],
)
def test_the_model_card_names_the_base(tmp_path: Path, card: str | None, base: str | None) -> None:
    if card is not None:
        (tmp_path / "README.md").write_text(card, encoding="utf-8")

    assert recorded_base(tmp_path) == base


def test_adapters_name_their_base_themselves(tmp_path: Path) -> None:
    (tmp_path / "README.md").write_text(f"| {FINE_TUNED_FROM} | `other` |\n", encoding="utf-8")
    (tmp_path / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": "gpt2"}), encoding="utf-8")

    assert recorded_base(tmp_path) == "gpt2"


def test_a_name_of_the_hub_is_not_a_folder() -> None:
    assert recorded_base("owner/no-such-model") is None
