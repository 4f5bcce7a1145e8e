"""What a server stores: feedback and votes.

Owns: writing each file by one thread at a time, and the votes in memory. It does not know what feedback contains.
"""

import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from convmodel.errors import ConversationError, SaveError
from convmodel.evaluation.votes import Vote, add_vote, read_votes
from convmodel.files.json_lines import append_line

MAX_VOTES = 100_000  # kept in memory; the oldest are dropped from it first


class FeedbackStore:
    """Appends records to a file of JSON lines."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = threading.Lock()

    def add(self, record: Mapping[str, Any]) -> None:
        """Appends one record."""
        with self._lock:
            append_line(self._path, record, fix="choose another --feedback")


class VoteStore:
    """Votes in memory, and in a file that an earlier server may have begun."""

    def __init__(self, path: Path | None = None) -> None:
        self._path = path
        self._lock = threading.Lock()
        self._votes: list[Vote] = []

    def add(self, vote: Vote) -> list[Vote]:
        """Adds a vote, and returns all votes."""
        with self._lock:
            if self._path is not None:
                self._votes = self._votes or self._read(self._path)
                add_vote(self._path, vote)
            self._votes.append(vote)
            del self._votes[:-MAX_VOTES]
            return list(self._votes)

    def _read(self, path: Path) -> list[Vote]:
        try:
            return read_votes(path)
        except ConversationError as error:
            raise SaveError(str(error)) from error  # a ConversationError would blame the client's request
