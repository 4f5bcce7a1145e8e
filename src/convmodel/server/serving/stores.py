"""What a server stores: feedback and votes.

Owns: how much that may be, writing each file by one thread at a time, the counts of votes in memory, and the
fingerprints of the models that were judged. Does not know what feedback contains.
"""

import threading
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

from convmodel.errors import ConversationError, SaveError
from convmodel.evaluation.votes import Vote, Wins, add_vote, read_votes, wins_of
from convmodel.files.json_lines import append_line
from convmodel.hf_model.fingerprint import model_fingerprint
from convmodel.server.errors import ApiError
from convmodel.server.settings import MAX_PAIRS, MAX_STORED

if TYPE_CHECKING:
    from transformers import PreTrainedModel


class FeedbackStore:
    """Appends records to a file of JSON lines."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = threading.Lock()
        self._fingerprints: WeakKeyDictionary[PreTrainedModel, str] = WeakKeyDictionary()

    def fingerprint(self, hf_model: "PreTrainedModel") -> str:
        """Returns the fingerprint of a model, which is computed once for each."""
        with self._lock:
            if hf_model not in self._fingerprints:
                self._fingerprints[hf_model] = model_fingerprint(hf_model)
            return self._fingerprints[hf_model]

    def add(self, record: Mapping[str, Any]) -> None:
        """Appends one record, and waits until it is on the disk."""
        with self._lock:
            _require_room(self._path, "feedback")
            append_line(self._path, record, fix="choose another --feedback", sync=True)


class VoteStore:
    """Counts votes in memory, and appends them to a file that an earlier server may have begun."""

    def __init__(self, path: Path | None = None) -> None:
        """Counts the votes of the file.

        Raises:
            ConversationError: If it has lines that are not votes.
        """
        self._path = path
        self._lock = threading.Lock()
        self._winners: dict[frozenset[str], Counter[str | None]] = {}
        self._size = 0  # of the file, as it was counted
        self._count_file()

    def add(self, vote: Vote) -> Wins:
        """Adds a vote, and returns how often the second of its models has won against the first."""
        with self._lock:
            if self._path is not None and _size(self._path) != self._size:  # another program has written to it
                try:
                    self._count_file()
                except ConversationError as error:
                    # A ConversationError would blame the client's request. Its cause has the line, which no log gets.
                    raise SaveError(str(error)) from None
            if len(self._winners) >= MAX_PAIRS and frozenset(vote.models) not in self._winners:
                message = f"there are votes on {MAX_PAIRS} pairs of models already: vote on one of those"
                raise ApiError(507, message, type="server_error", code="storage_full")
            if self._path is not None:
                _require_room(self._path, "votes")
                add_vote(self._path, vote)
                self._size = _size(self._path)
            return wins_of(self._count(vote), *vote.models)

    def wins(self, first: str, second: str) -> Wins:
        """Returns how often the second of two models has won against the first in this server's votes."""
        with self._lock:
            return wins_of(self._winners.get(frozenset((first, second)), Counter()), first, second)

    def _count_file(self) -> None:
        if self._path is not None:
            self._winners.clear()
            self._size = _size(self._path)
            for vote in read_votes(self._path, quote=False):
                self._count(vote)

    def _count(self, vote: Vote) -> Counter[str | None]:
        winners = self._winners.setdefault(frozenset(vote.models), Counter())
        winners[vote.winner] += 1
        return winners


def _size(path: Path) -> int:
    return path.stat().st_size if path.is_file() else 0


def _require_room(path: Path, what: str) -> None:
    if _size(path) >= MAX_STORED:
        message = f"the file of {what} has {MAX_STORED // 2**20} MiB, its limit: move it away on the server"
        raise ApiError(507, message, type="server_error", code="storage_full")
