"""What a response must match, in llguidance's form.

Owns: the three options that state it (`json_schema`, `regex`, `grammar`), and what is no JSON schema at all. Knows no
tokenizer.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from types import ModuleType
from typing import Any

from convmodel.errors import ConfigError, MissingExtraError
from convmodel.generation.constraints.schema_checks import check_schema

OPTIONS = ("json_schema", "regex", "grammar")
"""Options of `generate` that a response must obey; one of them at a time."""

MAX_LENGTH = 2**18
"""Characters of a schema, a pattern or a grammar."""

ANY_OBJECT = {"type": "object"}
"""The schema of any JSON object."""

# Without white space between the parts of a value, as OpenAI's API has it: a small model would repeat it for ever.
# Without \uXXXX, which gives a name several forms: the schema of a property would not apply to all of them.
_JSON = {"whitespace_flexible": False, "lenient": False, "coerce_one_of": False, "json_allowed_escapes": 'nrbtf\\"'}


@dataclass(frozen=True, slots=True)
class Grammar:
    """What a response must match.

    Attributes:
        option: The option that gave it: one of `OPTIONS`.
        text: The grammar in llguidance's form.
        optional: Whether the response may also be any text that does not begin as the grammar requires, with a brace.
    """

    option: str
    text: str
    optional: bool = False


def llguidance() -> ModuleType:
    """Returns the module, or raises a `MissingExtraError`."""
    try:
        import llguidance
    except ModuleNotFoundError as error:
        raise MissingExtraError(f"{', '.join(OPTIONS[:-1])} and {OPTIONS[-1]} need llguidance", "serve") from error
    return llguidance


def read_grammar(options: Mapping[str, Any]) -> Grammar | None:
    """Returns the grammar that some options of `generate` give; None if they give none.

    Raises:
        ConfigError: If they give several, or one that is not of the right type or too long.
        MissingExtraError: If llguidance is not installed.

    Examples:
        >>> read_grammar({"regex": "yes|no", "json_schema": None}).option
        'regex'
    """
    given = {name: options[name] for name in OPTIONS if options.get(name) is not None}
    if not given:
        return None
    if len(given) > 1:
        raise ConfigError(f"{' and '.join(given)} exclude each other: give one of them")
    [(name, value)] = given.items()
    matcher = llguidance().LLMatcher
    if name == "json_schema":
        text = _schema_text(value)
        try:
            return Grammar(name, matcher.grammar_from_json_schema(text, overrides=_JSON))
        except ValueError as error:  # nested more than 127 times
            raise ConfigError(f"json_schema cannot be used: {error}") from error
    if not isinstance(value, str) or not value:
        kind = "a regular expression" if name == "regex" else "a grammar in llguidance's variant of Lark"
        raise ConfigError(f"{name} is {str(value)[:80]!r}: it must be {kind}, as a text")
    _check_length(name, value)
    return Grammar(name, matcher.grammar_from_regex(value) if name == "regex" else matcher.grammar_from_lark(value))


def _schema_text(schema: Any) -> str:
    """Returns a schema, given as a mapping, as JSON or as a pydantic model, as JSON."""
    if hasattr(schema, "model_json_schema"):
        schema = schema.model_json_schema()
    try:
        if isinstance(schema, str):
            _check_length("json_schema", schema)
            schema = json.loads(schema, parse_constant=_refuse_constant)
        text = json.dumps(schema, allow_nan=False)
    except (ValueError, TypeError, RecursionError) as error:
        problem = "it is nested too deeply" if isinstance(error, RecursionError) else str(error)
        raise ConfigError(f"json_schema is not a JSON schema: {problem}") from error
    if isinstance(schema, bool):
        text = "{}" if schema else '{"not": {}}'
    elif not isinstance(schema, Mapping):
        raise ConfigError(f"json_schema is {text[:80]}: it must be an object")
    elif "x-guidance" in schema:
        raise ConfigError("json_schema has x-guidance, which is not supported: leave it out")
    _check_length("json_schema", text)
    check_schema(json.loads(text))
    return text


def _refuse_constant(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")


def _check_length(name: str, text: str) -> None:
    if len(text) > MAX_LENGTH:
        raise ConfigError(f"{name} has {len(text):,} characters: {MAX_LENGTH:,} are the most")
