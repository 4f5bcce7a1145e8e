"""What a response must match: one option, well-formed, and not too long."""

import builtins
from typing import Any

import pytest
from pydantic import BaseModel

from convmodel.errors import ConfigError, MissingExtraError
from convmodel.generation.constraints.grammar import MAX_LENGTH, read_grammar


class Pet(BaseModel):
    name: str


def test_no_option_is_no_grammar() -> None:
    assert read_grammar({"json_schema": None, "max_new_tokens": 3}) is None


@pytest.mark.parametrize("schema", [{"type": "string"}, '{"type": "string"}'])
def test_a_schema_is_an_object_or_its_json(schema: Any) -> None:
    grammar = read_grammar({"json_schema": schema})
    assert grammar is not None
    assert grammar.option == "json_schema"
    assert '"type":"string"' in grammar.text.replace(" ", "")


def test_a_schema_may_be_a_pydantic_model() -> None:
    assert read_grammar({"json_schema": Pet}) == read_grammar({"json_schema": Pet.model_json_schema()})


def deep(depth: int) -> Any:
    schema: Any = {}
    for _ in range(depth):
        schema = {"items": schema}
    return schema


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({"json_schema": "{"}, "json_schema is not a JSON schema"),
        ({"json_schema": [1]}, "must be an object"),
        ({"json_schema": {"const": float("inf")}}, "json_schema is not a JSON schema"),
        ({"json_schema": '{"const": NaN}'}, "NaN is not JSON"),
        ({"json_schema": {"const": {1}}}, "json_schema is not a JSON schema"),
        ({"json_schema": {"x-guidance": {}}}, "x-guidance"),
        ({"json_schema": {"const": "a" * MAX_LENGTH}}, "characters"),
        ({"json_schema": " " * (MAX_LENGTH + 1)}, "characters"),
        ({"regex": ""}, "regex is ''"),
        ({"regex": 3}, "regex is '3'"),
        ({"grammar": ["start: a"]}, "grammar is"),
        ({"regex": "a" * (MAX_LENGTH + 1)}, "characters"),
        ({"regex": "a", "json_schema": {}}, "exclude each other"),
    ],
)
def test_what_is_malformed_is_refused(options: dict[str, Any], problem: str) -> None:
    with pytest.raises(ConfigError, match=problem):
        read_grammar(options)


@pytest.mark.parametrize(("depth", "problem"), [(5000, "nested too deeply"), (300, "recursion limit exceeded")])
def test_a_schema_that_is_nested_without_end_is_refused(depth: int, problem: str) -> None:
    with pytest.raises(ConfigError, match=problem):
        read_grammar({"json_schema": deep(depth)})


def test_without_the_library_the_message_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def without(name: str, *rest: Any, **more: Any) -> Any:
        if name == "llguidance":
            raise ModuleNotFoundError(name)
        return real(name, *rest, **more)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(MissingExtraError, match=r"need llguidance .the extra serve"):
        read_grammar({"regex": "a"})
