"""`convmodel_config.json`: what comes back, and what is refused."""

import hashlib
import json
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
from chat_templates import FORMS, make_tokenizer

from convmodel.errors import ModelLoadError
from convmodel.layout.config import FILE_NAME, LayoutConfig, digest
from convmodel.layout.tokenizer import ConversationTokenizer

LAYOUT = LayoutConfig(50256, "<sep>", True)
FULL = LayoutConfig(7, "[SEP]", False, speakers=("Ann", "Bjørn 🍕"), loss_on=("Ann",), max_length=128)


def write(folder: Path, **changes: Any) -> Path:
    """Writes a good file with some fields changed; None in `changes` is JSON's null."""
    path = folder / FILE_NAME
    path.write_text(json.dumps(json.loads(LAYOUT.to_json()) | changes), encoding="utf-8")
    return path


@pytest.mark.parametrize("layout", [LAYOUT, FULL, replace(FULL, bos_id=2)])
def test_what_is_written_is_read(layout: LayoutConfig, tmp_path: Path) -> None:
    path = tmp_path / FILE_NAME
    path.write_text(layout.to_json(), encoding="utf-8")
    assert LayoutConfig.read(path) == layout


def test_the_file_states_its_format_and_version() -> None:
    assert json.loads(FULL.to_json()) == {
        "format": 1,
        "convmodel_version": version("convmodel"),
        "separator_id": 7,
        "separator_token": "[SEP]",
        "use_token_types": False,
        "speakers": ["Ann", "Bjørn 🍕"],
        "loss_on": ["Ann"],
        "max_length": 128,
    }


def test_a_beginning_of_text_is_written_only_if_there_is_one() -> None:
    assert "bos_id" not in json.loads(FULL.to_json())
    assert json.loads(replace(FULL, bos_id=2).to_json())["bos_id"] == 2


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b'{"format": 1', b"\xff\xfe", b"not JSON"],
    ids=["empty", "brace", "cut off", "not UTF-8", "words"],
)
def test_a_corrupted_file_is_refused(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / FILE_NAME
    path.write_bytes(content)
    with pytest.raises(ModelLoadError, match=f"{FILE_NAME} cannot be read: .*; copy it again"):
        LayoutConfig.read(path)


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelLoadError, match="cannot be read"):
        LayoutConfig.read(tmp_path / FILE_NAME)


@pytest.mark.parametrize(
    "content", ["[]", "null", "7", "{}", '{"format": "1"}', '{"format": null}', '{"format": true}']
)
def test_json_without_a_format_number_is_refused(content: str, tmp_path: Path) -> None:
    path = tmp_path / FILE_NAME
    path.write_text(content, encoding="utf-8")
    with pytest.raises(ModelLoadError, match="no format number"):
        LayoutConfig.read(path)


@pytest.mark.parametrize("number", [0, 3, 999])
def test_another_format_is_refused_and_says_who_wrote_it(number: int, tmp_path: Path) -> None:
    path = write(tmp_path, format=number, convmodel_version="9.1")
    with pytest.raises(ModelLoadError, match=f"has format {number}, written by convmodel 9.1.* reads formats 1 and 2"):
        LayoutConfig.read(path)


def test_an_unknown_field_is_refused_rather_than_ignored(tmp_path: Path) -> None:
    path = write(tmp_path, separator_rule="new", bidirectional=True)
    with pytest.raises(ModelLoadError, match="does not know: bidirectional, separator_rule"):
        LayoutConfig.read(path)


@pytest.mark.parametrize(
    "name", ["separator_id", "separator_token", "use_token_types", "speakers", "loss_on", "max_length"]
)
def test_a_missing_field_is_refused_by_name(name: str, tmp_path: Path) -> None:
    path = write(tmp_path)
    content = json.loads(path.read_text(encoding="utf-8"))
    del content[name]
    path.write_text(json.dumps(content), encoding="utf-8")
    with pytest.raises(ModelLoadError, match=name):
        LayoutConfig.read(path)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("separator_id", -1),
        ("separator_id", "50256"),
        ("separator_id", 50256.0),
        ("separator_id", True),
        ("separator_id", None),
        ("separator_token", ""),
        ("separator_token", 7),
        ("use_token_types", "yes"),
        ("use_token_types", 1),
        ("use_token_types", None),
        ("speakers", "Ann"),
        ("speakers", [1]),
        ("speakers", None),
        ("loss_on", 1),
        ("loss_on", [None]),
        ("loss_on", None),
        ("max_length", "long"),
        ("max_length", -5),
        ("max_length", 12.5),
    ],
)
def test_a_value_that_no_layout_can_have_is_refused_by_name(name: str, value: Any, tmp_path: Path) -> None:
    path = write(tmp_path, **{name: value})
    with pytest.raises(ModelLoadError, match=f"{FILE_NAME}: {name} is"):
        LayoutConfig.read(path)


def test_a_layout_knows_whether_the_data_had_system_turns() -> None:
    assert not LAYOUT.takes_system
    assert not FULL.takes_system
    assert replace(FULL, speakers=("persona", "user", "assistant")).takes_system


@pytest.mark.parametrize("end", ["\r\n", "\r"])
def test_a_template_with_other_line_ends_can_be_loaded_again(end: str, tmp_path: Path) -> None:
    form = FORMS["chatml"]
    tokenizer = make_tokenizer(form.template.replace("\n", end), form.specials)
    ConversationTokenizer(tokenizer).save_pretrained(tmp_path)

    loaded = ConversationTokenizer.from_pretrained(tmp_path)

    assert loaded.layout.template is not None
    assert loaded.layout.template.template == digest(make_tokenizer(form.template, form.specials)) == digest(tokenizer)


def test_the_digest_of_a_template_with_line_feeds_is_that_of_its_text() -> None:
    form = FORMS["chatml"]
    text = hashlib.sha256(form.template.encode()).hexdigest()
    assert digest(make_tokenizer(form.template, form.specials)) == text
