"""`convmodel generate`: responds to one context, or to a file of them."""

import json
import time
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.progress import Progress, TextColumn, TimeElapsedColumn

from convmodel.cli.console import console, load_model, print_json, print_result
from convmodel.cli.data_options import FormatOption
from convmodel.cli.model_options import ModelOption, QuantizeOption, chosen_model
from convmodel.conversation import Conversation
from convmodel.data.reading.reader import ConversationReader
from convmodel.data.reading.shapes import AUTO
from convmodel.errors import ConfigError
from convmodel.training.units import duration

if TYPE_CHECKING:
    from convmodel.model import ConversationModel


def command(
    context: Annotated[
        list[str] | None, typer.Argument(help="The turns so far, oldest first.", metavar="TURN...", show_default=False)
    ] = None,
    *,
    input: Annotated[
        str | None, typer.Option("--input", "-i", help="Contexts: a file, a folder, - or owner/name of the hub.")
    ] = None,
    output: Annotated[
        str | None, typer.Option("--output", help="Where the responses to --input go, a line of JSON each.")
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace what --output holds.")] = False,
    format: FormatOption = AUTO,
    model: ModelOption = None,
    max_new_tokens: Annotated[int | None, typer.Option(min=1, help="Longest response in tokens.")] = None,
    do_sample: Annotated[bool, typer.Option("--do-sample", help="Sample instead of taking the likeliest.")] = False,
    temperature: Annotated[float | None, typer.Option(help="Above 1 bolder, below 1 safer; implies sampling.")] = None,
    top_p: Annotated[float | None, typer.Option(help="Sample from this much probability; implies sampling.")] = None,
    num_return_sequences: Annotated[int | None, typer.Option("-n", min=1, help="How many responses.")] = None,
    rerank: Annotated[
        str | None,
        typer.Option(help="Orders the responses of -n by likelihood, mmi (what fits anything last) or next-turn."),
    ] = None,
    seed: Annotated[int | None, typer.Option(help="Makes sampling repeatable.")] = None,
    reply_as: Annotated[
        str | None,
        typer.Option(
            help="Which speaker responds: turns are by user and assistant in turn, those of --input as they say."
        ),
    ] = None,
    quantize: QuantizeOption = None,
    option: Annotated[
        list[str] | None, typer.Option("--option", "-o", help="Any option of transformers' generate, as `NAME=VALUE`.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Responds to a conversation given as arguments, one turn each, or to all those of a file.

    `convmodel generate "Hello" "Hi, how are you?" --top-p 0.95 --seed 1`

    `convmodel generate --input contexts.jsonl --output responses.jsonl`

    Responses to a file share their steps, which is several times as fast as one by one. Stopped or killed, the same
    command goes on. A context that cannot be used has its error in its line.
    """
    given = {
        "max_new_tokens": max_new_tokens,
        "do_sample": do_sample or temperature is not None or top_p is not None or None,
        "temperature": temperature,
        "top_p": top_p,
        "num_return_sequences": num_return_sequences,
        "seed": seed,
        "reply_as": reply_as,
    }
    options = {name: value for name, value in given.items() if value is not None} | _read_options(option or [])
    if rerank is not None:
        options["rerank"] = rerank
    if input is not None:
        if context or as_json or output is None:
            raise ConfigError("--input takes --output, and neither turns nor --json")
        reader = ConversationReader(input, shape=format)
        _respond_to_file(*_loaded(chosen_model(model), quantize, options), reader, output, overwrite=overwrite)
        return
    if not context or output is not None:
        raise ConfigError('give turns, such as: convmodel generate "Hello"; or --input FILE with --output FILE')
    loaded, options = _loaded(chosen_model(model), quantize, options)
    speakers = Conversation(context).speaker_names
    if reply_as is not None and len(speakers) > 1 and reply_as not in speakers:
        console.print(
            f"{reply_as} has not spoken yet: the turns are those of {' and '.join(speakers)}, so that a third speaker "
            "responds, whom the model may not know",
            style="yellow",
            markup=False,
            highlight=False,
            soft_wrap=True,
        )
    made = loaded.generate(context, **options)
    if as_json:
        print_json(made.to_dict())
        return
    for response in made.responses:
        print_result(response)


def _loaded(model: str, quantize: str | None, options: dict[str, Any]) -> "tuple[ConversationModel, dict[str, Any]]":
    """Loads a model, and the head that ranks its responses where that is asked for."""
    from convmodel.hf_model.next_turn import NextTurnHead

    loaded = load_model(model, quantize=quantize)
    if options.get("rerank") == "next-turn":
        options = options | {"rerank": NextTurnHead.load(model, loaded.hf_model)}
    return loaded, options


def _respond_to_file(
    model: "ConversationModel", options: dict[str, Any], contexts: ConversationReader, path: str, *, overwrite: bool
) -> None:
    from convmodel.generation.options import read_options
    from convmodel.generation.responses_file import write_responses

    checked = read_options(model.hf_model, model.tokenizer, options)
    began = time.monotonic()
    columns = (TextColumn("{task.completed:,} responded to"), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task("", total=None)
        done = write_responses(
            model.engine,
            model.tokenizer,
            contexts,
            path,
            checked,
            overwrite=overwrite,
            progress=lambda number: bar.update(task, completed=number),
        )
    seconds = time.monotonic() - began
    there = f", {done.kept:,} of them there before" if done.kept else ""
    console.print(
        f"{path}: {done.contexts:,} contexts{there}; {done.prompt_tokens:,} tokens read and {done.response_tokens:,} "
        f"generated in {duration(seconds)}",
        highlight=False,
        soft_wrap=True,
    )
    if done.failed:
        console.print(
            f"{done.failed:,} of them have an error in their line, the first: {done.first_error}",
            style="yellow",
            markup=False,
            highlight=False,
            soft_wrap=True,
        )


def _read_options(pairs: list[str]) -> dict[str, Any]:
    """Reads `NAME=VALUE`, where the value is JSON, or else text."""
    options = {}
    for pair in pairs:
        name, equals, value = pair.partition("=")
        if not equals or not name:
            raise ConfigError(f"--option {pair}: write NAME=VALUE, such as num_beams=4")
        try:
            options[name] = json.loads(value)
        except ValueError:
            options[name] = value
    return options
