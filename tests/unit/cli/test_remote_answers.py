"""Answers of a server: in parallel, at a pace, again after failures, and until the server is given up."""

import threading
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import Any

import httpx2
import pytest
from answering import BROKEN, Answering, Reply, answering, failed, last, said
from serving import wait_until

from convmodel.cli import remote_answers
from convmodel.cli.remote_answers import ATTEMPTS, Pace, RemoteAnswers
from convmodel.cli.remote_server import RemoteServer
from convmodel.errors import ConfigError, GenerationError, ModelLoadError
from convmodel.generation.recording.answers_file import CUT, EMPTY, RECORDED, REFUSED, REJECTED, Answer, Failure

pytestmark = pytest.mark.loopback


@pytest.fixture(autouse=True)
def _short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote_answers, "_FIRST_WAIT", 0.001)


def requests(*texts: str) -> Iterator[tuple[int, list[dict[str, str]]]]:
    yield from ((number, [{"role": "user", "content": text}]) for number, text in enumerate(texts))


def ask(server: Answering, *texts: str, timeout: float = 30, **options: Any) -> dict[int, Answer | Failure]:
    """What comes of some requests, by number."""
    with RemoteServer(server.url, timeout=timeout) as remote:
        return dict(RemoteAnswers(remote, {"model": "m", "temperature": 0}, **options).ask_all(requests(*texts)))


def by_attempt(*replies: Reply) -> Callable[[dict[str, Any], int], Reply]:
    """A server that answers a request with each of these in turn, then with an answer."""
    return lambda body, earlier: replies[earlier] if earlier < len(replies) else said(f"Re: {last(body)}")


def test_a_request_has_the_model_the_options_and_the_messages() -> None:
    with answering() as server:
        assert ask(server, "Hi", max_tokens=7) == {0: Answer("Re: Hi", RECORDED, "", 7, 3, 2)}
    assert server.requests == [{"model": "m", "temperature": 0, "messages": [{"role": "user", "content": "Hi"}]}]


def test_requests_are_made_at_the_same_time_but_no_more_than_allowed() -> None:
    together = threading.Barrier(3)

    def reply(body: dict[str, Any], earlier: int) -> Reply:
        together.wait(30)  # three at a time, or it breaks
        return said(f"Re: {last(body)}")

    texts = [f"{number}" for number in range(12)]
    with answering(reply) as server:
        answers = ask(server, *texts, parallel=3)
    assert {number: answer.text for number, answer in answers.items() if isinstance(answer, Answer)} == {
        number: f"Re: {number}" for number in range(12)
    }
    assert server.most == 3
    assert sorted(server.texts()) == sorted(texts)


@pytest.mark.parametrize(
    "failure",
    [
        failed(429, "too many"),
        failed(429, "too many", retry_after="0.01"),
        failed(500),
        failed(503, retry_after="0"),
        (502, b"<html>Bad gateway", {}),
        (200, b"<html>", {}),
        (200, {"choices": []}, {}),
        (200, {"choices": [{"message": "Hi"}]}, {}),
        (200, [1], {}),
        (200, {"error": {"message": "the provider failed", "code": 502}}, {}),
        said("Hel", "error"),
        (200, b"\xff", {"Content-Encoding": "gzip"}),
        failed(408),
        BROKEN,
    ],
)
def test_a_server_that_recovers_is_asked_again(failure: Reply) -> None:
    waits: list[str] = []
    with answering(by_attempt(failure, failure)) as server:
        answers = ask(server, "Hi", on_wait=lambda seconds, reason: waits.append(reason))
    assert answers == {0: Answer("Re: Hi", prompt_tokens=3, response_tokens=2)}
    assert len(server.requests) == 3
    assert len(waits) == 2
    assert all(waits)


def test_a_response_that_does_not_come_is_asked_for_again() -> None:
    released = threading.Event()

    def reply(body: dict[str, Any], earlier: int) -> Reply:
        if not earlier:
            released.wait(30)
        return said("Hello")

    with answering(reply) as server:
        try:
            [answer] = ask(server, "Hi", timeout=0.2).values()
        finally:
            released.set()
    assert isinstance(answer, Answer)
    assert answer.text == "Hello"


def test_a_context_fails_after_so_many_attempts_and_the_others_are_still_asked() -> None:
    with answering(lambda body, _: failed(500, "oh") if last(body) == "Bad" else said("Hello")) as server:
        answers = ask(server, "Hi", "Bad", "Bye")
    assert answers[1] == Failure("500: oh")
    assert [number for number, answer in answers.items() if isinstance(answer, Answer)] == [0, 2]
    assert server.texts().count("Bad") == ATTEMPTS


def test_a_server_that_fails_for_many_contexts_in_a_row_is_given_up() -> None:
    with (
        answering(lambda body, _: failed(500, "oh")) as server,
        pytest.raises(GenerationError, match=r"failed for 2 contexts in a row, the last: 500: oh"),
    ):
        ask(server, *"abcdef", max_failures=2)
    assert {*"ab"} <= {*server.texts()} <= {*"abc"}  # one request may begin before the last failure is known


def test_answers_before_the_server_is_given_up_are_kept() -> None:
    kept: list[Any] = []
    with (
        answering(lambda body, _: said("Hello") if last(body) == "a" else failed(500, "oh")) as server,
        RemoteServer(server.url) as remote,
        pytest.raises(GenerationError),
    ):
        kept += RemoteAnswers(remote, {}, max_failures=2).ask_all(requests(*"abcdef"))  # extends as they come
    assert [number for number, answer in kept if isinstance(answer, Answer)] == [0]


@pytest.mark.parametrize(
    ("reply", "error", "message"),
    [
        (failed(401, "wrong key"), ConfigError, "refuses: wrong key; give --api-key"),
        (failed(404, "no model m"), ModelLoadError, "no model m"),
        (failed(402, "no money"), GenerationError, "no money"),
        (failed(429, "no money", "insufficient_quota"), GenerationError, "no money"),
    ],
)
def test_what_every_request_would_get_ends_at_once(reply: Reply, error: type[Exception], message: str) -> None:
    with answering(lambda body, _: reply) as server, pytest.raises(error, match=message):
        ask(server, *"abcdef")
    assert server.texts() == ["a"]


def test_a_rejected_context_is_not_asked_again_and_stops_nothing() -> None:
    with answering(lambda body, _: said("Hello") if last(body) == "a" else failed(400, "too long")) as server:
        answers = ask(server, *"abcdef", max_failures=2)
    assert [answer.outcome for _, answer in sorted(answers.items()) if isinstance(answer, Answer)] == [
        RECORDED, *[REJECTED] * 5
    ]  # fmt: skip
    assert server.texts() == [*"abcdef"]


def test_a_server_that_rejects_everything_is_given_up() -> None:
    with (
        answering(lambda body, _: failed(400, "temperature is not supported")) as server,
        pytest.raises(GenerationError, match="the last: temperature is not supported; if the contexts are at fault"),
    ):
        ask(server, *"abcdef", max_failures=3)
    assert server.texts()[:3] == [*"abc"]
    assert len(server.requests) <= 4  # one may begin before the last rejection is known


@pytest.mark.parametrize(
    ("reply", "outcome", "text", "reason"),
    [
        (said("Hel", "length"), CUT, "Hel", ""),
        (said("Hel", "content_filter"), REFUSED, "Hel", "the content filter"),
        (said(None, refusal="I cannot."), REFUSED, "", "I cannot."),
        (said(""), EMPTY, "", "finish reason stop"),
        (said(" \n"), EMPTY, "", "finish reason stop"),
        (said(None, "tool_calls"), EMPTY, "", "finish reason tool_calls"),
        (said("Wait", "tool_calls", tool_calls=[{"id": "c"}]), EMPTY, "", "tool_calls"),
        (said("Wait", function_call={"name": "f"}), EMPTY, "", "function_call"),
    ],
)
def test_outcomes(reply: Reply, outcome: str, text: str, reason: str) -> None:
    with answering(lambda body, _: reply) as server:
        [answer] = ask(server, "Hi", max_tokens=9).values()
    assert isinstance(answer, Answer)
    assert (answer.outcome, answer.text, answer.reason) == (outcome, text, reason)
    assert (answer.max_tokens, answer.prompt_tokens, answer.response_tokens) == (9, 3, 2)


def test_an_answer_in_parts_is_their_text() -> None:
    parts = [{"type": "thinking", "thinking": []}, {"type": "text", "text": "Hel"}, {"type": "text", "text": "lo"}]
    with answering(lambda body, _: said(None, content=parts)) as server:
        [answer] = ask(server, "Hi").values()
    assert isinstance(answer, Answer)
    assert (answer.outcome, answer.text) == (RECORDED, "Hello")


def test_the_message_of_a_server_that_fails_with_status_200_is_the_reason() -> None:
    with answering(lambda body, _: (200, {"error": {"message": "the provider failed"}}, {})) as server:
        assert ask(server, "Hi") == {0: Failure("200: the provider failed")}


def test_a_wait_of_no_time_is_a_doubling_pause_and_none_follows_the_last_attempt(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    waits: list[float] = []
    monkeypatch.setattr(remote_answers, "_backoff", lambda attempt: attempt / 1000 + 0.001)
    with answering(lambda body, _: failed(503, retry_after="0")) as server:
        ask(server, "Hi", on_wait=lambda seconds, reason: waits.append(seconds))
        assert waits == [(attempt + 1) / 1000 for attempt in range(ATTEMPTS)]  # all requests are held back
        waits.clear()
        server.reply = lambda body, _: failed(500)
        ask(server, "Bye", on_wait=lambda seconds, reason: waits.append(seconds))
    assert waits == [(attempt + 1) / 1000 for attempt in range(ATTEMPTS - 1)]


def test_a_redirect_ends_at_once() -> None:
    reply: Reply = (307, {}, {"Location": "https://api.example.com/v1"})
    with answering(lambda body, _: reply) as server, pytest.raises(ConfigError, match="redirects to https"):
        ask(server, *"abc")
    assert server.texts() == ["a"]


def test_a_server_that_answered_before_may_reject_all_the_rest() -> None:
    with answering(lambda body, _: failed(400, "too long")) as server:
        answers = ask(server, *"abc", max_failures=1, accepted=True)
    assert [answer.outcome for answer in answers.values() if isinstance(answer, Answer)] == [REJECTED] * 3


def test_stopping_lets_open_requests_end_and_begins_no_other() -> None:
    arrived, released = threading.Event(), threading.Event()

    def reply(body: dict[str, Any], earlier: int) -> Reply:
        arrived.set()
        released.wait(30)
        return said("Hello")

    with answering(reply) as server, RemoteServer(server.url) as remote:
        asking, answers = RemoteAnswers(remote, {}), []
        thread = threading.Thread(target=lambda: answers.extend(asking.ask_all(requests(*"abc"))))
        thread.start()
        assert arrived.wait(30)
        asking.stopping.set()
        released.set()
        thread.join(30)
        assert not thread.is_alive()
    assert [(number, answer.text) for number, answer in answers if isinstance(answer, Answer)] == [(0, "Hello")]
    assert server.texts() == ["a"]


def test_stopping_ends_a_long_wait() -> None:
    with answering(lambda body, _: failed(429, retry_after="500")) as server, RemoteServer(server.url) as remote:
        asking, answers = RemoteAnswers(remote, {}, parallel=2), []
        thread = threading.Thread(target=lambda: answers.extend(asking.ask_all(requests(*"abcd"))))
        thread.start()
        wait_until(lambda: server.requests)
        asking.stopping.set()
        thread.join(30)
        assert not thread.is_alive()
    assert {answer for _, answer in answers} <= {Failure(""), Failure("429: it failed")}


def test_an_error_in_the_requests_themselves_is_raised() -> None:
    def broken() -> Iterator[tuple[int, list[dict[str, str]]]]:
        yield from requests("a")
        raise ValueError("half a surrogate pair")

    with answering() as server, RemoteServer(server.url) as remote, pytest.raises(ValueError, match="half a surrogate"):
        [*RemoteAnswers(remote, {}, parallel=2).ask_all(broken())]


class Clock:
    """Time that passes only where somebody waits."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now, self.waits = 100.0, []
        monkeypatch.setattr(remote_answers, "_now", lambda: self.now)

    def wait(self, seconds: float) -> None:
        self.waits.append(seconds)
        self.now += seconds


def test_the_pace_spaces_requests_evenly(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch)
    pace = Pace(30, clock.wait)
    for _ in range(4):
        pace.enter()
    assert clock.waits == [2.0, 2.0, 2.0]
    clock.now += 50  # what was not used is not saved up
    pace.enter()
    pace.enter()
    assert clock.waits == [2.0] * 4


def test_a_busy_server_holds_all_requests_back(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch)
    pace = Pace(None, clock.wait)
    pace.enter()
    pace.hold(7.0)
    pace.hold(3.0)
    pace.enter()
    assert clock.waits == [7.0]
    pace.hold(7.0)
    pace.enter(lambda: True)
    assert clock.waits == [7.0]


def test_pauses_double_with_jitter_up_to_a_minute(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote_answers, "_FIRST_WAIT", 1.0)
    for attempt, longest in enumerate([1, 2, 4, 8, 16, 32, 60, 60]):
        pauses = {remote_answers._backoff(attempt) for _ in range(50)}
        assert longest / 2 <= min(pauses) < max(pauses) <= longest


def test_retry_after_is_seconds_or_a_date() -> None:
    def seconds(value: str) -> float | None:
        return remote_answers._retry_after(httpx2.Response(429, headers={"Retry-After": value}))

    assert (seconds("2.5"), seconds("-1"), seconds("1e9"), seconds("soon"), seconds("nan")) == (2.5, 0, 600, None, None)
    later = seconds(format_datetime(datetime.now(UTC) + timedelta(seconds=90), usegmt=True))
    assert later is not None
    assert 30 < later <= 90
    assert seconds(format_datetime(datetime.now(UTC) - timedelta(hours=1), usegmt=True)) == 0
    assert remote_answers._retry_after(httpx2.Response(429)) is None
    assert time.time() - remote_answers._wall_clock() < 30


@pytest.mark.slow
def test_no_more_answers_wait_to_be_kept_than_requests_may_be_open() -> None:
    with answering() as server, RemoteServer(server.url, connections=2) as remote:
        answers = RemoteAnswers(remote, {}, parallel=2).ask_all(requests(*"abcdefgh"))
        next(answers)  # the caller has one in its hands, and another waits for it
        with pytest.raises(AssertionError, match="not come about"):
            wait_until(lambda: len(server.requests) > 2, seconds=0.5)
        next(answers)
        wait_until(lambda: len(server.requests) == 3)
        answers.close()  # type: ignore[attr-defined]
        with pytest.raises(AssertionError, match="not come about"):
            wait_until(lambda: len(server.requests) > 3, seconds=0.5)
