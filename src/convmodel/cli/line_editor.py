"""Reading turns at a terminal: line editing, history, completion.

Owns: the keys, the history file, and the terminal's echo. Does not know what a turn or a command means.
"""

import os
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from prompt_toolkit.document import Document
    from prompt_toolkit.history import History
    from prompt_toolkit.input import Input
    from prompt_toolkit.key_binding import KeyBindings
    from prompt_toolkit.output import Output

HISTORY_LIMIT = 1000  # entries that are kept between two starts

Complete = Callable[[str], Iterable[str]]
"""Returns the lines that a line can be completed to."""


class LineEditor:
    """Reads one entry after the other from a terminal.

    Enter ends an entry, Alt+Enter begins a new line in it. Lines that are pasted together are one entry. Tab completes.
    """

    def __init__(
        self,
        complete: Complete,
        history: Path | None,
        *,
        input: "Input | None" = None,
        output: "Output | None" = None,
    ) -> None:
        """Opens the history; `input` and `output` are the terminal by default.

        Raises:
            OSError: If the history cannot be read or written.
        """
        from prompt_toolkit import PromptSession
        from prompt_toolkit.shortcuts import CompleteStyle
        from prompt_toolkit.styles import Style

        self._terminal: dict[str, Any] = {"input": input, "output": output or _terminal_output()}
        self._session: PromptSession[str] = PromptSession(
            history=_history(history),
            completer=_completer(complete),
            complete_while_typing=False,
            complete_style=CompleteStyle.READLINE_LIKE,
            multiline=True,
            key_bindings=_keys(),
            style=Style.from_dict({"count": "ansibrightblack", "mark": "bold"}),
            **self._terminal,
        )

    def read(self, count: int) -> str:
        """Reads an entry after a prompt with a number.

        Raises:
            EOFError: At Ctrl+D in an empty entry.
            KeyboardInterrupt: At Ctrl+C.
        """
        return self._session.prompt([("class:count", f"{count} "), ("class:mark", "> ")])

    def ask(self, question: str) -> str:
        """Reads the answer to a question; it is not part of the history. Raises what `read` raises."""
        from prompt_toolkit import PromptSession

        session: PromptSession[str] = PromptSession(**self._terminal)
        return session.prompt(question)


def history_file() -> Path:
    """Returns the file that keeps the history of `convmodel chat`, in the user's folder for such state."""
    state = os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state"
    return Path(state) / "convmodel" / "chat_history"


def is_terminal() -> bool:
    """Returns whether somebody types at a terminal and sees what is written there."""
    return sys.stdin.isatty() and (sys.stderr.isatty() or sys.stdout.isatty())


@contextmanager
def unseen_keys() -> Iterator[None]:
    """Keeps what is typed meanwhile out of the output; it is there for the next entry."""
    try:
        import termios
    except ImportError:  # Windows
        yield
        return
    try:
        descriptor = sys.stdin.fileno()
        before = termios.tcgetattr(descriptor)
    except (OSError, ValueError, termios.error):  # not a terminal
        yield
        return
    without_echo = [*before[:3], before[3] & ~termios.ECHO, *before[4:]]
    termios.tcsetattr(descriptor, termios.TCSANOW, without_echo)
    try:
        yield
    finally:
        termios.tcsetattr(descriptor, termios.TCSANOW, before)


def _terminal_output() -> "Output":
    """Returns standard error as prompt_toolkit's output: standard output is for the responses."""
    from prompt_toolkit.output.defaults import create_output

    # Nothing here needs the cursor's position, and a terminal that does not report it would get a warning.
    os.environ.setdefault("PROMPT_TOOLKIT_NO_CPR", "1")
    return create_output(stdout=sys.stderr if sys.stderr.isatty() else sys.stdout)


def _keys() -> "KeyBindings":
    from prompt_toolkit.key_binding import KeyBindings

    keys = KeyBindings()
    keys.add("enter")(lambda event: event.current_buffer.validate_and_handle())
    keys.add("escape", "enter")(lambda event: event.current_buffer.insert_text("\n"))
    return keys


def _completer(complete: Complete) -> Any:
    from prompt_toolkit.completion import Completer, Completion

    class Lines(Completer):
        def get_completions(self, document: "Document", complete_event: object) -> Iterator[Completion]:
            line = document.text_before_cursor
            for completed in complete(line):
                yield Completion(completed, start_position=-len(line), display=completed.rsplit(" ", 1)[-1] or None)

    return Lines()


def _history(path: Path | None) -> "History":
    from prompt_toolkit.history import FileHistory, InMemoryHistory

    if path is None:
        return InMemoryHistory()
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    os.close(os.open(path, os.O_CREAT | os.O_RDWR, 0o600))  # what people say is for nobody else to read

    class Kept(FileHistory):
        def store_string(self, string: str) -> None:
            with suppress(OSError):  # a full disk ends no conversation
                super().store_string(string)

    history = Kept(path)
    entries = list(history.load_history_strings())  # the newest first
    if len(entries) > HISTORY_LIMIT:
        descriptor, shorter = tempfile.mkstemp(dir=path.parent)
        os.close(descriptor)
        for entry in reversed(entries[:HISTORY_LIMIT]):
            Kept(shorter).store_string(entry)
        Path(shorter).replace(path)
    return history
