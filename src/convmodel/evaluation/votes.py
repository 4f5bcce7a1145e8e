"""Votes of people for one of two responses.

Owns: the file of votes, one JSON object per line, and how often a model wins.
"""

import json
import math
import os
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from convmodel.errors import ConversationError
from convmodel.evaluation.wilson import wilson
from convmodel.files.json_lines import append_line


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
    """Appends a vote to a file."""
    append_line(path, asdict(vote), fix="choose another --votes")


def read_votes(path: str | os.PathLike[str]) -> list[Vote]:
    """Reads the votes of a file; none if there is no file.

    Raises:
        ConversationError: If a line is not a vote; the message begins with its place.
    """
    file, votes = Path(path), []
    try:
        # Not `splitlines`, which splits at characters that texts in JSON may hold, such as U+2028.
        lines = file.read_text(encoding="utf-8").split("\n") if file.exists() else []
    except (OSError, UnicodeDecodeError) as error:
        raise ConversationError(f"{path} cannot be read: {error}") from error
    for number, line in enumerate(lines, 1):
        if not line:
            continue
        try:
            vote = Vote(**json.loads(line))
            if len(vote.models) != 2 or len(vote.responses) != 2 or vote.winner not in (None, *vote.models):
                raise ValueError(line)
        except (TypeError, ValueError) as error:
            raise ConversationError(f"{path}:{number}: this is not a vote: {line[:60]}") from error
        votes.append(vote)
    return votes


def count_wins(votes: Iterable[Vote], first: str, second: str) -> Wins:
    """Counts how often the second model won against the first; votes about others do not count.

    Example:
        >>> count_wins([Vote(["Hi"], ["A", "B"], ["x", "y"], "B")], "A", "B").wins
        1
    """
    winners = [vote.winner for vote in votes if {*vote.models} == {first, second}]
    wins, losses = winners.count(second), winners.count(first)
    low, high = wilson(wins, wins + losses)
    rate = wins / (wins + losses) if wins + losses else math.nan
    return Wins(wins, losses, winners.count(None), rate, low, high)
