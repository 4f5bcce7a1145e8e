"""Which characters belong to scripts without spaces."""

import re

import pytest

from convmodel.data.writing_systems import HAN, HANGUL, KANA, UNSPACED


@pytest.mark.parametrize("character", "\u0e01\u0e81\u1000\u1780\u3042\u30a2\u31f0\u3005\u6f22\u3400\uf900\U00020bb7")
def test_scripts_without_spaces_hold_their_characters(character: str) -> None:
    assert re.fullmatch(f"[{UNSPACED}]", character)


@pytest.mark.parametrize("character", "a\u00e9\u0430\u05d0\u0905\ud55c1 \u3001")
def test_scripts_with_spaces_and_punctuation_are_none_of_them(character: str) -> None:
    assert not re.fullmatch(f"[{UNSPACED}]", character)


def test_the_ranges_of_one_script_are_apart() -> None:
    characters = {KANA: "\u3042", HAN: "\u6f22", HANGUL: "\ud55c"}
    for script in characters:
        assert [other for other, character in characters.items() if re.fullmatch(f"[{script}]", character)] == [script]
