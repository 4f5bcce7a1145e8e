"""README names tests for what it promises, and the pages name files; each of them must exist."""

import ast
import re
from pathlib import Path

import pytest
from test_architecture import LAYERS

ROOT = Path(__file__).parents[1]
PAGES = [
    "README.md",
    "CONTRIBUTING.md",
    "RELEASING.md",
    *sorted(f"docs/{path.name}" for path in (ROOT / "docs").glob("*.md")),
]
README = (ROOT / "README.md").read_text(encoding="utf-8")
LINKS = re.findall(r"\[`(test_\w+)`\]\(([^)]+)\)", README)


def test_readme_names_the_equalities() -> None:
    """At least the twelve equalities that the library is built on."""
    rows = README.partition("| equality | test |")[2].partition("\n\n")[0].splitlines()[2:]
    assert len(rows) >= 12
    assert all("[`test_" in row for row in rows)


@pytest.mark.parametrize(("name", "file"), LINKS)
def test_a_linked_test_exists(name: str, file: str) -> None:
    tree = ast.parse((ROOT / file).read_text(encoding="utf-8"))
    assert name in {node.name for node in tree.body if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)}


@pytest.mark.parametrize("page", PAGES)
def test_relative_links_lead_to_files(page: str) -> None:
    text = (ROOT / page).read_text(encoding="utf-8")
    targets = re.findall(r"\]\((?!https?:|#)([^)#\s]+)", text)
    missing = [target for target in targets if not (ROOT / page).parent.joinpath(target).exists()]
    assert not missing


@pytest.mark.parametrize("page", PAGES)
def test_files_named_on_a_page_exist(page: str) -> None:
    named = re.findall(r"`((?:benchmarks|examples|scripts|tests)/[\w./-]+)`", (ROOT / page).read_text(encoding="utf-8"))
    assert not [name for name in named if not (ROOT / name).exists()]


def test_contributing_lists_the_layers() -> None:
    table = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8").partition("layer (from the top) |")[2]
    rows = [line for line in table.partition("\n\n")[0].splitlines() if re.match(r"\| \d", line)]
    listed = [{name.removesuffix("/").removesuffix(".py") for name in re.findall(r"`([^`]+)`", row)} for row in rows]
    assert listed == LAYERS
