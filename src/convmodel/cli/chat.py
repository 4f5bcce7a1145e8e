"""`convmodel chat`: a conversation in the terminal."""

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from convmodel.cli.console import console, load_model
from convmodel.cli.model_options import (
    GreedyOption,
    ModelOption,
    QuantizeOption,
    TemperatureOption,
    TopPOption,
    chosen_model,
    sampling,
)
from convmodel.errors import ConfigError, ConvModelError
from convmodel.files.json_lines import append_line
from convmodel.generation.defaults import TEMPERATURE, TOP_P
from convmodel.server.settings import KEY_VARIABLE

if TYPE_CHECKING:
    from convmodel.cli.remote_session import RemoteSession
    from convmodel.generation.session import Session

HELP = """\
/undo        take back your newest turn and the response to it
/retry       another response to your newest turn
/reset       forget the conversation
/save FILE   add the conversation to a JSONL file, which `convmodel fit` reads
/help        these lines
/quit        leave; so does Ctrl+D. Ctrl+C ends a response early"""


def command(
    *,
    model: ModelOption = None,
    greedy: GreedyOption = False,
    temperature: TemperatureOption = TEMPERATURE,
    top_p: TopPOption = TOP_P,
    max_new_tokens: Annotated[int | None, typer.Option(min=1, help="Longest response in tokens.")] = None,
    system: Annotated[str | None, typer.Option(help="A first turn that is never left out.")] = None,
    quantize: QuantizeOption = None,
    url: Annotated[
        str | None,
        typer.Option(help="Talk with the model of a server that speaks OpenAI's API, such as http://127.0.0.1:8000."),
    ] = None,
    api_key: Annotated[
        str | None, typer.Option(envvar=KEY_VARIABLE, help="The key of that server.", show_default=False)
    ] = None,
) -> None:
    """Talks with a model, turn by turn; /help shows what else can be typed.

    The number before the prompt tells how many turns are in the context. Old turns leave it when it is full.
    """
    if url is not None:
        if quantize is not None:
            raise ConfigError("--quantize is for a model that is loaded here: the server with that --url has its own")
        drawing = {"temperature": 0.0} if greedy else {"temperature": temperature, "top_p": top_p}
        with _remote(url, model, api_key, system, drawing, max_new_tokens) as remote:
            _talk(remote, remote.model)
        return
    name = chosen_model(model)
    conversation_model = load_model(name, quantize=quantize)
    drawing = sampling(greedy=greedy, temperature=temperature, top_p=top_p, max_new_tokens=max_new_tokens)
    session = conversation_model.session([{"role": "system", "content": system}] if system else (), **drawing)
    _talk(session, name)


def _remote(
    url: str,
    model: str | None,
    api_key: str | None,
    system: str | None,
    drawing: dict[str, float],
    max_new_tokens: int | None,
) -> "RemoteSession":
    from convmodel.cli.remote_session import RemoteSession

    def waits(seconds: float) -> None:
        console.print(f"the server is busy: again in {seconds:.0f} s", style="dim")

    length = {} if max_new_tokens is None else {"max_completion_tokens": max_new_tokens}
    return RemoteSession(url, model=model, api_key=api_key, system=system, waits=waits, **drawing, **length)


def _talk(session: "Session", name: str) -> None:
    if sys.stdin.isatty():
        console.print(f"Talking with {name}. /help for help, Ctrl+D to leave.", highlight=False)
    Chat(session).run()


class Chat:
    """Reads lines, passes them to a session, and shows what it answers."""

    def __init__(self, session: "Session") -> None:
        self.session = session
        self._interactive = sys.stdin.isatty()

    def run(self) -> None:
        """Goes on until the input ends or /quit."""
        while (line := self._read()) is not None:
            if not line:
                continue
            try:
                if line.startswith("/"):
                    if line == "/quit":
                        return
                    self._obey(line)
                else:
                    self._show(self.session.stream(line))
            except ConvModelError as error:
                console.print(str(error), style="red", markup=False, highlight=False)

    def _read(self) -> str | None:
        """Returns the next line without blanks around it; None at the end of the input."""
        try:
            if not self._interactive:
                line = sys.stdin.readline()
                return line.strip() if line else None
            import readline  # noqa: F401  (gives input() its history and editing)

            in_context = len(self.session.turns) - self.session.left_out
            console.print(f"[dim]{in_context}[/dim] [bold]>[/bold] ", end="")
            return input().strip()
        except EOFError:
            console.print()
            return None
        except KeyboardInterrupt:
            console.print("  (Ctrl+D or /quit leaves)")
            return ""

    def _show(self, chunks: Iterator[str]) -> None:
        """Prints a response as it comes; Ctrl+C ends it and keeps what was said."""
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
            console.print(f"({self.session.left_out} oldest turns no longer fit in the context)", style="dim")
        elif self.session.finish_reason == "length":
            console.print("(cut at the length limit; --max-new-tokens raises it)", style="dim")

    def _obey(self, line: str) -> None:
        """Follows a command."""
        name, _, argument = line.partition(" ")
        if name == "/help":
            console.print(HELP, markup=False, highlight=False)
        elif name == "/undo":
            console.print(f"taken back: {self.session.undo()}", style="dim", markup=False, highlight=False)
        elif name == "/retry":
            self._show(self.session.stream_again())
        elif name == "/reset":
            self.session.reset()
            console.print("forgotten", style="dim")
        elif name == "/save":
            self._save(argument.strip())
        else:
            raise ConfigError(f"there is no {name}; /help shows what there is (a turn may not begin with a slash)")

    def _save(self, file: str) -> None:
        conversation = self.session.conversation
        if not file or conversation is None:
            raise ConfigError("nothing to save yet" if file else "say where: /save FILE")
        line = {"turns": conversation.turns, "speakers": conversation.turn_speakers, "pinned": conversation.pinned}
        append_line(Path(file).expanduser(), line)
        console.print(f"added to {file}", style="dim", markup=False, highlight=False)
