"""Conversations from files and Python objects, each error with its place.

Owns: the steps of reading (rows, shapes, groups of rows), and that every row is either used or reported.
"""

import hashlib
import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import chain, groupby
from pathlib import Path
from typing import Any, TypeAlias

from convmodel.arguments.values import is_table, plain, table_rows
from convmodel.conversation import Conversation, ConversationLike
from convmodel.data.reading.columns import Columns
from convmodel.data.reading.decoding import STDIN, encodable
from convmodel.data.reading.problems import OnError, Problems
from convmodel.data.reading.rows import Row, data_files, file_rows, is_data_file
from convmodel.data.reading.shapes import AUTO, SHAPES, conversation_of_rows, conversations_of, group_key, shape_of
from convmodel.errors import ConfigError, ConversationError

ConversationSource: TypeAlias = str | os.PathLike[str] | Iterable[ConversationLike | Mapping[str, Any]]
"""A file, a folder, `-`, a data set on the Hub, or Python objects, such as a `datasets.Dataset` or a data frame."""


class ConversationReader:
    """Conversations of one source, read again in every iteration.

    Only the ids of conversations that span several rows are kept in memory.

    Attributes:
        source: The source.
        rows: Rows in the last iteration: lines of JSON, rows of a table, objects.
        conversations: Conversations in the last iteration.
        shapes: Number of rows by shape.
        problems: What was left out, and why.
        left_out: Rows in the last iteration that `edit` left out.
        complete: Whether the last iteration reached the end of the source.

    Example:
        >>> reader = ConversationReader([["Hi", "Hello"], {"prompt": "How are you?", "response": "Fine"}])
        >>> [conversation.turns for conversation in reader]
        [('Hi', 'Hello'), ('How are you?', 'Fine')]
        >>> reader.describe()
        '2 conversations (1 turns, 1 pairs)'
    """

    def __init__(
        self,
        source: ConversationSource,
        *,
        shape: str = AUTO,
        on_error: OnError = "fail",
        columns: Columns | None = None,
        edit: Callable[[Row], Row | None] | None = None,
        check: Callable[[Conversation], object] | None = None,
    ) -> None:
        """Sets the source; reading starts with the iteration.

        Args:
            source: A file (JSONL, JSON, YAML, CSV, TSV or Parquet; gzip or zstd), a folder of such files, `-` for
                standard input, a data set on the Hub, or Python objects.
            shape: The shape of its rows, one of `SHAPES`; detected by default.
            on_error: Whether invalid data stops the reading, or is left out and counted.
            columns: The columns of a table with a message per row, if they have unusual names.
            edit: Called with each row; returns the row to read in its place, or None to leave it out.
            check: Called with each conversation; raises a `ConversationError`, without a place, if it is invalid.

        Raises:
            ConversationError: If the source is none of these.
            ConfigError: If the shape has no such name.
        """
        if shape != AUTO and shape not in SHAPES:
            raise ConfigError(f"there is no format {shape}; there are {AUTO}, {', '.join(SHAPES)}")
        source = table_rows(source) if is_table(source) else plain(source)
        if not isinstance(source, str | os.PathLike):
            _require_conversations(source)
        self.source = source
        self._shape = shape
        self._columns = columns
        self._edit = edit
        self._check = check
        self.problems = Problems(on_error)
        self.rows = 0
        self.left_out = 0
        self.conversations = 0
        self.complete = False
        self.shapes: Counter[str] = Counter()
        self._kept: list[tuple[int, Conversation | ConversationError]] | None = None

    @classmethod
    def of(cls, source: "ConversationSource | ConversationReader") -> "ConversationReader":
        """Returns a reader of a source; a reader is returned unchanged."""
        return source if isinstance(source, ConversationReader) else cls(source)

    def __iter__(self) -> Iterator[Conversation]:
        """Reads from the start.

        Raises:
            ConversationError: If there is nothing to read, no conversation, or a malformed one; the message begins
                with the place.
        """
        self.problems = Problems(self.problems.on_error)
        for rows, result in self._results():
            if isinstance(result, Conversation):
                yield result
            else:
                self.problems.add(str(result), rows=rows)
        if not self.conversations and not self.left_out:
            raise ConversationError(self._nothing())

    def with_errors(self) -> Iterator[Conversation | ConversationError]:
        """Reads from the start and yields the error in place of a malformed conversation."""
        yield from (result for _, result in self._results())

    def describe(self) -> str:
        """Describes the last iteration in one line."""
        shapes = ", ".join(f"{number:,} {shape}" for shape, number in self.shapes.most_common())
        left_out = f"; {self.problems.count:,} rows left out" if self.problems.count else ""
        return f"{self.conversations:,} conversations ({shapes}){left_out}"

    def repeatable(self) -> "ConversationReader":
        """Reads a source that can be read only once (standard input, a pipe, an iterator) into memory; returns itself.

        Example:
            >>> reader = ConversationReader(iter([["Hi", "Hello"]])).repeatable()
            >>> len(list(reader)), len(list(reader))
            (1, 1)
        """
        if self._kept is None and self._is_read_once():
            self._kept = list(self._results())
        return self

    def _is_read_once(self) -> bool:
        if not isinstance(self.source, str | os.PathLike):
            return isinstance(self.source, Iterator)
        # Unlike Path's, these accept any string; what is there and neither is a pipe. Others are on the Hub.
        is_stored = os.path.isfile(self.source) or os.path.isdir(self.source)  # noqa: PTH112, PTH113
        return str(self.source) == STDIN or (os.path.exists(self.source) and not is_stored)  # noqa: PTH110

    def fingerprint(self) -> str | None:
        """Hashes the files of the source, as a key for caches.

        Returns None for a source that is not a file or folder, and for a reader with `edit` or `check`: what a
        function does has no hash.
        """
        if self._edit or self._check or not isinstance(self.source, str | os.PathLike) or str(self.source) == STDIN:
            return None
        path = Path(self.source)
        # Unlike Path's, these accept any string; what is neither (a pipe) cannot be read twice.
        if not os.path.isfile(path) and not os.path.isdir(path):  # noqa: PTH112, PTH113
            return None
        digest = hashlib.blake2b(
            f"{self._shape} {self.problems.on_error} {self._columns or ''}".encode(), digest_size=16
        )
        for file in data_files(path) if path.is_dir() else [path]:
            # The name counts too: conversations without an id are named by their place.
            digest.update(f"{file}\0{file.stat().st_size}\0".encode())
            try:
                with file.open("rb") as content:
                    digest.update(hashlib.file_digest(content, "blake2b").digest())
            except OSError as error:
                raise ConversationError(f"{file} cannot be read: {error.strerror or error}") from error
        return digest.hexdigest()

    def _results(self) -> Iterator[tuple[int, Conversation | ConversationError]]:
        """Yields conversations, and errors with the number of rows that they leave out; counts both."""
        self.conversations, self.complete = 0, False
        if self._kept is None:
            self.rows, self.left_out, self.shapes = 0, 0, Counter()
        for rows, result in self._read() if self._kept is None else self._kept:
            self.conversations += isinstance(result, Conversation)
            yield rows, result
        self.complete = True

    def _read(self) -> Iterator[tuple[int, Conversation | ConversationError]]:
        seen: set[tuple[str, ...]] = set()
        for group, rows in groupby(self._rows(), key=self._group):
            if group is None:
                for row in rows:
                    yield from self._converted(self._of_row, row)
                continue
            group_rows = list(rows)
            if group in seen:
                name = group[-1][:40]
                yield _invalid(group_rows, f"{name} continues after other rows: sort the rows by conversation")
                continue
            seen.add(group)
            yield from self._converted(self._of_group, *group_rows)

    def _rows(self) -> Iterator[Row]:
        if isinstance(self.source, str | os.PathLike):
            rows = file_rows(self.source)
        else:
            rows = (Row(f"conversation {number}", plain(item)) for number, item in enumerate(self.source, 1))
        for row in rows if self._columns is None else chain.from_iterable(map(self._columns.rename, rows)):
            self.rows += 1
            edited = self._edit(row) if self._edit else row
            self.left_out += edited is None
            if edited is not None:
                yield edited

    def _converted(
        self, convert: Callable[..., list[Conversation]], *rows: Row
    ) -> Iterator[tuple[int, Conversation | ConversationError]]:
        try:
            yield from [(0, conversation) for conversation in convert(*rows)]
        except ConversationError as error:
            yield _invalid(rows, str(error))

    def _of_row(self, row: Row) -> list[Conversation]:
        if row.error:
            raise ConversationError(row.error)
        if isinstance(row.value, str) and is_data_file(Path(row.value)):
            raise ConversationError(f"{row.value!r} is the name of a file: give one file or folder, not a list")
        conversations = [self._checked(one) for one in conversations_of(row.value, self._shape)]
        place = encodable(row.place)
        names = [f"{place}#{number}" for number in range(1, len(conversations) + 1)]
        if len(conversations) == 1:
            names = [place if row.name is None else row.name]
        named = [
            conversation if conversation.id is not None or not self._named else _checked(replace(conversation, id=name))
            for name, conversation in zip(names, conversations, strict=True)
        ]
        self._count(row, 1)
        return named

    def _of_group(self, *rows: Row) -> list[Conversation]:
        for row in rows:
            if self._shape not in (AUTO, shape_of(row.value, self._shape)):
                conversations_of(row.value, self._shape)  # raises the error
        conversation = self._checked(conversation_of_rows([row.value for row in rows]))
        self._count(rows[0], len(rows))
        return [conversation]

    def _checked(self, conversation: Conversation) -> Conversation:
        if self._check:
            self._check(conversation)
        return _checked(conversation)

    def _count(self, row: Row, rows: int) -> None:
        self.shapes[shape_of(row.value, self._shape) or ""] += rows

    def _group(self, row: Row) -> tuple[str, ...] | None:
        """Returns the conversation that a row is one part of, with its file: ids restart in every file."""
        shape = shape_of(row.value, self._shape)
        if shape not in ("rows", "personachat") or not isinstance(row.value, Mapping):
            return None
        key = group_key(row.value)
        return None if key is None or row.value[key] in (None, "") else (row.file, shape, str(row.value[key]))

    @property
    def _named(self) -> bool:
        """Whether places are useful as names; Python objects have only their number."""
        return isinstance(self.source, str | os.PathLike)

    def _nothing(self) -> str:
        if self.problems.count:
            return f"all {self.problems.count:,} rows were left out, the first because of: {self.problems.messages[0]}"
        if not self._named:
            return "the list of conversations is empty"
        return f"{self.source} has no conversation: write one per line, each {SHAPES['turns']}, or {SHAPES['messages']}"


def _require_conversations(source: Any) -> None:
    """Raises a `ConversationError` unless a Python object can hold several conversations."""
    kind, fix = type(source).__name__, ""
    if kind.endswith("DatasetDict"):
        fix = f": choose one of its splits: {', '.join(source)}"
    elif hasattr(source, "read"):
        fix = ": give the name of the file"
    elif isinstance(source, Mapping | Conversation):
        fix = ": give a list, even of one conversation"
    if fix or isinstance(source, bytes) or not isinstance(source, Iterable):
        raise ConversationError(f"conversations are a file or a list of conversations, not {kind}{fix}")


def _invalid(rows: Sequence[Row], reason: str) -> tuple[int, ConversationError]:
    place = f"{rows[0].place}: " if rows[0].place else ""
    return len(rows), ConversationError(place + reason)


def _checked(conversation: Conversation) -> Conversation:
    """Rejects names that could not be written to a file; turns are checked already."""
    for name in (conversation.id or "", *conversation.speaker_names):
        try:
            name.encode()
        except UnicodeEncodeError as error:
            raise ConversationError(f"the name {name!r} contains half a surrogate pair: write another") from error
    return conversation


def read_conversations(
    source: ConversationSource, *, shape: str = AUTO, on_error: OnError = "fail"
) -> list[Conversation]:
    """Reads all conversations of a source into memory; sources are those of `ConversationReader`.

    Raises:
        ConversationError: If there is nothing to read, no conversation, or a malformed one; the message begins with
            `file:line:` (and the column, where the line is not JSON) or the conversation's number.

    Example:
        >>> [conversation.turns for conversation in read_conversations([["Hi", "Hello"]])]
        [('Hi', 'Hello')]
    """
    return list(ConversationReader(source, shape=shape, on_error=on_error))
