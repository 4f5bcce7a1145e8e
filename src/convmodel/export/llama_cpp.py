"""Asking llama.cpp: the ids of a prompt, tokens that follow ids, and how likely a token is.

Owns: the process that runs it and the requests to it. Does not know what the answers are compared with.
"""

import json
import secrets
import subprocess
import sys
import tempfile
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

from convmodel.errors import ExportError
from convmodel.export.llama_cpp_server import LONGEST

_CERTAIN = 1e6  # added to a token's logit to make it certain
_LIKELY, _ALL = 64, 1 << 20  # how many of the most likely tokens are looked through
_TIMEOUT = 600.0  # seconds for one answer


class Continuation(NamedTuple):
    """Tokens that llama.cpp generates.

    Attributes:
        ids: The tokens; the last one is that which ended the response, if it has ended.
        has_ended: Whether a token came that ends a response.
    """

    ids: list[int]
    has_ended: bool


def is_installed() -> bool:
    """Returns whether llama.cpp can be run."""
    return find_spec("xllamacpp") is not None


class LlamaCpp:
    """A running llama.cpp with one file."""

    def __init__(self, address: str, key: str) -> None:
        """Takes the address of its server, and the key that requests need."""
        self._address, self._key = address, key

    def prompt_ids(self, messages: Sequence[Mapping[str, str]]) -> list[int]:
        """Returns the ids that a chat becomes: through the file's template, then its vocabulary."""
        return self.encode(str(self._ask("/apply-template", {"messages": messages})["prompt"]))

    def encode(self, prompt: str) -> list[int]:
        """Returns the ids of a prompt, in which names of control tokens are control tokens."""
        content = {"content": prompt, "add_special": True, "parse_special": True}
        return list(map(int, self._ask("/tokenize", content)["tokens"]))

    def continue_ids(self, ids: Sequence[int], count: int) -> Continuation:
        """Returns up to `count` most likely tokens after ids."""
        answer = self._ask("/completion", self._greedy(ids, count))
        has_ended = answer["stop_type"] == "eos"
        return Continuation([int(index) for index in answer["tokens"]], has_ended)

    def ends_with(self, ids: Sequence[int], index: int) -> bool:
        """Returns whether a response ends if a certain token comes."""
        return bool(
            self._ask("/completion", self._greedy(ids, 1) | {"logit_bias": [[index, _CERTAIN]]})["stop_type"] == "eos"
        )

    def log_prob(self, ids: Sequence[int], index: int, *, end: int) -> float:
        """Returns the log-probability of a token after ids, in nats; `end` is an id that ends a response."""
        if probabilities := self._probabilities(ids, index, 1):
            return float(probabilities["logprob"])
        # A part of a character has none, since its text cannot be sent: it is looked up beside a token that has.
        for count in (_LIKELY, _ALL):
            for token in (self._probabilities(ids, end, count) or {}).get("top_logprobs", ()):
                if token["id"] == index:
                    return float(token["logprob"])
        raise ExportError(f"llama.cpp gives no probability of token {index}")

    def _probabilities(self, ids: Sequence[int], index: int, count: int) -> dict[str, Any] | None:
        """Returns the log-probability of a token that is made certain, and those of the most likely ones."""
        answer = self._ask("/completion", self._greedy(ids, 1) | {"logit_bias": [[index, _CERTAIN]], "n_probs": count})
        return next(iter(answer.get("completion_probabilities", ())), None)

    @staticmethod
    def _greedy(ids: Sequence[int], count: int) -> dict[str, Any]:
        return {
            "prompt": list(ids),
            "n_predict": count,
            "temperature": 0.0,
            "repeat_penalty": 1.0,
            "return_tokens": True,
            "cache_prompt": True,
        }

    def _ask(self, path: str, body: Mapping[str, Any]) -> dict[str, Any]:
        headers = {"Content-Type": "application/json", "Authorization": f"Bearer {self._key}"}
        request = urllib.request.Request(self._address + path, json.dumps(body).encode(), headers)
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        try:
            with opener.open(request, timeout=_TIMEOUT) as answer:
                return dict(json.loads(answer.read()))
        except urllib.error.HTTPError as error:
            raise ExportError(f"llama.cpp refuses a request: {error.read().decode(errors='replace')[:300]}") from error
        except OSError as error:
            raise ExportError(f"llama.cpp does not answer any more ({error}): it may have run out of memory") from error


@contextmanager
def running(path: Path, threads: int, context: int = LONGEST) -> Iterator[LlamaCpp]:
    """Runs llama.cpp with a file, and no more positions than its context.

    Raises:
        ExportError: If it does not read the file; the message has its reason.
    """
    key = secrets.token_hex(16)
    command = [
        sys.executable,
        "-m",
        "convmodel.export.llama_cpp_server",
        str(path),
        str(threads),
        str(min(context, LONGEST)),
    ]
    with tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace") as log:
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, text=True)
        try:
            assert process.stdin is not None
            assert process.stdout is not None
            process.stdin.write(key + "\n")
            process.stdin.flush()
            line = process.stdout.readline()
            if not line:
                log.seek(0)
                raise ExportError(f"llama.cpp does not read the file: {_reason(log.read())}")
            yield LlamaCpp(json.loads(line)["address"], key)
        finally:
            process.kill()
            process.communicate()


def _reason(log: str) -> str:
    """Returns the first error of llama.cpp's log, whose lines begin with the time and a letter for their level."""
    lines = [line.strip() for line in log.splitlines() if line.strip()]
    errors = [text for line in lines if (text := line.partition(" E ")[2])]
    return errors[0] if errors else (lines or ["no reason"])[-1]  # the last one of a traceback
