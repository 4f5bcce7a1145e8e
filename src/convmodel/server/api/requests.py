"""Request bodies to jobs of the scheduler.

Owns: the meaning of roles, names and system messages, and how long a response may be.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Annotated, Any

import anyio
from fastapi import Depends
from starlette.requests import Request as HttpRequest

from convmodel.conversation import PINNED_ROLES, Conversation
from convmodel.generation.engine.request import Request
from convmodel.generation.options import GenerationOptions, read_options
from convmodel.generation.respond import make_prompt, make_request
from convmodel.generation.response_text import ResponseText
from convmodel.layout.architecture import positions
from convmodel.layout.sequence import Prompt
from convmodel.server.api.schemas import ChatRequest, CompletionRequest, Message
from convmodel.server.errors import ApiError
from convmodel.server.serving.job import Job
from convmodel.server.serving.model_registry import ModelRegistry, ServedModel

ENCODING = anyio.CapacityLimiter(2)
"""Limits the threads that tokenize: a text of a megabyte takes a second, and others must not wait for it."""


async def _registry(request: HttpRequest) -> ModelRegistry:
    registry: ModelRegistry = request.app.state.registry
    return registry


Registry = Annotated[ModelRegistry, Depends(_registry)]
"""A parameter of this type receives the server's model registry."""

_Prepared = tuple[Prompt, Request, GenerationOptions]


async def submit_chat(served: ServedModel, body: ChatRequest) -> Job:
    """Submits a request of `/v1/chat/completions`; raises an `ApiError` if it is invalid or the queue is full."""
    return await _submit(served, body.top_logprobs, partial(_chat, served, body))


async def submit_completion(served: ServedModel, body: CompletionRequest, text: str) -> Job:
    """Submits one prompt of `/v1/completions`; raises an `ApiError` if it is invalid or the queue is full."""
    return await _submit(served, body.logprobs or 0, partial(_completion, served, body, text))


async def _submit(served: ServedModel, alternatives: int, prepare: Callable[[], _Prepared]) -> Job:
    tokenizer = served.model.tokenizer
    with served.scheduler.reserve():
        prompt, request, options = await anyio.to_thread.run_sync(prepare, limiter=ENCODING)
        request.alternatives = alternatives
        texts = [ResponseText(row, tokenizer, options.stop_strings, hide_stop_tokens=True) for row in request.rows]
        job = Job(request, texts, left_out=prompt.left_out, cut=prompt.cut)
        served.scheduler.submit(job)
    return job


def read_conversation(served: ServedModel, messages: Sequence[Message]) -> Conversation:
    """Returns the conversation of some messages; a message's speaker is its name, or else its role."""
    is_system = [message.role in PINNED_ROLES for message in messages]
    pinned = is_system.index(False) if False in is_system else len(messages)
    if any(is_system) and not served.takes_system:
        message = (
            f"{served.id} was trained without system messages and would read one as an ordinary turn: leave it out, or "
            "start the server with --system-messages"
        )
        raise ApiError(400, message, param="messages", code="system_message")
    if any(is_system[pinned:]):
        raise ApiError(400, "system messages must come before all others", param="messages", code="system_message")
    speakers = [message.name or message.role for message in messages]
    return Conversation([message.text for message in messages], speakers, pinned=pinned)


def make_options(served: ServedModel, new_tokens: int | None, name: str, **options: Any) -> GenerationOptions:
    """Returns the options of `generate`; `name` is the request's parameter for the number of new tokens."""
    limit = positions(served.model.hf_model.config)
    longest = None if limit is None else limit - served.model.tokenizer.layout.shortest_prompt
    if new_tokens is not None and longest is not None and new_tokens > longest:
        message = (
            f"{name} is {new_tokens}: {served.id} has {limit} positions for the context and the response together, so "
            f"it can be {longest} at most"
        )
        raise ApiError(400, message, param=name, code="context_length_exceeded")
    return read_options(served.model.hf_model, served.model.tokenizer, options | {"max_new_tokens": new_tokens})


def _chat(served: ServedModel, body: ChatRequest) -> _Prepared:
    model, conversation = served.model, read_conversation(served, body.messages)
    if body.max_tokens and body.max_completion_tokens and body.max_tokens != body.max_completion_tokens:
        raise ApiError(400, "max_tokens is the older name of max_completion_tokens: give one", param="max_tokens")
    name = "max_tokens" if body.max_tokens else "max_completion_tokens"
    new_tokens = body.max_tokens or body.max_completion_tokens
    options = make_options(served, new_tokens, name, **body.options, reply_as=body.reply_as)
    prompt = make_prompt(model.tokenizer, conversation, options)
    return prompt, make_request(model.hf_model, model.tokenizer, prompt, options), options


def _completion(served: ServedModel, body: CompletionRequest, text: str) -> _Prepared:
    model = served.model
    options = make_options(served, body.max_tokens, "max_tokens", **body.options)
    prompt = model.tokenizer.prompt_to_continue(text)
    if options.budget is not None and len(prompt.input_ids) > options.budget:
        fits = f"only {options.budget} fit beside {body.max_tokens} new ones"
        message = f"the prompt has {len(prompt.input_ids)} tokens, and {fits}"
        raise ApiError(400, message, param="prompt", code="context_length_exceeded")
    return prompt, make_request(model.hf_model, model.tokenizer, prompt, options), options
