"""Who speaks in the imported data: turns and first words of each speaker, and what may be nobody's speech.

Owns: how speakers are counted, and the two warnings: names that may not be people, and sentences of several speakers.
"""

import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

SHOWN = 5
"""Number of names, or of sentences, that a warning lists; all are counted."""

FIRST_WORDS = 48
"""Characters of a speaker's first words that are kept."""

RECURRING = 3
"""How often a sentence must occur to be reported."""

_REMEMBERED = 20_000  # sentences; of more, the less frequent half is forgotten
_SENTENCE = 80  # characters, at most
# At least: shorter texts are greetings and the like.
_SPACES = 2
_UNSPACED = 10  # characters, in scripts without spaces
_SYMBOLS = re.compile(r"[^\w\s.,:;!?'\"()-]+")
# Names that the import itself makes, to distinguish two people.
_NUMBERED = re.compile(r" \(\d+\)")


@dataclass(slots=True)
class _Sentence:
    speaker: str  # the first who wrote it
    count: int = 1
    by_several: bool = False


class SpeakerTable:
    """The speakers of all data, in order of appearance.

    Args:
        keep_messages: Whether each message is a turn; otherwise consecutive ones of a speaker are one.

    Attributes:
        turns: Number of turns by speaker.
        first_words: The beginning of each speaker's first message.

    Example:
        >>> table = SpeakerTable()
        >>> table.add([("Ann", "Hi"), ("Ann", "Are you there?"), ("Bob", "Yes"), ("Bob left the group", "it is late")])
        >>> table.turns, table.first_words["Ann"], table.doubtful()
        (Counter({'Ann': 1, 'Bob': 1, 'Bob left the group': 1}), 'Hi', ['Bob left the group'])
    """

    def __init__(self, *, keep_messages: bool = False) -> None:
        self._keep_messages = keep_messages
        self.turns: Counter[str] = Counter()
        self.first_words: dict[str, str] = {}
        self._sentences: dict[str, _Sentence] = {}

    def add(self, messages: Iterable[tuple[str, str]]) -> None:
        """Adds the messages of one conversation, in order: the speaker and the text of each."""
        previous = None
        for speaker, text in messages:
            if speaker != previous or self._keep_messages:
                self.turns[speaker] += 1
                if speaker not in self.first_words:
                    self.first_words[speaker] = _beginning(text)
                previous = speaker
            if len(text) <= _SENTENCE:
                self._add_sentence(speaker, text)

    def _add_sentence(self, speaker: str, text: str) -> None:
        is_ascii = text.isascii()
        if text.count(" ") < _SPACES and (is_ascii or len(text) < _UNSPACED):
            return
        # A notice may begin with the name of who caused it, and show an emoji.
        sentence = text.removeprefix(speaker)
        if not is_ascii:
            sentence = _SYMBOLS.sub("*", sentence)
        known = self._sentences.get(sentence)
        if known is None:
            if len(self._sentences) >= _REMEMBERED:
                frequent = sorted(self._sentences.items(), key=lambda item: -item[1].count)
                self._sentences = dict(frequent[: _REMEMBERED // 2])
            self._sentences[sentence] = _Sentence(speaker)
        else:
            known.count += 1
            known.by_several |= speaker != known.speaker

    def doubtful(self) -> list[str]:
        """Returns the names with one turn that begin with another speaker's name: they may be a part of a notice."""
        return [
            name
            for name, turns in self.turns.items()
            if turns == 1 and any(name[:end] in self.turns and _continues(name, end) for end in range(1, len(name)))
        ]

    def recurring(self) -> list[tuple[str, int]]:
        """Returns the sentences that several speakers wrote in equal words, with their counts, most frequent first."""
        frequent = [
            (text.strip(), known.count)
            for text, known in self._sentences.items()
            if known.by_several and known.count >= RECURRING
        ]
        return sorted(frequent, key=lambda item: -item[1])

    def warnings(self) -> list[str]:
        """Returns what the user should look at."""
        doubtful = [f"{name!r} ({self.first_words[name]!r})" for name in self.doubtful()]
        recurring = [f"{text!r} ({count:,})" for text, count in self.recurring()]
        return [
            f"{what}: {', '.join(listed[:SHOWN])}{', ...' if len(listed) > SHOWN else ''}; if the program wrote these "
            "lines, remove them and import again"
            for what, listed in (
                ("perhaps not people, as each speaks once and begins with another's name", doubtful),
                ("equal words of several speakers", recurring),
            )
            if listed
        ]


def _beginning(text: str) -> str:
    words = " ".join(text[: 4 * FIRST_WORDS].split())
    return words if len(words) <= FIRST_WORDS else f"{words[:FIRST_WORDS]}..."


def _continues(name: str, end: int) -> bool:
    return not name[end].isalnum() and not _NUMBERED.fullmatch(name[end:])
