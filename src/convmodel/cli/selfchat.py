"""`convmodel selfchat`: models that chat with each other or with themselves.

Owns: the printed conversation. `generation.self_chat` generates it.
"""

from collections.abc import Iterator
from itertools import chain, count, islice
from typing import Annotated

from typer import Argument, Option

from convmodel.cli import flags
from convmodel.cli.console import load_model, print_message, print_result
from convmodel.conversation import DEFAULT_SPEAKERS, Conversation
from convmodel.data.progress import console
from convmodel.data.reading.reader import ConversationReader
from convmodel.data.reading.shapes import AUTO
from convmodel.data.reading.writing import to_record
from convmodel.errors import ConfigError
from convmodel.files.json_lines import append_line, require_appendable
from convmodel.generation.defaults import TEMPERATURE, TOP_P
from convmodel.generation.self_chat import SelfChat, opening_of


def command(
    models: Annotated[
        list[str], Argument(help="One model for all speakers, or one model per speaker.", metavar="MODEL")
    ],
    *,
    speakers: Annotated[
        str, Option(help="Names of the speakers, as in the training data, separated by commas.")
    ] = ",".join(DEFAULT_SPEAKERS),
    opening: Annotated[str, Option(help="First turn of the conversation, by the first speaker.")] = "Hello",
    data: Annotated[
        str | None, Option(help=f"Conversations whose first turns are used instead of --opening: {flags.SOURCE_HELP}.")
    ] = None,
    format: flags.Format = AUTO,
    limit: Annotated[int, Option(min=1, help="Maximum number of conversations to use from --data.")] = 10,
    turns: Annotated[int, Option(min=1, help="Maximum number of turns to generate.")] = 20,
    greedy: flags.Greedy = False,
    temperature: flags.Temperature = TEMPERATURE,
    top_p: flags.TopP = TOP_P,
    max_new_tokens: flags.MaxNewTokens = None,
    seed: Annotated[int | None, Option(help="Seed of sampling, for repeatable results.")] = None,
    through_loops: Annotated[
        bool, Option("--through-loops", help="Continue when a conversation repeats itself, instead of stopping.")
    ] = False,
    output: Annotated[
        str | None,
        Option("--output", "-o", help="JSONL file to append the conversations to; `convmodel fit` reads it."),
    ] = None,
    quantize: flags.Quantize = None,
    layout: flags.Layout = "auto",
) -> None:
    """Have a model chat with itself or with another model, and report when they repeat themselves.

    `convmodel selfchat model`

    `convmodel selfchat model other --opening "Hi, who are you?" --turns 40`

    `convmodel selfchat model --data valid.jsonl --limit 50 --output chats.jsonl`
    """
    names = [name.strip() for name in speakers.split(",")]
    if len(set(names)) < max(2, len(names)) or not all(names):
        raise ConfigError(f"--speakers {speakers}: write at least two different names, separated by commas")
    if len(models) not in (1, len(names)):
        raise ConfigError(f"{len(models)} models for {len(names)} speakers ({speakers}): give one, or one per speaker")
    if output is not None:
        require_appendable(output, fix="choose another --output")  # before the models are loaded
    loaded = {name: load_model(name, quantize=quantize, layout=layout) for name in dict.fromkeys(models)}
    cast = dict(zip(names, [loaded[name] for name in models] * (len(names) if len(models) == 1 else 1), strict=True))
    options = flags.sampling_options(greedy=greedy, temperature=temperature, top_p=top_p, max_new_tokens=max_new_tokens)
    chats: list[SelfChat] = []
    openings = _openings(opening, data, format, names, limit)
    for number, context in enumerate(openings):
        if seed is not None:
            options["seed"] = seed + number * turns
        chat = SelfChat(cast, context, turns=turns, stop_at_loop=not through_loops, **options)
        if number:
            print_result("")
        place = f"conversation {number + 1} of {len(openings)}, " if len(openings) > 1 else ""
        for name, text in chain(zip(context.turn_speakers, context.turns, strict=True), _counted(chat, turns, place)):
            print_result(f"{name}: {text}")
        chats.append(chat)
        _print_summary(chat)
        if output is not None:
            append_line(output, to_record(chat.conversation), fix="choose another --output")
    if len(chats) > 1:
        loops = sum(chat.loop is not None for chat in chats)
        print_message(f"{loops} of {len(chats)} conversations repeat themselves")


def _counted(chat: SelfChat, turns: int, place: str) -> Iterator[tuple[str, str]]:
    """Yields the turns of a chat, and shows the number of the next one while it is generated."""
    following = iter(chat)
    for number in count(1):
        with console.status(f"{place}turn {number} of {turns} ..."):
            turn = next(following, None)
        if turn is None:
            return
        yield turn


def _openings(opening: str, data: str | None, shape: str, names: list[str], limit: int) -> list[Conversation]:
    if data is None:
        return [opening_of(opening, names)]
    reader = ConversationReader(data, shape=shape)
    return [opening_of(conversation.turns[conversation.pinned], names) for conversation in islice(reader, limit)]


def _print_summary(chat: SelfChat) -> None:
    notes = [f"{len(chat.conversation.turns) - chat.opening} turns"]
    if chat.loop:
        cycle = "the same turn" if chat.loop.period == 1 else f"the same {chat.loop.period} turns"
        notes.append(f"from turn {chat.loop.first} on, {cycle} over and over")
    if chat.ended_by == "empty":
        notes.append("ended by an empty response")
    if chat.repeated:
        notes.append(f"{chat.repeated} repeat an earlier turn of the same speaker")
    if chat.cut_off:
        notes.append(f"{chat.cut_off} cut off at the maximum length")
    print_message(f"({'; '.join(notes)})", style="dim")
