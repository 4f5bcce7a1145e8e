"""A short way to complete a response that must match a grammar.

Owns: the search for it. It is what makes room at the length limit: as long as a way to the end is known that fits, the
response can be completed. A search, since llguidance does not say how far the end is. It needs no torch.
"""

import json
import random
import re
from collections.abc import Sequence
from functools import lru_cache, partial
from typing import Any, NamedTuple

_IN_VALUE, _IN_TEXT = b'}]",0aA:nft-. [{', b'"aA0 -.'
"""What leads to the end of a JSON value, and of the text in one."""

_LETTERS = (b"a", b"A", b"0", b" ", b"-", b".")
"""What is tried where any text is legal."""

_FREE = 32
"""With this many legal bytes, any text may follow, and a pattern may need a certain one."""

_STEPS = 640
"""How many steps the greedy search takes; walks at random follow."""

_TRIES = 40
"""In how many of them literals are tried."""

_SHORTEST_WALK = 32
"""How long a walk may be before it starts again, in steps; after some walks, twice as many."""

_WALKS = 16

_UNBOUNDED = 2**62

_WORD = re.compile(r"\w{1,32}|[^\w\s]")
_MOST_LITERALS = 32
_EXAMPLES = ("a@aa.aa", "aa.aa", "a://a")  # of formats


class Steps:
    """How many steps searches may still take together: one for each set of legal bytes, and one for each text tried.

    A count, not a time, so that the outcome is the same on every machine.

    Attributes:
        left: The number; a step that has begun may take it below zero.
    """

    def __init__(self, number: int) -> None:
        self.left = number


class _Text(NamedTuple):
    content: bytes
    matcher: Any


def find_closing(
    matcher: Any,
    byte_ids: Sequence[int | None],
    *,
    limit: int,
    literals: Sequence[bytes] = (),
    most: int = 10_000,
    is_json: bool = True,
    steps: Steps | None = None,
) -> bytes | None:
    """Returns a short text that completes what a matcher has read, or None if none was found.

    Args:
        matcher: The matcher; stays as it is.
        byte_ids: The token of each of the 256 bytes, or None.
        limit: The longest text, in bytes.
        literals: Texts to try where any text is legal, for patterns that need one of them.
        most: How many bytes or literals each of the two searches adds at most.
        is_json: Whether the grammar is a JSON schema, so that quotes and brackets lead to the end.
        steps: Further bounds the search, and is reduced by the steps that it takes.
    """
    if matcher.is_accepting():
        return b""
    search = _Search(byte_ids, limit, literals, is_json, steps or Steps(_UNBOUNDED))
    closing = search.greedy(matcher, min(most, _STEPS))
    return closing if closing is not None else search.walk(matcher, most)


def patterns_of(grammar: str) -> list[str]:
    r"""Returns the patterns of a JSON schema, which may stand anywhere in a text, so that an example of each helps.

    Examples:
        >>> patterns_of('{"grammars": [{"json_schema": {"pattern": "^a+$"}}]}'), patterns_of("start: /a/")
        (['^a+$'], [])
    """
    patterns: dict[str, None] = {}
    waiting = [json.loads(grammar)] if grammar.startswith("{") else []
    while waiting:
        value = waiting.pop()
        if isinstance(value, dict):
            waiting += value.values()
            patterns |= dict.fromkeys(text for text in [value.get("pattern")] if isinstance(text, str))
        elif isinstance(value, list):
            waiting += value
    return [*patterns][:_MOST_LITERALS]


def words_of(pattern: str) -> list[bytes]:
    r"""Returns the words and marks of a pattern or a grammar, some of which it may need.

    Examples:
        >>> words_of("^.*@home[.]$")
        [b'^', b'.', b'*', b'@', b'home', b'[', b']', b'$']
    """
    return [word.encode() for word in dict.fromkeys(_WORD.findall(pattern))][:_MOST_LITERALS]


def in_json(text: bytes) -> bytes:
    """Returns a text as it stands in a JSON string."""
    return json.dumps(text.decode("utf-8", "replace"), ensure_ascii=False)[1:-1].encode()


def common_literals() -> list[bytes]:
    """Returns texts that formats of JSON schemas need."""
    return [text.encode() for text in _EXAMPLES]


class _Search:
    def __init__(
        self, byte_ids: Sequence[int | None], limit: int, literals: Sequence[bytes], is_json: bool, steps: Steps
    ) -> None:
        self._byte_ids, self._limit, self._literals, self._steps = byte_ids, limit, literals, steps
        self._ends = (b'"', b"}", b"]") if is_json else ()
        self._ordered = _ordered(tuple(byte_ids), _IN_TEXT if is_json else _IN_TEXT[1:])

    def greedy(self, matcher: Any, steps: int) -> bytes | None:
        """Extends a text by what is most likely to lead to the end."""
        text, tries = _Text(b"", matcher), _TRIES
        for _ in range(steps):
            if self._steps.left <= 0:
                return None
            legal, more = self._legal(text.matcher), None
            if tries and len(legal) >= _FREE and legal[0] not in self._ends:
                more, tries = self._ending(text), tries - 1
            more = more or next(filter(None, (self._extended(text, byte) for byte in legal)), None)
            if more is None or more.matcher.is_accepting():
                return None if more is None else more.content
            text = more
        return None

    def _ending(self, text: _Text) -> _Text | None:
        """Extends a text by a literal after which it, or the JSON string that it is in, may end."""
        for literal in self._literals:
            more = self._extended(text, literal)
            if more is not None and (more.matcher.is_accepting() or self._may_end(more.matcher)):
                return more
        return None

    def _may_end(self, matcher: Any) -> bool:
        legal = self._legal(matcher)
        return bool(legal) and legal[0] in self._ends

    def walk(self, matcher: Any, steps: int) -> bytes | None:
        """Extends texts at random, always in the same way, and starts again when they are long."""
        chance, start = random.Random(0), _Text(b"", matcher)
        length, walks, text, walked = _SHORTEST_WALK, 0, start, 0
        for _ in range(steps):
            if self._steps.left <= 0:
                return None
            more = self._extended(text, self._chosen(text, chance))
            if more is not None and more.matcher.is_accepting():
                return more.content
            walked += 1
            if more is None or walked >= length:
                text, walked, walks = start, 0, walks + 1
                length *= 2 if walks % _WALKS == 0 else 1
            else:
                text = more
        return None

    def _chosen(self, text: _Text, chance: random.Random) -> bytes:
        legal = self._legal(text.matcher)
        if legal and legal[0] in self._ends:
            return legal[0]
        if len(legal) >= _FREE:
            legal = [byte for byte in _LETTERS if byte in legal] or legal
            if self._literals and chance.random() < 0.5:
                return chance.choice(self._literals)
        return chance.choice(legal) if legal else b""

    def _extended(self, text: _Text, more: bytes) -> _Text | None:
        self._steps.left -= 1
        ids = [self._byte_ids[byte] for byte in more]
        content = text.content + more
        if not ids or None in ids or len(content) > self._limit:
            return None
        matcher = text.matcher.deep_copy()
        if matcher.try_consume_tokens(ids) < len(ids) or matcher.is_error():
            return None
        return _Text(content, matcher)

    def _legal(self, matcher: Any) -> list[bytes]:
        """Returns the bytes that may follow, or a longer text that must, the best ones first."""
        self._steps.left -= 1
        forced: bytes = matcher.compute_ff_bytes()
        if forced:
            return [forced]
        mask = matcher.deep_copy().compute_bitmask()  # of a copy, since an error would end the matcher
        legal = [byte for byte, place, bit in self._ordered if mask[place] & bit]
        return sorted(legal, key=partial(_rank, _IN_VALUE)) if self._ends and len(legal) < _FREE else legal


def _rank(order: bytes, byte: bytes) -> tuple[int, bytes]:
    return order.find(byte) % 256, byte  # those that are not in the order last


@lru_cache(maxsize=16)
def _ordered(byte_ids: tuple[int | None, ...], order: bytes) -> list[tuple[bytes, int, int]]:
    """Returns the bytes that have tokens, in an order, each with the place and the bit that it has in masks."""
    known = [(bytes([byte]), index >> 3, 1 << (index & 7)) for byte, index in enumerate(byte_ids) if index is not None]
    return sorted(known, key=lambda entry: _rank(order, entry[0]))
