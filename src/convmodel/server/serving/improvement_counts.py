"""How many judgements a server has, of which kind, and what an improvement still needs.

Owns: reading them again only when a file has changed. Does not know the files' format, nor how many are enough.
"""

import threading
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from convmodel.data.judgements.reader import JudgementReader
from convmodel.errors import ConvModelError
from convmodel.training.improvement import needed

_SHORT = 0.1  # seconds of processor time up to which a file is read whenever it has changed
_PAUSE = 10  # between two readings of a file, in terms of the processor time of the first one


@dataclass(frozen=True, slots=True)
class Counts:
    """Counts of judgements.

    Attributes:
        kinds: How many there are of each kind.
        pairs: How many have a better and a worse response.
        liked: How many have only a good response.
        disliked: How many have only a bad response.
        left_out: What cannot be used, in a sentence for each file.
        problems: Why a file cannot be read, in a sentence for each.
    """

    kinds: Mapping[str, int] = field(default_factory=dict)
    pairs: int = 0
    liked: int = 0
    disliked: int = 0
    left_out: Sequence[str] = ()
    problems: Sequence[str] = ()

    @property
    def total(self) -> int:
        """All of them."""
        return self.pairs + self.liked + self.disliked

    @property
    def needed(self) -> str:
        """What is still missing, in a phrase; empty if there are enough."""
        return needed(self.pairs, self.liked, self.disliked)

    def describe(self) -> dict[str, Any]:
        """Returns them for clients."""
        return {"total": self.total, **asdict(self), "needed": self.needed}


@dataclass(frozen=True, slots=True)
class _Known:
    """The counts of a file of a size and time, and until when they stay, though the file has changed."""

    stamp: tuple[int, int]
    counts: Counts
    until: float


class JudgementCounts:
    """The counts of some files, of which each is read again when its size or time has changed.

    A long file that grows while people look at the counts is not read all the time: after it was read, its counts stay
    for ten times the processor time that that took.
    """

    def __init__(self, paths: Sequence[Path]) -> None:
        self._paths = paths
        self._lock = threading.Lock()
        self._known: dict[Path, _Known] = {}

    def read(self, *, current: bool = False) -> Counts:
        """Returns the counts of all files together; the `current` ones, if they must not be some seconds old."""
        with self._lock:
            return _sum([self._of(path, current=current) for path in self._paths])

    def usable(self) -> list[Path]:
        """Returns the files that have judgements."""
        with self._lock:
            return [path for path in self._paths if self._of(path, current=False).total]

    def _of(self, path: Path, *, current: bool) -> Counts:
        try:
            status = path.stat()
        except OSError:
            return Counts()  # nobody has judged anything yet
        stamp, known = (status.st_size, status.st_mtime_ns), self._known.get(path)
        if known is None or (known.stamp != stamp and (current or time.monotonic() >= known.until)):
            begin = time.thread_time()  # on a busy machine, small files take long, too
            counts = _read(path) if status.st_size else Counts()
            spent = time.thread_time() - begin
            pause = _PAUSE * spent if spent > _SHORT else 0.0
            self._known[path] = known = _Known(stamp, counts, time.monotonic() + pause)
        return known.counts


def _read(path: Path) -> Counts:
    reader, problem = JudgementReader(path), ""
    try:
        for _ in reader:
            pass
    except ConvModelError as error:
        problem = str(error)
    summary, left_out = reader.summary, reader.left_out()
    if left_out and not summary.judgements and not summary.skipped:
        problem = ""  # nothing is wrong: so far there are only votes for neither, say
    return Counts(
        dict(sorted(summary.kinds.items())),
        summary.pairs,
        summary.liked,
        summary.disliked,
        left_out=[f"{path.name}: {left_out}"] if left_out else [],
        problems=[problem] if problem else [],
    )


def _sum(parts: Sequence[Counts]) -> Counts:
    kinds: Counter[str] = Counter()
    for part in parts:
        kinds.update(part.kinds)
    return Counts(
        dict(sorted(kinds.items())),
        pairs=sum(part.pairs for part in parts),
        liked=sum(part.liked for part in parts),
        disliked=sum(part.disliked for part in parts),
        left_out=[sentence for part in parts for sentence in part.left_out],
        problems=[problem for part in parts for problem in part.problems],
    )
