"""Conversations from files and Python objects, each error with its place.

Owns: the order of reading (rows, shapes, groups of rows), and its account: every row is used or reported.
"""

import hashlib
import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import groupby
from pathlib import Path
from typing import Any, TypeAlias

from convmodel.conversation import Conversation, ConversationLike
from convmodel.data.reading.decoding import STDIN
from convmodel.data.reading.problems import OnError, Problems
from convmodel.data.reading.rows import Row, data_files, file_rows
from convmodel.data.reading.shapes import AUTO, SHAPES, conversation_of_rows, conversations_of, group_key, shape_of
from convmodel.errors import ConfigError, ConversationError

ConversationSource: TypeAlias = str | os.PathLike[str] | Iterable[ConversationLike | Mapping[str, Any]]
"""A file, a folder, `-`, a dataset of the hub, or conversations as Python objects (a `datasets.Dataset` among them)."""


class ConversationReader:
    """Conversations of one source, read anew whenever it is iterated over.

    Nothing is kept in memory but the ids of conversations that are spread over rows.

    Attributes:
        source: Where they come from.
        rows: How many rows the last reading saw: lines of JSON, rows of a table, objects.
        conversations: How many conversations it gave.
        shapes: How many rows had which shape.
        problems: What was left out, and why.
        complete: Whether the last reading came to the source's end.

    Example:
        >>> reader = ConversationReader([["Hi", "Hello"], {"prompt": "How are you?", "response": "Fine"}])
        >>> [conversation.turns for conversation in reader]
        [('Hi', 'Hello'), ('How are you?', 'Fine')]
        >>> reader.describe()
        '2 conversations (1 turns, 1 pairs)'
    """

    def __init__(self, source: ConversationSource, *, shape: str = AUTO, on_error: OnError = "fail") -> None:
        """Takes note of a source; reading begins with the iteration.

        Args:
            source: A file (JSONL, JSON, YAML, CSV, TSV or Parquet; gzip or zstd), a folder of such files, `-` for
                standard input, a dataset of the hub, or Python objects.
            shape: The shape of its rows, one of `SHAPES`; by default recognised.
            on_error: Whether bad data ends the reading, or is left out and counted.

        Raises:
            ConversationError: If the source is none of these.
            ConfigError: If the shape has no such name.
        """
        if shape != AUTO and shape not in SHAPES:
            raise ConfigError(f"there is no format {shape}; there are {AUTO}, {', '.join(SHAPES)}")
        if not isinstance(source, str | os.PathLike) and (
            not isinstance(source, Iterable) or isinstance(source, Mapping | Conversation)
        ):
            cure = (
                f": choose one of its splits: {', '.join(source)}"
                if type(source).__name__.endswith("DatasetDict")
                else ""
            )
            kind = type(source).__name__
            raise ConversationError(f"conversations are a file or a list of conversations, not {kind}{cure}")
        self.source = source
        self._shape = shape
        self.problems = Problems(on_error)
        self.rows = 0
        self.conversations = 0
        self.complete = False
        self.shapes: Counter[str] = Counter()

    @classmethod
    def of(cls, source: "ConversationSource | ConversationReader") -> "ConversationReader":
        """Makes a reader of a source; returns one as it is."""
        return source if isinstance(source, ConversationReader) else cls(source)

    def __iter__(self) -> Iterator[Conversation]:
        """Reads from the beginning.

        Raises:
            ConversationError: If there is nothing to read, no conversation, or one is malformed; the message begins
                with the place.
        """
        self.problems = Problems(self.problems.on_error)
        self.rows, self.conversations, self.shapes, self.complete = 0, 0, Counter(), False
        for rows, found in self._read():
            if isinstance(found, Conversation):
                self.conversations += 1
                yield found
            else:
                self.problems.add(str(found), rows=rows)
        self.complete = True
        if not self.conversations:
            raise ConversationError(self._nothing())

    def with_errors(self) -> Iterator[Conversation | ConversationError]:
        """Reads from the beginning; in the place of a conversation that is malformed stands what is wrong with it."""
        self.rows, self.conversations, self.shapes, self.complete = 0, 0, Counter(), False
        for _, found in self._read():
            self.conversations += isinstance(found, Conversation)
            yield found
        self.complete = True

    def describe(self) -> str:
        """Says what the last reading found, in a line."""
        shapes = ", ".join(f"{number:,} {shape}" for shape, number in self.shapes.most_common())
        left_out = f"; {self.problems.count:,} rows left out" if self.problems.count else ""
        return f"{self.conversations:,} conversations ({shapes}){left_out}"

    def fingerprint(self) -> str | None:
        """Hashes what is to be read, so that what was made of it can be used again; None for what cannot be hashed."""
        if not isinstance(self.source, str | os.PathLike) or str(self.source) == STDIN:
            return None
        path = Path(self.source)
        # Unlike Path's, these take any string; what is neither (a pipe) could not be read again.
        if not os.path.isfile(path) and not os.path.isdir(path):  # noqa: PTH112, PTH113
            return None
        digest = hashlib.blake2b(f"{self._shape} {self.problems.on_error}".encode(), digest_size=16)
        for file in data_files(path) if path.is_dir() else [path]:
            # Conversations without an id are called by their place, so the name counts too.
            digest.update(f"{file}\0{file.stat().st_size}\0".encode())
            try:
                with file.open("rb") as content:
                    digest.update(hashlib.file_digest(content, "blake2b").digest())
            except OSError as error:
                raise ConversationError(f"{file} cannot be read: {error.strerror or error}") from error
        return digest.hexdigest()

    def _read(self) -> Iterator[tuple[int, Conversation | ConversationError]]:
        """Yields conversations, or what is wrong with some rows, and how many rows those are."""
        seen: set[tuple[str, ...]] = set()
        for group, rows in groupby(self._rows(), key=self._group):
            if group is None:
                for row in rows:
                    yield from self._made(self._of_row, row)
                continue
            together = list(rows)
            if group in seen:
                name = group[-1][:40]
                yield _bad(together, f"{name} goes on after other rows: sort the rows by conversation")
                continue
            seen.add(group)
            yield from self._made(self._of_group, *together)

    def _rows(self) -> Iterator[Row]:
        if isinstance(self.source, str | os.PathLike):
            rows = file_rows(self.source)
        else:
            rows = (Row(f"conversation {number}", item) for number, item in enumerate(self.source, 1))
        for row in rows:
            self.rows += 1
            yield row

    def _made(
        self, make: Callable[..., list[Conversation]], *rows: Row
    ) -> Iterator[tuple[int, Conversation | ConversationError]]:
        try:
            yield from [(0, made) for made in make(*rows)]
        except ConversationError as error:
            yield _bad(rows, str(error))

    def _of_row(self, row: Row) -> list[Conversation]:
        if row.error:
            raise ConversationError(row.error)
        made = [_checked(one) for one in conversations_of(row.value, self._shape)]
        self._note(row, 1)
        place = row.place.encode(errors="backslashreplace").decode()  # the name of a file may be no Unicode
        names = (
            [place if row.name is None else row.name]
            if len(made) == 1
            else [f"{place}#{i}" for i in range(1, len(made) + 1)]
        )
        return [
            conversation if conversation.id is not None or not self._named else replace(conversation, id=name)
            for name, conversation in zip(names, made, strict=True)
        ]

    def _of_group(self, *rows: Row) -> list[Conversation]:
        for row in rows:
            if self._shape not in (AUTO, shape_of(row.value, self._shape)):
                conversations_of(row.value, self._shape)  # says what is wrong
        made = _checked(conversation_of_rows([row.value for row in rows]))
        self._note(rows[0], len(rows))
        return [made]

    def _note(self, row: Row, rows: int) -> None:
        self.shapes[shape_of(row.value, self._shape) or ""] += rows

    def _group(self, row: Row) -> tuple[str, ...] | None:
        """Names the conversation that a row is only a part of, and where: numbers begin anew in every file."""
        shape = shape_of(row.value, self._shape)
        if shape not in ("rows", "personachat") or not isinstance(row.value, Mapping):
            return None
        key = group_key(row.value)
        return None if key is None or row.value[key] in (None, "") else (row.file, shape, str(row.value[key]))

    @property
    def _named(self) -> bool:
        """Whether a place is a name worth keeping; a caller's own objects have none but their number."""
        return isinstance(self.source, str | os.PathLike)

    def _nothing(self) -> str:
        if self.problems.count:
            return f"all {self.problems.count:,} rows were left out, the first because of: {self.problems.messages[0]}"
        if not self._named:
            return "the list of conversations is empty"
        return f"{self.source} holds no conversation: write one a line, each {SHAPES['turns']}, or {SHAPES['messages']}"


def _bad(rows: Sequence[Row], reason: str) -> tuple[int, ConversationError]:
    place = f"{rows[0].place}: " if rows[0].place else ""
    return len(rows), ConversationError(place + reason)


def _checked(conversation: Conversation) -> Conversation:
    """Refuses names that could not be written to a file; the turns have been checked."""
    for name in (conversation.id or "", *conversation.speaker_names):
        try:
            name.encode()
        except UnicodeEncodeError as error:
            raise ConversationError(f"the name {name!r} holds half a surrogate pair: write another") from error
    return conversation


def read_conversations(
    source: ConversationSource, *, shape: str = AUTO, on_error: OnError = "fail"
) -> list[Conversation]:
    """Reads all conversations of a source into memory; takes what `ConversationReader` takes.

    Raises:
        ConversationError: If there is nothing to read, no conversation, or one is malformed; the message begins with
            `file:line:` (and the column, where the line is not JSON) or the conversation's number.

    Example:
        >>> [conversation.turns for conversation in read_conversations([["Hi", "Hello"]])]
        [('Hi', 'Hello')]
    """
    return list(ConversationReader(source, shape=shape, on_error=on_error))
