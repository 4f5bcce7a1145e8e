"""What clients may ask for, with bounds on both sides of every number.

Owns: the parameters of the API. One that is not here is refused by name; one of OpenAI's whose value asks for nothing
is left out before.
"""

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal, TypeAlias

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, model_validator

from convmodel.server.settings import (
    MAX_ALTERNATIVES,
    MAX_BIASES,
    MAX_BODY,
    MAX_CHOICES,
    MAX_MESSAGES,
    MAX_NEW_TOKENS,
    MAX_STOP_LENGTH,
    MAX_STOPS,
)

_NOTHING: dict[str, list[Any]] = {
    "tools": [[]],
    "tool_choice": ["none", "auto"],
    "functions": [[]],
    "function_call": ["none", "auto"],
    "parallel_tool_calls": [True, False],
    "response_format": [{"type": "text"}],
    "text": [{"format": {"type": "text"}}, {}],
    "modalities": [["text"]],
    "store": [False],
    "background": [False],
    "truncation": ["disabled"],
    "include": [[]],
    "service_tier": ["auto", "default"],
    "best_of": [1],
    "annotations": [[]],
    "logprobs": [[]],
    "tool_calls": [[]],
}
"""Values of parameters that we do not have, with which they ask for nothing; null is one of them for each."""


class Strict(BaseModel):
    """What a client sends: nothing unknown, no number as text, no infinity."""

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False, frozen=True)

    @model_validator(mode="before")
    @classmethod
    def _without_nothing(cls, given: Any) -> Any:
        if not isinstance(given, Mapping):
            return given
        known = cls.model_fields
        return {
            name: value
            for name, value in given.items()
            if value is not None and (name in known or not any(_same(value, each) for each in _NOTHING.get(name, ())))
        }


def _same(one: Any, other: Any) -> bool:
    """Tells 0 from False."""
    return type(one) is type(other) and one == other


Text: TypeAlias = Annotated[str, StringConstraints(max_length=MAX_BODY)]
"""Any text; a constraint lets it be checked for halves of pairs of UTF-16, which JSON can spell."""

Name: TypeAlias = Annotated[str, StringConstraints(min_length=1, max_length=64, pattern=r"\S")]
Stop: TypeAlias = Annotated[str, StringConstraints(min_length=1, max_length=MAX_STOP_LENGTH)]


class TextPart(Strict):
    """A part of a message's content; only text can be read."""

    type: Literal["text", "input_text", "output_text"]
    text: Text


Content: TypeAlias = Text | Annotated[list[TextPart], Field(min_length=1, max_length=MAX_MESSAGES)]


class Message(Strict):
    """What one speaker says.

    Attributes:
        role: `system` and `developer` messages at the beginning are never left out of the context.
        content: The text.
        name: The speaker, where two roles are not enough to tell speakers apart.
    """

    role: Literal["system", "developer", "user", "assistant"]
    content: Content
    name: Name | None = None

    @property
    def text(self) -> str:
        """The content as one text."""
        return self.content if isinstance(self.content, str) else "\n".join(part.text for part in self.content)


Messages: TypeAlias = Annotated[list[Message], Field(min_length=1, max_length=MAX_MESSAGES)]


class StreamOptions(Strict):
    """How a stream is told.

    Attributes:
        include_usage: Whether its last chunk counts tokens.
    """

    include_usage: bool = False


class Sampling(Strict):
    """How tokens are chosen, by OpenAI's names.

    Attributes:
        temperature: 0 (or less than 0.01) takes the likeliest token; the logits are divided by it.
        top_p: The least share of probability that the likeliest tokens must have together to be drawn from.
        top_k: From how many of the likeliest tokens one is drawn; 0 for all.
        min_p: The least probability, as a share of the likeliest token's, that a token must have to be drawn.
        presence_penalty: What is taken off the logit of each token that the response has already.
        frequency_penalty: What is taken off as often as the response has it.
        logit_bias: What is added to the logits of some token ids.
        seed: The same seed gives the same responses, alone or beside others.
        stop: Texts that end the response and are no part of it.
    """

    model: Text
    temperature: Annotated[float, Field(ge=0, le=2)] = 1.0
    top_p: Annotated[float, Field(ge=0, le=1)] = 1.0
    top_k: Annotated[int, Field(ge=0, le=2**20)] = 0
    min_p: Annotated[float, Field(ge=0, le=1)] = 0.0
    presence_penalty: Annotated[float, Field(ge=-2, le=2)] = 0.0
    frequency_penalty: Annotated[float, Field(ge=-2, le=2)] = 0.0
    logit_bias: Annotated[
        dict[Annotated[str, StringConstraints(pattern=r"^[0-9]{1,9}$")], Annotated[float, Field(ge=-100, le=100)]],
        Field(max_length=MAX_BIASES),
    ] = {}
    seed: Annotated[int, Field(ge=0, le=2**63 - 1 - MAX_CHOICES)] | None = None
    stop: Stop | Annotated[list[Stop], Field(max_length=MAX_STOPS)] = []
    stream: bool = False
    user: Text | None = None
    safety_identifier: Text | None = None
    prompt_cache_key: Text | None = None
    metadata: dict[Text, Text] | None = None

    @property
    def options(self) -> dict[str, Any]:
        """The same as options of `generate`."""
        is_greedy = self.temperature < _GREEDY_BELOW
        drawing = {"temperature": self.temperature, "top_p": self.top_p, "top_k": self.top_k}
        if self.min_p:
            drawing["min_p"] = self.min_p
        return {
            "do_sample": not is_greedy,
            "presence_penalty": self.presence_penalty or None,
            "frequency_penalty": self.frequency_penalty or None,
            "logit_bias": {int(index): by for index, by in self.logit_bias.items()} or None,
            "stop_strings": [self.stop] if isinstance(self.stop, str) else self.stop or None,
            "seed": None if is_greedy else self.seed,
            "min_new_tokens": 1,  # an empty response is no turn
        } | ({} if is_greedy else drawing)


_GREEDY_BELOW = 0.01  # below, the logits would leave the range of numbers

NewTokens: TypeAlias = Annotated[int, Field(ge=1, le=MAX_NEW_TOKENS)]
Choices: TypeAlias = Annotated[int, Field(ge=1, le=MAX_CHOICES)]


class ChatRequest(Sampling):
    """`POST /v1/chat/completions`.

    Attributes:
        messages: The conversation so far.
        max_completion_tokens: The longest response; `max_tokens` is its older name.
        n: How many responses.
        logprobs: Whether to tell what the model gave each token.
        top_logprobs: Of how many of the likeliest tokens in its place, too.
        reply_as: Who responds; ours, not OpenAI's.
    """

    messages: Messages
    max_completion_tokens: NewTokens | None = None
    max_tokens: NewTokens | None = None
    n: Choices = 1
    logprobs: bool = False
    top_logprobs: Annotated[int, Field(ge=0, le=MAX_ALTERNATIVES)] = 0
    stream_options: StreamOptions | None = None
    reply_as: Name = "assistant"

    @model_validator(mode="after")
    def _check(self) -> "ChatRequest":
        if self.top_logprobs and not self.logprobs:
            raise ValueError("top_logprobs needs logprobs: true")
        if self.stream_options and not self.stream:
            raise ValueError("stream_options needs stream: true")
        return self


class CompletionRequest(Sampling):
    """`POST /v1/completions`: goes on with a turn that a text begins.

    Attributes:
        prompt: The beginning of a turn, or of several.
        max_tokens: The longest continuation.
        n: How many for each prompt.
        logprobs: Of how many of the likeliest tokens in each place to tell.
        echo: Whether the text comes first in the result.
    """

    prompt: Text | Annotated[list[Text], Field(min_length=1, max_length=MAX_CHOICES)]
    max_tokens: NewTokens = 16
    n: Choices = 1
    logprobs: Annotated[int, Field(ge=0, le=5)] | None = None
    echo: bool = False
    stream_options: StreamOptions | None = None

    @property
    def prompts(self) -> Sequence[str]:
        """The texts."""
        return [self.prompt] if isinstance(self.prompt, str) else self.prompt

    @model_validator(mode="after")
    def _check(self) -> "CompletionRequest":
        if len(self.prompts) * self.n > MAX_CHOICES:
            raise ValueError(f"{len(self.prompts)} prompts, {self.n} times each: at most {MAX_CHOICES} together")
        if self.stream_options and not self.stream:
            raise ValueError("stream_options needs stream: true")
        return self


class InputMessage(Message):
    """A message of `/v1/responses`, which may say that it is one."""

    type: Literal["message"] = "message"
    id: Text | None = None
    status: Literal["in_progress", "completed", "incomplete"] | None = None


class ResponsesRequest(Strict):
    """`POST /v1/responses`, without anything that the server would have to remember.

    Attributes:
        input: What the user says, or the conversation so far.
        instructions: A system message.
        max_output_tokens: The longest response.
    """

    model: Text
    input: Text | Annotated[list[InputMessage], Field(min_length=1, max_length=MAX_MESSAGES)]
    instructions: Text | None = None
    temperature: Annotated[float, Field(ge=0, le=2)] = 1.0
    top_p: Annotated[float, Field(ge=0, le=1)] = 1.0
    max_output_tokens: NewTokens | None = None
    stream: bool = False
    user: Text | None = None
    safety_identifier: Text | None = None
    prompt_cache_key: Text | None = None
    metadata: dict[Text, Text] | None = None

    def as_chat(self) -> ChatRequest:
        """The same request in the form of the other API."""
        said = [{"role": "system", "content": self.instructions}] if self.instructions else []
        given = [{"role": "user", "content": self.input}] if isinstance(self.input, str) else [
            {"role": each.role, "content": each.text, "name": each.name} for each in self.input
        ]  # fmt: skip
        return ChatRequest.model_validate(
            {
                "model": self.model,
                "messages": [*said, *given],
                "temperature": self.temperature,
                "top_p": self.top_p,
                "max_completion_tokens": self.max_output_tokens,
            }
        )


class TokenizeRequest(Strict):
    """`POST /tokenize`: the exact prompt of a conversation."""

    model: Text
    messages: Messages
    reply_as: Name = "assistant"
    max_completion_tokens: NewTokens | None = None


class FeedbackRequest(Strict):
    """`POST /feedback`: what somebody thinks of the last message.

    Attributes:
        messages: The conversation up to the response that is judged.
        rating: Thumb up or down.
        should_have_said: What would have been right.
    """

    model: Text
    messages: Annotated[list[Message], Field(min_length=2, max_length=MAX_MESSAGES)]
    rating: Literal["up", "down"] | None = None
    should_have_said: Annotated[str, StringConstraints(min_length=1, max_length=MAX_BODY, pattern=r"\S")] | None = None

    @model_validator(mode="after")
    def _check(self) -> "FeedbackRequest":
        if self.rating is None and self.should_have_said is None:
            raise ValueError("give a rating, or what should have been said")
        return self


Label: TypeAlias = Annotated[str, StringConstraints(min_length=1, max_length=200)]


class VoteRequest(Strict):
    """`POST /votes`: which of two responses somebody found better."""

    context: Annotated[list[Text], Field(min_length=1, max_length=MAX_MESSAGES)]
    models: Annotated[list[Label], Field(min_length=2, max_length=2)]
    responses: Annotated[list[Text], Field(min_length=2, max_length=2)]
    winner: Text | None = None

    @model_validator(mode="after")
    def _check(self) -> "VoteRequest":
        if self.models[0] == self.models[1]:
            raise ValueError("models need two names that differ")
        if self.winner is not None and self.winner not in self.models:
            raise ValueError("winner must be one of the models, or null")
        return self
