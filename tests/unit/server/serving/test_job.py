"""What passes between the engine's thread and the loop; without sockets and models."""

import asyncio
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest

from convmodel.generation.engine.request import Request
from convmodel.generation.engine.sampling import Sampler
from convmodel.generation.response_text import ResponseText
from convmodel.server.errors import ApiError
from convmodel.server.serving.job import Job, Piece, pieces_of

TOKENIZER: Any = SimpleNamespace(decode=lambda ids: "".join(chr(97 + index) for index in ids))
STOP = 25


def make_job(rows: int = 1, stop: tuple[str, ...] = (), alternatives: int = 0) -> Job:
    request = Request([1], [], [Sampler({}, [1], [STOP])] * rows, stop_ids=frozenset([STOP]), max_new_tokens=9)
    request.alternatives = alternatives
    return Job(request, [ResponseText(row, TOKENIZER, stop, hide_stop_tokens=True) for row in request.rows])


def on_a_loop(test: Callable[[], Any]) -> None:
    async def inside() -> None:
        test()

    asyncio.run(inside())


def say(job: Job, row: int, *ids: int) -> None:
    for index in ids:
        job.request.rows[row].add(index, -float(index), [(index, -float(index))])


def test_pieces_have_each_token_once_and_the_last_has_a_reason() -> None:
    def test() -> None:
        job = make_job(alternatives=1)
        say(job, 0, 0, 1)
        assert job.new_updates(1.0) == [Piece(0, "ab", (0, 1), (-0.0, -1.0), ([(0, -0.0)], [(1, -1.0)]))]
        assert job.new_updates(2.0) == []
        say(job, 0, 2, STOP)
        assert job.new_updates(3.0) == [Piece(0, "c", (2,), (-2.0,), ([(2, -2.0)],), "stop"), None]
        assert (job.first_at, job.ended_at, job.completion_tokens) == (1.0, 3.0, 3)
        assert job.tokens_per_second == 1.0

    on_a_loop(test)


def test_what_could_begin_a_stop_string_comes_later_with_its_tokens() -> None:
    def test() -> None:
        job = make_job(stop=("bc",))
        say(job, 0, 0, 1)
        assert job.new_updates(1.0) == [Piece(0, "a", (0,), (-0.0,))]
        say(job, 0, 3)
        assert job.new_updates(2.0) == [Piece(0, "bd", (1, 3), (-1.0, -3.0))]
        say(job, 0, 0, 1)
        assert job.new_updates(3.0) == [Piece(0, "a", (0,), (-0.0,))]
        say(job, 0, 2, 4)
        # The tokens of the stop string are no part of it either.
        assert job.new_updates(4.0) == [Piece(0, "", (), (), (), "stop"), None]
        assert job.request.done

    on_a_loop(test)


def test_what_was_held_back_is_said_at_the_end() -> None:
    def test() -> None:
        job = make_job(stop=("bc",))
        say(job, 0, 0, 1, STOP)
        assert job.new_updates(1.0) == [Piece(0, "ab", (0, 1), (-0.0, -1.0), (), "stop"), None]

    on_a_loop(test)


def test_the_end_comes_when_all_responses_have_ended() -> None:
    def test() -> None:
        job = make_job(2)
        say(job, 1, STOP)
        assert job.new_updates(1.0) == [Piece(1, "", (), (), (), "stop")]
        say(job, 0, *[7] * 9)
        assert job.new_updates(2.0) == [Piece(0, "h" * 9, (7,) * 9, (-7.0,) * 9, (), "length"), None]

    on_a_loop(test)


@pytest.mark.parametrize("cancelled", [True, False])
def test_nobody_waits_for_what_will_not_come(cancelled: bool) -> None:
    async def test() -> None:
        job = make_job()
        if cancelled:
            job.cancel()
        else:
            job.request.error = RuntimeError("a secret")
        job.deliver(job.new_updates(1.0))
        with pytest.raises(ApiError) as caught:
            async with asyncio.timeout(1):
                await job.next()
        assert caught.value.status == (499 if cancelled else 500)
        assert "secret" not in str(caught.value)

    asyncio.run(test())


def test_pieces_of_several_jobs_are_numbered_and_silence_is_told() -> None:
    async def test() -> None:
        jobs = [make_job(2), make_job(1)]
        found: list[tuple[int, str] | None] = []
        silences = 0
        async for news in pieces_of(jobs, ping_seconds=0.01):
            if news is None:
                silences += 1
                for job in jobs:
                    for row in range(len(job.texts)):
                        say(job, row, row, STOP)
                    job.deliver(job.new_updates(1.0))
            else:
                found.append((news[0], news[1].text))
        assert silences == 1
        assert sorted(each for each in found if each) == [(0, "a"), (1, "b"), (2, "a")]
        assert len(asyncio.all_tasks()) == 1

    asyncio.run(test())


def test_leaving_a_stream_leaves_no_task() -> None:
    async def test() -> None:
        job = make_job()
        pieces = pieces_of([job])
        waiting = asyncio.ensure_future(anext(pieces))
        await asyncio.sleep(0)
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)
        assert len(asyncio.all_tasks()) == 1

    asyncio.run(test())
