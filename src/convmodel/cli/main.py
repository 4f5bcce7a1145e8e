"""The command line: `convmodel COMMAND`.

Owns: the list of commands, and turning errors into one line and an exit code. What a command does is in its own file.
"""

import logging
import sys
import warnings
from importlib.metadata import version
from typing import Annotated

import typer
from rich.console import Console

from convmodel.cli import (
    chat,
    compare,
    demo,
    doctor,
    evaluate,
    fit,
    generate,
    import_,
    next_turn,
    plot,
    selfchat,
    serve,
    tokenizer,
)
from convmodel.cli.console import RANK, console
from convmodel.errors import ConvModelError, StoppedError

app = typer.Typer(no_args_is_help=True, pretty_exceptions_enable=False, rich_markup_mode="markdown")
for module in (import_, doctor, fit, plot, evaluate, compare, generate, next_turn, chat, serve, selfchat, demo):
    app.command(module.__name__.rpartition(".")[2].rstrip("_").replace("_", "-"))(module.command)
app.add_typer(tokenizer.app, name="tokenizer")


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"convmodel {version('convmodel')}")
        raise typer.Exit


@app.callback()
def options(
    show_version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version and stop.")
    ] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show the whole traceback of an error.")] = False,
) -> None:
    """Conversation models that you own: fine-tune one on your dialogues, measure it, talk to it.

    **Start here**

    `convmodel chat` talks with a small model that comes with the package.

    `convmodel demo` fine-tunes it on conversations in another voice and shows what comes of it, in a minute.

    `convmodel import "WhatsApp Chat with Bob.txt" --me Ann` makes training data of your chats.

    `convmodel fit data/train.jsonl --model gpt2 --output-dir model` fine-tunes GPT-2 on them.

    `convmodel chat --model model` talks with the result.

    `convmodel serve model` opens a web page to talk on, and a server that OpenAI's clients talk to.

    Results go to standard output, everything else to standard error.
    """


def main() -> None:
    """Runs the command line and exits: 0 done, 1 an error in one line, 2 wrong usage, 130 or 143 stopped."""
    arguments = sys.argv[1:]
    before_text = arguments[: arguments.index("--")] if "--" in arguments else arguments
    debug = "--debug" in before_text
    if debug:
        arguments.remove("--debug")
    else:
        warnings.simplefilter("ignore")
    level = logging.DEBUG if debug else logging.ERROR if RANK > 0 else logging.INFO
    logging.basicConfig(level=level, format="%(message)s", stream=sys.stderr)
    for noisy in ("httpx", "httpcore", "urllib3", "filelock", "fsspec", "huggingface_hub", "torch"):
        logging.getLogger(noisy).setLevel(logging.WARNING if debug else logging.ERROR)
    try:
        app(arguments, prog_name="convmodel")
    except Exception as error:
        if debug:
            raise
        _report(error)
        # As shells say of a program that a signal ended: 143 for SIGTERM, 130 for Ctrl-C.
        sys.exit(128 + error.signal if isinstance(error, StoppedError) else 1)
    except KeyboardInterrupt:
        console.print("interrupted")
        sys.exit(130)


def _report(error: Exception) -> None:
    """Says in one line what went wrong."""
    message = " ".join(str(error).split())
    if not isinstance(error, ConvModelError):
        message = f"{type(error).__name__}: {message} (a bug of ours? convmodel --debug shows where)"
    where = f" in process {RANK}" if RANK else ""
    loud = Console(stderr=True)  # whichever process fails, the reason must be read
    loud.print(f"convmodel{where}: {message}", style="red", markup=False, highlight=False, soft_wrap=True)
