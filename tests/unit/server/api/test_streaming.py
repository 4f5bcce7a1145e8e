"""From pieces to a response or to events; without sockets and models."""

import asyncio
import json
from collections.abc import Iterator, Sequence
from typing import Any

import pytest

from convmodel.server.api.streaming import PING, EventStream, ResponseWriter, event, send_responses
from convmodel.server.errors import ApiError
from convmodel.server.serving.job import Piece
from convmodel.server.settings import ServerSettings


class FakeJob:
    """Yields what a test puts into it, as a `Job` of one response does."""

    responses = 1

    def __init__(self, *items: Piece | Exception | None) -> None:
        self.items: asyncio.Queue[Piece | Exception | None] = asyncio.Queue()
        self.cancelled = False
        for item in items:
            self.items.put_nowait(item)

    async def next(self) -> Piece | None:
        item = await self.items.get()
        if isinstance(item, Exception):
            raise item
        return item

    def cancel(self) -> None:
        self.cancelled = True


class Writer(ResponseWriter):
    def whole(self, responses: Sequence[Sequence[Piece]]) -> dict[str, Any]:
        return {"texts": ["".join(piece.text for piece in pieces) for pieces in responses]}

    def start(self) -> Iterator[bytes]:
        yield b"start;"

    def piece(self, index: int, piece: Piece) -> Iterator[bytes]:
        yield f"{index}:{piece.text};".encode()

    def end(self) -> Iterator[bytes]:
        yield b"end;"


async def connected() -> dict[str, Any]:
    await asyncio.Event().wait()
    raise AssertionError


async def disconnected() -> dict[str, Any]:
    await asyncio.sleep(0.01)
    return {"type": "http.disconnect"}


async def stream(job: Any, receive: Any = connected, **settings: float) -> tuple[bytes, bool]:
    """Returns what a stream sends, and whether it ended by itself."""
    sent: list[dict[str, Any]] = []

    async def send(message: Any) -> None:
        sent.append(message)

    response = EventStream(Writer(), [job], ServerSettings(**settings))  # type: ignore[arg-type]
    async with asyncio.timeout(5):
        await response({"type": "http"}, receive, send)
    assert job.cancelled
    assert len(asyncio.all_tasks()) == 1
    return b"".join(message["body"] for message in sent[1:]), not sent[-1].get("more_body", True)


def test_events_come_in_order() -> None:
    async def test() -> None:
        job = FakeJob(Piece(0, "a"), Piece(0, "b", finish_reason="stop"), None)
        assert await stream(job) == (b"start;0:a;0:b;end;", True)

    asyncio.run(test())


def test_silence_is_filled_with_pings() -> None:
    async def test() -> None:
        job = FakeJob()
        asyncio.get_running_loop().call_later(0.1, job.items.put_nowait, None)
        content, _ = await stream(job, ping_seconds=0.02)
        assert PING in content
        assert content.replace(PING, b"") == b"start;end;"

    asyncio.run(test())


@pytest.mark.parametrize("error", [ApiError(504, "too slow", code="run_limit"), RuntimeError("secret")])
def test_an_error_is_the_last_event(error: Exception) -> None:
    async def test() -> None:
        content, is_complete = await stream(FakeJob(Piece(0, "a"), error))
        start, _, last = content.partition(b"data: ")
        assert start == b"start;0:a;"
        assert (
            json.loads(last)["error"]["code"] == getattr(error, "envelope", {"error": {"code": None}})["error"]["code"]
        )
        assert b"secret" not in content
        assert is_complete

    asyncio.run(test())


def test_a_client_that_disconnects_ends_the_jobs() -> None:
    async def test() -> None:
        assert await stream(FakeJob(Piece(0, "a")), disconnected) == (b"start;0:a;", False)

    asyncio.run(test())


def test_a_whole_response_waits_for_all_jobs() -> None:
    async def test() -> None:
        jobs: Any = [FakeJob(Piece(0, "a"), Piece(0, "b"), None), FakeJob(Piece(0, "c"), None)]
        request: Any = type("Request", (), {"receive": staticmethod(connected)})
        response = await send_responses(Writer(), jobs, request, ServerSettings(), stream=False)
        assert json.loads(bytes(response.body)) == {"texts": ["ab", "c"]}

    asyncio.run(test())


def test_a_client_that_leaves_before_the_end_is_499() -> None:
    async def test() -> None:
        job: Any = FakeJob(Piece(0, "a"))
        request: Any = type("Request", (), {"receive": staticmethod(disconnected)})
        with pytest.raises(ApiError) as caught:
            await send_responses(Writer(), [job], request, ServerSettings(), stream=False)
        assert caught.value.status == 499
        assert job.cancelled

    asyncio.run(test())


def test_an_event_may_have_a_name() -> None:
    assert event({"a": "é"}, "response.created") == 'event: response.created\ndata: {"a":"é"}\n\n'.encode()
