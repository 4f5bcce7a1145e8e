"""Requests of the API to jobs of the scheduler.

Owns: what roles, names and system messages mean, and how long a response may be.
"""

from collections.abc import Sequence
from typing import Any

import anyio

from convmodel.conversation import PINNED_ROLES, Conversation
from convmodel.generation.engine.request import Request
from convmodel.generation.options import GenerationOptions, read_options
from convmodel.generation.respond import make_prompt, make_request
from convmodel.generation.response_text import RowText
from convmodel.layout.architecture import positions
from convmodel.layout.sequence import Prompt, begin_turn
from convmodel.server.api.schemas import ChatRequest, CompletionRequest, Message
from convmodel.server.errors import ApiError
from convmodel.server.serving.job import Job
from convmodel.server.serving.model_registry import Served

ENCODING = anyio.CapacityLimiter(2)
"""Texts of a megabyte take a second to encode: in threads, and few of them, so that nobody else waits for it."""


async def submit_chat(served: Served, asked: ChatRequest) -> Job:
    """Submits a request of `/v1/chat/completions`.

    Raises:
        ApiError: If it cannot be honoured, or too many requests wait.
    """
    with served.scheduler.place():
        found = await anyio.to_thread.run_sync(_chat, served, asked, limiter=ENCODING)
        return _submit(served, *found, alternatives=asked.top_logprobs)


async def submit_completion(served: Served, asked: CompletionRequest, text: str) -> Job:
    """Submits one prompt of `/v1/completions`.

    Raises:
        ApiError: If it cannot be honoured, or too many requests wait.
    """
    with served.scheduler.place():
        found = await anyio.to_thread.run_sync(_completion, served, asked, text, limiter=ENCODING)
        return _submit(served, *found, alternatives=asked.logprobs or 0)


def _submit(served: Served, prompt: Prompt, request: Request, options: GenerationOptions, *, alternatives: int) -> Job:
    request.alternatives = alternatives
    texts = [RowText(row, served.model.tokenizer, options.stop_strings, only_said=True) for row in request.rows]
    job = Job(request, texts, left_out=prompt.left_out, cut=prompt.cut)
    served.scheduler.submit(job)
    return job


def read_conversation(served: Served, messages: Sequence[Message]) -> Conversation:
    """Makes a conversation of messages: a message's speaker is its name, or else its role.

    Raises:
        ApiError: If there are system messages where the model takes none, or not at the beginning.
        ConversationError: If a message is empty.
    """
    is_system = [message.role in PINNED_ROLES for message in messages]
    pinned = is_system.index(False) if False in is_system else len(messages)
    if any(is_system) and not served.takes_system:
        raise ApiError(
            400,
            f"{served.id} was trained without system messages and would take one for somebody's turn: leave it out, "
            "or start the server with --system-messages",
            param="messages",
            code="system_message",
        )
    if any(is_system[pinned:]):
        raise ApiError(400, "system messages come before all others", param="messages", code="system_message")
    return Conversation(
        [message.text for message in messages], [message.name or message.role for message in messages], pinned=pinned
    )


def read_length(served: Served, asked: ChatRequest) -> int | None:
    """Returns the longest response that was asked for; None where the model's default is to count.

    Raises:
        ApiError: If both names of the limit are given, and they differ.
    """
    both = {asked.max_completion_tokens, asked.max_tokens} - {None}
    if len(both) > 1:
        raise ApiError(400, "max_tokens is the older name of max_completion_tokens: give one", param="max_tokens")
    return next(iter(both), None)


def make_options(served: Served, new_tokens: int | None, name: str, **options: Any) -> GenerationOptions:
    """Checks options of `generate`; what is wrong with the length is told by the parameter's name.

    Raises:
        ApiError: If there is no room for so many tokens.
        ConfigError: If an option makes no sense.
    """
    limit = positions(served.model.hf_model.config)
    if new_tokens is not None and limit is not None and new_tokens > limit - _SHORTEST_PROMPT:
        raise ApiError(
            400,
            f"{name} is {new_tokens}: {served.id} has {limit} positions for the context and the response together, so "
            f"it can be {limit - _SHORTEST_PROMPT} at most",
            param=name,
            code="context_length_exceeded",
        )
    return read_options(served.model.hf_model, served.model.tokenizer, options | {"max_new_tokens": new_tokens})


_SHORTEST_PROMPT = 3  # a separator, a token, a separator


def _chat(served: Served, asked: ChatRequest) -> tuple[Prompt, Request, GenerationOptions]:
    model, conversation = served.model, read_conversation(served, asked.messages)
    name = "max_tokens" if asked.max_tokens else "max_completion_tokens"
    options = make_options(
        served,
        read_length(served, asked),
        name,
        **asked.options,
        num_return_sequences=asked.n,
        reply_as=asked.reply_as,
    )
    prompt = make_prompt(model.tokenizer, conversation, options)
    return prompt, make_request(model.hf_model, model.tokenizer, prompt, options), options


def _completion(served: Served, asked: CompletionRequest, text: str) -> tuple[Prompt, Request, GenerationOptions]:
    model = served.model
    options = make_options(served, asked.max_tokens, "max_tokens", **asked.options, num_return_sequences=asked.n)
    prompt = begin_turn(model.tokenizer.encode(text), model.tokenizer.sep_token_id)
    if options.budget is not None and len(prompt.input_ids) > options.budget:
        raise ApiError(
            400,
            f"the prompt has {len(prompt.input_ids)} tokens, and there is room for {options.budget} beside "
            f"{asked.max_tokens} new ones",
            param="prompt",
            code="context_length_exceeded",
        )
    return prompt, make_request(model.hf_model, model.tokenizer, prompt, options), options
