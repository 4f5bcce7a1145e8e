"""Votes of people for one of two responses.

Owns: which judgement of a file is a vote, the line of a vote for neither, and how often a model wins. The forms of
judgements are in `data.reading.judged_forms`.
"""

import json
import logging
import math
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from io import BytesIO
from pathlib import Path
from typing import Any

from convmodel.conversation import Conversation
from convmodel.data.judgements.judgement import Judgement
from convmodel.data.judgements.torn_lines import is_torn
from convmodel.data.reading.judged_forms import judged_row
from convmodel.errors import ConversationError
from convmodel.evaluation.wilson import wilson
from convmodel.files.json_lines import append_line

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Vote:
    """A preference for one of two responses, or neither.

    Attributes:
        context: The turns before the responses.
        models: The names of the two models.
        responses: The response of each.
        winner: The name of the better model; None for neither.
        at: The time in UTC; empty if unknown.
        responder: The speaker of the responses; empty for the next speaker of the context.
        comparison: Whether it decides about a new version of a model. Such a vote is not training data: the next
            version would learn from the contexts on which it is compared.
    """

    context: Conversation
    models: Sequence[str]
    responses: Sequence[str]
    winner: str | None
    at: str = ""
    responder: str = ""
    comparison: bool = False

    def to_dict(self) -> dict[str, Any]:
        """Returns the JSON object of a line: a judgement that `JudgementReader` reads, without a blank response.

        Example:
            >>> vote = Vote(Conversation(["Hi"]), ["A", "B"], ["Go.", "Hello!"], "B")
            >>> [vote.to_dict()[key] for key in ("chosen", "rejected", "model", "rejected_model")]
            ['Hello!', 'Go.', 'B', 'A']
        """
        return self._line() | ({"comparison": True} if self.comparison else {})

    def _line(self) -> dict[str, Any]:
        responder = self.responder or self.context.next_speaker()
        if self.winner is None:
            context = replace(self.context, weights=None)
            line = {"context": context.to_messages(), "responder": responder, "kind": "vote"}
            line |= {"tie": [*self.responses], "models": [*self.models]}
            return line | {"at": self.at} if self.at else line
        better = self.models.index(self.winner)
        chosen, rejected = (
            text if text.strip() else None for text in (self.responses[better], self.responses[1 - better])
        )
        judgement = Judgement(self.context, responder, chosen, rejected, kind="vote", model=self.winner, at=self.at)
        return judgement.to_dict() | {"rejected_model": self.models[1 - better]}


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
    append_line(path, vote.to_dict(), fix="choose another --votes", sync=True)


def read_votes(path: str | os.PathLike[str], *, quote: bool = True) -> Iterator[Vote]:
    """Yields the votes of a file, also of one with other judgements; none if there is no file.

    A vote's better response comes first. Half lines, which interrupted writes left, are skipped; a warning counts them.

    Args:
        path: The file.
        quote: Whether the message of an error quotes the line.

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
                    vote = _read_vote(line)
                except (TypeError, ValueError, KeyError) as error:
                    if not is_torn(line):
                        text = line[:60].decode(errors="replace").strip() if quote else "correct or remove that line"
                        raise ConversationError(f"{path}:{number}: this is not a vote: {text}") from error
                    torn += 1
                else:
                    if vote is not None:
                        yield vote
    except OSError as error:
        raise ConversationError(f"{path} cannot be read: {error}") from error
    if torn:
        logger.warning("%s: %d half lines, which interrupted writes left, are skipped", path, torn)


def _read_vote(line: bytes) -> Vote | None:
    """Returns the vote of a line, of this or an earlier version; None if it is another judgement."""
    value = json.loads(line)
    row = judged_row(value)
    if row.facts.get("kind") != "vote":
        return None
    models = value.get("models") or [value["model"], value["rejected_model"]]
    if "responses" in value:
        responses, winner = value["responses"], value.get("winner")
    else:
        responses, winner = [row.chosen or "", row.rejected or ""], None if row.undecided else models[0]
    if len(models) != 2 or not all(isinstance(name, str) for name in models):
        raise ValueError(line)
    at, comparison = row.facts.get("at", ""), value.get("comparison") is True
    return Vote(row.context, models, responses, winner, at, row.responder, comparison)


def count_wins(votes: Iterable[Vote], first: str, second: str) -> Wins:
    """Counts how often the second model won against the first; votes about others do not count.

    Example:
        >>> count_wins([Vote(Conversation(["Hi"]), ["A", "B"], ["x", "y"], "B")], "A", "B").wins
        1
    """
    return wins_of(Counter(vote.winner for vote in votes if {*vote.models} == {first, second}), first, second)


def wins_of(winners: Mapping[str | None, int], first: str, second: str) -> Wins:
    """Returns the wins of the second of two models from the number of votes for each, and for None."""
    wins, losses = winners.get(second, 0), winners.get(first, 0)
    low, high = wilson(wins, wins + losses)
    rate = wins / (wins + losses) if wins + losses else math.nan
    return Wins(wins, losses, winners.get(None, 0), rate, low, high)
