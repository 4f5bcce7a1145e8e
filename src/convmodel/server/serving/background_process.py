"""A process of training, which the server starts and which outlives it.

Owns: starting it with a lower priority than the server's, whether it still runs, which a restarted server finds out
too, stopping it, and the error at the end of its log. Does not know what it does.
"""

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from pathlib import Path

from convmodel.errors import SaveError
from convmodel.files.atomic import lock
from convmodel.hf_model.devices import release_kept_memory

NICENESS = 10  # added to the server's: responses go before training

_FIRST_TO_END = 500  # of 1000: where memory runs out, Linux ends training, which can be resumed, and not the server
_LOCK_SECONDS = 2.0  # to wait for the last processes of a run that was stopped
_LONGEST_ERROR = 500  # characters, unless more are wanted
_LOG_TAIL = 2**16  # bytes of the log that are searched for the error


class BackgroundProcess:
    """A process that writes its log to a file, and holds the file's lock as long as it runs."""

    def __init__(
        self,
        log: Path,
        pid: int = 0,
        *,
        what: str = "improvement",
        output: Path | None = None,
        folder: Path | None = None,
    ) -> None:
        """Finds the process that an earlier server started, if it still runs; `start` starts a new one.

        Args:
            log: The file for what it reports.
            pid: The process of an earlier server; 0 without one.
            what: What messages call it.
            output: The file for its results; None to drop them.
            folder: Where it runs; None for the server's own working directory. No module is imported from there.
        """
        self._log = log
        self._what = what
        self._output = output
        self._folder = folder
        self.pid = pid
        self._process: subprocess.Popen[bytes] | None = None
        self._stopping = False

    def start(self, command: Sequence[str]) -> None:
        """Starts the process.

        Raises:
            SaveError: If its log cannot be written, or it cannot be started.
        """
        release_kept_memory()  # the process may use the GPU of the server's models
        try:
            with ExitStack() as files:
                file = files.enter_context(self._log.open("ab"))
                # The process inherits the lock with its standard error, and so do processes that it starts.
                end = time.monotonic() + _LOCK_SECONDS
                while not (is_free := lock(file.fileno())) and time.monotonic() < end:
                    time.sleep(0.05)
                if not is_free:
                    fix = f"end its process, {self.pid}" if self.pid > 0 else "wait until it has ended"
                    raise SaveError(f"an earlier {self._what} still writes {self._log}: {fix}")
                file.truncate(0)
                output = subprocess.DEVNULL
                if self._output is not None:
                    output = files.enter_context(self._output.open("wb")).fileno()
                self._process = subprocess.Popen(
                    command,
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=file,
                    start_new_session=True,
                    cwd=self._folder,
                    env=None if self._folder is None else os.environ | _elsewhere(),
                )
        except SaveError:
            raise
        except OSError as error:
            raise SaveError(f"the {self._what} cannot be started: {error}") from error
        self.pid = self._process.pid
        if hasattr(os, "setpriority"):
            with suppress(OSError):  # it has ended already
                os.setpriority(os.PRIO_PROCESS, self.pid, os.getpriority(os.PRIO_PROCESS, 0) + NICENESS)
        with suppress(OSError):  # Linux alone has this
            Path(f"/proc/{self.pid}/oom_score_adj").write_text(str(_FIRST_TO_END), encoding="ascii", newline="\n")

    @property
    def running(self) -> bool:
        """Whether it still runs."""
        if self._process is not None:
            return self._process.poll() is None
        if not self._log.exists():
            return False
        with self._log.open("ab") as file:
            return not lock(file.fileno())

    def wait(self, seconds: float) -> None:
        """Waits for its end, but not longer than some seconds."""
        end = time.monotonic() + seconds
        while self.running and time.monotonic() < end:
            time.sleep(0.05)

    def stop(self) -> None:
        """Requests its end, once: it finishes its step and saves a checkpoint; a second signal would end it without."""
        if not self._stopping and self.running and self.pid > 0:
            self._stopping = True
            with suppress(OSError):  # it has ended meanwhile: each system has an error of its own
                os.kill(self.pid, signal.SIGTERM)

    @property
    def own(self) -> bool:
        """Whether this server has started it, and not an earlier one."""
        return self._process is not None

    @property
    def exit_code(self) -> int | None:
        """How it has ended, minus the signal's number if it was killed; None as long as it runs, or if unknown."""
        return None if self._process is None else self._process.poll()

    @property
    def failed(self) -> bool:
        """Whether it has ended with an error; False for a process of an earlier server, of which that is unknown."""
        return self.exit_code not in (None, 0)


def _elsewhere() -> dict[str, str]:
    """Returns the variables with which Python imports in any folder what it imports here, and nothing of the folder."""
    paths = [str(Path(path).absolute()) for path in sys.path]
    return {"PYTHONPATH": os.pathsep.join(paths), "PYTHONSAFEPATH": "1"}


def last_error(log: Path, longest: int = _LONGEST_ERROR) -> str:
    """Returns the last line of a log that has text, without colours and without what a progress bar overwrote.

    Args:
        log: The file.
        longest: How many characters to return at most; the end of a longer line is cut off.
    """
    try:
        with log.open("rb") as file:
            file.seek(max(0, log.stat().st_size - _LOG_TAIL))
            text = file.read().decode(errors="replace")
    except OSError:
        text = ""
    text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", text)
    lines = [part for line in text.split("\n") if (part := line.rstrip("\r").rpartition("\r")[2].strip())]
    message = lines[-1] if lines else "the process ended without a message"
    return message if len(message) <= longest else message[: longest - 1] + "…"
