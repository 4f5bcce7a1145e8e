"""Names of clients' files on the disk: whatever a client sends."""

import sys
import unicodedata
from pathlib import PurePosixPath, PureWindowsPath

import pytest
from hypothesis import given
from hypothesis import strategies as st

from convmodel.server.fine_tuning.file_store import _shown_name
from convmodel.server.fine_tuning.source_names import client_names, disk_names, renamed


@given(st.lists(st.text(max_size=300), min_size=1, max_size=5))
def test_any_name_is_a_file_in_the_folder(names: list[str]) -> None:
    names = [_shown_name(name) for name in names]
    paths = disk_names(names)
    assert len({unicodedata.normalize("NFC", path.casefold()) for path in paths}) == len(paths)
    assert not {*paths} & {path.partition("/")[0] for path in paths if "/" in path}  # no file has a folder's name
    for path in paths:
        parts = PurePosixPath(path).parts
        assert parts == PureWindowsPath(path).parts
        assert len(parts) <= 2
        assert not {"-", "..", ".", ""} & {*parts}
        assert all(len(part.encode()) <= 255 for part in parts)
        assert not path.endswith((".py", ".so", ".pyc"))


@pytest.mark.parametrize(
    ("name", "path"),
    [
        ("chat.json", "chat.json"),
        ("2", "2.txt"),
        ("-", "unnamed-file"),
        ("--output", "--output"),  # the command has `--` before it
        ("Torch.PY", "Torch.PY.txt"),
        ("talks.jsonl.zst", "talks.jsonl.zst"),
        ("a<b>|c?.txt", "a_b__c_.txt"),
        ("トーク" * 80 + ".txt", "トーク" * 21 + "トー.txt"),
        ("a" * 250 + ".csv.gz", "a" * 193 + ".csv.gz"),
        ("a." + "b" * 250, "a." + "b" * 198),
        ("a" * 197 + ".pyx.b" + "b" * 40, "a" * 197 + ".py.txt"),
    ],
)
def test_a_name_keeps_what_the_importer_goes_by(name: str, path: str) -> None:
    assert disk_names([name]) == [path]


def test_equal_names_have_folders_that_no_file_is_called_as() -> None:
    assert disk_names(["2", "a.txt", "A.txt", "2.txt"]) == ["2.txt", "a.txt", "2/A.txt", "2/2.txt"]
    assert disk_names(["\u00e9.txt", "e\u0301.txt"]) == ["\u00e9.txt", "2/e\u0301.txt"]


def test_messages_have_the_names_of_clients() -> None:
    names = ["chat.txt", "a|b.txt", "chat.txt", "Chat.txt"]
    assert disk_names(names) == ["chat.txt", "a_b.txt", "2/chat.txt", "3/Chat.txt"]
    message = "3/Chat.txt:1: no name; a_b.txt and chat.txt are read"
    assert renamed(message, client_names(names)) == "Chat.txt (3):1: no name; a|b.txt and chat.txt are read"
    value = {"rows": ["2/chat.txt:7", 3], "none": None}
    assert renamed(value, client_names(names)) == {"rows": ["chat.txt (2):7", 3], "none": None}


def test_nothing_that_python_imports_keeps_its_suffix() -> None:
    for suffix in (".py", ".pyc", ".so", f".cpython-{sys.version_info.major}.so"):
        assert disk_names([f"torch{suffix}"]) == [f"torch{suffix}.txt"]
