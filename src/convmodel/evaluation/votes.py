"""Votes of people for one of two responses.

Owns: the file of votes, one JSON object per line, and how often a model wins.
"""

import json
import logging
import math
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from io import BytesIO
from pathlib import Path

from convmodel.errors import ConversationError
from convmodel.evaluation.wilson import wilson
from convmodel.files.json_lines import append_line

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Vote:
    """A preference for one of two responses, or neither."""

    context: Sequence[str]
    models: Sequence[str]
    responses: Sequence[str]
    winner: str | None  # the name of the better model; None for neither
    at: str = ""  # the time in UTC; empty if unknown


@dataclass(frozen=True, slots=True)
class Wins:
    """The win rate of the second of two models, with its 95 % interval."""

    wins: int
    losses: int
    neither: int
    rate: float  # wins / (wins + losses); NaN without any
    low: float
    high: float


def add_vote(path: str | os.PathLike[str], vote: Vote) -> None:
    """Appends a vote to a file, and waits until it is on the disk."""
    append_line(path, asdict(vote), fix="choose another --votes", sync=True)


def read_votes(path: str | os.PathLike[str]) -> Iterator[Vote]:
    """Yields the votes of a file; none if there is no file.

    Half lines, which interrupted writes left, are skipped; a warning counts them.

    Raises:
        ConversationError: If another line is not a vote; the message begins with its place.
    """
    file, torn = Path(path), 0
    try:
        with file.open("rb") if file.exists() else BytesIO() as lines:
            for number, line in enumerate(lines, 1):
                if not line.strip():
                    continue
                try:
                    yield _read_vote(line)
                except (TypeError, ValueError) as error:
                    if not _is_torn(line, error):
                        text = line[:60].decode(errors="replace").strip()
                        raise ConversationError(f"{path}:{number}: this is not a vote: {text}") from error
                    torn += 1
    except OSError as error:
        raise ConversationError(f"{path} cannot be read: {error}") from error
    if torn:
        logger.warning("%s: %d half lines, which interrupted writes left, are skipped", path, torn)


def _read_vote(line: bytes) -> Vote:
    vote = Vote(**json.loads(line))
    if len(vote.models) != 2 or len(vote.responses) != 2 or vote.winner not in (None, *vote.models):
        raise ValueError(line)
    return vote


def _is_torn(line: bytes, error: Exception) -> bool:
    """Returns whether an invalid line is the beginning of a vote: an object without its end."""
    return line.startswith(b'{"') and isinstance(error, (json.JSONDecodeError, UnicodeDecodeError))


def count_wins(votes: Iterable[Vote], first: str, second: str) -> Wins:
    """Counts how often the second model won against the first; votes about others do not count.

    Example:
        >>> count_wins([Vote(["Hi"], ["A", "B"], ["x", "y"], "B")], "A", "B").wins
        1
    """
    return wins_of(Counter(vote.winner for vote in votes if {*vote.models} == {first, second}), first, second)


def wins_of(winners: Mapping[str | None, int], first: str, second: str) -> Wins:
    """Returns the wins of the second of two models from the number of votes for each, and for None."""
    wins, losses = winners.get(second, 0), winners.get(first, 0)
    low, high = wilson(wins, wins + losses)
    rate = wins / (wins + losses) if wins + losses else math.nan
    return Wins(wins, losses, winners.get(None, 0), rate, low, high)
