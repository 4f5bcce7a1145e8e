"""What a release is made of: the notes of its tag, the checks of its files, the versions that it is tested with."""

import errno
import importlib
import io
import re
import subprocess
import sys
import tarfile
import tempfile
import tomllib
import zipfile
from collections.abc import Callable
from importlib.metadata import distributions
from pathlib import Path
from types import ModuleType

import pytest
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
EXTRAS: dict[str, list[str]] = PROJECT["optional-dependencies"]
CHANGELOG = """# Changelog

## Unreleased

### Added

- something new

## 0.4.0 - 2026-12-01

### Fixed

- a fault, see [the page](docs/data.md), with [a form](https://example.com/)

## 0.3.9 - soon

- old

## 0.3.8 - 2020-01-01
"""
SERVER = """
import json, sys
from http.server import BaseHTTPRequestHandler, HTTPServer

class Handler(BaseHTTPRequestHandler):
    def answer(self):
        choice = {"message": {"content": "Hi"}, "finish_reason": "stop"}
        if "--wrong" in sys.argv:
            choice["finish_reason"] = "error"
        texts = {"/ready": {"status": "ready"}, "/health": {"status": "ok"}, "/v1/models": {"data": [{"id": "m"}]}}
        if "--empty" in sys.argv:
            texts["/v1/models"] = {"data": []}
        text = "<html>" if self.path == "/" else json.dumps(texts.get(self.path, {"choices": [choice]}))
        self.send_response(200)
        self.end_headers()
        self.wfile.write(text.encode())
    do_GET = answer
    def do_POST(self):
        assert json.loads(self.rfile.read(int(self.headers["Content-Length"])))["model"] == "m"
        self.answer()

if "--crash" in sys.argv:
    sys.exit("no such model")
import signal
signal.signal(signal.SIGTERM, lambda *_: sys.exit("--deaf" in sys.argv))
HTTPServer(("127.0.0.1", int(sys.argv[-1])), Handler).serve_forever()
"""


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> object:
    """Imports a module of `scripts/`."""
    monkeypatch.syspath_prepend(str(ROOT / "scripts"))
    return importlib.import_module


@pytest.fixture
def notes(script: object) -> ModuleType:
    return script("release_notes")  # type: ignore[operator, no-any-return]


@pytest.fixture
def files(script: object) -> ModuleType:
    return script("release_files")  # type: ignore[operator, no-any-return]


@pytest.fixture
def check(script: object) -> ModuleType:
    return script("release_check")  # type: ignore[operator, no-any-return]


def test_the_notes_are_the_section_of_the_version(notes: ModuleType) -> None:
    expected = "### Fixed\n\n- a fault, see the page, with [a form](https://example.com/)"
    assert notes.release_notes(CHANGELOG, "0.4.0") == (expected, True)


def test_until_there_is_a_section_the_notes_are_those_of_unreleased(notes: ModuleType) -> None:
    assert notes.release_notes(CHANGELOG, "0.5.0") == ("### Added\n\n- something new", False)


@pytest.mark.parametrize(
    ("version", "changelog", "reason"),
    [
        ("0.3.9", CHANGELOG, r'the heading "## 0.3.9 - soon" must be "## 0.3.9 - YYYY-MM-DD"'),
        ("0.3.8", CHANGELOG, r'the section "## 0.3.8 - 2020-01-01" is empty'),
        ("0.4.0", "# Changelog\n", "there is no section 0.4.0"),
    ],
)
def test_notes_that_cannot_be_published_are_an_error(
    notes: ModuleType, version: str, changelog: str, reason: str
) -> None:
    with pytest.raises(ValueError, match=reason):
        notes.release_notes(changelog, version)


def test_the_command_prints_the_notes_of_a_version_and_how_to_install_it(
    notes: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "CHANGELOG.md").write_text(CHANGELOG, encoding="utf-8")
    monkeypatch.setattr(notes, "ROOT", tmp_path)
    monkeypatch.setattr(sys, "argv", ["release_notes.py", "v0.4.0"])
    notes.main()
    printed = capsys.readouterr().out
    assert 'pip install "./convmodel-0.4.0.tar.gz[all]"' in printed
    assert "docs/migration.md" in printed
    assert "\n### Fixed" in printed


def test_a_build_works_with_temporary_files_on_another_file_system(
    script: Callable[[str], ModuleType], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    build_dist, memory, folder = script("build_dist"), tmp_path / "memory", tmp_path / "dist"
    replace = Path.replace

    def build(command: list[str], **_: object) -> None:
        (Path(command[command.index("--outdir") + 1]) / "convmodel-1.tar.gz").write_text("new", encoding="utf-8")

    def replace_within_one(path: Path, target: Path) -> Path:
        if (memory in path.parents) != (memory in Path(target).parents):
            raise OSError(errno.EXDEV, "Invalid cross-device link")
        return replace(path, target)

    for place in (memory, folder):
        place.mkdir()
    (folder / "convmodel-1.tar.gz").write_text("old", encoding="utf-8")
    monkeypatch.setattr(tempfile, "tempdir", str(memory))
    monkeypatch.setattr(subprocess, "run", build)
    monkeypatch.setattr(Path, "replace", replace_within_one)

    [file] = build_dist.build(folder)

    assert [*folder.iterdir()] == [file]
    assert file.read_text(encoding="utf-8") == "new"


def test_the_version_is_that_of_a_release() -> None:
    assert re.fullmatch(r"\d+\.\d+\.\d+", PROJECT["version"])


def test_each_extra_for_users_is_checked_from_the_wheel_and_from_the_source_archive(check: ModuleType) -> None:
    assert {*EXTRAS} - check.DEVELOPERS == check.EXERCISES.keys() - {""}
    assert {*check.checks()} == {
        "files",
        *(f"{kind}{f'[{extra}]' if extra else ''}" for kind in ("wheel", "sdist") for extra in check.EXERCISES),
    }


def write_wheel(folder: Path, *, without: str = "", extra: str = "", tag: str = "any") -> Path:
    """Writes a wheel with what a release needs, without one of these files, and with another one."""
    licences = sorted({str(path.relative_to(ROOT)) for name in PROJECT["license-files"] for path in ROOT.glob(name)})
    info = f"convmodel-{PROJECT['version']}.dist-info"
    contents = {f"{info}/licenses/{name}": (ROOT / name).read_bytes() for name in licences}
    contents |= {f"{info}/METADATA": "".join(f"License-File: {name}\n" for name in licences).encode()}
    names = ["py.typed", "assets/chitchat/model.int8.safetensors", "server/static/index.html"]
    names += [f"hf_model/{name}.abi3.so" for name in ("_kernels", "_training_kernels")]
    contents |= {f"convmodel/{name}": b"" for name in names} | ({extra: b""} if extra else {})
    wheel = folder / f"convmodel-{PROJECT['version']}-cp311-abi3-{tag}.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        for name, text in contents.items():
            if not (without and name.endswith(without)):
                archive.writestr(name, text)
    return wheel


def test_a_wheel_with_all_that_belongs_there_has_no_problem(files: ModuleType, tmp_path: Path) -> None:
    assert files.wheel_problems(write_wheel(tmp_path)) == []


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"without": "chitchat/LICENSE"}, "another src/convmodel/assets/chitchat/LICENSE, or none"),
        ({"without": "LICENSE.SmolLM2"}, "another src/convmodel/assets/chitchat/LICENSE.SmolLM2, or none"),
        ({"without": "METADATA"}, "the metadata do not list LICENSE"),
        ({"without": "py.typed"}, "has no convmodel/py.typed"),
        ({"without": "/_kernels.abi3.so"}, "no compiled extension _kernels:"),
        ({"without": "_training_kernels.abi3.so"}, "no compiled extension _training_kernels:"),
        ({"extra": "tests/test_x.py"}, "does not belong there: tests/test_x.py"),
        ({"extra": "convmodel/__pycache__/x.pyc"}, "does not belong there"),
        ({"tag": "linux_x86_64"}, "a name that PyPI refuses"),
    ],
)
def test_what_is_wrong_with_a_wheel_is_reported(
    files: ModuleType, tmp_path: Path, changes: dict[str, str], problem: str
) -> None:
    assert problem in "\n".join(files.wheel_problems(write_wheel(tmp_path, **changes)))


def test_a_source_archive_without_its_pages_and_licences_is_reported(files: ModuleType, tmp_path: Path) -> None:
    sdist = tmp_path / f"convmodel-{PROJECT['version']}.tar.gz"
    stray = ["src/convmodel/x.so", "examples/a/build/lib/a.py", "examples/a/a.egg-info/PKG-INFO"]
    with tarfile.open(sdist, "w:gz") as archive:
        for name in ("PKG-INFO", "src/convmodel.egg-info/PKG-INFO", *stray):
            archive.addfile(tarfile.TarInfo(f"convmodel-{PROJECT['version']}/{name}"), io.BytesIO())
    problems = "\n".join(files.sdist_problems(sdist))
    expected = ("do not list LICENSE", "has no docs/install.md", "has no Dockerfile", *(f"has {n}" for n in stray))
    for part in expected:
        assert part in problems
    assert "src/convmodel.egg-info" not in problems


def test_a_file_that_the_page_on_installing_does_not_name_is_reported(files: ModuleType) -> None:
    names = [f"convmodel-{PROJECT['version']}.tar.gz", f"convmodel-{PROJECT['version']}-cp311-abi3-manylinux_2_99.whl"]
    assert files.name_problems(names) == [f"docs/install.md does not name {names[1]}: write it in its commands"]


def test_a_warning_on_standard_error_is_not_part_of_the_output(check: ModuleType, tmp_path: Path) -> None:
    environment = check.Environment(Path(sys.executable).parent, tmp_path, {})
    code = "import sys; print('output'); print('warning', file=sys.stderr); sys.exit(len(sys.argv) > 1)"
    assert environment.run("warns", sys.executable, "-c", code) == "output\n"
    assert environment.run("fails", sys.executable, "-c", code, "1", fails=True) == "warning\n"


def test_a_command_that_hangs_ends_the_check(
    check: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(check, "MINUTES", 0.005)
    environment = check.Environment(Path(sys.executable).parent, tmp_path, {})
    with pytest.raises(SystemExit, match="hangs did not end within"):
        environment.run("hangs", sys.executable, "-c", "import time; time.sleep(60)")


def test_checks_that_passed_are_those_of_the_same_file(
    check: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(check, "STATE", tmp_path / "build/state.json")
    assert check.read_state() == {}
    check.write_state("wheel", "aa")
    check.write_state("sdist", "bb")
    assert check.read_state() == {"wheel": "aa", "sdist": "bb"}


def test_files_of_another_build_are_an_error(check: ModuleType, tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match=r"has 0 files .* run `make clean release-check`"):
        check.find_files(tmp_path)
    (tmp_path / f"convmodel-{PROJECT['version']}.tar.gz").touch()
    wheel = write_wheel(tmp_path)
    assert check.find_files(tmp_path)["wheel"] == wheel
    write_wheel(tmp_path, tag="linux_x86_64")
    with pytest.raises(SystemExit, match="has 2 files"):
        check.find_files(tmp_path)


@pytest.mark.loopback
@pytest.mark.parametrize(
    ("flag", "reason"),
    [
        ("", None),
        ("--wrong", "the completion is not one"),
        ("--empty", "ValueError.*not enough values to unpack"),
        ("--crash", "exit code 1 before it was ready\nno such model"),
        ("--deaf", "exit code 1 after SIGTERM"),
    ],
)
def test_what_is_wrong_with_a_server_is_reported_with_its_log(
    script: object, tmp_path: Path, flag: str, reason: str | None
) -> None:
    serve = script("release_serve")  # type: ignore[operator]
    command = [sys.executable, "-c", SERVER, *filter(None, [flag])]
    if reason is None:
        serve.check_server(command, tmp_path, {})
        assert list(tmp_path.iterdir()) == []
        return
    with pytest.raises(SystemExit, match=reason):
        serve.check_server(command, tmp_path, {})


def test_every_installed_package_runs_on_the_first_version_of_python_3_11() -> None:
    """`make setup` promises Python 3.11, which on Debian 12 is 3.11.2."""
    constraints = (ROOT / "constraints.txt").read_text(encoding="utf-8")
    pinned = {canonicalize_name(name) for name in re.findall(r"^([\w.-]+)==", constraints, re.MULTILINE)}
    wrong = [
        f"{package.name} {package.version} needs Python {package.metadata['Requires-Python']}"
        for package in distributions()
        if canonicalize_name(package.name) in pinned
        and not SpecifierSet(package.metadata["Requires-Python"] or "").contains("3.11.0")
    ]
    assert wrong == []


def test_no_minor_version_of_transformers_is_allowed_before_it_was_tested() -> None:
    [allowed] = [Requirement(line).specifier for line in PROJECT["dependencies"] if line.startswith("transformers")]
    [tested] = re.findall(r"^transformers==(.+)$", (ROOT / "constraints.txt").read_text(encoding="utf-8"), re.MULTILINE)
    major, minor, _ = map(int, tested.split("."))

    assert tested in allowed
    assert f"{major}.{minor}.99" in allowed
    assert f"{major}.{minor + 1}.0" not in allowed
