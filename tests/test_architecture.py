"""The shape of the code: layers, who may import and print what, sizes. Reads sources, runs none."""

import ast
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path

import pytest

import convmodel

SRC = Path(__file__).parents[1] / "src"
PACKAGE = SRC / "convmodel"
FILES = sorted(PACKAGE.rglob("*.py"))
MAX_LINES = 330  # aim for 300

# From the top down. A module imports from lower lines and its own folder, never from the same line or above.
LAYERS = [
    {"__init__", "__main__", "cli"},
    {"report", "server"},
    {"model"},
    {"export", "training"},
    {"evaluation", "generation"},
    {"hf_model"},
    {"data"},
    {"layout"},
    {"conversation", "files"},
    {"arguments", "errors"},
]
RANKS = {name: rank for rank, names in enumerate(LAYERS) for name in names}

# Where a third-party package may be imported; the others may be imported anywhere.
ONLY_IN = {
    "backports": {"data"},
    "bm25s": {"evaluation"},
    "datasets": {"data"},
    "datasketch": {"data"},
    "fastapi": {"server"},
    "gguf": {"export", "files", "hf_model", "layout"},
    "httpx2": {"cli"},
    "llguidance": {"generation"},
    "matplotlib": {"report"},
    "peft": {"hf_model"},
    "pyarrow": {"data"},
    "prompt_toolkit": {"cli"},
    "pydantic": {"server"},
    "prometheus_client": {"server"},
    "python_multipart": {"server"},
    "ray": {"server"},
    "rich": {"cli", "data"},
    "sacrebleu": {"evaluation"},
    "starlette": {"server"},
    "typer": {"cli"},
    "uvicorn": {"server"},
    "xllamacpp": {"export"},
    "yaml": {"data", "hf_model"},
}


def top_name(path: Path) -> str:
    """The module or sub-package right under `convmodel` that a file belongs to."""
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


@cache
def nodes(path: Path) -> list[ast.AST]:
    """All nodes of a file, which is parsed once for all tests."""
    return list(ast.walk(ast.parse(path.read_text(encoding="utf-8"))))


def imports(path: Path) -> Iterator[str]:
    """The dotted names of the modules that a file imports, anywhere in it."""
    for node in nodes(path):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno} imports relatively"
            if node.module == "convmodel":  # a module or a public name; either way it must be a module of ours
                yield from (f"convmodel.{alias.name}" for alias in node.names)
            else:
                yield node.module or ""


def file_of(module: str) -> Path | None:
    """The file of one of our modules, or of the module that a public name is in."""
    path = SRC / module.replace(".", "/")
    found = [other for other in (path.with_suffix(".py"), path.parent.with_suffix(".py")) if other.exists()]
    return found[0] if module.startswith("convmodel") and found else None


def names(path: Path) -> set[str]:
    """The identifiers that a file uses, imported ones included."""
    found = set()
    for node in nodes(path):
        if isinstance(node, ast.Name):
            found.add(node.id)
        elif isinstance(node, ast.Attribute):
            found.add(node.attr)
        elif isinstance(node, ast.alias):
            found.add(node.name.rpartition(".")[2])
    return found


def offenders(is_wrong: Callable[[Path], object]) -> list[str]:
    """The files for which something is so."""
    return [str(path.relative_to(PACKAGE)) for path in FILES if is_wrong(path)]


def test_every_module_has_a_layer() -> None:
    assert not offenders(lambda path: top_name(path) not in RANKS), "put them into LAYERS"


def test_imports_point_down() -> None:
    wrong = []
    for path in FILES:
        own = top_name(path)
        for module in imports(path):
            root, _, rest = module.partition(".")
            if root != "convmodel":
                continue
            target = rest.partition(".")[0]
            if target not in RANKS:
                wrong.append(f"{path}: {module} has no layer, or is a public name: import from its own module")
            elif not (target == own or RANKS[target] > RANKS[own] or own == "__main__"):
                wrong.append(f"{path}: {own} imports {module}, which is not below it")
    assert not wrong, "\n".join(wrong)


def test_only_five_modules_are_loose() -> None:
    loose = {path.stem for path in FILES if path.parent == PACKAGE}
    assert loose == {"__init__", "__main__", "conversation", "errors", "model"}
    assert len(LAYERS) <= 12


def test_no_sub_folders_depend_on_each_other_in_a_circle() -> None:
    """Of two sub-folders of one folder at most one imports the other."""
    arrows = {
        (here, there)
        for path in FILES
        for module in imports(path)
        if (here := path.parent) != (there := (file_of(module) or path).parent) and here.parent == there.parent
    }
    assert not {pair for pair in arrows if pair[::-1] in arrows}


def test_third_party_packages_stay_in_their_layer() -> None:
    wrong = [
        f"{path} imports {module}, which only {' and '.join(sorted(layers))} may"
        for path in FILES
        for module in imports(path)
        if top_name(path) not in (layers := ONLY_IN.get(module.partition(".")[0], {top_name(path)}))
    ]
    assert not wrong, "\n".join(wrong)


def test_only_loading_knows_the_auto_classes() -> None:
    assert offenders(lambda path: "AutoModelForCausalLM" in names(path)) == ["hf_model/loading.py"]


def test_only_the_cli_prints() -> None:
    def prints(path: Path) -> bool:
        calls = [node.func for node in nodes(path) if isinstance(node, ast.Call)]
        return "print" in {function.id for function in calls if isinstance(function, ast.Name)}

    assert not offenders(prints), "results go through the consoles of cli/; everything else is logged"


def test_files_stay_small() -> None:
    assert not offenders(lambda path: len(path.read_text(encoding="utf-8").splitlines()) > MAX_LINES)


def test_names_say_what_a_module_owns() -> None:
    assert not offenders(lambda path: path.stem in {"utils", "util", "helpers", "common", "misc"})


def test_sub_packages_import_nothing_by_themselves() -> None:
    for path in FILES:
        if path.name == "__init__.py" and path.parent != PACKAGE:
            assert path.read_bytes() == b"", f"{path.relative_to(SRC)} must stay empty"


def test_every_folder_with_modules_is_a_package() -> None:
    for folder in {path.parent for path in FILES}:
        assert (folder / "__init__.py").exists(), f"{folder.relative_to(SRC)} lacks an __init__.py"


def test_public_names_are_sorted() -> None:
    assert convmodel.__all__ == sorted(convmodel.__all__)


@pytest.mark.parametrize("name", convmodel.__all__)
def test_public_names_resolve(name: str) -> None:
    assert getattr(convmodel, name).__name__ == name
