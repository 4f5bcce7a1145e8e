"""The page `docs/api.md`, from the signatures and docstrings of the public names.

Owns: reading signatures as they are written, and Google docstrings as Markdown. Does not know
which names are public: `build_docs.py` passes them in.
"""

import ast
import dataclasses
import inspect
import json
import re
import textwrap
from collections.abc import Iterable, Iterator
from itertools import pairwise
from typing import Any

SECTION = re.compile(r"^(Args|Attributes|Returns|Yields|Raises|Example):$", re.MULTILINE)
TITLES = {"Args": "Arguments"}
WIDTH = 100


def class_section(cls: type, *, title: str, level: int, options_page: str = "", methods: bool = True) -> Iterator[str]:
    """Yields the section of a class: what it is, its fields and properties, how to make one, its methods.

    The fields of one with an `options_page` are described there.
    """
    yield f"{'#' * level} `{title}`\n"
    members = _members(cls)
    if options_page:
        yield f"The fields are described in [Fit options]({options_page}).\n"
    elif dataclasses.is_dataclass(cls):
        yield f"```py\n{_dataclass_signature(cls)}\n```\n"
    yield from docstring(inspect.getdoc(cls) or "")
    properties = {name: node for name, node in members.items() if _is_property(node)}
    if properties:
        yield "**Properties**\n"
        yield "\n".join(f"- `{name}`: {_one_line(ast.get_docstring(node))}" for name, node in properties.items()) + "\n"
    for name, node in members.items() if methods else ():
        if name == "__init__":
            yield from function_section(node, title=title, level=level + 1)
        elif name not in properties:
            yield from function_section(node, title=f"{title}.{name}", level=level + 1)


def function_section(node: ast.FunctionDef, *, title: str, level: int) -> Iterator[str]:
    """Yields the section of a function or method."""
    yield f"{'#' * level} `{title}()`\n"
    yield f"```py\n{_signature(title, node)}\n```\n"
    yield from docstring(ast.get_docstring(node) or "")


def function_node(function: Any) -> ast.FunctionDef:
    """Returns the source of a function as a syntax tree, so that annotations read as they are written."""
    [node] = ast.parse(textwrap.dedent(inspect.getsource(function))).body
    assert isinstance(node, ast.FunctionDef)
    return node


def docstring(text: str) -> Iterator[str]:
    """Yields a Google docstring as Markdown: its paragraphs, then each section under a bold title."""
    first, *rest = SECTION.split(text)
    if first.strip():
        yield f"{first.strip()}\n"
    for name, body in zip(rest[::2], rest[1::2], strict=True):
        yield f"**{TITLES.get(name, name)}**\n"
        content = textwrap.dedent(body.strip("\n"))
        if name == "Example":
            yield f"```pycon\n{content}\n```\n"
        elif name in ("Returns", "Yields"):
            yield f"{content}\n"
        else:
            yield "\n".join(_entries(content)) + "\n"


def error_rows(root: type[Exception]) -> list[tuple[str, str, str]]:
    """Returns a row for each error below a root: its name, what it is besides, and its first sentence."""
    return [
        (f"`{error.__name__}`", ", ".join(f"`{base.__name__}`" for base in error.__bases__[1:]), summary(error))
        for error in root.__subclasses__()
    ]


def alias_rows(module: Any, names: Iterable[str]) -> Iterator[tuple[str, str, str]]:
    """Yields a row for each type alias of a module: its name, its value as written, and its docstring."""
    body = ast.parse(inspect.getsource(module)).body
    for statement, after in pairwise(body):
        targets = statement.targets if isinstance(statement, ast.Assign) else [getattr(statement, "target", None)]
        for target in targets:
            if isinstance(target, ast.Name) and target.id in names and isinstance(after, ast.Expr):
                value = ast.unparse(statement.value)  # type: ignore[attr-defined]
                yield f"`{target.id}`", f"`{value}`", str(ast.literal_eval(after.value))


def summary(value: Any) -> str:
    """Returns the first paragraph of a docstring, on one line."""
    return _one_line(inspect.getdoc(value))


def _members(cls: type) -> dict[str, ast.FunctionDef]:
    """Returns the documented methods and properties of a class and of our classes above it, in the source's order."""
    return {
        node.name: node
        for base in reversed(cls.__mro__)
        if base.__module__.startswith("convmodel.")
        for node in _class_node(base).body
        if isinstance(node, ast.FunctionDef) and _is_documented(node)
    }


def _is_documented(node: ast.FunctionDef) -> bool:
    is_special = node.name.startswith("__") and ast.get_docstring(node) is not None
    return is_special or not node.name.startswith("_")


def _dataclass_signature(cls: Any) -> str:
    """Returns how an object of a dataclass is made: its fields, as they are written, with defaults."""
    written = {
        node.target.id: _type(node.annotation)
        for node in _class_node(cls).body
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name)
    }
    parameters = []
    for field in dataclasses.fields(cls):
        default = field.default_factory() if callable(field.default_factory) else field.default
        shown = "" if default is dataclasses.MISSING else f" = {_literal(default)}"
        parameters.append(f"{field.name}: {written[field.name]}{shown}")
    return _fold(cls.__name__, parameters, "")


def _class_node(cls: type) -> ast.ClassDef:
    [node] = ast.parse(textwrap.dedent(inspect.getsource(cls))).body
    assert isinstance(node, ast.ClassDef)
    return node


def _signature(name: str, node: ast.FunctionDef) -> str:
    """Returns a signature as it is written, without `self`, on one line or with one parameter per line."""
    arguments = node.args
    positional = arguments.posonlyargs + arguments.args
    defaults = [None] * (len(positional) - len(arguments.defaults)) + list(arguments.defaults)
    parameters = [
        _parameter(argument, default)
        for argument, default in zip(positional, defaults, strict=True)
        if argument.arg not in ("self", "cls")
    ]
    if arguments.vararg:
        parameters.append("*" + _parameter(arguments.vararg, None))
    elif arguments.kwonlyargs:
        parameters.append("*")
    parameters += map(_parameter, arguments.kwonlyargs, arguments.kw_defaults)
    if arguments.kwarg:
        parameters.append("**" + _parameter(arguments.kwarg, None))
    returns = f" -> {_type(node.returns)}" if node.returns and node.name != "__init__" else ""
    return _fold(name, parameters, returns)


def _fold(name: str, parameters: list[str], returns: str) -> str:
    line = f"{name}({', '.join(parameters)}){returns}"
    if len(line) <= WIDTH:
        return line
    return "\n".join([f"{name}(", *(f"    {parameter}," for parameter in parameters), f"){returns}"])


def _parameter(argument: ast.arg, default: ast.expr | None) -> str:
    annotation = f": {_type(argument.annotation)}" if argument.annotation else ""
    if default is None:
        return argument.arg + annotation
    shown = _literal(default.value) if isinstance(default, ast.Constant) else ast.unparse(default)
    return f"{argument.arg}{annotation} = {shown}"


def _literal(value: Any) -> str:
    return json.dumps(value) if isinstance(value, str) else repr(value)


def _type(annotation: ast.expr) -> str:
    """Returns an annotation as it is written, without the quotes of a name that is not imported yet."""
    return re.sub(r"'([\w.\[\], |]+)'", r"\1", ast.unparse(annotation))


def _is_property(node: ast.FunctionDef) -> bool:
    return any(isinstance(decorator, ast.Name) and decorator.id == "property" for decorator in node.decorator_list)


def _one_line(text: str | None) -> str:
    return " ".join((text or "").split("\n\n")[0].split())


def _entries(content: str) -> Iterator[str]:
    """Yields `name: meaning` entries, whose further lines are indented, as list items."""
    for entry in re.split(r"\n(?=\S)", content):
        name, colon, meaning = " ".join(entry.split()).partition(": ")
        yield f"- `{name}`: {meaning}" if colon and " " not in name.replace(", ", "") else f"- {name}{colon}{meaning}"
