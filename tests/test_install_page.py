"""The page on installing fits the package, and no line anywhere installs the older library that has its name."""

import re
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
EXTRAS: dict[str, list[str]] = PROJECT["optional-dependencies"]
INSTALL = (ROOT / "docs/install.md").read_text(encoding="utf-8")


def test_the_page_lists_the_packages_of_each_extra() -> None:
    rows = {row[0]: row for row in re.findall(r"^\| `(\w+)` \| (.*) \|(.*)\|$", INSTALL, re.MULTILINE)}
    for extra in {*EXTRAS} - {"dev", "docs"}:
        names = {Requirement(line).name.replace("_", "-") for line in EXTRAS[extra]} - {"convmodel"}
        listed = {name for name in re.split(r", | \(.*?\)", rows[extra][2].strip()) if name}
        assert listed == names, extra


def test_the_page_names_the_files_of_this_version() -> None:
    assert {*re.findall(r"convmodel-(\d+\.\d+\.\d+)[-.]", INSTALL)} == {PROJECT["version"]}


# A command that installs, its other arguments, and the name without a version, a file or an address.
COMMAND = r"\b(?:pipx? install|pipx run|uv (?:tool|pip) install|uv add|uv tool run|uvx)(?: (?!--from|--spec)[^\s`]+)*? "
OLDER_LIBRARY = re.compile(
    rf"""(?:{COMMAND}|--(?:from|spec)[ =]|\bdependencies = \[.*?)\\?["']?"""
    r"convmodel(?:\[[\w,]+\])?(?![\w\[:/=<>-]|\.\w| @)"
)
PLACES = [
    "README.md",
    "CONTRIBUTING.md",
    "RELEASING.md",
    *(f"{folder}/**/*" for folder in ("docs", "examples", "scripts", "src")),
]


@pytest.mark.parametrize(
    "line",
    [
        "pip install convmodel",
        "pip install convmodel.",
        "pip install torch convmodel",
        "pip install -q 'convmodel[train]'",
        'pip install "convmodel[train,eval]"',
        "python -m pip install --upgrade convmodel",
        "uv add convmodel",
        "uv tool install convmodel",
        "uv pip install convmodel[all]",
        "uvx convmodel",
        "uvx --from convmodel convmodel chat",
        "pipx run convmodel",
        "pipx run --spec=convmodel convmodel chat",
        'dependencies = ["convmodel"]',
        'dependencies = ["torch", "convmodel[all]"]',
    ],
)
def test_the_guard_finds_what_installs_the_older_library(line: str) -> None:
    assert OLDER_LIBRARY.search(line)
    assert OLDER_LIBRARY.search(f"Run `{line}`")


@pytest.mark.parametrize(
    "line",
    [
        'pip install "convmodel[all]>=0.4"',
        'pip install "convmodel<0.4"',
        'pip install "convmodel[train] @ file:///convmodel.whl"',
        'pip install "./convmodel-0.4.0.tar.gz[all]"',
        "pip install convmodel==VERSION",
        "pip install -e examples/convmodel-plugin",
        "pip uninstall convmodel",
        'uvx --from "FILE" convmodel chat',
        'pipx run --spec "FILE" convmodel chat',
        "`pip install -e .` makes convmodel importable",
        'dependencies = ["convmodel>=0.4"]',
    ],
)
def test_the_guard_lets_other_lines_pass(line: str) -> None:
    assert not OLDER_LIBRARY.search(line)


def test_no_line_installs_the_older_library_of_this_name() -> None:
    """`pip install convmodel` and `convmodel[serve]` do, wherever the index has no 0.4."""
    suffixes = {".md", ".py", ".yaml", ".ipynb", ".toml"}
    paths = [path for pattern in PLACES for path in ROOT.glob(pattern) if path.suffix in suffixes]
    lines = [(path, line) for path in paths for line in path.read_text(encoding="utf-8").splitlines()]
    wrong = [f"{path.relative_to(ROOT)}: {line}" for path, line in lines if OLDER_LIBRARY.search(line)]
    warnings = ("Don't run `pip install convmodel`", "`pip install convmodel` alone ")
    assert [line for line in wrong if not any(warning in line for warning in warnings)] == []
