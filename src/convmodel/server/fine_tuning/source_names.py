"""The names under which `convmodel import` reads the files of clients, and the names in what clients read.

Owns: a name on the disk for each name that a client gave: one by which the importer recognises the format, and that
cannot be an option, standard input, a folder or a module. Does not know what the files contain.
"""

import re
import unicodedata
from collections.abc import Mapping, Sequence
from importlib.machinery import all_suffixes
from pathlib import PurePosixPath
from typing import Any

_BYTES = 200  # of a name; file systems allow 255, and some readers put more behind it
_NOT_ON_WINDOWS = re.compile(r'[<>:"/\\|?*\x00-\x1f]')
_SUFFIX_BYTES = 40
_MODULES = tuple(all_suffixes())


def disk_names(names: Sequence[str]) -> list[str]:
    """Returns the path of each file in the folder that is imported; files of one name are in folders of their own.

    Example:
        >>> disk_names(["WhatsApp Chat with Bob.txt", "-", "os.py", "a:b.json", "talks.csv", "Talks.csv"])
        ['WhatsApp Chat with Bob.txt', 'unnamed-file', 'os.py.txt', 'a_b.json', 'talks.csv', '2/Talks.csv']
    """
    paths: list[str] = []
    seen: dict[str, int] = {}
    for name in names:
        safe = _safe(name)
        key = unicodedata.normalize("NFC", safe.casefold())  # some file systems take two forms of a letter for one
        seen[key] = number = seen.get(key, 0) + 1
        paths.append(safe if number == 1 else f"{number}/{safe}")
    return paths


def client_names(names: Sequence[str]) -> dict[str, str]:
    """Returns what clients call the files that `disk_names` renamed, by their paths.

    Example:
        >>> client_names(["a:b.json", "talks.csv", "talks.csv"])
        {'a_b.json': 'a:b.json', '2/talks.csv': 'talks.csv (2)'}
    """
    shown = {}
    for path, name in zip(disk_names(names), names, strict=True):
        number, slash, _ = path.partition("/")
        label = f"{name} ({number})" if slash else name
        if path != label:
            shown[path] = label
    return shown


def renamed(value: Any, names: Mapping[str, str]) -> Any:
    """Returns a JSON value with other names in all of its texts.

    Example:
        >>> renamed({"notes": ["2/talks.csv:3: not CSV"]}, {"2/talks.csv": "talks.csv (2)"})
        {'notes': ['talks.csv (2):3: not CSV']}
    """
    if isinstance(value, str):
        for name in sorted(names, key=len, reverse=True):
            value = value.replace(name, names[name])
        return value
    if isinstance(value, list):
        return [renamed(item, names) for item in value]
    if isinstance(value, dict):
        return {key: renamed(item, names) for key, item in value.items()}
    return value


def _safe(name: str) -> str:
    name = _NOT_ON_WINDOWS.sub("_", name).strip()
    if name in ("", "-", ".", ".."):
        return "unnamed-file"
    if len(name.encode()) > _BYTES:
        suffix = "".join(PurePosixPath(name).suffixes[-2:]).encode()
        suffix = suffix if len(suffix) <= _SUFFIX_BYTES else b""
        name = (name.encode()[: _BYTES - len(suffix)] + suffix).decode(errors="ignore")
    is_folder = name.isdigit()  # as those of equal names are called
    return f"{name}.txt" if is_folder or name.lower().endswith(_MODULES) else name
