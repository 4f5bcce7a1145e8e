"""An error about a missing extra names a command that installs it, wherever convmodel came from."""

import importlib.metadata
import pickle
import re
import shutil
import sys
from pathlib import Path
from typing import get_args

import pytest
from packaging.requirements import Requirement

from convmodel.errors import Extra, MissingExtraError, install_command

SRC = Path(__file__).parents[2] / "src"
REQUIRES = [
    "torch>=2.13",
    'peft>=0.21; extra == "train"',
    'backports.zstd>=1.8; python_version < "3.14" and extra == "train"',
    'pywin32>=300; sys_platform == "no such system" and extra == "train"',
    'fastapi>=0.165; extra == "serve"',
    'convmodel[serve]; extra == "ray"',
]


@pytest.fixture
def metadata(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.metadata, "requires", lambda name: REQUIRES if name == "convmodel" else None)


def packages(command: str) -> list[str]:
    return re.findall(r'"([^"]+)"', command.partition("pip install")[2])


@pytest.mark.usefixtures("metadata")
def test_the_command_names_the_packages_of_the_extra_that_this_system_needs() -> None:
    zstd = ["backports.zstd>=1.8"] if sys.version_info < (3, 14) else []
    assert packages(install_command("train")) == ["peft>=0.21", *zstd]
    assert packages(install_command("serve")) == ["fastapi>=0.165"]


@pytest.mark.parametrize("extra", get_args(Extra))
def test_each_extra_has_packages_and_none_is_convmodel(extra: Extra) -> None:
    names = [Requirement(package).name for package in packages(install_command(extra))]
    assert names
    assert "convmodel" not in names  # an index may have an older library of this name


@pytest.mark.parametrize(
    ("pip", "which", "begin"),
    [
        (True, "/env/bin/pip", "pip install "),
        (True, "/usr/bin/pip", "/env/bin/python -m pip install "),
        (True, None, "/env/bin/python -m pip install "),
        (False, None, "uv pip install --python /env/bin/python "),
        (False, "/usr/bin/pip", "uv pip install --python /env/bin/python "),
    ],
)
def test_the_command_installs_into_the_running_environment(
    monkeypatch: pytest.MonkeyPatch, pip: bool, which: str | None, begin: str
) -> None:
    monkeypatch.setattr(sys, "executable", "/env/bin/python")
    monkeypatch.setattr(shutil, "which", lambda name: which)
    monkeypatch.setattr(importlib.metadata, "distributions", lambda name: [name] if pip else [])

    assert install_command("serve").startswith(f'{begin}"fastapi>=')


def test_a_python_in_a_folder_with_a_space_is_quoted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "/my env/bin/python")
    monkeypatch.setattr(shutil, "which", lambda name: None)

    assert install_command("serve").startswith('"/my env/bin/python" -m pip install ')


def test_without_metadata_of_the_package_the_extra_alone_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.metadata.Distribution, "discover", lambda **_: iter(()))

    error = MissingExtraError("LoRA adapters need peft", "train")
    assert str(error) == "LoRA adapters need peft (the extra train): add the packages of convmodel's extra train"


def test_the_error_has_the_extra_and_the_command_and_survives_pickling() -> None:
    error = MissingExtraError("LoRA adapters need peft", "train")
    assert str(error) == f"LoRA adapters need peft (the extra train): {install_command('train')}"
    assert str(pickle.loads(pickle.dumps(error))) == str(error)
    assert str(MissingExtraError("a whole message")) == "a whole message"


def test_no_module_writes_a_command_of_its_own() -> None:
    """`pip install 'convmodel[train]'` would install an older library of this name wherever 0.4 is not on the index."""
    command = re.compile(r"install [\"'\\]*convmodel")
    assert not [str(path) for path in SRC.rglob("*.py") if command.search(path.read_text(encoding="utf-8"))]
