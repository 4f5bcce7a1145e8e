"""The command line: `convmodel COMMAND`.

Owns: the list of commands, and how errors become one line and an exit code. What a command does is in its own file.
"""

import logging
import sys
import warnings
from importlib.metadata import version
from typing import Annotated, Any

import typer
from rich.console import Console
from typer import Option

from convmodel.cli import (
    chat,
    compare,
    demo,
    doctor,
    evaluate,
    export,
    fit,
    generate,
    import_,
    improve,
    next_turn,
    plot,
    record,
    reward,
    selfchat,
    serve,
)
from convmodel.cli.console import RANK
from convmodel.cli.help import CONTEXT, Command, Group
from convmodel.cli.streams import use_utf8
from convmodel.cli.tokenizer import app as tokenizer_app
from convmodel.data.progress import console
from convmodel.errors import ConvModelError, StoppedError

app = typer.Typer(
    cls=Group,
    context_settings=CONTEXT,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
)
for module in (
    import_,
    doctor,
    fit,
    improve,
    plot,
    evaluate,
    compare,
    generate,
    record,
    reward,
    next_turn,
    chat,
    serve,
    export,
    selfchat,
    demo,
):
    name = module.__name__.rpartition(".")[2].rstrip("_").replace("_", "-")
    app.command(name, cls=Command)(module.command)
app.add_typer(tokenizer_app, name="tokenizer")


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"convmodel {version('convmodel')}")
        raise typer.Exit


@app.callback()
def options(
    show_version: Annotated[
        bool, Option("--version", "-V", callback=_show_version, is_eager=True, help="Show the version and exit.")
    ] = False,
    debug: Annotated[bool, Option("--debug", help="Show tracebacks of errors, warnings, and debug messages.")] = False,
) -> None:
    """Fine-tune, evaluate, chat with and serve conversation models.

    **Start here**

    `convmodel chat` chats with a small model that comes with the package.

    `convmodel demo` goes from a sample chat export to a bot, step by step, each with its command.

    `convmodel import "WhatsApp Chat with Bob.txt" --me Bob` converts your chats to training data.

    `convmodel fit data/train.jsonl --model gpt2 --output-dir model` fine-tunes GPT-2 on them.

    `convmodel chat --model model` chats with the result.

    `convmodel serve model` serves it: a chat page, and an API for OpenAI clients.

    `convmodel export model -o bot.gguf` writes it for llama.cpp, Ollama and LM Studio.

    `convmodel COMMAND --help` explains a command. Results go to standard output, everything else to standard error.
    """


class _Messages(logging.StreamHandler[Any]):
    """Writes to what standard error is now: a progress bar replaces it, to keep messages above the bar."""

    @property
    def stream(self) -> Any:
        return sys.stderr

    @stream.setter
    def stream(self, value: Any) -> None:
        pass


def main() -> None:
    """Runs the command line and exits with 0 (success), 1 (error), 2 (wrong usage), or 130 or 143 (stopped)."""
    use_utf8()
    arguments = sys.argv[1:]
    debug = "--debug" in (arguments[: arguments.index("--")] if "--" in arguments else arguments)
    if debug:
        arguments.remove("--debug")
    else:
        warnings.simplefilter("ignore")
    level = logging.DEBUG if debug else logging.ERROR if RANK > 0 else logging.INFO
    logging.basicConfig(level=level, format="%(message)s", handlers=[_Messages()])
    noisy_libraries = (
        "httpx", "httpx2", "httpcore", "httpcore2", "urllib3", "filelock", "fsspec", "gguf", "huggingface_hub",
        "matplotlib", "torch",
    )  # fmt: skip
    for noisy in noisy_libraries:
        logging.getLogger(noisy).setLevel(logging.WARNING if debug else logging.ERROR)
    try:
        app(arguments, prog_name="convmodel")
    except Exception as error:
        if debug:
            raise
        _report(error)
        # The exit code that shells report for a signal: 143 for SIGTERM, 130 for Ctrl+C.
        sys.exit(128 + error.signal if isinstance(error, StoppedError) else 1)
    except KeyboardInterrupt:
        console.print("interrupted")
        sys.exit(130)
    except BaseException as error:
        if debug or type(error).__name__ != "PanicException":  # of tokenizers, which is written in Rust
            raise
        _report(error)
        sys.exit(1)


_NO_MEMORY = ("allocate memory", "out of memory", "memory allocation", "map segment", "can't start new thread")
"""Parts of the messages of Linux, torch, and Rust's thread pools where memory is exhausted."""


def _report(error: BaseException) -> None:
    """Prints an error in one line."""
    message = " ".join(str(error).split())
    if isinstance(error, MemoryError) or any(sign in message for sign in _NO_MEMORY):
        message = (
            f"there is not enough memory ({message or 'none left'}): close other programs, or use a smaller model, "
        )
        message += "batch or file"
    elif not isinstance(error, ConvModelError):
        message = f"{type(error).__name__}: {message} (probably a bug in convmodel; --debug shows the traceback)"
    where = f" in process {RANK}" if RANK else ""
    # Not `console`, which is quiet in all processes but one: any of them may fail.
    text = f"convmodel{where}: {message}"
    Console(stderr=True).print(text, style="red", markup=False, highlight=False, soft_wrap=True)
