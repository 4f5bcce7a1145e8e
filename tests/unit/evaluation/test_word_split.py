"""What a word is, language by language."""

# ruff: noqa: RUF001
import pytest

from convmodel.evaluation.word_split import bleu_tokenizer, is_unspaced, ngrams, words


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("I'm fine -- 'really'!", ["i'm", "fine", "really"]),
        ("Straße STRASSE", ["strasse", "strasse"]),
        ("そうですね、OK！", ["そ", "う", "で", "す", "ね", "ok"]),
        ("你好，世界。", ["你", "好", "世", "界"]),
        ("안녕하세요 여러분", ["안녕하세요", "여러분"]),
        ("नमस्ते दुनिया।", ["नमस्ते", "दुनिया"]),
        ("ＡＢＣ　１２３", ["abc", "123"]),
        ("well\nok 🙂", ["well", "ok", "🙂"]),
        ("... ?!", []),
        ("3.5 km/h", ["3", "5", "km", "h"]),
    ],
)
def test_words(text: str, expected: list[str]) -> None:
    assert words(text) == expected


def test_a_text_of_characters() -> None:
    assert is_unspaced(words("東京へ行く"))
    assert not is_unspaced(words("I like 東京"))
    assert not is_unspaced([])


@pytest.mark.parametrize(
    ("texts", "expected"),
    [
        (["How are you?", "Fine"], "13a"),
        (["今日はとても暑いですね。", "OK"], "char"),
        (["今天天气很好"], "zh"),
        (["He said 好 and nothing more than that one word"], "13a"),
        ([], "13a"),
    ],
)
def test_the_tokenizer_of_bleu(texts: list[str], expected: str) -> None:
    assert bleu_tokenizer(texts) == expected


def test_runs_longer_than_the_text_are_none() -> None:
    assert ngrams(["a"], 2) == []
