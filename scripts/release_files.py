"""Reads the wheel and the source archive of a release, without installing them, and reports what is wrong with them.

Owns: what a file of a release is called, what it has, and what it must not have. `release_check.py` calls it.
"""

import re
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from collections.abc import Iterable, Mapping
from email import message_from_string
from pathlib import Path

from build_dist import ROOT

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
LIMIT = 20_000_000  # bytes of each file


def check_files(files: Mapping[str, Path]) -> None:
    """Reads both files, without installing them."""
    result = subprocess.run(
        [sys.executable, "-m", "twine", "check", "--strict", *map(str, files.values())], capture_output=True, text=True
    )
    if result.returncode:
        sys.exit(f"twine refuses the metadata:\n{result.stdout}{result.stderr}")
    problems = [*wheel_problems(files["wheel"]), *sdist_problems(files["sdist"])]
    problems += name_problems(path.name for path in files.values())
    for path in files.values():
        size = path.stat().st_size
        print(f"    {path.name}: {size / 1e6:.1f} MB", flush=True)
        if size > LIMIT:
            problems.append(f"{path.name} has {size:,} bytes; at most {LIMIT:,} are allowed")
    if problems:
        sys.exit("\n".join(problems))


def name_problems(names: Iterable[str]) -> list[str]:
    """Which files have a name that the page on installing does not have; a wheel's depends on where it is built."""
    page = (ROOT / "docs/install.md").read_text(encoding="utf-8")
    return [f"docs/install.md does not name {name}: write it in its commands" for name in names if name not in page]


def wheel_problems(wheel: Path) -> list[str]:
    """What is wrong with the contents of a wheel."""
    with zipfile.ZipFile(wheel) as archive:
        info = f"{PROJECT['name']}-{PROJECT['version']}.dist-info"
        contents = {name: archive.read(name) for name in archive.namelist() if not name.endswith("/")}
    licences = {name.removeprefix(f"{info}/licenses/"): text for name, text in contents.items() if "/licenses/" in name}
    problems = licence_problems(wheel.name, contents.get(f"{info}/METADATA", b""), licences)
    if wheel.name.endswith(".whl") and "-linux_" in wheel.name:
        problems.append(f"{wheel.name} has a name that PyPI refuses: `make build` gives it the name of manylinux")
    compiled = {name.rpartition("/")[2].partition(".")[0] for name in contents if name.endswith((".so", ".pyd"))}
    needed = {"_kernels"} if "-win" in wheel.name else {"_kernels", "_training_kernels"}  # which needs gcc or clang
    for name in sorted(needed - compiled):
        problems.append(f"{wheel.name} has no compiled extension {name}: install a C compiler and build again")
    stray = [name for name in contents if name.split("/")[0] not in (PROJECT["name"], info) or "__pycache__" in name]
    required = {"py.typed", "assets/chitchat/model.int8.safetensors", "server/static/index.html"}
    problems += [f"{wheel.name} has a file that does not belong there: {name}" for name in stray]
    absent = sorted({f"convmodel/{name}" for name in required} - contents.keys())
    return problems + [f"{wheel.name} has no {name}" for name in absent]


def sdist_problems(sdist: Path) -> list[str]:
    """What is wrong with the contents of a source archive."""
    root = sdist.name.removesuffix(".tar.gz")
    with tarfile.open(sdist) as archive:
        contents = {
            member.name.removeprefix(f"{root}/"): archive.extractfile(member).read()  # type: ignore[union-attr]
            for member in archive.getmembers()
            if member.isfile()
        }
    problems = licence_problems(sdist.name, contents.get("PKG-INFO", b""), contents)
    required = {"pyproject.toml", "constraints.txt", "Makefile", "CHANGELOG.md", "Dockerfile", "docs/install.md"}
    problems += [f"{sdist.name} has no {name}" for name in sorted(required - contents.keys())]
    stray = re.compile(r"\.so$|\.pyc$|(^|/)build/|^(?!src/).*\.egg-info/")
    return problems + [f"{sdist.name} has {name}" for name in contents if stray.search(name)]


def licence_problems(file: str, metadata: bytes, contents: Mapping[str, bytes]) -> list[str]:
    """Whether the licences that the metadata list are there, are all, and are those of this folder."""
    listed = message_from_string(metadata.decode()).get_all("License-File") or []
    expected = {str(path.relative_to(ROOT)) for pattern in PROJECT["license-files"] for path in ROOT.glob(pattern)}
    problems = [f"{file}: the metadata do not list {name}" for name in sorted(expected - set(listed))]
    wrong = [name for name in listed if contents.get(name) != (ROOT / name).read_bytes()]
    return problems + [f"{file} has another {name}, or none" for name in wrong]
