"""A context to responses: text in, text out.

Owns: whether the engine or transformers' `generate` generates them, and their order. `response_text.py` makes the text.
"""

from collections.abc import Generator, Iterator, Sequence
from contextlib import closing
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from transformers.generation import GenerateDecoderOnlyOutput

from convmodel.conversation import Conversation, ConversationLike
from convmodel.errors import ConfigError
from convmodel.generation import hf_generate
from convmodel.generation.constraints.constraint import constraint_of, legal_tokens
from convmodel.generation.engine.engine import Engine
from convmodel.generation.engine.request import Request, Row
from convmodel.generation.engine.sampling import HONOURED, Sampler, with_defaults
from convmodel.generation.options import GenerationOptions
from convmodel.generation.output import Chunk, ConversationModelOutput, Response
from convmodel.generation.reranking import response_scores, rewards
from convmodel.generation.response_text import join_chunks, read_chunks
from convmodel.hf_model.caching import can_be_cached, model_kind
from convmodel.layout.sequence import Prompt
from convmodel.layout.tokenizer import ConversationTokenizer

if TYPE_CHECKING:
    from transformers import PreTrainedModel

SPARE = 0.25
"""The fraction of a full context that is freed when the oldest turns are left out, so that this is rarely necessary."""

_LENGTH_AND_END = frozenset({"max_new_tokens", "eos_token_id", "pad_token_id", "stop_strings"})


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
        _check_rerank(engine.hf_model, options)
        responses, raw = hf_generate.generate(engine.hf_model, tokenizer, prompt, options)
        return make_output(conversation, prompt, responses, raw)
    request = make_request(engine.hf_model, tokenizer, prompt, options)
    chunks = read_chunks(request.rows, engine.follow(request), tokenizer, options.stop_strings)
    rows, responses = ranked(engine.hf_model, tokenizer, request, join_chunks(request.rows, chunks), options)
    sequences: Any = _sequences(rows, options.hf["pad_token_id"])
    return make_output(conversation, prompt, responses, GenerateDecoderOnlyOutput(sequences=sequences))


def stream(
    engine: Engine, tokenizer: ConversationTokenizer, prompt: Prompt, options: GenerationOptions
) -> Iterator[Chunk]:
    """Generates one response and yields its text in chunks, whose texts join to what `respond` returns.

    Closing the iterator early stops the generation after the current token.

    Raises:
        ConfigError: If transformers refuses the options, or they request beams or several responses.
    """
    several = options.hf.get("num_beams", 1) > 1 or options.hf.get("num_return_sequences", 1) > 1
    if several or (options.rerank and options.candidates == 1):
        raise ConfigError("only one response without beams can be streamed: call generate() instead")
    if is_for_engine(engine.hf_model, options):
        request = make_request(engine.hf_model, tokenizer, prompt, options)
        steps = engine.follow(request)
        if options.candidates > 1:
            return _chunks_of_best(engine, tokenizer, request, steps, options)
    else:
        _check_rerank(engine.hf_model, options)
        request, steps = hf_generate.follow(engine.hf_model, tokenizer, prompt, options)
    return _chunks(request, steps, tokenizer, options)


def _chunks(
    request: Request, steps: Generator[None], tokenizer: ConversationTokenizer, options: GenerationOptions
) -> Iterator[Chunk]:
    with closing(read_chunks(request.rows, steps, tokenizer, options.stop_strings)) as chunks:
        for _, chunk in chunks:
            yield chunk


def _chunks_of_best(
    engine: Engine,
    tokenizer: ConversationTokenizer,
    request: Request,
    steps: Generator[None],
    options: GenerationOptions,
) -> Iterator[Chunk]:
    """Yields the chunks of the best candidate, when all of them are complete."""
    chunks: dict[Row, list[Chunk]] = {row: [] for row in request.rows}

    def kept() -> Generator[tuple[Row, Chunk]]:
        for row, chunk in read_chunks(request.rows, steps, tokenizer, options.stop_strings):
            chunks[row].append(chunk)
            yield row, chunk

    [best], _ = ranked(engine.hf_model, tokenizer, request, join_chunks(request.rows, kept()), options)
    yield from chunks[best]


def _check_rerank(hf_model: "PreTrainedModel", options: GenerationOptions) -> None:
    """Raises a `ConfigError` if responses are to be ordered that the engine does not generate."""
    if options.rerank is not None and not can_be_cached(hf_model):
        name = "candidates" if options.candidates > 1 else "rerank"
        raise ConfigError(f"{name} needs the engine, which does not support {model_kind(hf_model)}: leave it out")
    if options.rerank is not None:
        raise ConfigError("rerank orders sampled responses: give do_sample=True, and no beams or the like")


def make_prompt(tokenizer: ConversationTokenizer, context: ConversationLike, options: GenerationOptions) -> Prompt:
    """Encodes a context so that it and the response fit in the model's positions.

    Raises:
        ConversationError: If the context is malformed.
        ContextTooLongError: If its newest turn alone is too long and may not be cut.
    """
    return tokenizer.prompt(
        context, reply_as=options.reply_as, budget=options.budget, cut_long_turn=options.cut_long_turn, spare=SPARE
    )


def beyond_engine(hf_model: "PreTrainedModel", options: GenerationOptions) -> str:
    """Names what the engine does not support, options or the model; empty if it supports all."""
    names = {
        name
        for name, value in options.hf.items()
        if not ((name in ("num_beams", "num_return_sequences") and value == 1) or (name == "use_cache" and value))
    }
    if with_defaults(hf_model, options.hf).get("do_sample"):
        names.discard("num_return_sequences")
    unsupported = ", ".join(sorted(names - HONOURED - _LENGTH_AND_END))
    return unsupported or ("" if can_be_cached(hf_model) else model_kind(hf_model))


def is_for_engine(hf_model: "PreTrainedModel", options: GenerationOptions) -> bool:
    """Returns whether the engine supports all options and the model; otherwise transformers' `generate` is used."""
    unsupported = beyond_engine(hf_model, options)
    if options.grammar is not None and unsupported:
        raise ConfigError(f"{options.grammar.option} does not go together with {unsupported}: leave one of them out")
    return not unsupported


def make_request(
    hf_model: "PreTrainedModel",
    tokenizer: ConversationTokenizer,
    prompt: Prompt,
    options: GenerationOptions,
    *,
    remember: bool = True,
    patient: bool = False,
) -> Request:
    """Creates the engine's request for a prompt, with one row per response; see `Request` for the two flags.

    Raises:
        ConfigError: If transformers refuses the options.
    """
    stop_ids = sorted(options.stop_token_ids)
    sampling = with_defaults(hf_model, options.hf)
    constraint = None if options.grammar is None else constraint_of(tokenizer, options.grammar)
    most, optional = options.new_tokens(prompt), options.grammar is not None and options.grammar.optional
    try:
        samplers = [
            Sampler(
                sampling,
                prompt.input_ids,
                stop_ids,
                seed=seed,
                device=hf_model.device,
                legal_tokens=None
                if constraint is None
                else legal_tokens(constraint, stop_ids, most, optional=optional),
            )
            for seed in options.seeds
        ]
    except ConfigError:
        raise
    except (ValueError, TypeError) as error:
        raise ConfigError(f"transformers refuses these options: {error}") from error
    request = Request(
        prompt.input_ids,
        prompt.types if tokenizer.layout.use_token_types else [],
        samplers,
        stop_ids=options.stop_token_ids,
        max_new_tokens=most,
        remember=remember,
        patient=patient,
    )
    request.lead = prompt.lead if constraint is None or optional else ""  # another constraint is on the whole text
    return request


def ranked(
    hf_model: "PreTrainedModel",
    tokenizer: ConversationTokenizer,
    request: Request,
    responses: Sequence[Response],
    options: GenerationOptions,
) -> tuple[list[Row], list[Response]]:
    """Orders the rows of a request, and the responses made of them, by `rerank`, the best first.

    Of several candidates only the best one is returned.
    """
    if options.rerank is None:
        return request.rows, list(responses)
    scores = response_scores(
        options.rerank,
        hf_model,
        tokenizer,
        request.rows,
        responses,
        mmi_lambda=options.mmi_lambda,
        repeat_weight=options.repeat_weight,
    )
    if weight := options.reward_weight:
        liked = rewards(hf_model, tokenizer, request.rows, responses)
        scores = [score + weight * each for score, each in zip(scores, liked, strict=True)]
    order = sorted(range(len(scores)), key=lambda number: -scores[number])
    if options.candidates > 1:
        del order[1:]
    return [request.rows[n] for n in order], [replace(responses[n], score=scores[n]) for n in order]


def make_output(
    conversation: Conversation, prompt: Prompt, responses: Sequence[Response], raw: Any = None
) -> ConversationModelOutput:
    """Creates the result of `generate` from the responses to a context."""
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


def _sequences(rows: Sequence[Row], pad: int) -> torch.Tensor:
    """Returns prompts with responses as transformers' `generate` does: (responses, tokens), padded."""
    sequences = [row.request.ids + row.tokens + ([] if row.ended_by is None else [row.ended_by]) for row in rows]
    length = max(map(len, sequences))
    return torch.tensor([ids + [pad] * (length - len(ids)) for ids in sequences])
