"""Rows of data from wherever it is kept: lines of JSON, items of a JSON file, rows of tables, objects in memory.

Owns: the kinds of sources, and the place of each row. What a row means is `shapes.py`'s.
"""

import csv
import json
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from convmodel.data.files import open_bytes, read_text
from convmodel.data.shapes import SHAPES, is_message, shape_of
from convmodel.errors import ConversationError, MissingExtraError


@dataclass(frozen=True, slots=True)
class Row:
    """One piece of data, still to be understood.

    Attributes:
        place: Where it stands, for messages: `file:line`, `file: row 3`, `conversation 3`.
        value: A JSON value, a row of a table by column, or an object of the caller's.
        name: What the data itself calls it, where it does so outside the value.
        error: Why it cannot be read, where it cannot; then there is no value.
    """

    place: str
    value: Any = None
    name: str | None = None
    error: str | None = None


JSON_LINES = frozenset({".jsonl", ".ndjson", ".json", ""})
TABLES = frozenset({".csv", ".tsv", ".parquet"})
COMPRESSED = frozenset({".gz", ".zst", ".zstd"})
_HUB_NAME = re.compile(r"[\w.-]+/[\w.-]+(:[\w.\[\]%-]+)?")
_DELIMITERS = ",;\t|"


def file_rows(name: str | os.PathLike[str]) -> Iterator[Row]:
    """Reads a file, a folder of files, standard input (`-`), or a dataset of the hub.

    A dataset is called `owner/name`, which is its split `train`, or `owner/name:split`.

    Raises:
        ConversationError: If there is nothing of that name, or it cannot be read.
    """
    path = Path(name)
    if not os.fspath(name):
        raise ConversationError("there is no file without a name")
    if os.path.isdir(path):  # noqa: PTH112 - unlike Path's, it takes any string
        for file in data_files(path):
            yield from _one_file(file)
    elif _is_hub_name(os.fspath(name)) and not path.exists():
        yield from _hub_rows(str(name))
    else:
        yield from _one_file(path)


def _is_hub_name(name: str) -> bool:
    return bool(_HUB_NAME.fullmatch(name)) and _suffix(Path(name)) not in JSON_LINES | TABLES - {""}


def data_files(folder: Path) -> list[Path]:
    """Lists the files of conversations in a folder and its folders, in order of their names.

    Raises:
        ConversationError: If there is none.
    """
    known = (JSON_LINES | TABLES) - {""}
    found = sorted(path for path in folder.rglob("*") if path.is_file() and is_data_file(path))
    found = [path for path in found if not any(part.startswith(".") for part in path.relative_to(folder).parts)]
    if not found:
        raise ConversationError(f"{folder} has no file of conversations: it takes {', '.join(sorted(known))}")
    return found


def is_data_file(path: Path) -> bool:
    """Tells by its name whether a file may hold conversations."""
    return _suffix(path) in (JSON_LINES | TABLES) - {""}


def _suffix(path: Path) -> str:
    """Returns what kind of file it is, whether compressed or not."""
    suffixes = [suffix.lower() for suffix in path.suffixes]
    if suffixes and suffixes[-1] in COMPRESSED:
        suffixes.pop()
    return suffixes[-1] if suffixes else ""


def _one_file(path: Path) -> Iterator[Row]:
    kind = _suffix(path)
    if kind in (".csv", ".tsv"):
        return _csv_rows(path, "\t" if kind == ".tsv" else None)
    if kind == ".parquet":
        return _parquet_rows(path)
    if kind == ".json" and not _starts_as_lines(path):
        return _json_items(path)
    return _json_lines(path)


def _starts_as_lines(path: Path) -> bool:
    """Tells whether the first line is a whole JSON value and another follows: lines, whatever the file is called."""
    with open_bytes(path) as file:
        first = next((line for line in file if line.strip(b"\xef\xbb\xbf \t\r\n")), b"")
        more = any(line.strip() for line in file)
    try:
        json.loads(first.decode("utf-8-sig"))
    except (ValueError, RecursionError):
        return False
    return more


def _json_lines(path: Path) -> Iterator[Row]:
    with open_bytes(path) as file:
        for number, line in enumerate(file, 1):
            place = f"{path}:{number}"
            try:
                text = line.decode("utf-8-sig" if number == 1 else "utf-8")
                if text.strip():
                    yield Row(place, _parse(text.rstrip()))
            except UnicodeDecodeError as error:
                column = _column(line, error.start)
                yield Row(f"{place}:{column}", error="not UTF-8: save the file as UTF-8")
            except json.JSONDecodeError as error:
                forms = f"{SHAPES['turns']}, or {SHAPES['messages']}"
                reason = f"not JSON ({error.msg}): write one conversation a line, each {forms}"
                yield Row(f"{place}:{error.colno}", error=reason)
            except (ValueError, RecursionError) as error:
                yield Row(place, error=_reason(error))


def _column(line: bytes, start: int) -> int:
    return len(line[:start].decode("utf-8-sig")) + 1


def _reason(error: ValueError | RecursionError) -> str:
    return "nested too deeply to be a conversation" if isinstance(error, RecursionError) else str(error)


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        keys = [key for key, _ in pairs]
        twice = next(key for key in keys if keys.count(key) > 1)
        raise ValueError(f"the key {twice!r} stands twice in one object: one of the two would be lost")
    return found


_DECODER = json.JSONDecoder(object_pairs_hook=_unique)


def _parse(text: str) -> Any:
    return _DECODER.decode(text)


_BLANK = re.compile(r"[ \t\n\r]*")


def _json_items(path: Path) -> Iterator[Row]:
    """Reads one JSON value: a list of conversations, one conversation, or conversations by name."""
    text = read_text(path)
    start = _BLANK.match(text).end()  # type: ignore[union-attr]
    try:
        if text[start : start + 1] == "[":
            items = list(_items(path, text, start + 1))
            one = items and all(isinstance(item.value, str) for item in items)
            one = one or (items and all(is_message(item.value) for item in items))
            yield from [Row(f"{path}:1", [item.value for item in items])] if one else items
            return
        value = _parse(text) if text.strip() else []
    except json.JSONDecodeError as error:
        raise ConversationError(f"{path}:{error.lineno}:{error.colno}: not JSON ({error.msg})") from error
    except (ValueError, RecursionError) as error:
        raise ConversationError(f"{path}: {_reason(error)}") from error
    if isinstance(value, Mapping) and shape_of(value) is None and all(map(_may_be_one, value.values())):
        yield from (Row(f"{path}: {name}", item, name) for name, item in value.items())
    elif value != []:
        yield Row(f"{path}:1", value)


def _may_be_one(value: Any) -> bool:
    return isinstance(value, Mapping | list)


def _items(path: Path, text: str, position: int) -> Iterator[Row]:
    """Yields the items of a JSON list one by one, so that each has its line."""
    line, counted = 1, 0
    expects_value = False
    while True:
        position = _BLANK.match(text, position).end()  # type: ignore[union-attr]
        if text[position : position + 1] == "]" and not expects_value:
            position = _BLANK.match(text, position + 1).end()  # type: ignore[union-attr]
            if position < len(text):
                raise json.JSONDecodeError("Extra data", text, position)
            return
        line, counted = line + text.count("\n", counted, position), position
        try:
            value, position = _DECODER.raw_decode(text, position)
        except json.JSONDecodeError:
            raise
        except ValueError as error:
            raise ConversationError(f"{path}:{line}: {error}") from error
        yield Row(f"{path}:{line}", value)
        position = _BLANK.match(text, position).end()  # type: ignore[union-attr]
        expects_value = text[position : position + 1] == ","
        if expects_value:
            position += 1
        elif text[position : position + 1] != "]":
            raise json.JSONDecodeError("Expecting ',' delimiter", text, position)


def _csv_rows(path: Path, delimiter: str | None) -> Iterator[Row]:
    """Reads a table with a header line. Every value stays the text it is: `NA` and `007` are things people say."""
    csv.field_size_limit(2**31 - 1)  # the module's own limit is 128 KiB, less than a long message
    with open_bytes(path) as file:
        lines = _csv_lines(path, file)
        header_line = next(lines, "")
        if delimiter is None:
            delimiter = max(_DELIMITERS, key=header_line.count)
        try:
            header = next(csv.reader([header_line], delimiter=delimiter, strict=True), [])
        except csv.Error as error:
            raise ConversationError(f"{path}:1: the header is no CSV ({error})") from error
        columns = [name.strip().lower().replace(" ", "_") for name in header]
        if len(set(columns)) < len(columns):
            raise ConversationError(f"{path}:1: a column stands twice in the header: {', '.join(columns)}")
        reader = csv.reader(lines, delimiter=delimiter, strict=True)
        before = 0
        while True:
            try:
                values = next(reader, None)
            except csv.Error as error:
                raise ConversationError(f"{path}:{before + 2}: no CSV ({error}): is a quotation mark open?") from error
            if values is None:
                return
            place, before = f"{path}:{before + 2}", reader.line_num
            if len(values) == len(columns):
                yield Row(place, dict(zip(columns, values, strict=True)))
            elif values:
                yield Row(place, error=f"{len(values)} values, but the header has {len(columns)} columns")


def _csv_lines(path: Path, file: Iterable[bytes]) -> Iterator[str]:
    for number, line in enumerate(file, 1):
        try:
            yield line.decode("utf-8-sig" if number == 1 else "utf-8")
        except UnicodeDecodeError as error:
            raise ConversationError(
                f"{path}:{number}:{_column(line, error.start)}: not UTF-8: save the file as UTF-8"
            ) from error


def _parquet_rows(path: Path) -> Iterator[Row]:
    with open_bytes(path) as file:
        file.read(1)  # says why, if the file cannot be read
    datasets = _datasets()
    try:
        rows = datasets.load_dataset("parquet", data_files=str(path), split="train", streaming=True)
        for number, value in enumerate(rows, 1):
            yield Row(f"{path}: row {number}", value)
    except (OSError, ValueError) as error:
        raise ConversationError(f"{path} cannot be read as Parquet: {error}") from error
    except Exception as error:
        if type(error).__module__.partition(".")[0] not in ("datasets", "pyarrow"):
            raise
        raise ConversationError(f"{path} cannot be read as Parquet: {error}") from error


def _hub_rows(name: str) -> Iterator[Row]:
    datasets = _datasets()
    dataset, _, split = name.partition(":")
    try:
        rows = datasets.load_dataset(dataset, split=split or "train", streaming=True)
        for number, value in enumerate(rows, 1):
            yield Row(f"{name}: row {number}", value)
    except (OSError, ValueError) as error:
        raise ConversationError(
            f"there is no file {name}, and no such dataset could be loaded from the hub: {error}"
        ) from error


def _datasets() -> Any:
    try:
        import datasets
    except ImportError as error:
        raise MissingExtraError("reading Parquet and the hub needs datasets: pip install 'convmodel[train]'") from error
    datasets.disable_progress_bars()
    return datasets
