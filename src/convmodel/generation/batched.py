"""Responses to many contexts, which share steps.

Owns: how many contexts are processed together, and their order. What shares a step changes no response.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import islice
from typing import TypeAlias

from convmodel.conversation import Conversation, ConversationLike
from convmodel.errors import ConvModelError, GenerationError
from convmodel.generation.engine.engine import Engine
from convmodel.generation.engine.request import Row
from convmodel.generation.options import GenerationOptions
from convmodel.generation.output import Chunk, ConversationModelOutput
from convmodel.generation.respond import is_for_engine, make_output, make_prompt, make_request, ranked, respond
from convmodel.generation.response_text import join_chunks, read_chunks
from convmodel.layout.sequence import Prompt
from convmodel.layout.tokenizer import ConversationTokenizer

CONTEXTS_AT_ONCE = 128
"""How many contexts are in memory at the same time, sorted by length."""

Result: TypeAlias = ConversationModelOutput | ConvModelError
"""The responses to a context, or what is wrong with it."""


def respond_to_many(
    engine: Engine,
    tokenizer: ConversationTokenizer,
    contexts: Iterable[ConversationLike | ConvModelError],
    options: GenerationOptions,
    *,
    first: int = 0,
    progress: Callable[[int], None] = lambda _: None,
) -> Iterator[Result]:
    """Generates responses to many contexts and yields them in the contexts' order.

    Args:
        engine: Generates them.
        tokenizer: The layout.
        contexts: The contexts; in place of one that could not be read its error, which is passed on.
        options: For all of them; with a seed, each context has seeds of its own, made of this one and its number.
        first: The number of the first context, if earlier ones have been processed before.
        progress: Called with the number of contexts that are finished.
    """
    numbered = enumerate(contexts, first)
    while group := [*islice(numbered, CONTEXTS_AT_ONCE)]:
        yield from _respond_to_group(engine, tokenizer, group, options, progress)


def respond_to_all(
    engine: Engine,
    tokenizer: ConversationTokenizer,
    contexts: Iterable[ConversationLike],
    options: GenerationOptions,
    *,
    return_errors: bool,
) -> list[Result]:
    """Generates responses to many contexts, and raises the first error unless errors are to be returned."""
    results = []
    for result in respond_to_many(engine, tokenizer, contexts, options):
        if isinstance(result, ConvModelError) and not return_errors:
            raise result
        results.append(result)
    return results


def _respond_to_group(
    engine: Engine,
    tokenizer: ConversationTokenizer,
    group: Sequence[tuple[int, ConversationLike | ConvModelError]],
    options: GenerationOptions,
    progress: Callable[[int], None],
) -> list[Result]:
    results: dict[int, Result] = {}
    start = group[0][0]
    prompts: list[tuple[int, Conversation, Prompt, GenerationOptions]] = []
    for number, context in group:
        try:
            if isinstance(context, ConvModelError):
                raise context
            conversation = Conversation.of(context)
            own_options = replace(options, seed=_seed(options, number))
            prompts.append((number, conversation, make_prompt(tokenizer, conversation, options), own_options))
        except ConvModelError as error:
            results[number] = error
    # Rows of similar length waste the least; the longest first, so that a lack of memory shows early.
    prompts.sort(key=lambda prompt: -len(prompt[2].input_ids))
    if is_for_engine(engine.hf_model, options):
        before = start + len(results)
        _respond_together(engine, tokenizer, prompts, results, lambda done: progress(before + done))
    else:
        for number, conversation, _, own_options in prompts:
            results[number] = _respond_alone(engine, tokenizer, conversation, own_options)
            progress(start + len(results))
    progress(start + len(group))
    return [results[number] for number, _ in group]


def _respond_together(
    engine: Engine,
    tokenizer: ConversationTokenizer,
    prompts: Sequence[tuple[int, Conversation, Prompt, GenerationOptions]],
    results: dict[int, Result],
    progress: Callable[[int], None],
) -> None:
    """Adds the results of prompts that the engine processes together."""
    requests = [
        make_request(engine.hf_model, tokenizer, prompt, options, remember=False, patient=True)
        for _, _, prompt, options in prompts
    ]
    rows = [row for request in requests for row in request.rows]
    stop_strings = prompts[0][3].stop_strings if prompts else []

    def counted() -> Iterator[tuple[Row, Chunk]]:
        for row, chunk in read_chunks(rows, engine.follow_all(requests), tokenizer, stop_strings):
            yield row, chunk
            if chunk.finish_reason is not None:
                progress(sum(request.done for request in requests))

    responses = iter(join_chunks(rows, counted()))
    for (number, conversation, prompt, options), request in zip(prompts, requests, strict=True):
        own = [*islice(responses, len(request.rows))]
        if request.error:
            results[number] = _error(request.error)
        else:
            _, own = ranked(engine, tokenizer, request, own, options)
            results[number] = make_output(conversation, prompt, own)


def _respond_alone(
    engine: Engine, tokenizer: ConversationTokenizer, conversation: Conversation, options: GenerationOptions
) -> Result:
    try:
        return respond(engine, tokenizer, conversation, options)
    except ConvModelError:
        raise  # options that are refused for one are refused for all
    except Exception as error:
        return _error(error)


def _error(error: Exception) -> ConvModelError:
    result = GenerationError(f"no response could be generated: {type(error).__name__}: {error}")
    result.__cause__ = error
    return result


def _seed(options: GenerationOptions, number: int) -> int | None:
    """Returns the seed of a context; each of its responses has one of its own."""
    return None if options.seed is None else options.seed + number * options.hf.get("num_return_sequences", 1)
