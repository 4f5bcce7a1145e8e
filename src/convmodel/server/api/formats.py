"""`response_format` of chat completions and `text` of responses: the form that a response must have.

Owns: their fields, and which JSON schema they stand for. `convmodel.generation.constraints` owns what a schema may say.
"""

from typing import Annotated, Any, Literal, TypeAlias

from pydantic import AfterValidator, Field, StringConstraints

from convmodel.generation.constraints.grammar import ANY_OBJECT
from convmodel.server.api.strict import Strict, Text

SchemaName: TypeAlias = Annotated[str, StringConstraints(pattern=r"^[a-zA-Z0-9_-]{1,64}$")]

MAX_DEPTH = 100
"""How deep a schema may be nested; llguidance reads 127 levels, and a schema may become part of another one."""


def _limit_depth(schema: dict[str, Any]) -> dict[str, Any]:
    level: list[Any] = [schema]
    for _ in range(MAX_DEPTH):
        level = [part for whole in level for part in (whole.values() if isinstance(whole, dict) else whole)]
        level = [part for part in level if isinstance(part, dict | list)]
        if not level:
            return schema
    raise ValueError(f"is nested more than {MAX_DEPTH} levels deep: flatten it, or use $ref")


Schema: TypeAlias = Annotated[dict[str, Any], AfterValidator(_limit_depth)]
"""A JSON schema; what it says is checked where it is used."""


class TextFormat(Strict):
    """Any text."""

    type: Literal["text"]

    @property
    def json_schema_option(self) -> dict[str, Any] | None:
        """The option of `generate`."""
        return None


class JsonObjectFormat(Strict):
    """Any JSON object."""

    type: Literal["json_object"]

    @property
    def json_schema_option(self) -> dict[str, Any] | None:
        """The option of `generate`."""
        return ANY_OBJECT


class NamedSchema(Strict):
    """A JSON schema and its name.

    Attributes:
        name: Ignored, as is `description`.
        json_schema: The schema; any JSON by default.
        strict: Ignored: a schema is always obeyed.
    """

    name: SchemaName
    description: Text | None = None
    json_schema: Annotated[Schema, Field(alias="schema", default_factory=dict)]
    strict: bool = True


class JsonSchemaFormat(Strict):
    """JSON that a schema allows, in the form of chat completions."""

    type: Literal["json_schema"]
    json_schema: NamedSchema

    @property
    def json_schema_option(self) -> dict[str, Any] | None:
        """The option of `generate`."""
        return self.json_schema.json_schema


class FlatSchemaFormat(NamedSchema):
    """JSON that a schema allows, in the form of responses."""

    type: Literal["json_schema"]

    @property
    def json_schema_option(self) -> dict[str, Any] | None:
        """The option of `generate`."""
        return self.json_schema


ResponseFormat: TypeAlias = Annotated[TextFormat | JsonObjectFormat | JsonSchemaFormat, Field(discriminator="type")]
"""`response_format` of chat completions."""


class TextOptions(Strict):
    """`text` of responses.

    Attributes:
        format: The form of the response.
        verbosity: Only the value without effect.
    """

    format: Annotated[TextFormat | JsonObjectFormat | FlatSchemaFormat, Field(discriminator="type")] = TextFormat(
        type="text"
    )
    verbosity: Literal["medium"] = "medium"

    def as_response_format(self) -> TextFormat | JsonObjectFormat | JsonSchemaFormat:
        """Returns the same form as chat completions have it."""
        if isinstance(self.format, FlatSchemaFormat):
            return JsonSchemaFormat(type="json_schema", json_schema=self.format)
        return self.format
