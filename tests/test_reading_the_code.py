"""`docs/reading-the-code.md`: every stop exists, and each is named by one before it. Reads sources, runs none."""

import ast
import re
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs/reading-the-code.md").read_text(encoding="utf-8")
WALKS = {
    title: re.findall(r"^\d+\. `([\w.]+)`", text, re.MULTILINE)
    for title, text in re.findall(r"^## (.+?)\n(.*?)(?=^## |\Z)", PAGE, re.MULTILINE | re.DOTALL)
}
MAX_STOPS = 10


@cache
def functions(path: Path) -> dict[str, ast.AST]:
    """The functions, methods and classes of a module by their dotted names in it."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    definitions = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
    named: dict[str, ast.AST] = {node.name: node for node in tree.body if isinstance(node, definitions)}
    for name, node in [*named.items()]:
        if isinstance(node, ast.ClassDef):
            named |= {f"{name}.{inner.name}": inner for inner in node.body if isinstance(inner, definitions)}
    return named


def locate(stop: str) -> tuple[Path, str]:
    """The file of a stop, and its name there."""
    parts = stop.split(".")
    for count in range(len(parts) - 1, 0, -1):
        path = (ROOT / "src/convmodel").joinpath(*parts[:count]).with_suffix(".py")
        if path.exists():
            return path, ".".join(parts[count:])
    raise AssertionError(f"{stop} is in no module")


def names(node: ast.AST) -> set[str]:
    return {inner.id for inner in ast.walk(node) if isinstance(inner, ast.Name)} | {
        inner.attr for inner in ast.walk(node) if isinstance(inner, ast.Attribute)
    }


def names_reached(stop: str) -> set[str]:
    """The names in a function, and in those functions of its module that it names in turn; for a method, its class's
    `__init__` too, which starts the threads that do the work."""
    path, own = locate(stop)
    here = functions(path)
    reached: set[str] = set()
    waiting = [name for name in (own, f"{own.partition('.')[0]}.__init__") if name in here]
    seen = {*waiting}
    while waiting:
        new = names(here[waiting.pop()])
        reached |= new
        following = {name for name in here if name.rpartition(".")[2] in new} - seen
        seen |= following
        waiting += following
    return reached


@pytest.mark.parametrize("title", WALKS)
def test_every_stop_exists(title: str) -> None:
    assert 2 <= len(WALKS[title]) <= MAX_STOPS
    for stop in WALKS[title]:
        path, name = locate(stop)
        assert name in functions(path), f"{path.relative_to(ROOT)} has no {name}"


@pytest.mark.parametrize("title", WALKS)
def test_each_stop_is_called_by_one_before_it(title: str) -> None:
    stops = WALKS[title]
    for number, stop in enumerate(stops[1:], 1):
        _, name = locate(stop)
        before = set().union(*(names_reached(earlier) for earlier in stops[:number]))
        assert name.rpartition(".")[2] in before, f"{title}: nothing before {stop} names it"


def test_there_are_four_walks() -> None:
    assert [*WALKS] == ["Text to loss", "Turn to reply", "Request to stream", "Export to files"]
