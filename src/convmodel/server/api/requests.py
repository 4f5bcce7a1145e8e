"""Request bodies to jobs of the scheduler.

Owns: the meaning of roles, names and system messages, how long a response may be, and whose cached conversations a
request may use.
"""

import math
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Annotated, Any, TypeVar

from fastapi import Depends
from starlette.requests import Request as HttpRequest

from convmodel.conversation import PINNED_ROLES, Conversation
from convmodel.errors import ConfigError, ContextTooLongError, MissingExtraError
from convmodel.generation.constraints.constraint import constraint_of
from convmodel.generation.constraints.grammar import Grammar, read_grammar
from convmodel.generation.defaults import chat_candidates
from convmodel.generation.engine.request import Request
from convmodel.generation.options import GenerationOptions, read_options
from convmodel.generation.output import Response
from convmodel.generation.respond import make_prompt, make_request, ranked
from convmodel.generation.response_text import ResponseText
from convmodel.layout.architecture import positions
from convmodel.layout.markers import ASSISTANT, TOOL, USER
from convmodel.layout.sequence import Prompt
from convmodel.layout.tokenizer import ConversationTokenizer
from convmodel.server.api.messages import ChatMessage, Message
from convmodel.server.api.schemas import ChatRequest, CompletionRequest
from convmodel.server.api.tools import describe
from convmodel.server.errors import ApiError
from convmodel.server.serving.job import Job
from convmodel.server.serving.model_registry import ModelRegistry, ServedModel
from convmodel.server.settings import SESSION_HEADER


async def _registry(request: HttpRequest) -> ModelRegistry:
    registry: ModelRegistry = request.app.state.registry
    return registry


Registry = Annotated[ModelRegistry, Depends(_registry)]
"""A parameter of this type receives the server's model registry."""


async def _cache_scope(request: HttpRequest) -> str | None:
    if (key := getattr(request.state, "key", None)) is not None:
        return f"key {key}"
    session = request.headers.get(SESSION_HEADER)
    return f"session {session}" if session else None


CacheScope = Annotated[str | None, Depends(_cache_scope)]
"""A parameter of this type receives whose cached conversations a request may use: those of its key; without keys, of
its session; without a session None, those of all requests without one, of which it finds whole turns only."""

_Submitted = TypeVar("_Submitted")


async def submit_to(
    registry: ModelRegistry, name: str, submit: Callable[[ServedModel], Awaitable[_Submitted]]
) -> tuple[ServedModel, _Submitted]:
    """Submits a request to a model; again if the model is replaced meanwhile, and the one before refuses it."""
    served = await registry.load(name)
    try:
        return served, await submit(served)
    except ApiError:
        if not served.scheduler.draining or (current := await registry.load(name)) is served:
            raise
    return current, await submit(current)


_Prepared = tuple[Prompt, Request, GenerationOptions]


async def submit_chat(served: ServedModel, body: ChatRequest, scope: str | None, *, truncate: bool = True) -> Job:
    """Submits a request of `/v1/chat/completions`; raises an `ApiError` if it is invalid or the queue is full.

    Without `truncate`, a conversation whose oldest turns would be left out of the prompt is invalid.
    """
    prepare = partial(_chat, served, body, truncate=truncate)
    grammars = requested_grammars(body)
    compile_first = partial(_compile, served, grammars) if grammars else None
    return await _submit(served, body.top_logprobs, scope, prepare, count_characters(body.messages), compile_first)


async def submit_completion(served: ServedModel, body: CompletionRequest, text: str, scope: str | None) -> Job:
    """Submits one prompt of `/v1/completions`; raises an `ApiError` if it is invalid or the queue is full."""
    return await _submit(served, body.logprobs or 0, scope, partial(_completion, served, body, text), len(text))


async def _submit(
    served: ServedModel,
    alternatives: int,
    scope: str | None,
    prepare: Callable[[], _Prepared],
    characters: int,
    compile_first: Callable[[], None] | None = None,
) -> Job:
    tokenizer, arrived = served.model.tokenizer, time.monotonic()
    with served.scheduler.reserve():
        if compile_first is not None:  # since it may take long; `prepare` then finds it compiled
            await served.encoding.run_apart(compile_first)
        prompt, request, options = await served.encoding.run(prepare, characters)
        request.alternatives, request.scope, request.whole_turns = alternatives, scope, scope is None
        texts = [ResponseText(row, tokenizer, options.stop_strings, hide_stop_tokens=True) for row in request.rows]
        choose = None
        if options.candidates > 1:
            choose = partial(_best, served, request, texts, options)
        job = Job(request, texts, choose, left_out=prompt.left_out, cut=prompt.cut, arrived=arrived)
        served.scheduler.submit(job)
    return job


def _best(served: ServedModel, request: Request, texts: Sequence[ResponseText], options: GenerationOptions) -> int:
    """Returns the number of the best candidate; runs the model."""
    responses = [Response("", text.ids, text.row.finish_reason or "length") for text in texts]
    [best], _ = ranked(served.model.hf_model, served.model.tokenizer, request, responses, options)
    return request.rows.index(best)


def _names(body: ChatRequest) -> dict[str, str]:
    """Returns the parameters of a request by the options of `generate`, as far as they differ between requests."""
    new_tokens = "max_tokens" if body.max_tokens else "max_completion_tokens"
    return {"json_schema": "tools" if body.callable else "response_format", "max_new_tokens": new_tokens}


def requested_grammars(body: ChatRequest) -> dict[str, Grammar]:
    """Returns what the response must match, by parameters; raises an `ApiError` that names one that is malformed."""
    grammars = {}
    for parameter, schema in body.schemas.items():
        try:
            grammar = read_grammar({"json_schema": schema})
        except (ConfigError, MissingExtraError) as error:
            raise refusal(error, {"json_schema": parameter}) from error
        assert grammar is not None
        grammars[parameter] = grammar
    return grammars


def _compile(served: ServedModel, grammars: Mapping[str, Grammar]) -> None:
    for parameter, grammar in grammars.items():
        try:
            constraint_of(served.model.tokenizer, grammar)
        except ConfigError as error:
            raise refusal(error, {"json_schema": parameter}) from error


def count_characters(messages: Sequence[Message]) -> int:
    """Returns how much text has to be encoded."""
    return sum(len(message.text) for message in messages)


def spoken(messages: Sequence[Message]) -> list[int]:
    """Returns the indices of the messages that become turns, in their order: system messages first.

    Clients send later ones, too, but models are trained with system messages at the beginning. Blank messages of the
    assistant are left out: the server itself returns such a response if it begins with a stop text.
    """
    indices = [index for index, message in enumerate(messages) if message.role != "assistant" or message.text.strip()]
    return sorted(indices, key=lambda index: messages[index].role not in PINNED_ROLES)


def read_conversation(served: ServedModel, messages: Sequence[Message]) -> Conversation:
    """Returns the conversation of some messages that have text; a message's speaker is its name, or else its role."""
    messages = [messages[index] for index in spoken(messages)]
    pinned = sum(message.role in PINNED_ROLES for message in messages)
    if pinned and not served.takes_system:
        if served.model.tokenizer.layout.name == "template":
            message = f"the chat template of {served.id} has no place for a system message: leave it out"
        else:
            message = (
                f"{served.id} was trained without system messages and would read one as an ordinary turn: leave it "
                "out, or start the server with --system-messages"
            )
        raise ApiError(400, message, param="messages", code="system_message")
    speakers = [_speaker(served, message) for message in messages]
    return Conversation([message.text for message in messages], speakers, pinned=pinned)


def _speaker(served: ServedModel, message: Message) -> str:
    """Returns a message's name or role; what a tool returned is the user's turn if the layout has none of tools."""
    if message.role != TOOL:
        return message.name or message.role
    layout = served.model.tokenizer.layout
    has_tools = layout.template is not None and layout.markers.follows(ASSISTANT, TOOL)
    return TOOL if has_tools and layout.markers.follows(TOOL, ASSISTANT) else USER


def _with_tools(served: ServedModel, body: ChatRequest) -> Sequence[Message]:
    """Returns the messages with a description of the tools as a system message, if the model takes one."""
    if not body.callable:
        return body.messages
    if not served.takes_system:
        if body.tool_choice != "auto":
            return body.messages
        fix = 'give tool_choice "required" or a function, or "none"'
        message = f"{served.id} takes no system message, in which it would read of the tools and so could choose: {fix}"
        raise ApiError(400, message, param="tool_choice", code="unsupported_value")
    first, *rest = body.messages
    if first.role in PINNED_ROLES:
        text = f"{first.text}\n\n{describe(body.callable)}"
        return [ChatMessage.model_construct(role=first.role, content=text, name=first.name), *rest]
    return [ChatMessage.model_construct(role="system", content=describe(body.callable)), *body.messages]


def make_options(
    served: ServedModel, new_tokens: int | None, name: str, names: Mapping[str, str] | None = None, **options: Any
) -> GenerationOptions:
    """Returns the options of `generate`; `name` is the request's parameter for the number of new tokens."""
    limit = positions(served.model.hf_model.config)
    longest = None if limit is None else limit - served.model.tokenizer.layout.shortest_prompt
    if new_tokens is not None and longest is not None and new_tokens > longest:
        fix = f"it can be {longest} at most, since context and response share the model's positions"
        raise too_long(served, f"{name} is {new_tokens}", fix, name)
    try:
        return read_options(served.model.hf_model, served.model.tokenizer, options | {"max_new_tokens": new_tokens})
    except ConfigError as error:
        raise refusal(error, names or {}) from error


def refusal(error: ConfigError | MissingExtraError, names: Mapping[str, str]) -> ApiError:
    """Returns the error for options that `generate` refuses, by the names that they have in the request."""
    message, parameters = str(error), {**_PARAMETERS, "max_new_tokens": "max_tokens", **names}
    if isinstance(error, MissingExtraError):
        message = "json_schema needs llguidance, which this server does not have: leave it out"
    named = sorted((option for option in parameters if option in message), key=message.index)
    if "json_schema" in message:
        ours, separator, theirs = message.partition(" cannot be used: ")  # which may quote the schema
        for option, parameter in parameters.items():
            ours = ours.replace(option, parameter)
        message = ours + separator + theirs
    return ApiError(400, message, param=parameters[named[0]] if named else None)


_PARAMETERS = {
    "candidates": "candidates",
    "logit_bias": "logit_bias",
    "reply_as": "reply_as",
    "stop_strings": "stop",
    "num_return_sequences": "n",
}
"""The parameters of a request, by the options of `generate`, that a schema alone cannot check."""


def too_long(served: ServedModel, problem: str, fix: str, param: str) -> ApiError:
    """Returns the error for a request that does not fit in the model's positions, in words that LiteLLM recognizes."""
    limit = f"this model's maximum context length is {positions(served.model.hf_model.config)} tokens"
    return ApiError(400, f"{problem}, and {limit}: {fix}", param=param, code="context_length_exceeded")


def prompt_too_long(served: ServedModel, problem: str, fix: str, param: str) -> ApiError:
    """Returns the error for a prompt that does not fit, in words that LangChain recognizes, too."""
    return too_long(served, f"the prompt is too long: {problem}", fix, param)


def encode_prompt(served: ServedModel, conversation: Conversation, options: GenerationOptions) -> Prompt:
    """Returns the prompt of a conversation; what certainly does not fit is refused before anything is encoded."""
    tokenizer, turns = served.model.tokenizer, conversation.turns
    needed = (*turns[: min(conversation.pinned, len(turns) - 1)], turns[-1])
    least = sum(_least_tokens(tokenizer, text) for text in needed)
    fix = _SHORTEN_PINNED if conversation.pinned else _SHORTEN
    if options.budget is not None and least > options.budget:
        pinned = " with the pinned turns" if conversation.pinned else ""
        problem = f"the newest turn{pinned} has at least {least} tokens, {options.budget} fit in the prompt"
        raise prompt_too_long(served, problem, fix, "messages")
    try:
        return make_prompt(tokenizer, conversation, options)
    except ContextTooLongError as error:
        raise prompt_too_long(served, error.problem, fix, "messages") from error


def _least_tokens(tokenizer: ConversationTokenizer, text: str) -> int:
    """Returns how many tokens a text has at least; 0 if that is not certain without encoding it."""
    return math.ceil(len(text) / tokenizer.most_characters) if tokenizer.most_characters else 0


_SHORTEN = "shorten it, or request fewer new tokens"
_SHORTEN_PINNED = "shorten it, the system messages or the descriptions of tools, or request fewer new tokens"


def _chat(served: ServedModel, body: ChatRequest, *, truncate: bool) -> _Prepared:
    model, conversation = served.model, read_conversation(served, _with_tools(served, body))
    if body.max_tokens and body.max_completion_tokens and body.max_tokens != body.max_completion_tokens:
        raise ApiError(400, "max_tokens is the older name of max_completion_tokens: give one", param="max_tokens")
    names, new_tokens = _names(body), body.max_tokens or body.max_completion_tokens
    given = body.options | _candidates(served, body)
    options = make_options(served, new_tokens, names["max_new_tokens"], names, **given, reply_as=body.reply_as)
    if body.may_be_free and options.grammar is not None:
        options = replace(options, grammar=replace(options.grammar, optional=True))
    prompt = encode_prompt(served, conversation, options)
    if prompt.left_out and not truncate:
        problem = f"the conversation has {prompt.left_out} turns more than fit"
        raise prompt_too_long(served, problem, 'shorten it, or request truncation: "auto"', "messages")
    try:
        return prompt, make_request(model.hf_model, model.tokenizer, prompt, options), options
    except ConfigError as error:
        raise refusal(error, _names(body)) from error


def _candidates(served: ServedModel, body: ChatRequest) -> dict[str, Any]:
    """Returns how many candidates are drawn: as many as is requested, or as the model asks for in chats."""
    default = chat_candidates(served.model.hf_model)
    if body.candidates is None:
        is_free = body.options["do_sample"] and body.n == 1 and body.options["json_schema"] is None
        return default if is_free else {}
    if body.candidates > 1:
        return default | {"candidates": body.candidates}
    return {}


def _completion(served: ServedModel, body: CompletionRequest, text: str) -> _Prepared:
    model = served.model
    options = make_options(served, body.max_tokens, "max_tokens", **body.options)
    _require_fit(served, body, options, "at least ", _least_tokens(model.tokenizer, text) + 1)
    prompt = model.tokenizer.prompt_to_continue(text)
    _require_fit(served, body, options, "", len(prompt.input_ids))
    return prompt, make_request(model.hf_model, model.tokenizer, prompt, options), options


def _require_fit(
    served: ServedModel, body: CompletionRequest, options: GenerationOptions, least: str, tokens: int
) -> None:
    if options.budget is not None and tokens > options.budget:
        problem = f"the prompt has {least}{tokens} tokens, {options.budget} fit beside {body.max_tokens} new ones"
        raise prompt_too_long(served, problem, _SHORTEN, "prompt")
