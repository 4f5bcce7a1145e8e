"""`convmodel selfchat`: models that talk to each other, to be listened to."""

from itertools import islice
from typing import Annotated

import typer

from convmodel.cli.console import console, load_model, print_result
from convmodel.cli.data_options import FormatOption
from convmodel.cli.model_options import (
    GreedyOption,
    QuantizeOption,
    TemperatureOption,
    TopPOption,
    sampling,
)
from convmodel.conversation import DEFAULT_SPEAKERS, Conversation
from convmodel.data.reading.reader import ConversationReader
from convmodel.data.reading.shapes import AUTO
from convmodel.data.reading.writing import to_record
from convmodel.errors import ConfigError
from convmodel.files.json_lines import append_line, require_appendable
from convmodel.generation.defaults import TEMPERATURE, TOP_P
from convmodel.generation.self_chat import SelfChat, SelfTalk, opening_of


def command(
    models: Annotated[
        list[str], typer.Argument(help="A model that takes all parts, or one for each speaker.", metavar="MODEL...")
    ],
    *,
    speakers: Annotated[
        str, typer.Option(help="Who takes part, by the names that the training data had, with commas between.")
    ] = ",".join(DEFAULT_SPEAKERS),
    opening: Annotated[str, typer.Option(help="What the first speaker says first.")] = "Hello",
    data: Annotated[
        str | None, typer.Option(help="Conversations whose first turns open one each, instead of --opening.")
    ] = None,
    format: FormatOption = AUTO,
    limit: Annotated[int, typer.Option(min=1, help="How many conversations of --data.")] = 10,
    turns: Annotated[int, typer.Option(min=1, help="How many turns are added at most.")] = 20,
    greedy: GreedyOption = False,
    temperature: TemperatureOption = TEMPERATURE,
    top_p: TopPOption = TOP_P,
    max_new_tokens: Annotated[int | None, typer.Option(min=1, help="Longest turn in tokens.")] = None,
    seed: Annotated[int | None, typer.Option(help="Makes sampling repeatable.")] = None,
    through_loops: Annotated[bool, typer.Option("--through-loops", help="Go on where it goes round.")] = False,
    output: Annotated[
        str | None, typer.Option("--output", help="A JSONL file to add the conversations to; `fit` reads it.")
    ] = None,
    quantize: QuantizeOption = None,
) -> None:
    """Lets a model talk to itself, or to another one, and tells where it goes round in a circle.

    `convmodel selfchat model`, `convmodel selfchat model other --opening "Hi, who are you?" --turns 40`

    `convmodel selfchat model --data valid.jsonl --limit 50 --output talks.jsonl`
    """
    names = [name.strip() for name in speakers.split(",")]
    if len(set(names)) < max(2, len(names)) or not all(names):
        raise ConfigError(f"--speakers {speakers}: write at least two different names, with commas between")
    if len(models) not in (1, len(names)):
        raise ConfigError(f"{len(models)} models for {len(names)} speakers ({speakers}): give one, or one for each")
    if output is not None:
        require_appendable(output, fix="choose another --output")  # before the models are asked
    loaded = {name: load_model(name, quantize=quantize) for name in dict.fromkeys(models)}
    cast = dict(zip(names, [loaded[name] for name in models] * (len(names) if len(models) == 1 else 1), strict=True))
    drawing = sampling(greedy=greedy, temperature=temperature, top_p=top_p, max_new_tokens=max_new_tokens)
    results = []
    for number, opened in enumerate(_openings(opening, data, format, names, limit)):
        own_seed = {} if seed is None else {"seed": seed + number * turns}
        talk = SelfTalk(
            cast,
            opened,
            turns=turns,
            stop_at_loop=not through_loops,
            **own_seed,
            **drawing,
        )
        if number:
            print_result("")
        for name, text in zip(opened.turn_speakers, opened.turns, strict=True):
            print_result(f"{name}: {text}")
        for name, text in talk:
            print_result(f"{name}: {text}")
        results.append(talk.result())
        _tell(results[-1])
        if output is not None:
            append_line(output, to_record(results[-1].conversation), fix="choose another --output")
    if len(results) > 1:
        loops = sum(result.loop is not None for result in results)
        console.print(f"{loops} of {len(results)} conversations went round in a circle", highlight=False)


def _openings(opening: str, data: str | None, shape: str, names: list[str], limit: int) -> "list[Conversation]":
    if data is None:
        return [opening_of(opening, names)]
    reader = ConversationReader(data, shape=shape)
    return [opening_of(conversation.turns[conversation.pinned], names) for conversation in islice(reader, limit)]


def _tell(result: SelfChat) -> None:
    said = len(result.conversation.turns) - result.opening
    notes = [f"{said} turns"]
    if result.loop:
        again = "the same turn" if result.loop.period == 1 else f"the same {result.loop.period} turns"
        notes.append(f"from turn {result.loop.first} on {again} again and again")
    if result.ended_by == "empty":
        notes.append("ended by a response of nothing")
    if result.said_before:
        notes.append(f"{result.said_before} of them said before by the same speaker")
    if result.cut_off:
        notes.append(f"{result.cut_off} cut off at the longest length")
    console.print(f"({'; '.join(notes)})", style="dim", highlight=False, soft_wrap=True)
