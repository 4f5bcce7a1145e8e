"""Whether a grammar can be used: it is tried in another process first, which may take too long or crash.

Owns: that process, how long it may take, and which answers are kept.
"""

import atexit
import json
import os
import signal
import subprocess
import sys
import threading
from collections import OrderedDict
from collections.abc import Sequence
from typing import Any, NamedTuple

from convmodel.errors import ConfigError
from convmodel.generation.constraints.grammar import Grammar

_SECONDS = 1.0
"""How long a grammar may take, in seconds of a core, so that a busy machine refuses no others."""

_LONGEST_SECONDS = 30.0 if hasattr(signal, "setitimer") else _SECONDS
"""How long a grammar may take in any case; Windows has no limit on the time of a core."""

_START_SECONDS = 60.0
_KEPT = 256  # answers

_FAILED = "it is too complex: simplify it (it took more than {} s or too much memory)"


class Checked(NamedTuple):
    """What is known of a grammar that can be used."""

    closing: bytes  # a short text that matches it
    literals: Sequence[bytes]  # texts that its patterns need; see `find_closing`


class Checker:
    """A process that tries grammars, one at a time; started when it is needed, and again after a grammar ended it."""

    def __init__(self, seconds: float = _SECONDS) -> None:
        self._seconds = seconds
        self._process: subprocess.Popen[str] | None = None
        self._owner = 0  # the process that started it; a fork must not share its pipes
        self._lock = threading.Lock()
        self._answers: OrderedDict[str, dict[str, Any]] = OrderedDict()

    def check(self, grammar: Grammar) -> Checked:
        """Returns what is known of a grammar that can be used.

        Raises:
            ConfigError: If llguidance refuses the grammar, no text that matches it was found, or it takes too long.
        """
        with self._lock:
            if grammar.text not in self._answers:
                self._answers[grammar.text] = self._ask(grammar.text)
            self._answers.move_to_end(grammar.text)
            while len(self._answers) > _KEPT:
                self._answers.popitem(last=False)
            answer = self._answers[grammar.text]
        if "error" in answer:
            raise ConfigError(f"{grammar.option} cannot be used: {answer['error']}")
        return Checked(bytes.fromhex(answer["closing"]), [bytes.fromhex(text) for text in answer["literals"]])

    def close(self) -> None:
        """Ends the process."""
        process, self._process = self._process, None
        if process is not None and self._owner == os.getpid():
            process.kill()
            process.communicate()

    def _ask(self, text: str) -> dict[str, Any]:
        line = json.dumps(text) + "\n"
        if not self._exchange(self._started(), line, _START_SECONDS):  # it ended before it read the line
            self.close()
            self._exchange(self._started(), line, _START_SECONDS)
        answer = self._exchange(self._started(), "", _LONGEST_SECONDS)
        if answer:
            result: dict[str, Any] = json.loads(answer)
            return result
        self.close()
        return {"error": _FAILED.format(f"{self._seconds:g}")}

    def _started(self) -> "subprocess.Popen[str]":
        if self._process is not None and self._owner == os.getpid() and self._process.poll() is None:
            return self._process
        self.close()
        module = "convmodel.generation.constraints.check_process"
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-m", module, str(self._seconds)],  # -P: no modules of the current folder
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            encoding="utf-8",
            start_new_session=True,  # Ctrl-C is not for it
        )
        self._owner = os.getpid()
        if not self._exchange(self._process, "", _START_SECONDS):
            self.close()
            raise RuntimeError("the process that checks grammars did not start")
        return self._process

    @staticmethod
    def _exchange(process: "subprocess.Popen[str]", text: str, seconds: float) -> str:
        """Writes a text and returns the next line; nothing if the process ended, or was ended after some seconds."""
        assert process.stdin is not None
        assert process.stdout is not None
        timer = threading.Timer(seconds, process.kill)
        timer.daemon = True
        timer.start()
        try:
            process.stdin.write(text)
            process.stdin.flush()
            return process.stdout.readline()
        except OSError:
            return ""
        finally:
            timer.cancel()


CHECKER = Checker()
atexit.register(CHECKER.close)
