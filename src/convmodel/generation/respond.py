"""A context to responses: text in, text out.

Owns: what generates them, the engine or transformers' `generate`; text as it comes, and stop strings.
"""

import logging
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from transformers.generation import GenerateDecoderOnlyOutput

from convmodel.conversation import Conversation, ConversationLike
from convmodel.errors import ConfigError
from convmodel.generation import hf_generate
from convmodel.generation.engine.engine import Engine
from convmodel.generation.engine.forward import can_be_cached
from convmodel.generation.engine.request import Request, Row
from convmodel.generation.engine.sampling import HONOURED, Sampler, with_defaults
from convmodel.generation.options import GenerationOptions
from convmodel.generation.output import Chunk, ConversationModelOutput, Response, speed
from convmodel.generation.reranking import response_scores
from convmodel.generation.response_text import RowText
from convmodel.layout.sequence import Prompt
from convmodel.layout.tokenizer import ConversationTokenizer

if TYPE_CHECKING:
    from transformers import PreTrainedModel

logger = logging.getLogger(__name__)

SPARE = 0.25
"""Which share of a full context becomes free when its oldest turns leave, so that they need not leave every time."""

_OF_EVERY_RESPONSE = frozenset({"max_new_tokens", "eos_token_id", "pad_token_id", "stop_strings"})


def respond(
    engine: Engine, tokenizer: ConversationTokenizer, context: ConversationLike, options: GenerationOptions
) -> ConversationModelOutput:
    """Generates responses to a context.

    Raises:
        ConversationError: If the context is malformed.
        ContextTooLongError: If its newest turn alone is too long and may not be cut.
        ConfigError: If transformers refuses the options, or they do not go together.
    """
    conversation = Conversation.of(context)
    prompt = make_prompt(tokenizer, conversation, options)
    if not is_for_engine(engine.hf_model, options):
        if options.rerank is not None:
            raise ConfigError("rerank orders responses that were drawn: give do_sample=True, and no beams or the like")
        responses, raw = hf_generate.generate(engine.hf_model, tokenizer, prompt, options)
        return make_output(conversation, prompt, responses, raw)
    request = make_request(engine.hf_model, tokenizer, prompt, options)
    [responses] = _said(engine.follow(request), [request], tokenizer, options)
    rows, responses = ranked(engine, tokenizer, request, responses, options)
    sequences = _sequences(rows, options.hf["pad_token_id"])
    return make_output(conversation, prompt, responses, GenerateDecoderOnlyOutput(sequences=sequences))


def ranked(
    engine: Engine,
    tokenizer: ConversationTokenizer,
    request: Request,
    responses: Sequence[Response],
    options: GenerationOptions,
) -> tuple[list[Row], list[Response]]:
    """Puts the rows of a request, and the responses made of them, into the order that is asked for, the best first."""
    if options.rerank is None:
        return request.rows, list(responses)
    scores = response_scores(
        options.rerank, engine.hf_model, tokenizer, request.rows, responses, mmi_lambda=options.mmi_lambda
    )
    order = sorted(range(len(scores)), key=lambda number: -scores[number])
    return [request.rows[n] for n in order], [replace(responses[n], score=scores[n]) for n in order]


def make_output(
    conversation: Conversation, prompt: Prompt, responses: Sequence[Response], raw: Any = None
) -> ConversationModelOutput:
    """Puts together what is told of the responses to a context."""
    scores = [response.score for response in responses if response.score is not None]
    return ConversationModelOutput(
        responses=[response.text for response in responses],
        context=list(conversation.turns),
        finish_reasons=[response.finish_reason for response in responses],
        response_tokens=[len(response.ids) for response in responses],
        prompt_tokens=len(prompt.input_ids),
        left_out=prompt.left_out,
        cut=prompt.cut,
        scores=scores or None,
        raw=raw,
    )


def make_prompt(tokenizer: ConversationTokenizer, context: ConversationLike, options: GenerationOptions) -> Prompt:
    """Encodes a context so that it and the response fit in the model's positions.

    Raises:
        ConversationError: If the context is malformed.
        ContextTooLongError: If its newest turn alone is too long and may not be cut.
    """
    return tokenizer.prompt(
        context, reply_as=options.reply_as, budget=options.budget, cut_long_turn=options.cut_long_turn, spare=SPARE
    )


def stream(
    engine: Engine, tokenizer: ConversationTokenizer, prompt: Prompt, options: GenerationOptions
) -> Iterator[Chunk]:
    """Generates one response and yields its text as it comes; the texts join to what `respond` returns.

    Closing the iterator early stops the generation after the token in work.

    Raises:
        ConfigError: If transformers refuses the options, or they ask for beams or several responses.
    """
    if options.rerank or options.hf.get("num_beams", 1) > 1 or options.hf.get("num_return_sequences", 1) > 1:
        raise ConfigError("only one response without beams can be streamed: call generate() instead")
    if not is_for_engine(engine.hf_model, options):
        return hf_generate.stream(engine.hf_model, tokenizer, prompt, options)
    return _chunks(engine, tokenizer, make_request(engine.hf_model, tokenizer, prompt, options), options)


def is_for_engine(hf_model: "PreTrainedModel", options: GenerationOptions) -> bool:
    """Tells whether the engine does what is asked; else transformers' `generate` does."""
    asked = {
        name
        for name, value in options.hf.items()
        if not ((name in ("num_beams", "num_return_sequences") and value == 1) or (name == "use_cache" and value))
    }
    if with_defaults(hf_model, options.hf).get("do_sample"):
        asked.discard("num_return_sequences")
    return asked <= HONOURED | _OF_EVERY_RESPONSE and can_be_cached(hf_model)


def make_request(
    hf_model: "PreTrainedModel",
    tokenizer: ConversationTokenizer,
    prompt: Prompt,
    options: GenerationOptions,
    **conduct: bool,
) -> Request:
    """Makes what the engine is asked for a prompt; `conduct` is whether to remember, and to be patient.

    Raises:
        ConfigError: If transformers refuses the options.
    """
    length, stops = len(prompt.input_ids), sorted(options.stop_token_ids)
    chosen = with_defaults(hf_model, options.hf)
    try:
        samplers = [
            Sampler(
                chosen,
                prompt.input_ids,
                stops,
                seed=None if options.seed is None else options.seed + number,
                device=hf_model.device,
            )
            for number in range(options.hf.get("num_return_sequences", 1))
        ]
    except (ValueError, TypeError) as error:
        raise ConfigError(f"transformers refuses these options: {error}") from error
    return Request(
        prompt.input_ids,
        prompt.types if tokenizer.layout.use_token_types else [],
        samplers,
        stop_ids=options.stop_token_ids,
        max_new_tokens=options.hf["max_new_tokens"] if options.max_length is None else options.max_length - length,
        **conduct,
    )


def generate_together(
    engine: Engine,
    tokenizer: ConversationTokenizer,
    requests: Sequence[Request],
    options: GenerationOptions,
    *,
    progress: Callable[[], None] = lambda: None,
) -> list[list[Response]]:
    """Generates the responses to several requests with the same options, and calls `progress` after every step.

    What goes wrong with one stays in its `error`, and the others go on.
    """
    return _said(engine.follow_all(requests), requests, tokenizer, options, progress)


def _said(
    following: Generator[None],
    requests: Sequence[Request],
    tokenizer: ConversationTokenizer,
    options: GenerationOptions,
    progress: Callable[[], None] = lambda: None,
) -> list[list[Response]]:
    """Makes text of all responses while they come, for a stop string may end them."""
    texts = [[RowText(row, tokenizer, options.stop_strings) for row in request.rows] for request in requests]
    pieces: dict[RowText, list[str]] = {text: [] for each in texts for text in each}
    with closing(following):
        for _ in following:
            for text, said in pieces.items():
                said.append(text.new().text)
            progress()
    return [
        [
            Response("".join(pieces[text]) + text.finish(), text.detokenizer.ids, text.finish_reason or "length")
            for text in each
        ]
        for each in texts
    ]


def _chunks(
    engine: Engine, tokenizer: ConversationTokenizer, request: Request, options: GenerationOptions
) -> Iterator[Chunk]:
    text = RowText(request.rows[0], tokenizer, options.stop_strings)
    began = None
    with closing(engine.follow(request)) as following:
        for _ in following:
            began = began or time.perf_counter()
            chunk = text.new()
            if chunk.text:
                yield chunk
    seconds = time.perf_counter() - began if began else 0.0
    yield Chunk(
        text.finish(),
        text.finish_reason,
        *text.held(),
        tokens_per_second=speed(len(text.detokenizer.ids), seconds),
    )


def _sequences(rows: Sequence[Row], pad: int) -> Any:
    """Returns prompts and responses as transformers' `generate` does: (responses, tokens), padded."""
    each = [row.request.ids + row.tokens + ([] if row.ended_by is None else [row.ended_by]) for row in rows]
    length = max(map(len, each))
    return torch.tensor([ids + [pad] * (length - len(ids)) for ids in each])
