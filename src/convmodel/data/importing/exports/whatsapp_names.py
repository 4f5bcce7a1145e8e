"""Who speaks in an entry of WhatsApp's export: the name before the colon, or nobody in WhatsApp's own notices.

Owns: finding the speakers of a whole file. WhatsApp's own text after a name is in `whatsapp_notices`.
"""

import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache

from convmodel.data.importing.exports.heads import MARKS
from convmodel.data.importing.exports.names import is_cut_off

_SPACED = re.compile(r"(?P<name>[^\n]{1,100}?):(?:\s|\Z)")
# The colon of a time or an address is not one of these.
_TIGHT = re.compile(
    r"(?P<name>[^\n:\uff1a]{0,99}[^\n:\uff1a\d])[:\uff1a](?!//)\s?|(?P<number>[^\n:\uff1a]{1,99}\d)[:\uff1a](?!\d|//)\s?"
)
_RARE = 3  # a notice is repeated at most so often


class Speakers:
    """The speakers of a file, found in the first lines of all its entries.

    Args:
        entries: The number and text of the first line of each entry.
        bare_notices: Whether notices stand without a name, as on Android; an iPhone writes the name of the chat.

    Attributes:
        notes: The words before a colon that were taken for WhatsApp's own text, for the user.
    """

    def __init__(self, entries: Iterable[tuple[int, str]], *, bare_notices: bool) -> None:
        self._bare_notices = bare_notices
        lines = list(entries)
        self._places: defaultdict[str, list[int]] = defaultdict(list)
        for number, line in lines:
            if name := _name(_SPACED.match(line)):
                self._places[name].append(number)
        self._names = {name for name in self._places if not self._is_notice(name)}
        tight = {_name(_TIGHT.match(line)) for _, line in lines if not self.split(line)[0]}
        self._names |= {name for name in tight if name and not self._is_notice(name)}
        speech = {name for name in self._places if self.split(f"{name}: ")[0]}  # of `Ann:one: two`, too
        notices = {name: at[0] for name, at in self._places.items() if name not in speech and not is_cut_off(name)}
        listed = ", ".join(f"{name} (line {line})" for name, line in notices.items())
        self.notes = [f"taken for WhatsApp's own text, not for names: {listed}"] if listed else []

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def split(self, entry: str) -> tuple[str, str]:
        """Splits an entry into its speaker and the rest; the speaker is empty in WhatsApp's own notices."""
        for pattern in (_TIGHT, _SPACED):
            match = pattern.match(entry)
            if match and (name := _name(match)) in self._names:
                return name, entry[match.end() :]
        return "", entry

    def _is_notice(self, name: str) -> bool:
        count, words = len(self._places.get(name, ())), name.split()
        if is_cut_off(name) or (":" in name and name.partition(":")[0] in self._places):
            return True
        if count > _RARE:
            return False
        if any(name[:end] in self._places and _continues(name[end:]) for end in range(1, len(name))):
            return True
        if not self._bare_notices or count > 1 or len(words) < 3:
            return False
        has_case = name.upper() != name.lower()
        return words[-1][0].islower() if has_case else self._holds_another(words)

    def _holds_another(self, words: Sequence[str]) -> bool:
        spans = ((start, end) for start in range(len(words)) for end in range(start + 1, len(words) + 1))
        parts = (" ".join(words[start:end]) for start, end in spans if end - start < len(words))
        return any(part in self._places for part in parts)


def _continues(rest: str) -> bool:
    """Distinguishes `Ann changed this group`, after `Ann`, from `Ann Lee` and `Ann 2`."""
    words, first = rest.split(), rest.strip()[0]
    if first.upper() != first.lower():
        return rest[0] == " " and first.islower() and len(words) > 1
    return first.isalpha() and (len(words) > 2 if rest[0] == " " else len(rest) > 5)


def _name(match: re.Match[str] | None) -> str:
    return _cleaned(match[match.lastgroup or 0]) if match else ""


@lru_cache
def _cleaned(name: str) -> str:
    """Returns a name without marks and without the tilde before somebody who is not a contact."""
    return " ".join(MARKS.sub("", name).strip().lstrip("~").split())
