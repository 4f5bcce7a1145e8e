"""Batch generation: responses to many contexts.

Owns: how many contexts are processed together, and their order. Batching does not change any response.
"""

import os
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import islice
from typing import TypeAlias

from convmodel.arguments.values import is_table, plain
from convmodel.conversation import Conversation, ConversationLike
from convmodel.errors import ConversationError, ConvModelError, GenerationError
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

Contexts: TypeAlias = Iterable[ConversationLike]
"""Accepted wherever several contexts are expected."""

Result: TypeAlias = ConversationModelOutput | ConvModelError
"""The responses to a context, or the error."""


_ADVICE = ": give the conversations; ConversationReader reads them from a file, and a table has them in a column"


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
        engine: The engine of the model.
        tokenizer: The tokenizer of the model.
        contexts: The contexts; an error in place of a context that could not be read is yielded as its result.
        options: Options for all contexts. With a seed, context number n uses `seed + n * num_return_sequences`.
        first: The number of the first context, if earlier ones were processed in another call.
        progress: Called with the number of finished contexts.
    """
    numbered = enumerate(contexts, first)
    while group := [*islice(numbered, CONTEXTS_AT_ONCE)]:
        yield from _respond_to_group(engine, tokenizer, group, options, progress)


def respond_to_all(
    engine: Engine,
    tokenizer: ConversationTokenizer,
    contexts: Contexts,
    options: GenerationOptions,
    *,
    return_errors: bool,
    progress: Callable[[int], None] = lambda _: None,
) -> list[Result]:
    """Generates responses to many contexts, and raises the first error unless errors are to be returned."""
    if is_table(contexts) or isinstance(contexts, str | bytes | os.PathLike | Mapping | Conversation):
        raise ConversationError(f"contexts are a list of contexts, not a {type(contexts).__name__}{_ADVICE}")
    contexts = plain(contexts)
    if not isinstance(contexts, Iterable):
        raise ConversationError(f"contexts are a list of contexts, not a {type(contexts).__name__}{_ADVICE}")
    results = []
    for result in respond_to_many(engine, tokenizer, contexts, options, progress=progress):
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
            context_options = replace(options, seed=_seed(options, number))
            prompts.append((number, conversation, make_prompt(tokenizer, conversation, options), context_options))
        except ConvModelError as error:
            results[number] = error
    # Prompts of similar length need the least padding; the longest first, so that a lack of memory shows early.
    prompts.sort(key=lambda prompt: -len(prompt[2].input_ids))
    if is_for_engine(engine.hf_model, options):
        invalid = start + len(results)
        _respond_in_batch(engine, tokenizer, prompts, results, lambda done: progress(invalid + done))
    else:
        for number, conversation, _, context_options in prompts:
            results[number] = _respond_to_one(engine, tokenizer, conversation, context_options)
            progress(start + len(results))
    progress(start + len(group))
    return [results[number] for number, _ in group]


def _respond_in_batch(
    engine: Engine,
    tokenizer: ConversationTokenizer,
    prompts: Sequence[tuple[int, Conversation, Prompt, GenerationOptions]],
    results: dict[int, Result],
    progress: Callable[[int], None],
) -> None:
    """Adds the results of prompts that the engine processes in one batch."""
    requests = [
        make_request(engine.hf_model, tokenizer, prompt, options, remember=False, patient=True)
        for _, _, prompt, options in prompts
    ]
    rows = [row for request in requests for row in request.rows]
    stop_strings = prompts[0][3].stop_strings if prompts else []

    def with_progress() -> Generator[tuple[Row, Chunk]]:
        for row, chunk in read_chunks(rows, engine.follow_all(requests), tokenizer, stop_strings):
            yield row, chunk
            if chunk.finish_reason is not None:
                progress(sum(request.done for request in requests))

    responses = iter(join_chunks(rows, with_progress()))
    for (number, conversation, prompt, options), request in zip(prompts, requests, strict=True):
        candidates = [*islice(responses, len(request.rows))]
        if request.error:
            results[number] = _error(request.error)
        else:
            _, candidates = ranked(engine.hf_model, tokenizer, request, candidates, options)
            results[number] = make_output(conversation, prompt, candidates)


def _respond_to_one(
    engine: Engine, tokenizer: ConversationTokenizer, conversation: Conversation, options: GenerationOptions
) -> Result:
    try:
        return respond(engine, tokenizer, conversation, options)
    except ConvModelError:
        raise  # invalid options are invalid for every context
    except Exception as error:
        return _error(error)


def _error(error: Exception) -> ConvModelError:
    result = GenerationError(f"no response could be generated: {type(error).__name__}: {error}")
    result.__cause__ = error
    return result


def _seed(options: GenerationOptions, number: int) -> int | None:
    """Returns the seed of a context's first response; each further response uses the next seed."""
    return None if options.seed is None else options.seed + number * options.hf.get("num_return_sequences", 1)
