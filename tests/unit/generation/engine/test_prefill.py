"""Whose prompt is read next: neither long ones nor short ones starve."""

from collections.abc import Sequence
from itertools import count

import pytest
import torch

from convmodel.generation.engine.prefill import Prefill
from convmodel.generation.engine.prefix_cache import PrefixCache
from convmodel.generation.engine.request import Request, Row
from convmodel.generation.engine.runner import Part, Runner
from convmodel.generation.engine.sampling import Sampler

PIECE = 10


_numbers = count(1)


def ask(length: int) -> Request:
    begin = 1000 * next(_numbers)  # tells the request by its ids
    ids = list(range(begin, begin + length))
    return Request(ids, [], [Sampler({}, ids, [0])], stop_ids=frozenset([0]), max_new_tokens=4)


class OneLayer:
    layers = 1


class Reader(Runner):
    """Reads without a model, and records what it read."""

    def __init__(self, *lengths: int, room: int = 99) -> None:
        self.requests = [ask(length) for length in lengths]
        self.pieces: list[tuple[int, int]] = []
        self.finished: list[int] = []
        self.passes: list[int] = []
        self.breaks: int | None = None
        self._room = room
        self.forward = OneLayer()
        self._prefill = Prefill(PrefixCache(0))
        self._prefill.waiting.extend(self.requests)

    def add(self, length: int) -> int:
        self.requests.append(ask(length))
        self._prefill.waiting.append(self.requests[-1])
        return len(self.requests) - 1

    def advance(self, limit: int = PIECE) -> bool:
        """Reads prompts as a step of the engine does."""
        left = limit
        while left > 0:
            while self._prefill.waiting and len(self._prefill.unread) < self._room:
                self._prefill.start_next(self)
            if not self._prefill.unread:
                break
            left -= self._prefill.read(self, left)
        return left < limit

    def advance_to_the_end(self) -> None:
        for _ in range(100):
            if not self.advance():
                return
        raise AssertionError("it does not end")

    def read(self, parts: Sequence[Part]) -> torch.Tensor:
        self.passes.append(len(parts))
        pieces = []
        for [piece], _, cache in parts:
            number = next(n for n, request in enumerate(self.requests) if request.ids[0] == piece[0] // 1000 * 1000)
            if number == self.breaks:
                raise RuntimeError("no memory")
            keys = torch.zeros(1, 1, len(piece), 2)
            cache.update(keys, keys, 0)
            pieces.append((number, len(piece)))
        self.pieces += pieces
        return torch.zeros(len(parts), 5)

    def choose(self, rows: Sequence[Row], logits: torch.Tensor) -> None:
        assert len(rows) == len(logits)
        self.finished += [self.requests.index(row.request) for row in rows]


@pytest.mark.parametrize(
    ("lengths", "read"),
    [
        # The oldest and the one with the least left, in turn, up to ten tokens each time.
        ((45, 10, 5), [(0, 10), (2, 5), (0, 5), (1, 10), (0, 10), (0, 10), (0, 10)]),
        ((5, 10, 45), [(0, 5), (1, 5), (1, 5), (2, 5), (2, 10), (2, 10), (2, 10), (2, 10)]),
        ((10, 45, 5), [(0, 10), (2, 5), (1, 5), (1, 10), (1, 10), (1, 10), (1, 10)]),
    ],
)
def test_the_oldest_and_the_shortest_are_read_in_turn(lengths: tuple[int, ...], read: list[tuple[int, int]]) -> None:
    reader = Reader(*lengths)
    reader.advance_to_the_end()
    assert reader.pieces == read
    assert reader.finished[-1] == lengths.index(45)
    assert sum(reader.passes) == len(read)
    assert max(reader.passes) == 2


def test_a_long_prompt_comes_to_its_end_however_many_short_ones_come() -> None:
    reader = Reader(100)
    for _ in range(25):
        reader.add(5)
        reader.advance()
        if 0 in reader.finished:
            break
    assert reader.finished.index(0) <= 20
    assert len(reader.finished) > 10


def test_a_short_prompt_waits_for_two_pieces_at_most() -> None:
    reader = Reader(1000, 900, 800)
    for _ in range(7):
        reader.advance()
    short = reader.add(8)
    reader.advance()
    reader.advance()
    assert reader.finished == [short]


def test_no_more_begin_than_there_is_room_for_and_those_that_ended_make_room() -> None:
    reader = Reader(30, 5, 5, room=1)
    reader.advance()
    assert [request.begun_at is not None for request in reader.requests] == [True, False, False]
    reader.requests[1].cancelled = True
    reader.advance_to_the_end()
    assert reader.finished == [0, 2]


def test_a_prompt_that_cannot_be_read_ends_no_other() -> None:
    reader = Reader(20, 5)
    reader.breaks = 0
    reader.advance_to_the_end()
    assert isinstance(reader.requests[0].error, RuntimeError)
    assert reader.requests[1].error is None
    assert reader.finished == [1]


def test_prompts_that_wait_together_are_read_in_one_pass() -> None:
    reader = Reader(*[7] * 32)
    reader.advance(512)
    assert reader.passes == [32]
    assert sorted(reader.finished) == [*range(32)]
