"""Which conversations say the same, word for word or nearly.

Owns: how text is compared, the index of what was seen, and groups of near-duplicates.

Two conversations are exact duplicates if their turns agree after Unicode, case and spaces are made alike; who says
them does not matter. They are near-duplicates if the sets of their word triples have at least a given Jaccard
similarity, |A & B| / |A | B|; pinned turns do not count there, since one system message may open every conversation.
"""

import re
import unicodedata
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from typing import TYPE_CHECKING, Any
from zlib import crc32

from convmodel.conversation import Conversation
from convmodel.data.writing_systems import UNSPACED
from convmodel.errors import ConfigError, MissingExtraError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

NEAR = 0.8
"""The Jaccard similarity from which on conversations are near-duplicates, unless another is asked for."""

FEWEST_SHINGLES = 3
"""Conversations with fewer word triples are too short to be nearly the same: they are the same, or not."""

_WORDS = 3  # words in a shingle

# In scripts without spaces each character is a word.
_WORD = re.compile(f"[{UNSPACED}]|[^\\W{UNSPACED}]+")

_SKETCH = 64  # numbers in a MinHash
_MISSED = 0.001  # how many pairs right at the threshold the index may miss
_ODD = 0x9E3779B97F4A7C15  # 2**64 / the golden ratio: spreads the bits of a product (Knuth, TAOCP vol. 3, 6.4)


def normalized(turn: str) -> str:
    """Returns a turn as it is compared: without differences of Unicode form, case and spaces.

    Example:
        >>> normalized("  Good   MORNING ")
        'good morning'
    """
    return " ".join(unicodedata.normalize("NFKC", turn).casefold().split())


def shingles(conversation: Conversation) -> "NDArray[np.uint32]":
    """Returns the word triples of what is said after the pinned turns, each as a number, sorted and each once.

    Turns follow each other without a border, so it does not matter how the text is cut into turns.

    Example:
        >>> len(shingles(Conversation(["How are you?", "I am fine."])))
        4
    """
    return _triples([normalized(turn) for turn in conversation.turns[conversation.pinned :]])


def _triples(turns: Sequence[str]) -> "NDArray[np.uint32]":
    import numpy as np

    words = np.array([crc32(word.encode()) for word in _WORD.findall("\n".join(turns))], dtype=np.uint64)
    triples = np.zeros(max(0, len(words) - _WORDS + 1), dtype=np.uint64)
    for start in range(_WORDS):
        triples = (triples + words[start : start + len(triples)]) * np.uint64(_ODD)
    return np.unique((triples >> np.uint64(32)).astype(np.uint32))


def jaccard(some: "NDArray[np.uint32]", others: "NDArray[np.uint32]") -> float:
    """Returns the Jaccard similarity of two sets of shingles: how much of all they hold is in both.

    Example:
        >>> hello = shingles(Conversation(["Hello, how are you today?"]))
        >>> jaccard(hello, hello)
        1.0
    """
    import numpy as np

    shared = len(np.intersect1d(some, others, assume_unique=True))
    union = len(some) + len(others) - shared
    return shared / union if union else 0.0


@dataclass(frozen=True, slots=True)
class Match:
    """A conversation of the index that another one repeats.

    Attributes:
        number: Which one, counted from 0 in the order they were added.
        id: Its id, if it has one.
        similarity: The Jaccard similarity of the two; 1 for exact duplicates.
        exact: Whether they are exact duplicates.
    """

    number: int
    id: str | None
    similarity: float
    exact: bool


class Duplicates:
    """Conversations seen so far, and which of them another one repeats.

    Near-duplicates are looked up by MinHash (Broder: On the resemblance and containment of documents, 1997) in bands
    (Leskovec, Rajaraman, Ullman: Mining of Massive Datasets, 3.4), then compared shingle by shingle: what is found is
    a near-duplicate for certain, and fewer than one in a thousand of those right at the threshold is not found. The
    same conversations give the same matches in every run.

    Args:
        near: The Jaccard similarity from which on a conversation is a near-duplicate; None to look for exact
            duplicates alone.

    Raises:
        ConfigError: If `near` is out of range.
        MissingExtraError: If datasketch is not installed, and `near` is not None.

    Example:
        >>> duplicates = Duplicates(near=None)
        >>> duplicates.add(Conversation(["Hi", "Hello"], id="first"))
        >>> [match.id for match in duplicates.matches(Conversation(["hi", "HELLO"]))]
        ['first']
    """

    def __init__(self, near: float | None = NEAR) -> None:
        self.near = checked_near(near)
        self._ids: list[str | None] = []
        self._exact: dict[bytes, int] = {}
        self._shingles: dict[int, NDArray[np.uint32]] = {}
        if near is not None:
            self._empty, self._index = _minhash(near)

    def add(self, conversation: Conversation) -> None:
        """Takes note of a conversation."""
        self._add(conversation, self._fingerprint(conversation))

    def matches(self, conversation: Conversation) -> list[Match]:
        """Returns which of the conversations this one repeats: exact first, then the most similar."""
        return self._matches(self._fingerprint(conversation))

    def seen(self, conversation: Conversation) -> Match | None:
        """Returns the best match; takes note of the conversation if there is none.

        A conversation that repeats another is not taken note of: what is compared with is what was kept.
        """
        fingerprint = self._fingerprint(conversation)
        found = self._matches(fingerprint)
        if found:
            return found[0]
        self._add(conversation, fingerprint)
        return None

    def _fingerprint(self, conversation: Conversation) -> "_Fingerprint":
        turns = [normalized(turn) for turn in conversation.turns]
        key = blake2b("\n".join(turns).encode(), digest_size=16).digest()
        if self.near is None:
            return _Fingerprint(key)
        found = _triples(turns[conversation.pinned :])
        if len(found) < FEWEST_SHINGLES:
            return _Fingerprint(key)
        sketch = self._empty.copy()
        sketch.update_batch(found.tolist())
        return _Fingerprint(key, found, sketch)

    def _add(self, conversation: Conversation, fingerprint: "_Fingerprint") -> None:
        number = len(self._ids)
        self._ids.append(conversation.id)
        # The first of equal ones stands for all: a thousand copies in one bucket would each be compared with each.
        if self._exact.setdefault(fingerprint.key, number) == number and fingerprint.shingles is not None:
            self._shingles[number] = fingerprint.shingles
            self._index.insert(number, fingerprint.sketch, check_duplication=False)

    def _equal(self, fingerprint: "_Fingerprint") -> int | None:
        return self._exact.get(fingerprint.key)

    def _candidates(self, fingerprint: "_Fingerprint") -> list[int]:
        return sorted(self._index.query(fingerprint.sketch)) if fingerprint.shingles is not None else []

    def _similarity(self, fingerprint: "_Fingerprint", number: int) -> float:
        """The similarity to one of the candidates; 0 if it is below the threshold."""
        assert fingerprint.shingles is not None
        assert self.near is not None
        sizes = sorted((len(fingerprint.shingles), len(self._shingles[number])))
        if sizes[0] < self.near * sizes[1]:  # even if the one holds all of the other
            return 0.0
        similarity = jaccard(fingerprint.shingles, self._shingles[number])
        return similarity if similarity >= self.near else 0.0

    def _matches(self, fingerprint: "_Fingerprint") -> list[Match]:
        equal = self._equal(fingerprint)
        found = [] if equal is None else [Match(equal, self._ids[equal], 1.0, exact=True)]
        for number in self._candidates(fingerprint):
            if number != equal and (similarity := self._similarity(fingerprint, number)):
                found.append(Match(number, self._ids[number], similarity, exact=False))
        return sorted(found, key=lambda match: (not match.exact, -match.similarity, match.number))


def groups(conversations: Iterable[Conversation], near: float | None = NEAR) -> list[list[int]]:
    """Groups conversations that repeat each other, directly or through others; most groups are of one.

    Returns:
        The numbers of each group's conversations, counted from 0, in order.

    Raises:
        ConfigError: If `near` is out of range.
        MissingExtraError: If datasketch is not installed, and `near` is not None.

    Example:
        >>> groups([Conversation(["Hi"]), Conversation(["Hello"]), Conversation(["hi"])], near=None)
        [[0, 2], [1]]
    """
    duplicates = Duplicates(near)
    leaders: list[int] = []

    def leader(number: int) -> int:
        while leaders[number] != number:
            leaders[number] = leaders[leaders[number]]
            number = leaders[number]
        return number

    for number, conversation in enumerate(conversations):
        leaders.append(number)
        fingerprint = duplicates._fingerprint(conversation)
        equal = duplicates._equal(fingerprint)
        if equal is not None:
            leaders[number] = leader(equal)
        else:
            for other in duplicates._candidates(fingerprint):
                ours, theirs = sorted((leader(number), leader(other)))
                if ours != theirs and duplicates._similarity(fingerprint, other):
                    leaders[theirs] = ours
        duplicates._add(conversation, fingerprint)
    found: defaultdict[int, list[int]] = defaultdict(list)
    for number in range(len(leaders)):
        found[leader(number)].append(number)
    return list(found.values())


def checked_near(near: float | None, option: str = "near") -> float | None:
    """Returns the threshold of near-duplicates as it is; the option's name is for the error.

    Raises:
        ConfigError: If it is not None or a number from 0.5 to 1.
    """
    number = isinstance(near, int | float) and not isinstance(near, bool)
    if near is not None and not (number and 0.5 <= near <= 1):
        raise ConfigError(f"{option} is {near!r}: it must be from 0.5 to 1, or None to look for exact duplicates alone")
    return near


@dataclass(frozen=True, slots=True)
class _Fingerprint:
    key: bytes
    shingles: "NDArray[np.uint32] | None" = None
    sketch: Any = None


def _minhash(near: float) -> tuple[Any, Any]:
    """An empty MinHash, and an index of them whose bands miss few pairs with that similarity.

    A pair of similarity s meets in none of b bands of r numbers with probability (1 - s**r)**b.
    """
    try:
        from datasketch import MinHash, MinHashLSH
    except ImportError as error:
        raise MissingExtraError("finding near-duplicates needs datasketch: pip install 'convmodel[train]'") from error
    rows = max(r for r in range(1, _SKETCH // 4) if (1 - near**r) ** (_SKETCH // r) <= _MISSED)
    empty = MinHash(num_perm=_SKETCH, seed=1, hashfunc=int, scheme="affine32")
    return empty, MinHashLSH(num_perm=_SKETCH, params=(_SKETCH // rows, rows))
