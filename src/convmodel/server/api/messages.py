"""The messages of a conversation in OpenAI's APIs.

Owns: their fields, and the text of each as a turn.
"""

import json
from collections.abc import Mapping
from typing import Annotated, Any, Literal, TypeAlias

from pydantic import AfterValidator, Field, StringConstraints, model_validator

from convmodel.server.api.formats import SchemaName
from convmodel.server.api.strict import Strict, Text
from convmodel.server.api.tools import MAX_TOOLS, call_text
from convmodel.server.settings import MAX_MESSAGES

Name: TypeAlias = Annotated[str, StringConstraints(min_length=1, max_length=64, pattern=r"\S")]


class TextPart(Strict):
    """A part of a message's content; only text is supported."""

    type: Literal["text", "input_text", "output_text"]
    text: Text


Content: TypeAlias = Text | Annotated[list[TextPart], Field(min_length=1, max_length=MAX_MESSAGES, fail_fast=True)]


class Message(Strict):
    """One turn of a conversation.

    Attributes:
        role: `system` and `developer` messages at the beginning are never left out of the context.
        content: The text, whole or in parts.
        name: The speaker, for conversations of more than two.
    """

    role: Literal["system", "developer", "user", "assistant"]
    content: Content
    name: Name | None = None

    @property
    def text(self) -> str:
        """The content as one text."""
        return self.content if isinstance(self.content, str) else "\n".join(part.text for part in self.content)


Messages: TypeAlias = Annotated[list[Message], Field(min_length=1, max_length=MAX_MESSAGES, fail_fast=True)]


def _json_object(text: str) -> str:
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        value = None
    if not isinstance(value, dict):
        raise ValueError("it must be a JSON object, as a text")
    return text


class CalledFunction(Strict):
    """A function that was called, and its arguments as JSON."""

    name: SchemaName
    arguments: Annotated[Text, AfterValidator(_json_object)]


class ToolCall(Strict):
    """A call in an earlier response."""

    id: Text
    type: Literal["function"] = "function"
    function: CalledFunction


class ChatMessage(Message):
    """One turn of a conversation, which may call tools or report what one returned.

    Attributes:
        role: `tool` for what a tool returned.
        tool_calls: The calls of a message of the assistant, whose content is then optional.
        tool_call_id: Ignored: what tools returned is in the order of the calls.
    """

    role: Literal["system", "developer", "user", "assistant", "tool"]  # type: ignore[assignment]
    tool_calls: Annotated[list[ToolCall], Field(max_length=MAX_TOOLS, fail_fast=True)] = Field(default_factory=list)
    tool_call_id: Text | None = None

    @property
    def text(self) -> str:
        """The content and the calls as one text."""
        calls = [call_text(call.function.name, call.function.arguments) for call in self.tool_calls]
        return "\n".join([*([super().text] if super().text else []), *calls])

    @model_validator(mode="before")
    @classmethod
    def _content_is_optional_beside_calls(cls, body: Any) -> Any:
        if isinstance(body, Mapping) and body.get("tool_calls") and body.get("content") is None:
            return {**body, "content": ""}
        return body


ChatMessages: TypeAlias = Annotated[list[ChatMessage], Field(min_length=1, max_length=MAX_MESSAGES, fail_fast=True)]
