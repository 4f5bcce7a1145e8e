"""Duplicates: conversations with the same text, exactly or nearly.

Owns: how text is compared, the index of conversations, and groups of near-duplicates.

Two conversations are exact duplicates if their turns agree after Unicode, case and spaces are normalized; the speakers
do not matter. They are near-duplicates if the sets of their word trigrams have at least a given Jaccard
similarity, |A & B| / |A | B|. Pinned turns do not count, since all conversations may start with one system message.
"""

import re
import unicodedata
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any
from zlib import crc32

from convmodel.conversation import Conversation
from convmodel.data.writing_systems import UNSPACED
from convmodel.errors import ConfigError, MissingExtraError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

NEAR = 0.8
"""The default Jaccard similarity from which conversations are near-duplicates."""

FEWEST_SHINGLES = 3
"""Conversations with fewer distinct word trigrams are compared exactly only."""

_SHINGLE_WORDS = 3

# In scripts without spaces each character is a word.
_WORD = re.compile(f"[{UNSPACED}]|[^\\W{UNSPACED}]+")

_PERMUTATIONS = 64  # hash values in a MinHash
_MISS_RATE = 0.001  # fraction of pairs exactly at the threshold that the index may miss
_MULTIPLIER = 0x9E3779B97F4A7C15  # 2**64 / the golden ratio: spreads the bits of a product (Knuth, TAOCP vol. 3, 6.4)


def normalized(turn: str) -> str:
    """Normalizes the Unicode form, case and spaces of a turn, for comparison."""
    return " ".join(unicodedata.normalize("NFKC", turn).casefold().split())


def shingles(conversation: Conversation) -> "NDArray[np.uint32]":
    """Returns the hashes of the distinct word trigrams after the pinned turns, sorted; trigrams span turns."""
    return _trigrams([normalized(turn) for turn in conversation.turns[conversation.pinned :]])


def _trigrams(turns: Sequence[str]) -> "NDArray[np.uint32]":
    import numpy as np

    words = np.array([crc32(word.encode()) for word in _WORD.findall("\n".join(turns))], dtype=np.uint64)
    trigrams = np.zeros(max(0, len(words) - _SHINGLE_WORDS + 1), dtype=np.uint64)
    for start in range(_SHINGLE_WORDS):
        trigrams = (trigrams + words[start : start + len(trigrams)]) * np.uint64(_MULTIPLIER)
    return np.unique((trigrams >> np.uint64(32)).astype(np.uint32))


def jaccard(first: "NDArray[np.uint32]", second: "NDArray[np.uint32]") -> float:
    """Returns the Jaccard similarity of two sets of shingles: intersection over union."""
    import numpy as np

    shared = len(np.intersect1d(first, second, assume_unique=True))
    union = len(first) + len(second) - shared
    return shared / union if union else 0.0


@dataclass(frozen=True, slots=True)
class Match:
    """A conversation in the index that the compared one duplicates, and their Jaccard similarity."""

    number: int  # position in the order of adding, from 0
    id: str | None
    similarity: float
    exact: bool


class Duplicates:
    """An index of conversations that finds the duplicates of a given one.

    Near-duplicates are looked up by MinHash (Broder: On the resemblance and containment of documents, 1997) in bands
    (Leskovec, Rajaraman, Ullman: Mining of Massive Datasets, 3.4), then compared exactly: every match is
    a near-duplicate, and fewer than one in a thousand pairs exactly at the threshold are missed. The same conversations
    give the same matches in every run.

    `near` is the similarity from which a conversation is a near-duplicate; None to find exact duplicates only.

    Raises:
        ConfigError: If `near` is out of range.
        MissingExtraError: If datasketch is not installed, and `near` is not None.
    """

    def __init__(self, near: float | None = NEAR) -> None:
        self.near = checked_near(near)
        self._ids: list[str | None] = []
        self._exact: dict[bytes, int] = {}
        self._shingles: dict[int, NDArray[np.uint32]] = {}
        if near is not None:
            self._empty_minhash, self._index = _minhash(near)

    def add(self, conversation: Conversation) -> None:
        """Adds a conversation to the index."""
        self._add(conversation, self._fingerprint(conversation))

    def matches(self, conversation: Conversation) -> list[Match]:
        """Returns the conversations that this one duplicates: exact matches first, then by similarity."""
        return self._matches(self._fingerprint(conversation))

    def seen(self, conversation: Conversation) -> Match | None:
        """Returns the best match, or adds the conversation to the index if there is none.

        Duplicates are not added, so later conversations are compared only with those that were kept.
        """
        fingerprint = self._fingerprint(conversation)
        if matches := self._matches(fingerprint):
            return matches[0]
        self._add(conversation, fingerprint)
        return None

    def _fingerprint(self, conversation: Conversation) -> "_Fingerprint":
        turns = [normalized(turn) for turn in conversation.turns]
        key = blake2b("\n".join(turns).encode(), digest_size=16).digest()
        if self.near is None:
            return _Fingerprint(key)
        trigrams = _trigrams(turns[conversation.pinned :])
        if len(trigrams) < FEWEST_SHINGLES:
            return _Fingerprint(key)
        minhash = self._empty_minhash.copy()
        minhash.update_batch(trigrams.tolist())
        return _Fingerprint(key, trigrams, minhash)

    def _add(self, conversation: Conversation, fingerprint: "_Fingerprint") -> None:
        number = len(self._ids)
        self._ids.append(conversation.id)
        # Of exact duplicates only the first is indexed: a thousand copies in one bucket would be compared pairwise.
        if self._exact.setdefault(fingerprint.key, number) == number and fingerprint.shingles is not None:
            self._shingles[number] = fingerprint.shingles
            self._index.insert(number, fingerprint.minhash, check_duplication=False)

    def _candidates(self, fingerprint: "_Fingerprint") -> list[int]:
        return sorted(self._index.query(fingerprint.minhash)) if fingerprint.shingles is not None else []

    def _similarity(self, fingerprint: "_Fingerprint", number: int) -> float:
        """Returns the similarity to a candidate; 0 if it is below the threshold."""
        assert fingerprint.shingles is not None
        assert self.near is not None
        sizes = sorted((len(fingerprint.shingles), len(self._shingles[number])))
        if sizes[0] < self.near * sizes[1]:  # even if one contains the other
            return 0.0
        similarity = jaccard(fingerprint.shingles, self._shingles[number])
        return similarity if similarity >= self.near else 0.0

    def _matches(self, fingerprint: "_Fingerprint") -> list[Match]:
        equal = self._exact.get(fingerprint.key)
        matches = [] if equal is None else [Match(equal, self._ids[equal], 1.0, exact=True)]
        for number in self._candidates(fingerprint):
            if number != equal and (similarity := self._similarity(fingerprint, number)):
                matches.append(Match(number, self._ids[number], similarity, exact=False))
        return sorted(matches, key=lambda match: (not match.exact, -match.similarity, match.number))


def groups(conversations: Iterable[Conversation], near: float | None = NEAR) -> list[list[int]]:
    """Returns the positions of conversations that duplicate each other, directly or through others, as groups.

    Example:
        >>> groups([Conversation(["Hi"]), Conversation(["Hello"]), Conversation(["hi"])], near=None)
        [[0, 2], [1]]
    """
    duplicates = Duplicates(near)
    parents: list[int] = []  # a disjoint-set forest

    def root(number: int) -> int:
        while parents[number] != number:
            parents[number] = parents[parents[number]]
            number = parents[number]
        return number

    for number, conversation in enumerate(conversations):
        parents.append(number)
        fingerprint = duplicates._fingerprint(conversation)
        equal = duplicates._exact.get(fingerprint.key)
        if equal is not None:
            parents[number] = root(equal)
        else:
            for other in duplicates._candidates(fingerprint):
                first, second = sorted((root(number), root(other)))
                if first != second and duplicates._similarity(fingerprint, other):
                    parents[second] = first
        duplicates._add(conversation, fingerprint)
    members: defaultdict[int, list[int]] = defaultdict(list)
    for number in range(len(parents)):
        members[root(number)].append(number)
    return list(members.values())


def available_near() -> float | None:
    """Returns the default threshold of near-duplicates, or None where datasketch is not installed."""
    return NEAR if find_spec("datasketch") else None


def checked_near(near: float | None, option: str = "near") -> float | None:
    """Checks a threshold of near-duplicates and returns it; `option` is its name in the error.

    Raises:
        ConfigError: If it is neither None nor a number from 0.5 to 1.
    """
    is_number = isinstance(near, int | float) and not isinstance(near, bool)
    if near is not None and not (is_number and 0.5 <= near <= 1):
        raise ConfigError(f"{option} is {near!r}: it must be from 0.5 to 1, or None to find exact duplicates only")
    return near


@dataclass(frozen=True, slots=True)
class _Fingerprint:
    key: bytes
    shingles: "NDArray[np.uint32] | None" = None
    minhash: Any = None


def _minhash(near: float) -> tuple[Any, Any]:
    """Returns an empty MinHash, and an index whose bands miss at most `_MISS_RATE` of pairs of the given similarity.

    A pair of similarity s shares none of b bands of r hash values with probability (1 - s**r)**b.
    """
    try:
        from datasketch import MinHash, MinHashLSH
    except ImportError as error:
        raise MissingExtraError("finding near-duplicates needs datasketch", "train") from error
    rows = max(r for r in range(1, _PERMUTATIONS // 4) if (1 - near**r) ** (_PERMUTATIONS // r) <= _MISS_RATE)
    empty = MinHash(num_perm=_PERMUTATIONS, seed=1, hashfunc=int, scheme="affine32")
    return empty, MinHashLSH(num_perm=_PERMUTATIONS, params=(_PERMUTATIONS // rows, rows))
