"""Answers of a model behind OpenAI's API to many contexts, several requests at a time.

Owns: the requests, their pace, retries, and when a server is given up. Does not know the terminal or files; the
connection is `remote_server.py`'s.
"""

import email.utils
import random
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from queue import SimpleQueue
from typing import Any

import httpx2

from convmodel.cli.remote_server import RemoteServer, one_line
from convmodel.errors import ConvModelError, GenerationError
from convmodel.generation.recording.answers_file import (
    CUT,
    EMPTY,
    RECORDED,
    REFUSED,
    REJECTED,
    Answer,
    Failure,
    is_usable,
)

ATTEMPTS = 6
"""Requests for one context until it counts as failed."""

_FIRST_WAIT = 1.0  # seconds before the second attempt, doubled with each further one
_LONGEST_WAIT = 60.0  # of these
_LONGEST_RETRY_AFTER = 600.0  # seconds that a server may name
_REJECTED = (400, 413, 422)  # of one context, most often because it is too long
_CALLS = ("tool_calls", "function_call")  # of a message: without them, its text is not the whole answer
_BUSY = (408, 409, 425, 429)
_NO_CREDIT = ("insufficient_quota", "billing_hard_limit_reached")  # 429s that no waiting helps against

_random = random.Random()


class Pace:
    """Spaces the requests of all threads, and holds them all back while the server is busy."""

    def __init__(self, per_minute: float | None, wait: Callable[[float], object]) -> None:
        """Allows so many requests per minute, or any number; `wait` waits for some seconds, unless it is stopped."""
        self._interval = 60 / per_minute if per_minute else 0.0
        self._wait = wait
        self._lock = threading.Lock()
        self._next = self._held_until = 0.0

    def enter(self, is_stopped: Callable[[], bool] = lambda: False) -> None:
        """Waits for the turn of one request."""
        with self._lock:
            start = max(_now(), self._next)
            self._next = start + self._interval
        while (seconds := max(start, self._held_until) - _now()) > 0 and not is_stopped():
            self._wait(seconds)

    def hold(self, seconds: float) -> None:
        """Lets no request begin for some seconds."""
        with self._lock:
            self._held_until = max(self._held_until, _now() + seconds)


@dataclass(slots=True)
class RemoteAnswers:
    """Asks a server for answers, in threads of its own.

    Attributes:
        server: The connection.
        body: The fields of each request but its messages: the model and the options.
        parallel: How many requests may be open at the same time.
        per_minute: How many requests may begin per minute; None for any number.
        max_failures: After how many failed contexts in a row the server is given up.
        max_tokens: The length limit in `body`, for the answers.
        accepted: Whether the server answered such requests before, so that a context that it rejects is the fault.
        on_wait: Called with the seconds until a retry, and why.
        stopping: Set it to let the requests that are open end, and begin no other.
    """

    server: RemoteServer
    body: Mapping[str, Any]
    parallel: int = 1
    per_minute: float | None = None
    max_failures: int = 5
    max_tokens: int | None = None
    accepted: bool = False
    on_wait: Callable[[float, str], None] = lambda seconds, reason: None
    stopping: threading.Event = field(default_factory=threading.Event)

    def ask_all(
        self, requests: Iterable[tuple[int, Sequence[Mapping[str, str]]]]
    ) -> Iterator[tuple[int, Answer | Failure]]:
        """Yields answers in the order in which they come, with the number of their request.

        Raises:
            ConvModelError: If the server refuses every request, or failed so many times in a row. Answers to requests
                that were open are yielded before.
        """
        accepted, in_a_row, error = self.accepted, 0, None
        for number, answer in self._results(iter(requests)):
            if isinstance(answer, BaseException):
                error = error or answer
                self.stopping.set()
                continue
            # Once an answer was accepted, a rejected context is too long or the like; before, the requests are wrong.
            accepted |= isinstance(answer, Answer) and answer.outcome != REJECTED
            in_a_row = in_a_row + 1 if isinstance(answer, Failure) or not accepted else 0
            if in_a_row >= self.max_failures and not self.stopping.is_set():
                error = self._given_up(answer)
                self.stopping.set()
            yield number, answer
        if error is not None:
            raise error

    def _results(
        self, requests: Iterator[tuple[int, Sequence[Mapping[str, str]]]]
    ) -> Iterator[tuple[int, Answer | Failure | BaseException]]:
        """Yields the result of each request, as it comes; at most `parallel` wait for the caller to take and keep them.

        A thread requests nothing more until its result was kept: a kill loses no more answers than could be open.
        """
        kept, is_closed = threading.Semaphore(0), threading.Event()
        results: SimpleQueue[tuple[int, Answer | Failure | BaseException] | None] = SimpleQueue()
        pace, taking = Pace(self.per_minute, self.stopping.wait), threading.Lock()

        def take() -> tuple[int, Sequence[Mapping[str, str]]] | None:
            with taking:  # an iterator is not safe in threads
                return None if self.stopping.is_set() or is_closed.is_set() else next(requests, None)

        def work() -> None:
            number = -1
            try:
                while (request := take()) is not None:
                    number, messages = request
                    results.put((number, self._ask(messages, pace)))
                    kept.acquire()
            except BaseException as error:
                results.put((number, error))
            finally:
                results.put(None)

        for _ in range(self.parallel):  # as daemons, which do not delay the end of a program that is stopped at once
            threading.Thread(target=work, daemon=True).start()
        working = self.parallel
        try:
            while working:
                result = results.get()
                if result is None:
                    working -= 1
                else:
                    yield result
                    kept.release()
        finally:
            is_closed.set()
            kept.release(self.parallel)  # no thread stays behind if the caller has given up

    def _ask(self, messages: Sequence[Mapping[str, str]], pace: Pace) -> Answer | Failure:
        """Asks for one answer until there is one, or the server has failed too often."""
        reason = ""
        for attempt in range(ATTEMPTS):
            pace.enter(self.stopping.is_set)
            if self.stopping.is_set():
                break
            try:
                response = self.server.client.post("/chat/completions", json={**self.body, "messages": messages})
            except (httpx2.InvalidURL, httpx2.UnsupportedProtocol) as error:
                raise GenerationError(f"{self.server.url} is not an address of a server: {error}") from error
            except httpx2.RequestError as error:  # a timeout, a connection that broke, a body that cannot be decoded
                reason = f"{type(error).__name__}: {error}".removesuffix(": ")
                self._wait(attempt, _backoff(attempt), reason)
                continue
            if response.status_code == 200 and (answer := self._answer(response)) is not None:
                return answer
            if response.status_code in _REJECTED:
                return self._given("", REJECTED, reason=self.server.message(response))
            reason = self._reason(response)
            seconds = _retry_after(response) or _backoff(attempt)  # "at once" is no time to wait for
            if response.status_code == 429 or "retry-after" in response.headers:
                pace.hold(seconds)
                self.on_wait(seconds, reason)
            else:
                self._wait(attempt, seconds, reason)
        return Failure(reason)

    def _reason(self, response: httpx2.Response) -> str:
        """Returns why a response is none; raises the error that every further request would get, too."""
        status = response.status_code
        if _code(response) in _NO_CREDIT or (400 <= status < 500 and status not in _BUSY):
            raise self.server.error(response)
        if response.has_redirect_location:
            raise self.server.error(response)
        message = self.server.message(response)
        if status == 200 and message == f"status {status}":
            return "the body is not a whole response of OpenAI's API"
        return f"{status}: {message}"

    def _answer(self, response: httpx2.Response) -> Answer | None:
        """Reads an answer; None if the body is not one, or says that the server failed in the middle of it."""
        try:
            body = response.json()
            choice = body["choices"][0]
            message = choice["message"]
            text, refusal = _text(message.get("content")), message.get("refusal")
            reason, usage = choice.get("finish_reason"), body.get("usage") or {}
            tokens = [int(usage.get(name) or 0) for name in ("prompt_tokens", "completion_tokens")]
        except (ValueError, KeyError, TypeError, IndexError, AttributeError):
            return None
        if reason == "error" or choice.get("error") or body.get("error"):
            return None
        if refusal or reason == "content_filter":
            return self._given(text, REFUSED, *tokens, reason=one_line(str(refusal or "the content filter")))
        if calls := [name for name in _CALLS if message.get(name)]:
            return self._given("", EMPTY, *tokens, reason=calls[0])
        if not is_usable(text):
            return self._given("", EMPTY, *tokens, reason=one_line(f"finish reason {reason}"))
        return self._given(text, CUT if reason == "length" else RECORDED, *tokens)

    def _given(
        self, text: str, outcome: str, prompt_tokens: int = 0, response_tokens: int = 0, *, reason: str = ""
    ) -> Answer:
        return Answer(text, outcome, reason, self.max_tokens, prompt_tokens, response_tokens)

    def _wait(self, attempt: int, seconds: float, reason: str) -> None:
        """Waits before the next attempt; not after the last one."""
        if attempt + 1 < ATTEMPTS:
            self.on_wait(seconds, reason)
            self.stopping.wait(seconds)

    def _given_up(self, last: Answer | Failure) -> ConvModelError:
        is_failure = isinstance(last, Failure)
        fix = "the same command resumes" if is_failure else "if the contexts are at fault, --max-failures N allows more"
        return GenerationError(
            f"{self.server.url} failed for {self.max_failures} contexts in a row, the last: {last.reason}; {fix}"
        )


def _text(content: Any) -> str:
    """Returns the text of an answer's content, which some servers give in parts; empty if it has none."""
    if isinstance(content, list):
        parts = [part for part in content if isinstance(part, Mapping) and part.get("type") == "text"]
        return "".join(part["text"] for part in parts if isinstance(part.get("text"), str))
    return content if isinstance(content, str) else ""


def _backoff(attempt: int) -> float:
    """Returns how long to wait after a failed attempt: doubling, with jitter, so that threads do not retry together."""
    return min(_LONGEST_WAIT, _FIRST_WAIT * 2.0**attempt) * _random.uniform(0.5, 1.0)


def _retry_after(response: httpx2.Response) -> float | None:
    """Returns the seconds that a server names, also as a date; None if it names none.

    Example:
        >>> _retry_after(httpx2.Response(429, headers={"Retry-After": "3"}))
        3.0
    """
    value: str = response.headers.get("retry-after", "")
    try:
        seconds = float(value)
    except ValueError:
        try:
            seconds = float(email.utils.parsedate_to_datetime(value).timestamp() - _wall_clock())
        except (ValueError, TypeError):
            return None
    return min(_LONGEST_RETRY_AFTER, max(0.0, seconds)) if seconds == seconds else None  # not NaN


def _code(response: httpx2.Response) -> Any:
    try:
        return response.json()["error"].get("code")
    except (ValueError, KeyError, TypeError, AttributeError):
        return None


def _now() -> float:
    return time.monotonic()


def _wall_clock() -> float:
    return time.time()
