"""Names of a table's columns that the user gives: which one holds the conversation, the speaker, the text, the time.

Owns: how these names are written, and the rows under the names that `shapes` knows.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from convmodel.data.reading.messages import read_time, speaker_key, text_key, time_key
from convmodel.data.reading.rows import Row, column_name
from convmodel.data.reading.shapes import group_key
from convmodel.errors import ConfigError

_KEYS = {"conversation": "conversation_id", "speaker": "speaker", "text": "text", "time": "time"}
_USUAL = {"conversation": group_key, "speaker": speaker_key, "text": text_key, "time": time_key}


@dataclass(frozen=True, slots=True)
class Columns:
    """The column of each part of a message; a part that is not named is found by its usual names.

    Example:
        >>> columns = Columns.parse("conversation=ticket_id,speaker=sender")
        >>> [row.value for row in columns.rename(Row("a.csv:2", {"ticket_id": "7", "sender": "Ann", "text": "Hi"}))]
        [{'conversation_id': '7', 'speaker': 'Ann', 'text': 'Hi'}]
    """

    names: Mapping[str, str]

    @classmethod
    def parse(cls, text: str) -> "Columns":
        """Reads columns as the command line has them: `conversation=ticket_id,speaker=sender,text=message`.

        Raises:
            ConfigError: If it is something else.
        """
        pairs = [part.partition("=") for part in text.split(",")]
        names = {part.strip(): name.strip() for part, _, name in pairs}
        if len(names) < len(pairs) or not all(part in _KEYS and name for part, name in names.items()):
            raise ConfigError(
                f"columns is {text!r}: write the parts of a message and their columns, such as "
                f"conversation=ticket_id,speaker=sender,text=message (parts: {', '.join(_KEYS)})"
            )
        return cls(names)

    def rename(self, row: Row) -> Iterator[Row]:
        """Yields the row with our names of its columns; the messages of a list one by one."""
        if isinstance(row.value, list | tuple) and all(isinstance(item, Mapping) for item in row.value):
            for number, item in enumerate(row.value, 1):
                yield from self.rename(replace(row, place=f"{row.place}: message {number}", value=item))
        elif row.error or not isinstance(row.value, Mapping):
            yield row
        else:
            yield self._renamed(row, row.value)

    def _renamed(self, row: Row, value: Mapping[str, Any]) -> Row:
        renamed = {}
        for part, key in _KEYS.items():
            name = self.names.get(part)
            column = (
                _USUAL[part](value)
                if name is None
                else next((n for n in (name, column_name(name)) if n in value), None)
            )
            if part == "time" and name and column and value[column] not in (None, "") and not read_time(value[column]):
                written = str(value[column])[:40]
                error = (
                    f"{name} is {written!r}, not a time: write it such as 2024-01-31T21:41:00, or leave time={name} out"
                )
                return replace(row, value=None, error=error)
            if column is not None:
                renamed[key] = value[column]
            elif name is not None:
                listed = ", ".join(map(str, value))[:200]
                return replace(row, value=None, error=f"there is no column {name}; there are {listed}")
        return replace(row, value=renamed)
