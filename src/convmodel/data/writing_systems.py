"""Ranges of characters by writing system, each as part of a regular expression's character class.

Owns: which scripts have no spaces between words. Does not know what is counted, compared or masked in them.
"""

KANA = "\u3040-\u30ff\u31f0-\u31ff"
"""Hiragana and katakana."""

HAN = "\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"
"""Chinese characters."""

HANGUL = "\uac00-\ud7a3"
"""Korean syllables; Korean has spaces, but names are written without."""

UNSPACED = "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3005-\u3007" + KANA + HAN
"""All scripts without spaces: Thai, Lao, Burmese, Khmer, Japanese and Chinese, with their repetition marks.

Duplicates and names are compared in all of them. Metrics split Japanese and Chinese alone into characters, and take the
marks for punctuation (`evaluation/word_split.py`).
"""
