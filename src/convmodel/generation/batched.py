"""Responses to many contexts, which share steps.

Owns: how many contexts are looked at together, and their order. What shares a step changes no response.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import islice
from typing import TypeAlias

from convmodel.conversation import Conversation, ConversationLike
from convmodel.errors import ConvModelError, GenerationError
from convmodel.generation.engine.engine import Engine
from convmodel.generation.options import GenerationOptions
from convmodel.generation.output import ConversationModelOutput
from convmodel.generation.respond import (
    generate_together,
    is_for_engine,
    make_output,
    make_prompt,
    make_request,
    ranked,
    respond,
)
from convmodel.layout.sequence import Prompt
from convmodel.layout.tokenizer import ConversationTokenizer

TOGETHER = 128
"""How many contexts are in memory at a time, sorted by length."""

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
        engine: What generates.
        tokenizer: The layout.
        contexts: The contexts; in place of one that could not be read its error, which is passed on.
        options: For all of them; with a seed, each context has seeds of its own, made of this one and its number.
        first: The number of the first context, where others were responded to before.
        progress: Called with the number of contexts that have been responded to.
    """
    numbered = enumerate(contexts, first)
    while some := [*islice(numbered, TOGETHER)]:
        yield from _respond(engine, tokenizer, some, options, _from(some[0][0], progress))


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


def _from(start: int, progress: Callable[[int], None]) -> Callable[[int], None]:
    return lambda done: progress(start + done)


def _respond(
    engine: Engine,
    tokenizer: ConversationTokenizer,
    some: Sequence[tuple[int, ConversationLike | ConvModelError]],
    options: GenerationOptions,
    progress: Callable[[int], None],
) -> list[Result]:
    found: dict[int, Result] = {}
    asked: list[tuple[int, Conversation, Prompt]] = []
    for number, context in some:
        try:
            if isinstance(context, ConvModelError):
                raise context
            conversation = Conversation.of(context)
            asked.append((number, conversation, make_prompt(tokenizer, conversation, options)))
        except ConvModelError as error:
            found[number] = error
    # Rows of about one length waste the least; the longest first, so that memory ends soon if it does.
    asked.sort(key=lambda one: -len(one[2].input_ids))
    each = [replace(options, seed=_seed(options, number)) for number, _, _ in asked]
    if is_for_engine(engine.hf_model, options):
        requests = [
            make_request(engine.hf_model, tokenizer, prompt, own, remember=False, patient=True)
            for own, (_, _, prompt) in zip(each, asked, strict=True)
        ]
        said = generate_together(
            engine,
            tokenizer,
            requests,
            options,
            progress=lambda: progress(len(some) - sum(not request.done for request in requests)),
        )
        for (number, conversation, prompt), request, responses in zip(asked, requests, said, strict=True):
            if request.error:
                found[number] = _failed(request.error)
            else:
                _, best_first = ranked(engine, tokenizer, request, responses, options)
                found[number] = make_output(conversation, prompt, best_first)
    else:
        for own, (number, conversation, _) in zip(each, asked, strict=True):
            found[number] = _one(engine, tokenizer, conversation, own)
            progress(len(found))
    progress(len(some))
    return [found[number] for number, _ in some]


def _one(
    engine: Engine, tokenizer: ConversationTokenizer, conversation: Conversation, options: GenerationOptions
) -> Result:
    try:
        return respond(engine, tokenizer, conversation, options)
    except ConvModelError:
        raise  # options that are refused for one are refused for all
    except Exception as error:
        return _failed(error)


def _failed(error: Exception) -> ConvModelError:
    failed = GenerationError(f"no response could be made: {type(error).__name__}: {error}")
    failed.__cause__ = error
    return failed


def _seed(options: GenerationOptions, number: int) -> int | None:
    """Each context, and each of its responses, has a seed of its own."""
    return None if options.seed is None else options.seed + number * options.hf.get("num_return_sequences", 1)
