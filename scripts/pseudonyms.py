"""Replaces the first names of people who chat with each other by common ones, so that a model does not learn theirs.

A step of `scripts/train_builtin.py`. A name is what writers call themselves or each other ("my name is ...", "Hey
...,"), and what a census lists as a first name; it is replaced in that conversation only, so that singers, films and
places keep theirs. The lists are those of the package `names` (MIT licence), downloaded with pip.
"""

import re
import tarfile
import tempfile
import zlib
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from make_sample import download

REQUIREMENT = "names==0.3.0"
LISTS = ("dist.female.first", "dist.male.first")  # by frequency, most frequent first
SUBSTITUTES = 10
"""Names of each list that replace others: the most frequent ones, which say least about a person."""

_ADDRESSED = (
    r"(?:^|[.!?\n,] *)(?:hey+|hi+|hello|yo|sup|thanks|thank you|thx|bye+|goodbye|good ?night|good morning|"
    r"(?:nice to )?meet you|welcome|what'?s up|sorry|dear|ok|okay)[, !]+([a-z]+)\b"
)
_INTRODUCED = (
    r"\b(?:(?:my|your) (?:\w+ )?name(?: is|'s|s)?|name'?s|call (?:me|you)|i'?m|i am|this is|it'?s|are you|is this|"
    r"you(?:'re| are))[, ]+([a-z]+)\b"
)
_PATTERNS = [re.compile(pattern, re.IGNORECASE) for pattern in (_ADDRESSED, _INTRODUCED)]
_UNLISTED = re.compile(r"\b(?:[Mm]y name(?: is|'s|s)|[Cc]all me) ([A-Z][a-z]{2,})\b")
"""A name that no census lists, but that somebody gives as their own."""

_FEWEST = 5
"""Lower-case occurrences from which a word may be an ordinary one."""

_NOT_PEOPLE = frozenset(
    """america april august chan china dakota dallas german germany israel jesus june king london marvel paris samoan
    santa sunday sydney""".split()  # noqa: SIM905  (a list of strings would be a column)
)
"""Words of the lists that are something else in these conversations."""


def rename(conversations: Sequence[Sequence[str]], lists: Sequence[Sequence[str]]) -> tuple[list[list[str]], int, int]:
    """Returns the conversations with substitutes for the writers' names, how many names were found, and how often.

    Args:
        conversations: Turns, by conversation.
        lists: First names in lower case, most frequent first.
    """
    common = _ordinary_words(conversations)
    known = {name for names in lists for name in names if len(name) > 2} - common - _NOT_PEOPLE
    substitutes = [name for names in lists for name in names[:SUBSTITUTES]]
    result, names, replaced = [], 0, 0
    for turns in conversations:
        found = sorted(_names_in(turns, known, common))
        chosen = {name: substitutes[zlib.crc32(name.encode()) % len(substitutes)] for name in found}
        renamed, count = _replace(turns, chosen)
        result.append(renamed)
        names += len(found)
        replaced += count
    return result, names, replaced


def first_names() -> list[list[str]]:
    """Downloads the lists of first names, in lower case."""
    with tempfile.TemporaryDirectory() as folder:  # noqa: SIM117  (the archive is in it)
        with tarfile.open(download(Path(folder), REQUIREMENT, "--no-binary", ":all:")) as files:
            members = {Path(member.name).name: member for member in files.getmembers() if "/names/" in member.name}
            texts = [files.extractfile(members[name]).read().decode() for name in LISTS]  # type: ignore[union-attr]
    return [[line.split()[0].lower() for line in text.splitlines()] for text in texts]


def _ordinary_words(conversations: Iterable[Iterable[str]]) -> set[str]:
    """Returns the words that are mostly written in lower case inside a sentence."""
    lower, upper = Counter[str](), Counter[str]()
    for turns in conversations:
        for turn in turns:
            for match in re.finditer(r"[A-Za-z]+", turn):
                word = match[0]
                if word.islower():
                    lower[word] += 1
                elif word.istitle() and turn[: match.start()].rstrip()[-1:] not in ("", ".", "!", "?", "\n"):
                    upper[word.lower()] += 1
    return {word for word, count in lower.items() if count >= _FEWEST and count > 2 * upper[word]}


def _names_in(turns: Iterable[str], known: set[str], common: set[str]) -> set[str]:
    found = set()
    for turn in turns:
        found |= {match[1].lower() for pattern in _PATTERNS for match in pattern.finditer(turn)} & known
        found |= {match[1].lower() for match in _UNLISTED.finditer(turn)} - common - _NOT_PEOPLE
    return found


def _replace(turns: Iterable[str], substitutes: Mapping[str, str]) -> tuple[list[str], int]:
    """Returns the turns with substitutes, and how many there are; "adams" is Adam's, without an apostrophe."""
    if not substitutes:
        return [*turns], 0
    pattern = re.compile(rf"\b({'|'.join(substitutes)})(?=s?\b)", re.IGNORECASE)
    parts = [pattern.subn(lambda match: _like(match[0], substitutes[match[0].lower()]), turn) for turn in turns]
    return [text for text, _ in parts], sum(count for _, count in parts)


def _like(name: str, substitute: str) -> str:
    """Returns a substitute in the case of the name."""
    if name.isupper():
        return substitute.upper()
    return substitute.capitalize() if name[0].isupper() else substitute
