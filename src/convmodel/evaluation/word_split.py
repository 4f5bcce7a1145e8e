"""Text to words, in whatever language: what overlap, repetition and copies are counted in.

Owns: what a word is, where no spaces separate them, and which tokenizer of sacrebleu suits some texts.
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

_MANY = 0.2  # of all words: below, a few foreign characters do not make a text Japanese


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


def in_characters(found: Sequence[str]) -> bool:
    """Tells whether most of some words are single characters of Japanese or Chinese.

    Example:
        >>> in_characters(words("東京 OK"))
        True
    """
    return 2 * sum(bool(_IS_CHARACTER.fullmatch(word)) for word in found) > len(found)


def bleu_tokenizer(texts: Iterable[str]) -> str:
    """Chooses sacrebleu's tokenizer for some texts: `13a` for words, `zh` for Chinese, `char` for Japanese.

    sacrebleu's `ja-mecab` needs MeCab and a dictionary beside it, and `char` needs nothing.

    Example:
        >>> bleu_tokenizer(["How are you?"]), bleu_tokenizer(["你好吗"]), bleu_tokenizer(["お元気ですか"])
        ('13a', 'zh', 'char')
    """
    found = [word for text in texts for word in words(text)]
    if sum(bool(_IS_KANA.fullmatch(word)) for word in found) > _MANY * len(found):
        return "char"
    return "zh" if sum(bool(_IS_CHARACTER.fullmatch(word)) for word in found) > _MANY * len(found) else "13a"


def ngrams(found: Sequence[str], length: int) -> list[tuple[str, ...]]:
    """Returns all runs of so many words.

    Example:
        >>> ngrams(["a", "b", "c"], 2)
        [('a', 'b'), ('b', 'c')]
    """
    return [tuple(found[start : start + length]) for start in range(len(found) - length + 1)]
