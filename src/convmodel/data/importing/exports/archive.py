"""Exports of JSON files: one file, a folder, or a zip.

Owns: finding and reading these files, and the outline of their start that identifies a format.
"""

import os
import re
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from itertools import islice
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple, TypeAlias, cast

from convmodel.data.importing.exports.messages import Chat
from convmodel.data.importing.exports.text_lines import start_of
from convmodel.data.reading.decoding import read_json
from convmodel.data.reading.problems import Problems
from convmodel.errors import ConversationError

Outline: TypeAlias = list[set[str]]
"""The keys at the start of a JSON file, by nesting depth."""

LEVELS = 8
"""Levels of nesting in an outline."""

LOOKED_AT = 8
"""Number of files of a folder that are opened to detect its format."""

ANY_NAME = r".*\.json"

# The start of a file may end inside a string: what is in it is neither a key nor a bracket.
_TOKEN = re.compile(r'"((?:[^"\\]|\\.?)*+)(?:"(\s*:)?|\Z)|[\[\]{}]', re.DOTALL)


class JsonFile(NamedTuple):
    """A file of an export, with its name inside the export and the parsed value."""

    name: str
    path: Path
    value: Any


@dataclass(frozen=True, slots=True)
class JsonExport:
    """A format of JSON files: how it is recognised, and how its chats are read.

    Attributes:
        is_export: Tells from a file's outline whether it has the format.
        wanted: The expected file and how to get it, for the error.
        chats: Reads the chats of the export's files.
        names: Regular expressions of files' names inside a folder or zip, for detection; the first with a match counts.
        order: The sort key of a file, by its name.
    """

    is_export: Callable[[Outline], bool]
    wanted: str
    chats: Callable[[Iterator[JsonFile], Problems], Iterator[Chat]]
    names: tuple[str, ...] = (ANY_NAME,)
    order: Callable[[str], Any] = str

    def matches(self, path: Path) -> bool:
        """Returns whether a file, folder or zip is an export of this format."""
        files = next(filter(None, (candidates(path, name) for name in self.names)), [])
        return any(self.is_export(outline(file)) for file in files)

    def read(self, path: Path, problems: Problems) -> Iterator[Chat]:
        """Reads the chats of a file, or of all files of this format in a folder or zip.

        Raises:
            ConversationError: If there is no such file, it cannot be read, or it is malformed and problems are errors.
        """
        files = json_files(path)
        if not any(file == path for _, file in files):
            files = [(name, file) for name, file in files if self.is_export(outline(file))]
        if not files:
            raise ConversationError(f"{path}: there is no {self.wanted}")
        files.sort(key=lambda file: self.order(file[0]))
        yield from self.chats(json_values(path, files, problems), problems)


def json_files(path: Path) -> list[tuple[str, Path]]:
    """Finds the JSON files of an export, sorted by name; each with its name inside the export.

    Raises:
        ConversationError: If there is nothing at the path, or it is a damaged zip.
    """
    try:
        if path.is_dir():
            return sorted(_walk(path))
        if not path.is_file():
            raise ConversationError(f"there is no file {str(path)[:200]}")
        if not zipfile.is_zipfile(path):
            return [(path.name, path)]
        archive = zipfile.ZipFile(path)
        # A path inside a zip opens and prints like any other, which is all that reading needs.
        inside = ((name, cast(Path, zipfile.Path(archive, name))) for name in sorted(archive.namelist()))
        return [(name, file) for name, file in inside if _is_wanted(name)]
    except (OSError, ValueError, NotImplementedError, zipfile.BadZipFile) as error:
        if isinstance(error, ConversationError):
            raise
        raise ConversationError(f"{str(path)[:200]} cannot be opened: copy the export again ({error})") from error


def json_values(path: Path, files: list[tuple[str, Path]], problems: Problems) -> Iterator[JsonFile]:
    """Reads files of an export one by one; a bad file is a problem, or an error if it is the path itself."""
    for name, file in files:
        try:
            yield JsonFile(name, file, _read(file))
        except ConversationError as error:
            if file == path:
                raise
            problems.add(str(error))


def candidates(path: Path, name: str = ANY_NAME) -> list[Path]:
    """Returns the first files of an export that may have a format: the path itself, or those inside of that name."""
    try:
        files = json_files(path)
    except Exception:  # detection must never fail, whatever is wrong with the file
        return []
    return list(islice((file for inside, file in files if file == path or re.fullmatch(name, inside)), LOOKED_AT))


def outline(file: Path) -> Outline:
    """Collects the keys at the start of a JSON file; none if it cannot be read, or has one value per line.

    Example:
        >>> import tempfile
        >>> file = Path(tempfile.mkdtemp()) / "a.json"
        >>> _ = file.write_text('{"messages": [{"text": "Hi", "date": "..."')
        >>> outline(file)[1], sorted(outline(file)[3])
        ({'messages'}, ['date', 'text'])
    """
    return _keys(start_of(file))


@lru_cache(maxsize=1)  # all formats look at one file before the next
def _keys(text: str) -> Outline:
    keys: Outline = [set() for _ in range(LEVELS)]
    depth = 0
    for token in _TOKEN.finditer(text):
        if token[0] in "{[":
            depth += 1
        elif token[0] in "}]":
            depth -= 1
        elif token[2] and depth < LEVELS:
            keys[depth].add(token[1])
        if depth <= 0:
            return [set() for _ in keys] if text[token.end() :].strip() else keys
    return keys


def _read(file: Path) -> Any:
    try:
        return read_json(file)
    except ConversationError:
        raise
    except (ValueError, RuntimeError, NotImplementedError, zipfile.BadZipFile) as error:
        raise ConversationError(f"{file}: cannot be read: copy the export again ({error})") from error


def _walk(folder: Path) -> Iterator[tuple[str, Path]]:
    for parent, _, names in os.walk(folder):
        for name in names:
            file = Path(parent, name)
            inside = file.relative_to(folder).as_posix()
            if _is_wanted(inside) and file.is_file():
                yield inside, file


def _is_wanted(name: str) -> bool:
    # macOS puts a second file beside each one into the zips that it makes.
    parts = PurePosixPath(name).parts
    return name.endswith(".json") and not parts[-1].startswith("._") and parts[0] != "__MACOSX"
