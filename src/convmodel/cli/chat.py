"""`convmodel chat`: chats with a model in the terminal.

Owns: the commands that begin with a slash. The model may be local or behind a server: both are a `Session`.
"""

import json
import shutil
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from typer import Option

from convmodel.arguments.values import without_none
from convmodel.cli import flags
from convmodel.cli.console import load_model, print_message, program
from convmodel.cli.line_editor import LineEditor, history_file, is_terminal, unseen_keys
from convmodel.cli.streams import read_line
from convmodel.cli.word_wrap import WordWrap
from convmodel.data.progress import console
from convmodel.data.reading.writing import to_record
from convmodel.errors import ConfigError, ConvModelError
from convmodel.files.hub import CHITCHAT
from convmodel.files.json_lines import append_line
from convmodel.generation.defaults import TEMPERATURE, TOP_P
from convmodel.server.settings import KEY_VARIABLE

if TYPE_CHECKING:
    from convmodel.generation.session import Session

COMMANDS = {
    "/undo": ("", "remove your last turn and the response to it"),
    "/retry": ("", "generate another response to your last turn"),
    "/reset": ("", "start a new conversation"),
    "/system": ("TEXT", "set the system message, a first turn that always stays in the context"),
    "/set": ("NAME VALUE", "set an option of generation, such as temperature 0.5; /set lists all values"),
    "/model": ("NAME", "continue the conversation with another model"),
    "/save": ("FILE", "append the conversation to a JSONL file, which `convmodel fit` reads"),
    "/help": ("", "show this help"),
    "/quit": ("", "quit, as /exit, /bye and Ctrl+D do; Ctrl+C stops a response"),
}
_QUIT = ("/quit", "/exit", "/bye")
_HOW_TO_QUIT = "(Ctrl+D or /quit to quit)"
_LEAVING = ("quit", "exit")  # as a whole turn, they are more likely commands
_OPTIONS = ("temperature", "top_p", "top_k", "max_new_tokens", "seed", "repetition_penalty", "do_sample", "candidates")
ABOUT_CHITCHAT = (
    "It is a toy for small talk, with 15 M parameters, and makes everything up. For a model that knows more:\n"
    "  {program} chat --model HuggingFaceTB/SmolLM2-360M-Instruct"
)
_KEYS = "Enter sends a turn, Alt+Enter begins a new line in it, Tab completes commands, arrow up recalls earlier turns."


def command(
    *,
    model: flags.Model = None,
    greedy: flags.Greedy = False,
    temperature: flags.OwnTemperature = None,
    top_p: flags.OwnTopP = None,
    max_new_tokens: flags.MaxNewTokens = None,
    system: Annotated[str | None, Option(help="System message: a first turn that always stays in the context.")] = None,
    system_messages: flags.SystemMessages = False,
    quantize: flags.Quantize = None,
    layout: flags.Layout = "auto",
    url: Annotated[
        str | None,
        Option(help="Chat with the model of a server with OpenAI's API instead, such as 127.0.0.1:8000."),
    ] = None,
    api_key: Annotated[str | None, Option(envvar=KEY_VARIABLE, help="API key of the server at --url.")] = None,
    no_history: Annotated[
        bool, Option("--no-history", help="Keep nothing of what you type for the next start.")
    ] = False,
) -> None:
    """Chat with a model in the terminal; type /help for the commands.

    `convmodel chat` chats with the model in the folder `model`, or with the built-in model if there is none.

    The number before the prompt is how many turns are in the context. When the context is full, the oldest turns are
    dropped. What you type is kept for the arrow keys of the next start, in `~/.local/state/convmodel/chat_history`.
    """
    history = None if no_history else history_file()
    if url is not None:
        if quantize is not None:
            raise ConfigError("--quantize does not apply to the model of a server: leave out it or --url")
        sampling = None if greedy else {"temperature": TEMPERATURE, "top_p": TOP_P}
        chosen = {"temperature": 0.0} if greedy else {"temperature": temperature, "top_p": top_p}
        given = without_none({**chosen, "max_new_tokens": max_new_tokens})
        from convmodel.cli.remote_session import PARAMETERS, RemoteSession

        with RemoteSession(
            url, model=model, api_key=api_key, on_wait=_print_wait, sampling=sampling, **given
        ) as remote:

            def choose(name: str) -> RemoteSession:
                remote.choose(name)
                return remote

            Chat(remote, remote.model, choose, PARAMETERS, unset="(the server's)").begin(system, history)
        return
    # By default, a session samples.
    values: dict[str, Any] = {"max_new_tokens": max_new_tokens, "do_sample": False if greedy else None}
    values |= {} if greedy else {"temperature": temperature, "top_p": top_p}
    options = without_none(values)

    def open_session(name: str) -> "Session":
        with unseen_keys():
            return load_model(name, quantize=quantize, layout=layout).session(**options)

    name = model or flags.default_model()
    chat = Chat(open_session(name), name, open_session, _OPTIONS, system_messages=system_messages)
    chat.begin(system, history)


def _print_wait(seconds: float) -> None:
    print_message(f"the server is busy: retrying in {seconds:.0f} s", style="dim")


class Chat:
    """Reads turns and commands, passes them to a session, and prints its responses."""

    def __init__(
        self,
        session: "Session",
        name: str,
        open_session: Callable[[str], "Session"],
        options: Sequence[str] = _OPTIONS,
        *,
        system_messages: bool = False,
        unset: str = "(not set)",
    ) -> None:
        """Chats in a session with the model `name`.

        Args:
            session: The session.
            name: The name of its model.
            open_session: Returns a session with another model.
            options: Names of options that Tab completes.
            system_messages: Whether models that were trained without system messages get one.
            unset: What `/set` prints in place of the value of an option that has none.
        """
        self.session = session
        self._name = name
        self._open_session = open_session
        self._options = options
        self._system_messages = system_messages
        self._unset = unset
        self._editor: LineEditor | None = None

    def begin(self, system: str | None, history: Path | None) -> None:
        """Sets the system message, greets at a terminal, and chats; `history` is the file for what is typed there."""
        if system is not None:
            self._require_system(self.session, "--system")
            self.session.set_system(system)
        if is_terminal():
            try:
                self._editor = LineEditor(self._complete, history)
            except OSError as error:
                print_message(f"what you type is not kept: {error}", style="yellow")
                self._editor = LineEditor(self._complete, None)
            print_message(f"Chatting with {self._name}. /help lists the commands, Ctrl+D quits.")
            if self._name == CHITCHAT:
                print_message(ABOUT_CHITCHAT.format(program=program()), style="dim")
            with unseen_keys():
                self._run()
        else:
            self._run()

    def _run(self) -> None:
        """Reads and responds until the end of the input or /quit."""
        while (text := self._read()) is not None:
            if not text:
                continue
            try:
                if text.startswith("/"):
                    name, *argument = text.split(maxsplit=1)
                    if name in _QUIT:
                        return
                    self._run_command(name, *argument)
                else:
                    self._print_response(self.session.stream(text))
            except ConvModelError as error:
                print_message(str(error), style="red")
            except KeyboardInterrupt:
                if self._editor is None:
                    raise
                print_message(_HOW_TO_QUIT, style="dim")

    def _read(self) -> str | None:
        """Returns the next turn or command without surrounding whitespace; None at the end of the input."""
        if self._editor is None:
            line = read_line()
            return line.strip() if line else None
        try:
            text = self._editor.read(len(self.session.turns) - self.session.left_out).strip()
            if text.lower() in _LEAVING and self._editor.ask("Quit? [Y/n] ").strip().lower() not in ("n", "no"):
                return None
            return text
        except EOFError:
            return None
        except KeyboardInterrupt:
            print_message(_HOW_TO_QUIT, style="dim")
            return ""

    def _complete(self, line: str) -> Iterable[str]:
        """Returns the commands and options that a line can be completed to."""
        name, blank, argument = line.partition(" ")
        if not blank:
            return [name for name in (*COMMANDS, *_QUIT[1:]) if line and name.startswith(line)]
        options = dict.fromkeys([*self._options, *self.session.options]) if name == "/set" else ()
        return [f"{name} {option}" for option in options if option.startswith(argument)]

    def _print_response(self, chunks: Iterator[str]) -> None:
        """Prints a response while it is generated; Ctrl+C stops it and keeps the text so far."""
        left_out = self.session.left_out
        wrap = WordWrap(lambda: shutil.get_terminal_size().columns).feed if sys.stdout.isatty() else str
        try:
            for text in chunks:
                sys.stdout.write(wrap(text))
                sys.stdout.flush()
        except KeyboardInterrupt:
            chunks.close()  # type: ignore[attr-defined]
            console.print(" (interrupted)", end="", style="dim")
        sys.stdout.write("\n")
        sys.stdout.flush()
        if self.session.left_out > left_out:
            print_message(f"({self.session.left_out} oldest turns no longer fit in the context)", style="dim")
        elif self.session.finish_reason == "length":
            print_message("(stopped at the length limit: /set max_new_tokens NUMBER changes it)", style="dim")

    def _run_command(self, name: str, argument: str = "") -> None:
        if name == "/help":
            _print_help(with_keys=self._editor is not None)
        elif name == "/undo":
            print_message(f"removed: {self.session.undo()}", style="dim")
        elif name == "/retry":
            self._print_response(self.session.stream_again())
        elif name == "/reset":
            self.session.reset()
            print_message("started a new conversation", style="dim")
        elif name == "/system":
            self._set_system(argument)
        elif name == "/set":
            self._set_option(*argument.split(maxsplit=1))
        elif name == "/model":
            self._change_model(argument)
        elif name == "/save":
            self._save(argument)
        else:
            near = get_close_matches(name, [*COMMANDS, *_QUIT], n=1)
            fix = f"did you mean {near[0]}?" if near else "/help lists them"
            raise ConfigError(f"there is no command {name}: {fix} (a turn cannot begin with a slash)")

    def _require_system(self, session: "Session", what: str, fix: str = "leave it out") -> None:
        """Refuses a system turn that the model would read as an ordinary one, as `convmodel serve` does."""
        if not (self._system_messages or session.takes_system):
            raise ConfigError(
                f"{what} does not suit this model, which was trained without system messages and would read one as an "
                f"ordinary turn: {fix}, or start with --system-messages"
            )

    def _set_system(self, text: str) -> None:
        if text:
            self._require_system(self.session, "/system")
            self.session.set_system(text)
            print_message("set the system message", style="dim")
            return
        conversation = self.session.conversation
        pinned = conversation.turns[: conversation.pinned] if conversation else ()
        print_message("\n".join(pinned) or "there is no system message: /system TEXT sets one", style="dim")

    def _set_option(self, name: str = "", value: str = "") -> None:
        if not value:
            shown = {name: self.session.setting(name)} if name else self.session.settings
            for option, setting in shown.items():
                text = self._unset if setting is None else json.dumps(setting, ensure_ascii=False)
                print_message(f"{option} {text}", style="dim")
            return
        self.session.set_options(**{name: flags.parse_value(value)})
        print_message(f"{name} is {value}", style="dim")

    def _change_model(self, name: str) -> None:
        if not name:
            print_message(f"the model is {self._name}: /model NAME continues with another one", style="dim")
            return
        session = self._open_session(name)
        conversation = self.session.conversation
        if conversation is not None and conversation.pinned:
            self._require_system(session, "the system message of this conversation", fix=f"stay with {self._name}")
        if session is not self.session:
            session.set_options(**self.session.options)
            session.continue_from(self.session)
        self.session, self._name = session, name
        print_message(f"continuing with {name}", style="dim")

    def _save(self, file: str) -> None:
        conversation = self.session.conversation
        if not file or conversation is None:
            raise ConfigError("nothing to save yet" if file else "give a file: /save FILE")
        try:
            path = Path(file).expanduser()
        except RuntimeError:  # there is no such user
            raise ConfigError(f"{file}: its home folder does not exist: write ./{file} for a name with ~") from None
        append_line(path, to_record(conversation))
        print_message(f"appended to {file}", style="dim")


def _print_help(*, with_keys: bool) -> None:
    for name, (argument, text) in COMMANDS.items():
        print_message(f"{f'{name} {argument}':<17} {text}")
    if with_keys:
        print_message(_KEYS)
