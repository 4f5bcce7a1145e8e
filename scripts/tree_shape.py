"""Prints the shape of a tree of modules, so that two checkouts can be compared: python scripts/tree_shape.py [SRC]...

SRC is a folder with `convmodel` in it, `src` by default. The numbers:

- rooms: the folders (`assets` too) and the loose modules right under `src/convmodel`;
- arrows: pairs of rooms of which the first imports the second, anywhere in a module, inside functions too;
- levels: the rooms on the longest chain of arrows;
- cycles: groups of rooms that reach each other;
- arrows up: pairs that `LAYERS` of `tests/test_architecture.py` forbids, or that name a room which `LAYERS` lacks;
- lines, modules, and the longest module.
"""

import ast
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parents[1]


def layers() -> list[set[str]]:
    """The layers of the architecture test, from the top down; the test itself is not imported, since it reads `src`."""
    tree = ast.parse((ROOT / "tests/test_architecture.py").read_text(encoding="utf-8"))
    [value] = [
        node.value for node in tree.body if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "LAYERS"
    ]
    found: list[set[str]] = ast.literal_eval(value)
    return found


def imported_modules(path: Path) -> Iterator[str]:
    """The dotted names that a module imports, with the names taken from a package as names in it."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module == "convmodel":
            yield from (f"convmodel.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module


def room_of(path: Path, package: Path) -> str:
    return path.relative_to(package).parts[0].removesuffix(".py")


def find_arrows(package: Path) -> dict[str, set[str]]:
    """For each room the rooms that it imports."""
    entries = [path for path in package.iterdir() if path.suffix == ".py" or path.is_dir()]
    arrows: dict[str, set[str]] = {path.stem: set() for path in entries if path.stem != "__pycache__"}
    for path in package.rglob("*.py"):
        own = room_of(path, package)
        for module in imported_modules(path):
            root, *names = module.split(".")
            if root == "convmodel" and names and names[0] in arrows and names[0] != own:
                arrows[own].add(names[0])
    return arrows


def find_cycles(arrows: dict[str, set[str]]) -> list[set[str]]:
    def reached(room: str) -> set[str]:
        found: set[str] = set()
        waiting = [room]
        while waiting:
            new = arrows[waiting.pop()] - found
            found |= new
            waiting += new
        return found

    reach = {room: reached(room) for room in arrows}
    groups = {frozenset({room} | {other for other in reach[room] if room in reach[other]}) for room in arrows}
    return [set(group) for group in groups if len(group) > 1]


def count_levels(arrows: dict[str, set[str]]) -> int:
    """Rooms on the longest chain; 0 if a cycle makes it endless."""

    @cache
    def depth(room: str) -> int:
        return 1 + max(map(depth, arrows[room]), default=0)

    return 0 if find_cycles(arrows) else max(map(depth, arrows))


def find_arrows_up(arrows: dict[str, set[str]]) -> list[str]:
    ranks = {name: rank for rank, names in enumerate(layers()) for name in names}
    return [
        f"{room} -> {target}"
        for room in sorted(arrows)
        for target in sorted(arrows[room])
        if room != "__main__" and not ranks.get(room, len(ranks)) < ranks.get(target, -1)
    ]


def describe(source: Path) -> dict[str, str]:
    package = source / "convmodel"
    arrows = find_arrows(package)
    lines = {path: len(path.read_text(encoding="utf-8").splitlines()) for path in package.rglob("*.py")}
    longest = max(lines, key=lambda path: lines[path])
    cycles, up = find_cycles(arrows), find_arrows_up(arrows)
    return {
        "rooms": str(len(arrows)),
        "levels": str(count_levels(arrows) or "endless"),
        "arrows": str(sum(map(len, arrows.values()))),
        "cycles": "; ".join(", ".join(sorted(cycle)) for cycle in cycles) or "0",
        "arrows up": f"{len(up)}: {', '.join(up)}" if 0 < len(up) < 10 else str(len(up)),
        "modules": str(len(lines)),
        "lines": str(sum(lines.values())),
        "longest module": f"{lines[longest]} lines, {longest.relative_to(package)}",
    }


def main() -> None:
    for source in map(Path, sys.argv[1:] or [ROOT / "src"]):
        print(source)
        for name, value in describe(source).items():
            print(f"  {name:15} {value}")


if __name__ == "__main__":
    main()
