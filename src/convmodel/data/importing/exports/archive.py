"""The JSON files of an export, wherever it lies: one file, a folder, or a zip.

Owns: finding these files, reading them, and the look at their beginning that tells formats apart.
"""

import os
import re
import zipfile
from collections.abc import Callable, Iterator
from functools import lru_cache
from itertools import islice
from pathlib import Path, PurePosixPath
from typing import Any, TypeAlias, cast

from convmodel.data.importing.exports.text_lines import START
from convmodel.data.reading.decoding import STDIN, open_bytes, read_json
from convmodel.data.reading.problems import Problems
from convmodel.errors import ConversationError

Outline: TypeAlias = list[set[str]]
"""The keys of a JSON file's beginning, by how many brackets are open around them."""

LEVELS = 8
"""How many levels of brackets an outline tells apart."""

LOOKED_AT = 8
"""How many files of a folder are opened to tell its format."""

_TOKEN = re.compile(r'"((?:[^"\\]|\\.)*)"(\s*:)?|[\[\]{}]', re.DOTALL)


def json_files(path: Path) -> list[tuple[str, Path]]:
    """Finds the JSON files of an export, in order of their names; each with its name inside the export.

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
        # A path inside a zip opens and prints like any other, and that is all that reading asks of it.
        inside = ((name, cast(Path, zipfile.Path(archive, name))) for name in sorted(archive.namelist()))
        return [(name, file) for name, file in inside if _is_wanted(name)]
    except (OSError, ValueError, zipfile.BadZipFile) as error:
        if isinstance(error, ConversationError):
            raise
        raise ConversationError(f"{str(path)[:200]} cannot be opened: copy the export again ({error})") from error


def export_files(path: Path, is_export: Callable[[Path], bool], wanted: str) -> list[tuple[str, Path]]:
    """Finds the files of one format: the one that the path names, or those of a folder or zip that look like it.

    Args:
        path: The export.
        is_export: Tells whether a file is of the format.
        wanted: What there should be, and how to get it.

    Raises:
        ConversationError: If there is none.
    """
    files = json_files(path)
    if not any(file == path for _, file in files):
        files = [(name, file) for name, file in files if is_export(file)]
    if not files:
        raise ConversationError(f"{path}: there is no {wanted}")
    return files


def json_values(path: Path, files: list[tuple[str, Path]], problems: Problems) -> Iterator[tuple[str, Path, Any]]:
    """Reads files of an export one by one; a bad one among several is a problem, the only one an error.

    Raises:
        ConversationError: If the path itself is a file that cannot be read, or problems are errors.
    """
    for name, file in files:
        try:
            value = read_file(file)
        except ConversationError as error:
            if file == path:
                raise
            problems.add(str(error))
            continue
        yield name, file, value


def read_file(file: Path) -> Any:
    """Reads one JSON file of an export, packed or not.

    Raises:
        ConversationError: If it cannot be read, or is no JSON.
    """
    try:
        return read_json(file)
    except ConversationError:
        raise
    except (ValueError, RuntimeError, NotImplementedError, zipfile.BadZipFile) as error:
        raise ConversationError(f"{file}: cannot be read: copy the export again ({error})") from error


def candidates(path: Path, name: str = r".*\.json") -> list[Path]:
    """Names the first files of an export that are worth a look; none where it cannot be read.

    Args:
        path: A file, which is worth a look whatever its name; a folder; or a zip.
        name: The regular expression that the names inside a folder or zip match as a whole.

    Example:
        >>> candidates(Path("no such file"))
        []
    """
    try:
        files = json_files(path)
    except Exception:  # looking at a file that is no export must never fail, whatever is the matter with it
        return []
    return list(islice((file for inside, file in files if file == path or re.fullmatch(name, inside)), LOOKED_AT))


def outline(file: Path) -> Outline:
    """Collects the keys in a JSON file's beginning; none where it cannot be read, or holds one value a line.

    Example:
        >>> import tempfile
        >>> file = Path(tempfile.mkdtemp()) / "a.json"
        >>> _ = file.write_text('{"messages": [{"text": "Hi", "date": "..."')
        >>> outline(file)[1], sorted(outline(file)[3])
        ({'messages'}, ['date', 'text'])
    """
    return _keys(_head(file))


@lru_cache(maxsize=1)  # every format looks at a file before the next one is looked at
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


def _head(file: Path) -> str:
    if str(file) == STDIN:  # what is looked at there could not be read again
        return ""
    try:
        with open_bytes(file) as opened:
            data = opened.read(START)
    except Exception:  # as above
        return ""
    return data.decode("utf-16" if data[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig", errors="ignore")


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
