"""Splitting text of any language into words, in which overlap, repetition and copies are counted.

Owns: what a word is, also where no spaces separate them, and which tokenizer of sacrebleu suits a text.
"""

import re
import unicodedata
from collections.abc import Iterable, Sequence

from convmodel.data.writing_systems import HAN, KANA

# ASCII, Latin-1, Arabic, Devanagari, and the blocks of punctuation; marks and letters of any script are none of them.
_BETWEEN = (
    r"\s!-/:-@\[-`{-~\xa1-\xa9\xab-\xb4\xb6-\xb9\xbb-\xbf\u060c\u061b\u061f\u0964\u0965\u2000-\u206f\u2e00-\u2e7f"
    r"\u3000-\u303f\ufe30-\ufe4f"
)
_LETTER = f"[^{_BETWEEN}{KANA}{HAN}]"
_WORD = re.compile(f"[{KANA}{HAN}]|{_LETTER}+(?:['\u2019]{_LETTER}+)*")
_IS_CHARACTER = re.compile(f"[{KANA}{HAN}]")
_IS_KANA = re.compile(f"[{KANA}]")

_MANY = 0.2  # of all words; fewer foreign characters do not make a text Japanese


def words(text: str) -> list[str]:
    """Splits a text: at spaces and punctuation, and Japanese and Chinese, which have no spaces, into characters.

    Upper and lower case and full width do not matter. Languages without spaces other than these are not split.

    Example:
        >>> words("Don't go, Ann!")
        ["don't", 'go', 'ann']
        >>> words("東京へ行く OK")
        ['東', '京', 'へ', '行', 'く', 'ok']
    """
    return _WORD.findall(unicodedata.normalize("NFKC", text).casefold())


def is_unspaced(text: Sequence[str]) -> bool:
    """Returns whether most words of a text are single characters of Japanese or Chinese.

    Example:
        >>> is_unspaced(words("東京 OK"))
        True
    """
    return _share(_IS_CHARACTER, text) > 0.5


def bleu_tokenizer(texts: Iterable[str]) -> str:
    """Chooses sacrebleu's tokenizer for some texts: `13a` for words, `zh` for Chinese, `char` for Japanese.

    sacrebleu's `ja-mecab` would need MeCab and a dictionary; `char` needs nothing.

    Example:
        >>> bleu_tokenizer(["How are you?"]), bleu_tokenizer(["你好吗"]), bleu_tokenizer(["お元気ですか"])
        ('13a', 'zh', 'char')
    """
    joined = [word for text in texts for word in words(text)]
    if _share(_IS_KANA, joined) > _MANY:
        return "char"
    return "zh" if _share(_IS_CHARACTER, joined) > _MANY else "13a"


def _share(pattern: re.Pattern[str], text: Sequence[str]) -> float:
    return sum(bool(pattern.fullmatch(word)) for word in text) / max(1, len(text))


def ngrams(text: Sequence[str], length: int) -> list[tuple[str, ...]]:
    """Returns all runs of `length` words.

    Example:
        >>> ngrams(["a", "b", "c"], 2)
        [('a', 'b'), ('b', 'c')]
    """
    return [tuple(text[start : start + length]) for start in range(len(text) - length + 1)]
