"""A renderer of Go's text/template, for the few constructs that our templates of Ollama have.

Owns: trim markers, string literals, variables, `range` over messages, `if`, `eq` and `printf "%s %s"`
(https://pkg.go.dev/text/template). Anything else is an error, so that a template that it renders is one that Ollama
renders alike.
"""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

_ACTION = re.compile(r"\{\{(?P<left>- )?\s*(?P<code>(?:\"(?:[^\"\\]|\\.)*\"|[^\"}])*?)\s*(?P<right> -)?\}\}")
_WORD = re.compile(r"\s*(\"(?:[^\"\\]|\\.)*\"|:=|=|[^\s\"=:]+)")


class GoTemplateError(ValueError):
    """A template has a construct that is not supported, or not closed."""


@dataclass(slots=True)
class _Block:
    """The nodes of a template, of a loop, or of the branches of a condition."""

    kind: str = "text"
    code: str = ""
    nodes: "list[_Block]" = field(default_factory=list)
    otherwise: "list[_Block]" = field(default_factory=list)


def render(template: str, messages: Sequence[Mapping[str, str]]) -> str:
    """Renders a template with `.Messages`, each with `.Role` and `.Content`.

    Raises:
        GoTemplateError: If it has a construct that is not supported.

    Example:
        >>> render('{{ range .Messages }}{{ if eq .Role "user" }}<{{ .Content }}>{{ end }}{{ end }}', [
        ...     {"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}])
        '<Hi>'
    """
    tokens = list(_tokens(template))
    nodes, rest = _parse(tokens, 0)
    if rest != len(tokens):
        raise GoTemplateError(f"{tokens[rest][1]} without a beginning")
    return "".join(_run(nodes, {}, messages, None))


def _tokens(template: str) -> Iterator[tuple[str, str]]:
    """Yields texts and actions; a marker trims the white space of the text beside it."""
    place, trims = 0, False
    for match in _ACTION.finditer(template):
        text = template[place : match.start()]
        text = text.lstrip() if trims else text
        yield "text", text.rstrip() if match["left"] else text
        yield "action", match["code"]
        place, trims = match.end(), match["right"] is not None
    rest = template[place:]
    yield "text", rest.lstrip() if trims else rest


def _parse(tokens: Sequence[tuple[str, str]], place: int) -> tuple[list[_Block], int]:
    """Returns the nodes up to an action that ends them, and its place."""
    nodes: list[_Block] = []
    while place < len(tokens):
        kind, code = tokens[place]
        word = code.partition(" ")[0]
        if kind == "action" and word in ("end", "else"):
            break
        if kind == "action" and word in ("range", "if"):
            block, place = _parse_block(word, code, tokens, place)
            nodes.append(block)
        else:
            nodes.append(_Block("text" if kind == "text" else "value", code))
        place += 1
    return nodes, place


def _parse_block(word: str, code: str, tokens: Sequence[tuple[str, str]], place: int) -> tuple[_Block, int]:
    """Returns a loop or a condition, and the place of the action that ends it."""
    block = _Block(word, code.removeprefix(word).strip())
    block.nodes, place = _parse(tokens, place + 1)
    if place == len(tokens):
        raise GoTemplateError(f"{code} has no end")
    rest = tokens[place][1].removeprefix("else").strip()
    if tokens[place][1] == "else":
        block.otherwise, place = _parse(tokens, place + 1)
    elif rest.startswith("if "):
        inner, place = _parse_block("if", rest, tokens, place)
        block.otherwise = [inner]
    return block, place


def _run(
    nodes: Sequence[_Block], variables: dict[str, Any], messages: Sequence[Mapping[str, str]], dot: Any
) -> Iterator[str]:
    for node in nodes:
        if node.kind == "text":
            yield node.code
        elif node.kind == "range":
            if node.code != ".Messages":
                raise GoTemplateError(f"range over {node.code}")
            for message in messages:
                yield from _run(node.nodes, variables, messages, message)
        elif node.kind == "if":
            branch = node.nodes if _value(_words(node.code), variables, dot) else node.otherwise
            yield from _run(branch, variables, messages, dot)
        else:
            yield _action(_words(node.code), variables, dot)


def _words(code: str) -> list[str]:
    return _WORD.findall(code)


def _action(words: Sequence[str], variables: dict[str, Any], dot: Any) -> str:
    """Assigns a variable, which prints nothing, or returns a value."""
    if len(words) > 2 and words[0].startswith("$") and words[1] in (":=", "="):
        if (words[1] == ":=") == (words[0] in variables) and words[1] == "=":
            raise GoTemplateError(f"{words[0]} is not declared")
        variables[words[0]] = _value(words[2:], variables, dot)
        return ""
    return str(_value(words, variables, dot))


def _value(words: Sequence[str], variables: Mapping[str, Any], dot: Any) -> Any:
    if words[:2] == ["printf", '"%s %s"'] and len(words) == 4:
        return " ".join(str(_value([word], variables, dot)) for word in words[2:])
    if words and words[0] == "eq" and len(words) > 2:
        first, *others = (_value([word], variables, dot) for word in words[1:])
        return first in others
    [word] = words if len(words) == 1 else [""]
    if word.startswith('"'):
        return json.loads(word)
    if word in variables:
        return variables[word]
    if dot is not None and word in (".Role", ".Content"):
        return dot[word[1:].lower()]
    raise GoTemplateError(f"{' '.join(words)} is not supported")
