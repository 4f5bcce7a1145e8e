"""`convmodel generate`: responds to one context."""

import json
from typing import Annotated, Any

import typer

from convmodel.cli.console import DEFAULT_MODEL, load_model, print_json, print_result
from convmodel.cli.model_options import QuantizeOption
from convmodel.errors import ConfigError


def command(
    context: Annotated[list[str], typer.Argument(help="The turns so far, oldest first.", metavar="TURN...")],
    *,
    model: Annotated[str, typer.Option("--model", "-m", help="A folder or a hub id.")] = DEFAULT_MODEL,
    max_new_tokens: Annotated[int | None, typer.Option(min=1, help="Longest response in tokens.")] = None,
    do_sample: Annotated[bool, typer.Option("--do-sample", help="Sample instead of taking the likeliest.")] = False,
    temperature: Annotated[float | None, typer.Option(help="Above 1 bolder, below 1 safer; implies sampling.")] = None,
    top_p: Annotated[float | None, typer.Option(help="Sample from this much probability; implies sampling.")] = None,
    num_return_sequences: Annotated[int | None, typer.Option("-n", min=1, help="How many responses.")] = None,
    seed: Annotated[int | None, typer.Option(help="Makes sampling repeatable.")] = None,
    reply_as: Annotated[str | None, typer.Option(help="Which speaker responds.")] = None,
    quantize: QuantizeOption = None,
    option: Annotated[
        list[str] | None, typer.Option("--option", "-o", help="Any option of transformers' generate, as `NAME=VALUE`.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Responds to a conversation given as arguments, one turn each.

    `convmodel generate "Hello" "Hi, how are you?" --top-p 0.95 --seed 1`
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
    output = load_model(model, quantize=quantize).generate(context, **options)
    if as_json:
        print_json(
            {
                "responses": output.responses,
                "context": output.context,
                "finish_reasons": output.finish_reasons,
                "prompt_tokens": output.prompt_tokens,
                "response_tokens": output.response_tokens,
                "left_out": output.left_out,
            }
        )
        return
    for response in output.responses:
        print_result(response)


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
