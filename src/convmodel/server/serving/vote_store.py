"""The votes that a server knows.

Owns: keeping them in memory, and adding new ones to the file of votes if there is one.
"""

import threading
from pathlib import Path

from convmodel.errors import ConversationError, SaveError
from convmodel.evaluation.votes import Vote, add_vote, read_votes

MAX_VOTES = 100_000
"""How many votes are kept in memory; the oldest are dropped from it first."""


class VoteStore:
    """Votes in memory, and in a file that earlier servers may have begun."""

    def __init__(self, path: Path | None = None) -> None:
        self._path = path
        self._lock = threading.Lock()
        self._votes: list[Vote] = []

    def add(self, vote: Vote) -> list[Vote]:
        """Adds a vote, and returns all votes.

        Raises:
            SaveError: If the file cannot be read or written.
        """
        with self._lock:
            if self._path is not None:
                if not self._votes:
                    self._votes = self._read(self._path)
                add_vote(self._path, vote)
            self._votes.append(vote)
            del self._votes[:-MAX_VOTES]
            return list(self._votes)

    def _read(self, path: Path) -> list[Vote]:
        try:
            return read_votes(path)
        except ConversationError as error:
            raise SaveError(str(error)) from error  # a ConversationError would blame the client's request
