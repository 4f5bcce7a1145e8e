"""The order in which windows are learned from: every one exactly once an epoch.

Owns: orders that depend on the seed and the epoch alone; grouping by length, and best-fit packing. Knows lengths only.
"""

import math
from array import array
from bisect import bisect_left, insort
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from convmodel.errors import ConfigError

Lengths = npt.NDArray[np.int32]

BUFFER = 1024
"""Windows among which packing chooses the one that fits best."""

_GROUPED = 50  # batches sorted together, at most: enough to save padding, few enough to leave the order random
_PARTS = 2  # groups of batches, at least: were all windows sorted, every epoch would have the same batches


def grouped_order(lengths: Lengths, group: int, *, seed: int, epoch: int) -> npt.NDArray[np.int64]:
    """Shuffles windows, then sorts within groups of many batches, so that a batch holds windows of similar length.

    Args:
        lengths: The windows' lengths, in tokens.
        group: Windows in one update; their length varies between updates and hardly within one.
        seed: The run's seed.
        epoch: Counted from 0.

    Returns:
        Each window's index, once. Groups of batches go from long to short windows, and the longest of all comes first:
        a run that does not fit in memory fails at once.

    Example:
        >>> sorted(grouped_order(np.array([3, 1, 2], np.int32), 2, seed=0, epoch=0).tolist())
        [0, 1, 2]
    """
    random = np.random.default_rng([seed, epoch])
    order = random.permutation(len(lengths))
    together = group * max(1, min(_GROUPED, len(order) // (group * _PARTS)))
    parts = [order[start : start + together] for start in range(0, len(order), together)]
    # From long to short, and not shuffled again: batches of one length after each other let AdamW fit its step to their
    # noise. Shuffled, a small new model ends at a perplexity of 167 instead of 129.
    order = np.concatenate([part[np.argsort(-lengths[part], kind="stable")] for part in parts])
    longest = int(np.argmax(lengths[order]))
    order[[0, longest]] = order[[longest, 0]]
    return order


@dataclass(frozen=True, slots=True)
class Rows:
    """Rows of windows, as two arrays: a million of tuples would take more memory than the windows do.

    Attributes:
        indices: The windows' indices, row after row.
        ends: Where each row ends among them.
    """

    indices: Lengths
    ends: Lengths

    def __len__(self) -> int:
        return len(self.ends)

    def __iter__(self) -> Iterator[tuple[int, ...]]:
        start = 0
        for end in self.ends:
            yield tuple(self.indices[start:end].tolist())
            start = end

    def parted(self, rows: int) -> "Rows":
        """Returns the same windows in so many rows, by ending as many more of them as early as possible."""
        missing = rows - len(self)
        if missing <= 0:
            return self
        within = np.ones(len(self.indices), np.bool_)
        within[0] = within[self.ends[:-1]] = False
        new = np.flatnonzero(within)[:missing].astype(np.int32)
        return Rows(self.indices, np.sort(np.concatenate([self.ends, new])))


def packed_order(lengths: Lengths, max_length: int, *, seed: int, epoch: int) -> Rows:
    """Packs windows into rows of at most `max_length` tokens, best fit from a bounded buffer, in random order.

    A row begins with the longest window of the buffer and takes, as long as one fits, the longest that does
    (best-fit decreasing; Johnson et al. 1974, "Worst-case performance bounds for simple one-dimensional packing
    algorithms").

    Args:
        lengths: The windows' lengths, in tokens.
        max_length: The length of a row.
        seed: The run's seed.
        epoch: Counted from 0.

    Returns:
        Rows of windows' indices; each window is in one of them.

    Raises:
        ConfigError: If a window is longer than a row.

    Example:
        >>> sorted(sorted(row) for row in packed_order(np.array([6, 4, 3, 7], np.int32), 10, seed=0, epoch=0))
        [[0, 1], [2, 3]]
    """
    if len(lengths) and int(lengths.max()) > max_length:
        raise ConfigError(f"a window of {int(lengths.max())} tokens does not fit in a row of {max_length}")
    random = np.random.default_rng([seed, epoch])
    # Length and index as one number, since that compares fastest.
    order = random.permutation(np.arange(len(lengths), dtype=np.int32))
    waiting = ((int(lengths[index]) << _BITS) | int(index) for index in order)
    buffer: list[int] = []
    indices, ends = array("i"), array("i")
    while True:
        for item in islice(waiting, BUFFER - len(buffer)):
            insort(buffer, item)
        if not buffer:
            break
        room = max_length
        while fitting := bisect_left(buffer, (room + 1) << _BITS):
            item = buffer.pop(fitting - 1)
            indices.append(item & ((1 << _BITS) - 1))
            room -= item >> _BITS
        ends.append(len(indices))
    return _shuffled(Rows(np.asarray(indices), np.asarray(ends)), random)


def _shuffled(rows: Rows, random: np.random.Generator) -> Rows:
    order = random.permutation(np.arange(len(rows), dtype=np.int32))
    sizes = np.diff(rows.ends, prepend=np.int32(0))
    starts = (rows.ends - sizes)[order]
    ends = np.cumsum(sizes[order], dtype=np.int32)
    # Of each place in the new order, the place in the old one.
    places = np.arange(len(rows.indices), dtype=np.int32) + np.repeat(starts - (ends - sizes[order]), sizes[order])
    return Rows(rows.indices[places], ends)


_BITS = 40
_SPARE = 500  # rows among which one may be parted, so that every epoch has as many


class GroupedSampler(torch.utils.data.Sampler[int]):
    """Windows by `grouped_order`, anew for each epoch."""

    def __init__(self, lengths: Lengths, group: int, seed: int) -> None:
        self._lengths, self._group, self._seed = lengths, group, seed
        self._epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Chooses the epoch whose order comes next."""
        self._epoch = epoch

    def __len__(self) -> int:
        return len(self._lengths)

    def __iter__(self) -> Iterator[int]:
        yield from grouped_order(self._lengths, self._group, seed=self._seed, epoch=self._epoch).tolist()


class PackedSampler(torch.utils.data.Sampler[tuple[int, ...]]):
    """Rows by `packed_order`, anew for each epoch, and as many in each: `Trainer` counts its updates in advance."""

    def __init__(self, lengths: Lengths, max_length: int, seed: int) -> None:
        self._lengths, self._max_length, self._seed = lengths, max_length, seed
        self._epoch = 0
        # Packings of other epochs differ by a row or two.
        self._first = self._packed(0)
        self._rows = min(len(self._first) + len(self._first) // _SPARE, len(lengths))

    def set_epoch(self, epoch: int) -> None:
        """Chooses the epoch whose rows come next."""
        self._epoch = epoch

    def __len__(self) -> int:
        return self._rows

    def __iter__(self) -> Iterator[tuple[int, ...]]:
        rows = self._packed(self._epoch) if self._epoch else self._first
        if len(rows) > self._rows:  # the first epoch's rows in another order
            rows = _shuffled(self._first, np.random.default_rng([self._seed, self._epoch]))
        yield from rows.parted(self._rows)

    def _packed(self, epoch: int) -> Rows:
        return packed_order(self._lengths, self._max_length, seed=self._seed, epoch=epoch)


@dataclass(frozen=True, slots=True)
class Blank:
    """A row of which nothing is learned: it keeps a process busy whose share of an epoch ends before the others'.

    Attributes:
        row: The index of a window, or of those in a packed row.
    """

    row: int | tuple[int, ...]


Row = int | tuple[int, ...] | Blank
"""What a batch is made of: a window's index, those of a packed row, or a row of which nothing is learned."""


class ShardedBatches(torch.utils.data.Sampler[list[Row]]):
    """One process's batches: together, all processes' batches are those of one process with larger batches.

    Every row is in one batch of one process; where an epoch's last rows do not suffice for all, some get a `Blank`, so
    that all make as many batches.
    """

    def __init__(
        self, order: GroupedSampler | PackedSampler, batch_size: int, *, rank: int = 0, world: int = 1
    ) -> None:
        self._order, self._batch_size, self._rank, self._world = order, batch_size, rank, world

    def set_epoch(self, epoch: int) -> None:
        """Chooses the epoch whose batches come next."""
        self._order.set_epoch(epoch)

    def __len__(self) -> int:
        return math.ceil(len(self._order) / (self._batch_size * self._world))

    def __iter__(self) -> Iterator[list[Row]]:
        rows: Iterator[Any] = iter(self._order)
        # In turn, since a group's rows go from long to short, and no process should wait for another's long ones.
        while together := list(islice(rows, self._batch_size * self._world)):
            yield together[self._rank :: self._world] or [Blank(together[0])]
