"""`response_format` of chat completions and `text` of responses: the form that a response must have.

Owns: their fields, and which JSON schema they stand for. `convmodel.generation.constraints` owns what a schema may say.
"""

from typing import Annotated, Any, Literal, TypeAlias

from pydantic import Field, StringConstraints

from convmodel.generation.constraints.grammar import ANY_OBJECT
from convmodel.server.api.strict import Strict, Text

SchemaName: TypeAlias = Annotated[str, StringConstraints(pattern=r"^[a-zA-Z0-9_-]{1,64}$")]


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
    json_schema: Annotated[dict[str, Any], Field(alias="schema", default_factory=dict)]
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
