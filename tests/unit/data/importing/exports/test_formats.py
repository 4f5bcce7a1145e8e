"""The list of formats: what is not an export matches none of them."""

from pathlib import Path

import pytest

from convmodel.data.importing.exports.formats import FORMATS, recognised


@pytest.mark.parametrize("name", FORMATS)
def test_a_missing_or_an_empty_file_matches_no_format(tmp_path: Path, name: str) -> None:
    for suffix in (".txt", ".json", ".zip"):
        (tmp_path / f"empty{suffix}").touch()
        assert not FORMATS[name].matches(tmp_path / f"empty{suffix}")
        assert not FORMATS[name].matches(tmp_path / f"missing{suffix}")
    assert not FORMATS[name].matches(tmp_path)


def test_a_format_is_recognised_by_its_content(tmp_path: Path) -> None:
    chat = tmp_path / "chat.txt"
    chat.write_text("31/12/2021, 21:41 - Ann: Hi\n31/12/2021, 21:42 - Bob: Hello\n")

    assert recognised(chat) is FORMATS["whatsapp"]
    assert recognised(tmp_path / "missing.txt") is None
