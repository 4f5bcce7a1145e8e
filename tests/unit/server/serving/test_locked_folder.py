"""The lock of a folder that one server writes into."""

import os
from pathlib import Path

import pytest

from convmodel.errors import SaveError
from convmodel.server.serving.locked_folder import lock_folder


def test_a_second_server_is_refused_until_the_first_one_is_gone(tmp_path: Path) -> None:
    descriptor = lock_folder(tmp_path / "new/folder", "--train")
    assert descriptor is not None
    with pytest.raises(SaveError, match=r"another server trains in .*folder: stop it, or give .* to --train"):
        lock_folder(tmp_path / "new/folder", "--train")
    os.close(descriptor)
    again = lock_folder(tmp_path / "new/folder", "--train")
    assert again is not None
    os.close(again)


def test_a_folder_that_cannot_be_written_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(SaveError, match=r"cannot be written: .*; give another folder to --train"):
        lock_folder(tmp_path / "file", "--train")
