"""What is read from a model card."""

import json
from pathlib import Path

import pytest

from convmodel.hf_model.model_card import FINE_TUNED_FROM, recorded_base, recorded_license


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


@pytest.mark.parametrize(
    ("card", "license"),
    [
        ("---\nlicense: mit\n---\n\n# Mine\n", "mit"),
        ("---\ntags: [a]\n---\n", None),
        ("---\nlicense: [a, b]\n---\n", None),
        ("---\n: {\n---\n", None),
        ("# Mine\n", None),
        (None, None),
    ],
)
def test_the_metadata_of_the_card_name_the_license(tmp_path: Path, card: str | None, license: str | None) -> None:
    if card is not None:
        (tmp_path / "README.md").write_text(card, encoding="utf-8")
    assert recorded_license(str(tmp_path)) == license


def test_the_built_in_model_has_a_license() -> None:
    assert recorded_license("builtin:chitchat") == "apache-2.0"
