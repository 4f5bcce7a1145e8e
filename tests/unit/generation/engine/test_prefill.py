"""Whose prompt is read next: neither long ones nor short ones starve."""

from typing import Any

import pytest
import torch

from convmodel.generation.engine.kv_cache import KVCache
from convmodel.generation.engine.prefill import Prompts, Steps
from convmodel.generation.engine.prefix_cache import PrefixCache
from convmodel.generation.engine.request import Request
from convmodel.generation.engine.sampling import Sampler

PIECE = 10


def ask(length: int) -> Request:
    ids = list(range(length))
    return Request(ids, [], [Sampler({}, ids, [0])], stop_ids=frozenset([0]), max_new_tokens=4)


class Reader:
    """Reads without a model, and notes what it read."""

    def __init__(self, *lengths: int, room: int = 99) -> None:
        self.requests = [ask(length) for length in lengths]
        self.read: list[tuple[int, int]] = []
        self.finished: list[int] = []
        self.breaks: int | None = None
        self._room = room
        self._prompts = Prompts(PrefixCache(0))
        self._prompts.waiting.extend(self.requests)

    def add(self, length: int) -> int:
        self.requests.append(ask(length))
        self._prompts.waiting.append(self.requests[-1])
        return len(self.requests) - 1

    def go_on(self, most: int = PIECE) -> bool:
        return self._prompts.read(most, Steps(1, self._read, self._has_room, self._finish))

    def go_on_to_the_end(self) -> None:
        for _ in range(100):
            if not self.go_on():
                return
        raise AssertionError("it does not end")

    def _has_room(self, request: Request) -> bool:
        return len(self._prompts.reading) < self._room

    def _read(self, request: Request, cache: KVCache, piece: slice) -> torch.Tensor:
        if self.requests.index(request) == self.breaks:
            raise RuntimeError("no memory")
        ids = request.ids[piece]
        keys = torch.zeros(1, 1, len(ids), 2)
        cache.update(keys, keys, 0)
        self.read.append((self.requests.index(request), len(ids)))
        return torch.zeros(1, 5)

    def _finish(self, request: Request, cache: Any, logits: torch.Tensor) -> None:
        self.finished.append(self.requests.index(request))


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
    reader.go_on_to_the_end()
    assert reader.read == read
    assert reader.finished[-1] == lengths.index(45)


def test_a_long_prompt_comes_to_its_end_however_many_short_ones_come() -> None:
    reader = Reader(100)
    for _ in range(25):
        reader.add(5)
        reader.go_on()
        if 0 in reader.finished:
            break
    assert reader.finished.index(0) <= 20
    assert len(reader.finished) > 10


def test_a_short_prompt_waits_for_two_pieces_at_most() -> None:
    reader = Reader(1000, 900, 800)
    for _ in range(7):
        reader.go_on()
    short = reader.add(8)
    reader.go_on()
    reader.go_on()
    assert reader.finished == [short]


def test_no_more_begin_than_there_is_room_for_and_those_that_ended_make_room() -> None:
    reader = Reader(30, 5, 5, room=1)
    reader.go_on()
    assert [request.begun_at is not None for request in reader.requests] == [True, False, False]
    reader.requests[1].cancelled = True
    reader.go_on_to_the_end()
    assert reader.finished == [0, 2]


def test_a_prompt_that_cannot_be_read_ends_no_other() -> None:
    reader = Reader(20, 20)
    reader.breaks = 0
    reader.go_on_to_the_end()
    assert isinstance(reader.requests[0].error, RuntimeError)
    assert reader.requests[1].error is None
    assert reader.finished == [1]
