"""Both ends of the protocol between `engines.py` and a peer, which is a process in an environment of its own.

A request is a line of JSON on standard input: `{"prompt": [...], "new": ..., "clients": ...}`, the prompt's ids, the
number of tokens per response, and the number of responses that are generated at once. The result is a line on standard
output: `prompt_ms`, `token_ms`, `tokens_per_second` of all clients together and, where the peer returns them, `tokens`
of the first response. Imports only Python's own library, since peers do not have ours.
"""

import json
import subprocess
import sys
import tempfile
from collections.abc import Callable
from typing import Any

Measured = dict[str, Any]


def answer_lines(answer: Callable[[dict[str, Any]], Measured]) -> None:
    """Answers the requests on standard input until it is closed."""
    print("ready", flush=True)
    for line in sys.stdin:
        print(json.dumps(answer(json.loads(line))), flush=True)


class Peer:
    """A peer's process, which waits while it is not asked.

    `python` runs `script`, which calls `answer_lines`, with `arguments`.
    """

    def __init__(self, python: str, script: str, *arguments: str) -> None:
        self._command = [python, script, *arguments]
        self._log = tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace")  # noqa: SIM115 - until `close`
        self._running = subprocess.Popen(
            self._command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._log, text=True
        )
        while self._line().strip() != "ready":  # what its libraries print before
            pass

    def ask(self, prompt: list[int], new: int, clients: int) -> Measured:
        assert self._running.stdin is not None
        self._running.stdin.write(json.dumps({"prompt": prompt, "new": new, "clients": clients}) + "\n")
        self._running.stdin.flush()
        measured: Measured = json.loads(self._line())
        return measured

    def close(self) -> None:
        self._running.kill()
        self._running.wait()
        self._log.close()

    def _line(self) -> str:
        assert self._running.stdout is not None
        if line := self._running.stdout.readline():
            return line
        code = self._running.wait()
        self._log.seek(0)
        sys.exit(f"{self._log.read()[-4000:]}\n{' '.join(self._command)} ended with exit code {code}: see above")
