"""Masking of personal data in conversations.

Owns: the masks, and the pseudonyms of speakers. Knows no patterns (`pii.py`).
"""

import functools
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import TypeAlias

from convmodel.conversation import DEFAULT_SPEAKERS, PINNED_ROLES, Conversation
from convmodel.data.importing.deduplication import normalized
from convmodel.data.importing.name_words import FUNCTION_WORDS, NAMES_AND_WORDS, ORDINARY_WORDS
from convmodel.data.importing.pii import RULES, Rule
from convmodel.data.writing_systems import HANGUL, UNSPACED
from convmodel.errors import ConfigError

ROLES = frozenset({*DEFAULT_SPEAKERS, *PINNED_ROLES})
"""Speakers that are roles, not persons: they keep their names."""

_NUMBERED = re.compile(r"Speaker \d+")


class Redactor:
    """Masks personal data in turns, and gives speakers pseudonyms.

    It masks web addresses, e-mail addresses, IBANs and payment cards (both by their check digits), IP addresses and
    phone numbers. A speaker has the same pseudonym in every conversation; mentions of the names are replaced too: the
    full name, and the first name if it has three letters, in any case. Names that are ordinary words (Will, Rose, Boss)
    are replaced only when capitalised. A first word that is not a name (The Boss, Uncle Tom) is replaced only as a part
    of the full name. In scripts without capitals, a name is replaced wherever it stands, but never where it is only a
    word for a relation or an occupation.

    This is not anonymisation. It cannot find: nicknames, family names alone, misspelt and inflected names, people
    who are mentioned but do not speak (pass them as `people`), places, employers, birthdays and stories that identify
    somebody; street addresses; passport, tax and insurance numbers; passwords; user names;
    addresses that are spelled out (`ann at example dot org`); domains without `www.`, `https://` or a path; phone
    numbers that look like other numbers: no `+`, no leading 0, no groups as they are usual for phones; digits of other
    scripts than 0 to 9. Ids of conversations are kept: a file's name may be in them. It also masks some words and
    numbers by mistake (Will at the start of a sentence). Read a sample before you publish anything.

    `pseudonyms` are assigned in this order; then `Speaker 1`, `Speaker 2` and so on. `counts` has the number of masked
    pieces: `url`, `email`, `iban`, `card`, `ip`, `phone`; `name` for mentions.

    Raises:
        ConfigError: If a pseudonym is empty, repeated, or the name of a role or a numbered speaker.

    Example:
        >>> redactor = Redactor()
        >>> chat = Conversation(["I'm at ann@example.org", "Thanks, Ann!"], ["Ann Lee", "Bob"])
        >>> redactor.redact(chat).to_messages()[1]
        {'role': 'Speaker 2', 'content': 'Thanks, Speaker 1!'}
        >>> sorted(redactor.counts.items())
        [('email', 1), ('name', 1)]
    """

    def __init__(self, pseudonyms: Sequence[str] = (), people: Iterable[str] = ()) -> None:
        if not all(isinstance(name, str) and name.strip() for name in pseudonyms):
            raise ConfigError("pseudonyms contain an empty name: remove it")
        if len({normalized(name) for name in pseudonyms}) < len(pseudonyms):
            raise ConfigError("pseudonyms contain a name twice: two people would become one")
        if taken := [name for name in pseudonyms if name in ROLES or _NUMBERED.fullmatch(name)]:
            raise ConfigError(f"pseudonyms contain {taken[0]!r}, which others may be named: choose another name")
        self.counts: Counter[str] = Counter()
        self._unused = list(reversed(pseudonyms))
        self._assigned: dict[str, str] = {}
        self._numbered = 0
        self._people = tuple(dict.fromkeys(people))
        for name in self._people:
            self.pseudonym(name)

    def redact(self, conversation: Conversation, people: Iterable[str] = ()) -> Conversation:
        """Returns the conversation with masks and pseudonyms, and as many non-empty turns.

        `people` are further names to mask in this conversation, such as those that renamed speakers had.
        """
        pseudonyms = {name: self.pseudonym(name) for name in (*people, *conversation.turn_speakers)}
        speakers = [pseudonyms[name] for name in conversation.turn_speakers]
        mentions = self._mentions((*pseudonyms, *self._people))
        turns = []
        for turn in conversation.turns:
            for rule in RULES:
                turn = self._masked(turn, rule)
            turns.append(self._renamed(turn, mentions))
        return replace(conversation, turns=turns, speakers=speakers)

    def pseudonym(self, name: str) -> str:
        """Returns the pseudonym of a speaker: the same for the same name, in any case and spacing."""
        if name in ROLES:
            return name
        person = normalized(name)
        if person not in self._assigned:
            if self._unused:
                self._assigned[person] = self._unused.pop()
            else:
                self._numbered += 1
                self._assigned[person] = f"Speaker {self._numbered}"
        return self._assigned[person]

    def _masked(self, turn: str, rule: Rule) -> str:
        def mask(match: re.Match[str]) -> str:
            length = rule.holds(match[0])
            if not length:
                return match[0]
            self.counts[rule.name] += 1
            return f"[{rule.name.upper()}]{match[0][length:]}"

        return rule.pattern.sub(mask, turn)

    def _renamed(self, turn: str, mentions: "_Mentions | None") -> str:
        if mentions is None:
            return turn
        pattern, pseudonyms = mentions

        def rename(match: re.Match[str]) -> str:
            person = normalized(match[0])
            if person not in pseudonyms or (person in _ALSO_A_WORD and not any(map(str.isupper, match[0]))):
                return match[0]
            self.counts["name"] += 1
            return pseudonyms[person]

        return pattern.sub(rename, turn)

    def _mentions(self, names: Iterable[str]) -> "_Mentions | None":
        """Returns the pattern of the names in a text, and their pseudonyms; None if there are no names."""
        full = {name: self.pseudonym(name) for name in names if name not in ROLES}
        spellings: dict[str, str] = {}
        for name, pseudonym in full.items():
            first = name.split()[0].strip(".,;:!?()\"'")
            if _is_first_name(normalized(first)):
                spellings.setdefault(first, pseudonym)
        spellings |= full
        spellings = {name: pseudonym for name, pseudonym in spellings.items() if _is_distinctive(normalized(name))}
        if not spellings:
            return None
        people = {normalized(name): pseudonym for name, pseudonym in spellings.items()}
        return _pattern(frozenset(spellings)), people


_Mentions: TypeAlias = tuple[re.Pattern[str], dict[str, str]]


def _words(text: str) -> frozenset[str]:
    return frozenset(map(normalized, text.split()))


# Replacing these words would damage the text, whoever has such a name.
_NOBODY = _words(FUNCTION_WORDS) | ROLES
_NO_FIRST_NAMES = _NOBODY | _words(ORDINARY_WORDS)
# In lower case, and in scripts without capitals, these are words.
_ALSO_A_WORD = _words(ORDINARY_WORDS) | _words(NAMES_AND_WORDS)


def _is_first_name(word: str) -> bool:
    return word not in _NO_FIRST_NAMES and any(map(str.isalpha, word))


def _is_distinctive(person: str) -> bool:
    """Returns whether to look for a name: it has three letters, or two where a letter is a syllable or a word."""
    fewest = 2 if re.search(f"[{UNSPACED}{HANGUL}]", person) else 3
    return len(person) >= fewest and person not in _NOBODY


@functools.lru_cache(maxsize=16)
def _pattern(names: frozenset[str]) -> re.Pattern[str]:
    """Returns the pattern of some names, and of masks; conversations of the same people share it."""
    variants = {form for name in names for form in _spelled(name)}
    longest_first = sorted(variants, key=lambda name: (-len(name), name))
    anywhere = [_mention(name) for name in longest_first if re.match(f"[{UNSPACED}]", name)]
    # One test for all of them that a word begins here: most places in a text need no other.
    at_words = [_mention(name) for name in longest_first if not re.match(f"[{UNSPACED}]", name)]
    masks = "|".join(rule.name for rule in RULES)
    alternatives = [rf"\[(?:{masks})\]", rf"(?<![^\W_])(?:{'|'.join(at_words)})" if at_words else "", *anywhere]
    return re.compile("|".join(filter(None, alternatives)), re.IGNORECASE)


def _spelled(name: str) -> set[str]:
    """Returns the forms of a name that look the same to a reader, but not to a pattern."""
    return {unicodedata.normalize(form, spelled) for form in ("NFC", "NFD") for spelled in (name, name.casefold())}


def _mention(name: str) -> str:
    """Returns the pattern of a name, up to the end of a word; scripts without spaces have no word boundaries."""
    spaced = r"\s+".join(map(re.escape, name.split()))
    return spaced if re.search(f"[{UNSPACED}{HANGUL}]$", name) else rf"{spaced}(?![^\W_])"
