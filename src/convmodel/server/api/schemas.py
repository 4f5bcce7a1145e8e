"""The requests of OpenAI's APIs, with bounds on both sides of every number.

Owns: their parameters. Any other parameter is refused by name, unless its value has no effect; then it is dropped. The
schemas of convmodel's own routes are next to the routes.
"""

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Annotated, Any, Literal, Self, TypeAlias

from pydantic import BeforeValidator, Field, StringConstraints, model_validator

from convmodel.server.api.formats import ResponseFormat, TextOptions
from convmodel.server.api.messages import ChatMessage, ChatMessages, Message, Name
from convmodel.server.api.strict import Strict, Text, few
from convmodel.server.api.tools import Function, NamedTool, ToolChoice, Tools, call_schema, no_call_schema
from convmodel.server.errors import ApiError
from convmodel.server.settings import (
    MAX_ALTERNATIVES,
    MAX_BIASES,
    MAX_CANDIDATES,
    MAX_CHOICES,
    MAX_FIELDS,
    MAX_MESSAGES,
    MAX_NEW_TOKENS,
    MAX_STOP_LENGTH,
    MAX_STOPS,
)

Stop: TypeAlias = Annotated[str, StringConstraints(min_length=1, max_length=MAX_STOP_LENGTH)]


class StreamOptions(Strict):
    """Options of a stream: whether the last chunk counts tokens."""

    include_usage: bool = False


class NoOptions(Strict):
    """Options of which none is supported."""


class Generation(Strict):
    """The fields of all three APIs: the model, sampling options, and whether to stream.

    Attributes:
        model: The id of a model in `/v1/models`.
        temperature: Divides the logits; 0 (or less than 0.01) always takes the likeliest token.
        top_p: Tokens are drawn from the likeliest ones that together have this probability.
        stream: Whether to send the response while it is generated.
        user: Ignored, as are `safety_identifier` and `prompt_cache_key`.
        metadata: Ignored, or repeated in the response.
    """

    model: Text
    temperature: Annotated[float, Field(ge=0, le=2)] = 1.0
    top_p: Annotated[float, Field(ge=0, le=1)] = 1.0
    stream: bool = False
    user: Text | None = None
    safety_identifier: Text | None = None
    prompt_cache_key: Text | None = None
    metadata: Annotated[dict[Text, Text], few(MAX_FIELDS)] | None = None


class Sampling(Generation):
    """The sampling parameters of completions and chat completions, by OpenAI's names.

    Attributes:
        top_k: Tokens are drawn from this many of the likeliest; 0 for all.
        min_p: Tokens need this probability, relative to the likeliest one's, to be drawn.
        presence_penalty: Subtracted from the logit of each token that the response already contains.
        frequency_penalty: Subtracted once for every time that the response contains the token.
        logit_bias: Added to the logits of some token ids.
        seed: The same seed gives the same responses, in any batch.
        stop: Strings that end the response and are not part of it.
        n: The number of responses, per prompt.
        stream_options: Options of the stream.
    """

    top_k: Annotated[int, Field(ge=0, le=2**20)] = 0
    min_p: Annotated[float, Field(ge=0, le=1)] = 0.0
    presence_penalty: Annotated[float, Field(ge=-2, le=2)] = 0.0
    frequency_penalty: Annotated[float, Field(ge=-2, le=2)] = 0.0
    logit_bias: Annotated[
        dict[Annotated[str, StringConstraints(pattern=r"^[0-9]{1,9}$")], Annotated[float, Field(ge=-100, le=100)]],
        few(MAX_BIASES),
    ] = Field(default_factory=dict)
    seed: Annotated[int, Field(ge=0, le=2**63 - 1 - MAX_CHOICES)] | None = None
    stop: Stop | Annotated[list[Stop], Field(max_length=MAX_STOPS, fail_fast=True)] = Field(default_factory=list)
    n: Annotated[int, Field(ge=1, le=MAX_CHOICES)] = 1
    stream_options: StreamOptions | None = None

    @property
    def include_usage(self) -> bool:
        """Whether the last chunk of a stream counts tokens."""
        return self.stream_options is not None and self.stream_options.include_usage

    @property
    def options(self) -> dict[str, Any]:
        """The same parameters as options of `generate`."""
        is_greedy = self.temperature < _GREEDY_BELOW
        sampling = {"temperature": self.temperature, "top_p": self.top_p, "top_k": self.top_k}
        if self.min_p:
            sampling["min_p"] = self.min_p
        return {
            "do_sample": not is_greedy,
            "presence_penalty": self.presence_penalty or None,
            "frequency_penalty": self.frequency_penalty or None,
            "logit_bias": {int(token_id): bias for token_id, bias in self.logit_bias.items()} or None,
            "stop_strings": [self.stop] if isinstance(self.stop, str) else self.stop or None,
            "seed": None if is_greedy else self.seed,
            "min_new_tokens": 1,  # a turn cannot be empty
            "num_return_sequences": self.n,
        } | ({} if is_greedy else sampling)

    @model_validator(mode="after")
    def _check_stream_options(self) -> Self:
        if self.include_usage and not self.stream:
            raise ValueError("stream_options needs stream: true")
        return self


_GREEDY_BELOW = 0.01  # dividing the logits by less could overflow

NewTokens: TypeAlias = Annotated[int, Field(ge=1, le=MAX_NEW_TOKENS)]


class ChatRequest(Sampling):
    """`POST /v1/chat/completions`.

    Attributes:
        messages: The conversation so far.
        max_completion_tokens: The longest response, in tokens; `max_tokens` is its older name.
        logprobs: Whether to return the log-probability of each token.
        top_logprobs: How many of the likeliest tokens to return at each position.
        response_format: The form that the response must have.
        tools: Functions that the response may call.
        tool_choice: Whether it must call one, or which one; by default `auto`.
        parallel_tool_calls: Ignored: a response has one call at most.
        reply_as: The speaker who responds; not in OpenAI's API.
        candidates: How many responses are drawn to return the best; not in OpenAI's API.
    """

    messages: ChatMessages
    max_completion_tokens: NewTokens | None = None
    max_tokens: NewTokens | None = None
    logprobs: bool = False
    top_logprobs: Annotated[int, Field(ge=0, le=MAX_ALTERNATIVES)] = 0
    response_format: ResponseFormat | None = None
    tools: Tools = Field(default_factory=list)
    tool_choice: ToolChoice = "auto"
    parallel_tool_calls: bool = True
    reply_as: Name = "assistant"
    candidates: Annotated[int, Field(ge=1, le=MAX_CANDIDATES)] | None = None

    @property
    def options(self) -> dict[str, Any]:
        """The same parameters as options of `generate`."""
        schemas = [*self.schemas.values()]
        return super().options | {"json_schema": schemas[-1] if schemas else None}

    @cached_property
    def schemas(self) -> dict[str, dict[str, Any]]:
        """The schemas by the parameters that give them; the last one is that of the response."""
        response = self._response_schema
        if not self.callable:
            return {} if response is None else {"response_format": response}
        if response is None or not self.may_be_text:
            schemas = {} if response is None else {"response_format": response}  # which is checked all the same
            return schemas | {"tools": call_schema(self.callable)}
        return {"response_format": no_call_schema(response), "tools": call_schema(self.callable, response)}

    @property
    def _response_schema(self) -> dict[str, Any] | None:
        return None if self.response_format is None else self.response_format.json_schema_option

    @property
    def callable(self) -> list[Function]:
        """The functions that the response may or must call."""
        if self.tool_choice == "none":
            return []
        named = self.tool_choice.function.name if isinstance(self.tool_choice, NamedTool) else None
        return [tool.function for tool in self.tools if named in (None, tool.function.name)]

    @property
    def may_be_text(self) -> bool:
        """Whether the response need not call any function."""
        return not self.callable or self.tool_choice == "auto"

    @property
    def may_be_free(self) -> bool:
        """Whether the response may be a call of a function, or else any text."""
        return bool(self.callable) and self.tool_choice == "auto" and self._response_schema is None

    @model_validator(mode="after")
    def _check_tools(self) -> Self:
        names = [tool.function.name for tool in self.tools]
        if len(set(names)) < len(names):
            raise ValueError("tools has two functions of one name")
        if self.tool_choice not in ("none", "auto") and not self.callable:
            raise ValueError("tool_choice needs a function that is among tools")
        return self

    @model_validator(mode="after")
    def _check_top_logprobs(self) -> Self:
        if self.top_logprobs and not self.logprobs:
            raise ValueError("top_logprobs needs logprobs: true")
        return self


def _no_token_ids(prompt: Any) -> Any:
    if isinstance(prompt, list) and prompt and isinstance(prompt[0], int | list):
        raise ValueError("token ids are not supported: send the text")
    return prompt


class CompletionRequest(Sampling):
    """`POST /v1/completions`: continues a turn that a text begins.

    Attributes:
        prompt: The beginning of a turn, or of several.
        max_tokens: The longest continuation, in tokens.
        logprobs: How many of the likeliest tokens to return at each position.
        echo: Whether the result begins with the prompt.
    """

    prompt: Annotated[
        Text | Annotated[list[Text], Field(min_length=1, max_length=MAX_CHOICES, fail_fast=True)],
        BeforeValidator(_no_token_ids),
    ]
    max_tokens: NewTokens = 16
    logprobs: Annotated[int, Field(ge=0, le=5)] | None = None
    echo: bool = False

    @property
    def prompts(self) -> Sequence[str]:
        """The prompts as a list."""
        return [self.prompt] if isinstance(self.prompt, str) else self.prompt

    @model_validator(mode="after")
    def _check_choices(self) -> Self:
        if len(self.prompts) * self.n > MAX_CHOICES:
            raise ValueError(f"n = {self.n} with {len(self.prompts)} prompts: at most {MAX_CHOICES} choices in total")
        return self


class InputMessage(Message):
    """A message of `/v1/responses`, which may carry its type, id and status."""

    type: Literal["message"] = "message"
    id: Text | None = None
    status: Literal["in_progress", "completed", "incomplete"] | None = None


class ResponsesRequest(Generation):
    """`POST /v1/responses`, without anything that the server would have to remember.

    Attributes:
        input: The user's message, or the conversation so far.
        instructions: A system message.
        max_output_tokens: The longest response, in tokens.
        text: The form that the response must have.
        truncation: `auto` if the oldest turns of a conversation that is too long are left out; otherwise an error.
        stream_options: Only for values that have no effect.
    """

    input: Text | Annotated[list[InputMessage], Field(min_length=1, max_length=MAX_MESSAGES, fail_fast=True)]
    instructions: Text | None = None
    max_output_tokens: NewTokens | None = None
    text: TextOptions = TextOptions()
    truncation: Literal["auto", "disabled"] = "disabled"
    stream_options: NoOptions | None = None

    @model_validator(mode="before")
    @classmethod
    def _refuse_tools(cls, body: Any) -> Any:
        if isinstance(body, Mapping) and body.get("tools"):
            message = "tools are not supported here: use /v1/chat/completions"
            raise ApiError(400, message, param="tools", code="unsupported_parameter")
        return body

    @model_validator(mode="after")
    def _check_messages(self) -> Self:
        if self.instructions and not isinstance(self.input, str) and len(self.input) == MAX_MESSAGES:
            raise ValueError(f"input and instructions have more than {MAX_MESSAGES} messages")
        return self

    def as_chat(self) -> ChatRequest:
        """Returns the same request in the form of chat completions."""
        turns = [Message(role="user", content=self.input)] if isinstance(self.input, str) else self.input
        messages = [
            # They are valid already.
            ChatMessage.model_construct(role=message.role, content=message.text, name=message.name)
            for message in turns
        ]
        if self.instructions:
            messages.insert(0, ChatMessage(role="system", content=self.instructions))
        return ChatRequest(
            model=self.model,
            messages=messages,
            temperature=self.temperature,
            top_p=self.top_p,
            max_completion_tokens=self.max_output_tokens,
            response_format=self.text.as_response_format(),
        )
