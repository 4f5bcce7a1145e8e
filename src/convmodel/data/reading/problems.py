"""What is wrong with the input: an error at once, or counted and left out.

Owns: the two ways to treat bad data, and the account of what was skipped.
"""

from typing import Literal, TypeAlias, get_args

from convmodel.errors import ConfigError, ConversationError

OnError: TypeAlias = Literal["fail", "skip"]
"""Whether bad data ends the reading, or is left out and counted."""

SHOWN = 5
"""How many messages are kept to show; all are counted."""


LONGEST = 2000
"""How many characters of a message are kept: it may quote the data."""


class Problems:
    """Collects what is wrong with the data, or raises at the first.

    Attributes:
        count: How many pieces of the data were left out.
        messages: What was wrong with the first of them.

    Example:
        >>> problems = Problems("skip")
        >>> problems.add("chat.txt:3: no speaker")
        >>> problems.count
        1
    """

    def __init__(self, on_error: OnError = "fail") -> None:
        if on_error not in get_args(OnError):
            raise ConfigError(f"on_error is {on_error!r}: it must be fail or skip")
        self.on_error = on_error
        self.count = 0
        self.messages: list[str] = []

    def add(self, message: str, *, rows: int = 1) -> None:
        """Takes note of rows of data that cannot be used together; the message begins with their place.

        Raises:
            ConversationError: If bad data is to end the reading.
        """
        message = message[:LONGEST].encode(errors="backslashreplace").decode()
        if self.on_error == "fail":
            raise ConversationError(message)
        self.count += rows
        if len(self.messages) < SHOWN:
            self.messages.append(message)
