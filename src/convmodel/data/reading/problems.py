"""Invalid data: raised as an error, or counted and left out.

Owns: the two ways to treat invalid data, and the record of what was skipped.
"""

from typing import Literal, TypeAlias, get_args

from convmodel.data.reading.decoding import encodable
from convmodel.errors import ConfigError, ConversationError

OnError: TypeAlias = Literal["fail", "skip"]
"""Whether invalid data stops the reading, or is left out and counted."""

SHOWN = 5
"""Number of messages that are kept; all are counted."""

LONGEST = 2000
"""Characters of a message that are kept: it may quote the data."""


class Problems:
    """Collects what is wrong with the data, or raises the first problem.

    `count` is the number of rows that were left out, and `messages` what was wrong with the first of them.

    Example:
        >>> problems = Problems("skip")
        >>> problems.add("tea.log:3: there is no name: add one")
        >>> problems.count, problems.messages
        (1, ['tea.log:3: there is no name: add one'])
    """

    def __init__(self, on_error: OnError = "fail") -> None:
        if on_error not in get_args(OnError):
            raise ConfigError(f"on_error is {on_error!r}: it must be fail or skip")
        self.on_error = on_error
        self.count = 0
        self.messages: list[str] = []

    def add(self, message: str, *, rows: int = 1) -> None:
        """Adds a problem that leaves out one or more rows; the message begins with their place.

        Raises:
            ConversationError: If `on_error` is `fail`.
        """
        message = encodable(message[:LONGEST])
        if self.on_error == "fail":
            raise ConversationError(message)
        self.count += rows
        if len(self.messages) < SHOWN:
            self.messages.append(message)
