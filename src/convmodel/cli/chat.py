"""`convmodel chat`: chats with a model in the terminal.

Owns: the commands that begin with a slash. The model may be local or behind a server: both are a `Session`.
"""

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from typer import Option

from convmodel.cli import flags
from convmodel.cli.console import console, load_model, print_message
from convmodel.data.reading.writing import to_record
from convmodel.errors import ConfigError, ConvModelError
from convmodel.files.json_lines import append_line
from convmodel.generation.defaults import TEMPERATURE, TOP_P
from convmodel.server.settings import KEY_VARIABLE

if TYPE_CHECKING:
    from convmodel.generation.session import Session

HELP = """\
/undo        remove your last turn and the response to it
/retry       generate another response to your last turn
/reset       start a new conversation
/save FILE   append the conversation to a JSONL file, which `convmodel fit` reads
/help        show this help
/quit        quit, like Ctrl+D; Ctrl+C stops a response"""


def command(
    *,
    model: flags.Model = None,
    greedy: flags.Greedy = False,
    temperature: flags.Temperature = TEMPERATURE,
    top_p: flags.TopP = TOP_P,
    max_new_tokens: flags.MaxNewTokens = None,
    system: Annotated[str | None, Option(help="System message: a first turn that always stays in the context.")] = None,
    quantize: flags.Quantize = None,
    url: Annotated[
        str | None,
        Option(help="Chat with the model of a server with OpenAI's API instead, such as http://127.0.0.1:8000."),
    ] = None,
    api_key: Annotated[str | None, Option(envvar=KEY_VARIABLE, help="API key of the server at --url.")] = None,
) -> None:
    """Chat with a model in the terminal; type /help for the commands.

    `convmodel chat` chats with the model in the folder `model`, or with the built-in model if there is none.

    The number before the prompt is how many turns are in the context. When the context is full, the oldest turns are
    dropped.
    """
    if url is not None:
        if quantize is not None:
            raise ConfigError("--quantize does not apply to the model of a server: leave out it or --url")
        parameters = {"temperature": 0.0} if greedy else {"temperature": temperature, "top_p": top_p}
        if max_new_tokens is not None:
            parameters["max_completion_tokens"] = max_new_tokens
        from convmodel.cli.remote_session import RemoteSession

        remote = RemoteSession(url, model=model, api_key=api_key, system=system, on_wait=_print_wait, **parameters)
        with remote:
            Chat(remote).run(remote.model)
        return
    name = model or flags.default_model()
    options = flags.sampling_options(greedy=greedy, temperature=temperature, top_p=top_p, max_new_tokens=max_new_tokens)
    context = [{"role": "system", "content": system}] if system else ()
    Chat(load_model(name, quantize=quantize).session(context, **options)).run(name)


def _print_wait(seconds: float) -> None:
    print_message(f"the server is busy: retrying in {seconds:.0f} s", style="dim")


class Chat:
    """Reads lines, passes them to a session, and prints its responses."""

    def __init__(self, session: "Session") -> None:
        self.session = session
        self._interactive = sys.stdin.isatty()

    def run(self, name: str) -> None:
        """Greets with the model's name, then reads and responds until the end of the input or /quit."""
        if self._interactive:
            print_message(f"Chatting with {name}. Type /help for the commands, Ctrl+D to quit.")
        while (line := self._read()) is not None:
            if not line:
                continue
            try:
                if line.startswith("/"):
                    if line == "/quit":
                        return
                    self._run_command(line)
                else:
                    self._print_response(self.session.stream(line))
            except ConvModelError as error:
                print_message(str(error), style="red")

    def _read(self) -> str | None:
        """Returns the next line without surrounding whitespace; None at the end of the input."""
        try:
            if not self._interactive:
                line = sys.stdin.readline()
                return line.strip() if line else None
            import readline  # noqa: F401  (adds history and line editing to input())

            in_context = len(self.session.turns) - self.session.left_out
            console.print(f"[dim]{in_context}[/dim] [bold]>[/bold] ", end="")
            return input().strip()
        except EOFError:
            console.print()
            return None
        except KeyboardInterrupt:
            console.print("  (Ctrl+D or /quit to quit)")
            return ""

    def _print_response(self, chunks: Iterator[str]) -> None:
        """Prints a response while it is generated; Ctrl+C stops it and keeps the text so far."""
        left_out = self.session.left_out
        try:
            for text in chunks:
                sys.stdout.write(text)
                sys.stdout.flush()
        except KeyboardInterrupt:
            chunks.close()  # type: ignore[attr-defined]
            console.print(" (interrupted)", end="", style="dim")
        sys.stdout.write("\n")
        sys.stdout.flush()
        if self.session.left_out > left_out:
            print_message(f"({self.session.left_out} oldest turns no longer fit in the context)", style="dim")
        elif self.session.finish_reason == "length":
            print_message("(stopped at the length limit; --max-new-tokens sets it)", style="dim")

    def _run_command(self, line: str) -> None:
        name, _, argument = line.partition(" ")
        if name == "/help":
            print_message(HELP)
        elif name == "/undo":
            print_message(f"removed: {self.session.undo()}", style="dim")
        elif name == "/retry":
            self._print_response(self.session.stream_again())
        elif name == "/reset":
            self.session.reset()
            print_message("started a new conversation", style="dim")
        elif name == "/save":
            self._save(argument.strip())
        else:
            raise ConfigError(f"there is no command {name}: /help lists them (a turn cannot begin with a slash)")

    def _save(self, file: str) -> None:
        conversation = self.session.conversation
        if not file or conversation is None:
            raise ConfigError("nothing to save yet" if file else "give a file: /save FILE")
        append_line(Path(file).expanduser(), to_record(conversation))
        print_message(f"appended to {file}", style="dim")
