"""Rows of data from files, folders and the Hub: lines of JSON, items of JSON or YAML, rows of tables.

Owns: the kinds of sources, and the place of each row. Does not know what a row means (`shapes.py`).
"""

import csv
import json
import os
import re
from codecs import BOM_UTF8
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from io import BytesIO
from itertools import chain
from pathlib import Path
from typing import Any

from convmodel.data.reading.decoding import (
    TOO_LONG_LINE,
    decoded_lines,
    json_reason,
    lines_of,
    locating_json_errors,
    open_bytes,
    read_bytes,
    read_text,
)
from convmodel.data.reading.shapes import SHAPES, is_message, shape_of
from convmodel.data.reading.yaml_items import yaml_items
from convmodel.errors import ConversationError, MissingExtraError


@dataclass(frozen=True, slots=True)
class Row:
    """One piece of data, not yet interpreted: a JSON value, a row of a table by column, or a Python object.

    The place is `file:line`, `file: row 3` or `conversation 3`, and empty if the error contains it.
    """

    place: str
    value: Any = None
    name: str | None = None  # in the data, if that is outside the value
    error: str | None = None  # why it cannot be read; then there is no value
    file: str = ""  # of a folder: rows of two files never belong to one conversation


DATA_SUFFIXES = frozenset({".jsonl", ".ndjson", ".json", ".csv", ".tsv", ".parquet", ".yml", ".yaml"})
COMPRESSED = frozenset({".gz", ".zst", ".zstd"})
_HUB_NAME = re.compile(r"[\w.-]+/[\w.-]+(:[\w.\[\]%-]+)?")
_DELIMITERS = ",;\t|"
_BLANK = re.compile(r"[ \t\n\r]*")


def file_rows(name: str | os.PathLike[str]) -> Iterator[Row]:
    """Reads a file, a folder of files, standard input (`-`), or a data set on the Hub.

    The name of a data set is `owner/name`, for its split `train`, or `owner/name:split`.

    Raises:
        ConversationError: If there is nothing of that name, or it cannot be read.
    """
    path = Path(name)
    if not os.fspath(name):
        raise ConversationError("there is no file without a name")
    if os.path.isdir(path):  # noqa: PTH112 - unlike Path's, it accepts any string
        files = data_files(path)
        for file in files:
            try:
                yield from (replace(row, file=str(file)) for row in _one_file(file))
            except ConversationError as error:  # one of several bad files is a problem like a bad line
                if len(files) == 1:
                    raise
                yield Row("", error=str(error))
    elif _is_hub_name(os.fspath(name)) and not path.exists():
        yield from _hub_rows(str(name))
    else:
        yield from _one_file(path)


def _is_hub_name(name: str) -> bool:
    return bool(_HUB_NAME.fullmatch(name)) and name[0] != "." and not is_data_file(Path(name))


def data_files(folder: Path) -> list[Path]:
    """Lists the data files in a folder and its subfolders, sorted by name.

    Raises:
        ConversationError: If there is none.
    """
    files = [path for path in visible_paths(folder) if path.is_file() and is_data_file(path)]
    if not files:
        raise ConversationError(f"{folder} has no file of conversations: it takes {', '.join(sorted(DATA_SUFFIXES))}")
    return files


def visible_paths(folder: Path) -> list[Path]:
    """Lists everything below a folder, sorted, without hidden files and folders (`.git`)."""
    paths = sorted(folder.rglob("*"))
    return [path for path in paths if not any(part.startswith(".") for part in path.relative_to(folder).parts)]


def is_data_file(path: Path) -> bool:
    """Returns whether a file may contain conversations, by its name."""
    return _suffix(path) in DATA_SUFFIXES


def _suffix(path: Path) -> str:
    """Returns the suffix in lower case, without that of a compression."""
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
    if kind in (".yml", ".yaml"):
        return (Row(f"{path}:{line}", value) for line, value in yaml_items(path))
    if kind == ".json" and not _starts_as_lines(path):
        return _json_items(path)
    return _json_lines(path)


def _starts_as_lines(path: Path) -> bool:
    """Returns whether the first line is a complete JSON value and another line follows, as in JSON Lines."""
    with open_bytes(path) as file:
        lines = lines_of(file)
        first = next((line for line in lines if line is None or line.strip(b"\xef\xbb\xbf \t\r\n")), b"")
        if first is None:
            return False
        more = any(line is None or line.strip() for line in lines)
    try:
        if more:
            json.loads(first.decode("utf-8-sig"))
    except (ValueError, RecursionError):
        return False
    return more


def _json_lines(path: Path) -> Iterator[Row]:
    with open_bytes(path) as file:
        for number, line in enumerate(lines_of(file), 1):
            place = f"{path}:{number}"
            if line is None:
                yield Row(place, error=TOO_LONG_LINE)
                continue
            try:
                line = line.removeprefix(BOM_UTF8 if number == 1 else b"")
                text = line.decode()
                if text.strip():
                    yield Row(place, _DECODER.decode(text.rstrip()))
            except UnicodeDecodeError as error:
                yield Row(f"{place}:{len(line[: error.start].decode()) + 1}", error="not UTF-8: save the file as UTF-8")
            except json.JSONDecodeError as error:
                reason = f"not JSON ({error.msg}): write one conversation a line, each {SHAPES['turns']}, or "
                reason += SHAPES["messages"]
                if path.suffix.lower() in (".txt", ".zip"):
                    reason = f"not JSON ({error.msg}): if this is a chat export, `convmodel import` reads it"
                yield Row(f"{place}:{error.colno}", error=reason)
            except (ValueError, RecursionError) as error:
                yield Row(place, error=json_reason(error))


def _without_repeated_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) < len(pairs):
        [(repeated, _), *_] = Counter(key for key, _ in pairs).most_common(1)
        raise ValueError(f"the key {repeated[:40]!r} occurs twice in one object: rename one, or it would be lost")
    return value


_DECODER = json.JSONDecoder(object_pairs_hook=_without_repeated_keys)


def _json_items(path: Path) -> Iterator[Row]:
    """Reads one JSON value: a list of conversations, one conversation, or conversations by name."""
    text = read_text(path)
    start = _BLANK.match(text).end()  # type: ignore[union-attr]
    with locating_json_errors(path):
        if text[start : start + 1] == "[":
            items = list(_items(path, text, start + 1))
            one = all(isinstance(item.value, str) for item in items) or all(is_message(item.value) for item in items)
            yield from [Row(f"{path}:1", [item.value for item in items])] if items and one else items
            return
        value = _DECODER.decode(text) if text.strip() else []
    named = value if isinstance(value, Mapping) and shape_of(value) is None else {}
    if named and all(isinstance(item, Mapping | list) for item in named.values()):
        for name, item in named.items():
            yield from _by_name(f"{path}: {name}", name, item)
    elif value != []:
        yield Row(f"{path}:1", value)


def _by_name(place: str, name: str, value: Any) -> Iterator[Row]:
    """Yields what is under a name: one conversation, or a list of them (`train`, `valid`)."""
    if isinstance(value, list) and not all(isinstance(item, str) or is_message(item) for item in value):
        yield from (Row(f"{place}[{number}]", item) for number, item in enumerate(value))
    else:
        yield Row(place, value, name)


def _items(path: Path, text: str, position: int) -> Iterator[Row]:
    """Yields the items of a JSON list one by one, each with its line."""
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
        except ValueError as error:  # a repeated key, or thousands of digits, which Python does not convert to an int
            position = json.JSONDecoder(parse_int=len).raw_decode(text, position)[1]
            yield Row(f"{path}:{line}", error=json_reason(error))
        except RecursionError as error:
            raise ConversationError(f"{path}:{line}: {json_reason(error)}") from error
        else:
            yield Row(f"{path}:{line}", value)
        position = _BLANK.match(text, position).end()  # type: ignore[union-attr]
        expects_value = text[position : position + 1] == ","
        if expects_value:
            position += 1
        elif text[position : position + 1] != "]":
            raise json.JSONDecodeError("Expecting ',' delimiter", text, position)


def _csv_rows(path: Path, delimiter: str | None) -> Iterator[Row]:
    """Reads a table with a header line. Every value stays text: `NA` and `007` may be turns."""
    csv.field_size_limit(2**31 - 1)  # the module's own limit is 128 KiB, less than a long message
    with open_bytes(path) as file:
        lines = decoded_lines(path, file)
        blank = 0
        while (header := next(lines, "")) and not header.strip():
            blank += 1
        delimiter = delimiter or max(_DELIMITERS, key=header.count)
        reader = csv.reader(chain([header], lines), delimiter=delimiter, strict=True)
        columns = None
        while True:
            place = f"{path}:{reader.line_num + blank + 1}"
            try:
                values = next(reader, None)
                reason = _not_text(values or [])
            except csv.Error as error:
                values, reason = [], f"not CSV ({error}): is a quotation mark open, or one too many?"
            if values is None:
                return
            if columns is None:
                columns = _columns(place, values, reason)
            elif reason or (values and len(values) != len(columns)):
                count = f"{len(values)} values, but the header has {len(columns)} columns: quote what holds a delimiter"
                yield Row(place, error=reason or count)
            elif values:
                yield Row(place, dict(zip(columns, values, strict=True)))


def column_name(name: str) -> str:
    """Returns the name of a table's column as it is in the rows: `conversation_id` for `Conversation ID`."""
    return name.strip().lower().replace(" ", "_")


def _columns(place: str, header: list[str], reason: str | None) -> list[str]:
    columns = [column_name(name) for name in header]
    named = [name for name in columns if name]  # spreadsheets leave empty ones at the end
    if len(set(named)) < len(named):
        reason = f"a column occurs twice: {', '.join(columns)[:200]}: rename one"
    if reason:
        raise ConversationError(f"{place}: the header cannot be read: {reason}")
    return columns


def _not_text(values: Iterable[str]) -> str | None:
    text = "".join(values)
    if "\0" in text:
        return "a null byte, which text does not have: save the file as UTF-8"
    try:
        text.encode()
    except UnicodeEncodeError:
        return "not UTF-8: save the file as UTF-8"
    return None


def _parquet_rows(path: Path) -> Iterator[Row]:
    try:
        from pyarrow import ArrowException
        from pyarrow.parquet import ParquetFile
    except ImportError as error:
        raise MissingExtraError("reading Parquet needs pyarrow", "train") from error
    with open_bytes(path) as file:
        compressed = path.suffix.lower() in COMPRESSED  # Parquet is read from its end, which needs seeking
        source = BytesIO(read_bytes(path)) if compressed else file
        number = 0
        try:
            table = ParquetFile(source)
            names = table.schema_arrow.names
            if len(set(names)) < len(names):
                raise ConversationError(f"a column occurs twice: {', '.join(names)[:200]}: rename one")
            for batch in table.iter_batches(1024):
                for number, value in enumerate(batch.to_pylist(), number + 1):  # noqa: B020
                    yield Row(f"{path}: row {number}", value)
        except (OSError, ValueError, OverflowError, ArrowException) as error:
            raise ConversationError(f"{path} cannot be read as Parquet: {error}") from error


def _hub_rows(name: str) -> Iterator[Row]:
    try:
        import datasets
    except ImportError as error:
        raise MissingExtraError("reading from the Hub needs datasets", "train") from error
    datasets.disable_progress_bars()
    dataset, _, split = name.partition(":")
    try:
        rows = datasets.load_dataset(dataset, split=split or "train", streaming=True)
        for number, value in enumerate(rows, 1):
            yield Row(f"{name}: row {number}", value)
    except (OSError, ValueError, datasets.exceptions.DatasetsError) as error:
        raise ConversationError(
            f"there is no file {name}, and no such data set could be loaded from the Hub: {error}"
        ) from error
