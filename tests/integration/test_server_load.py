"""Many clients at once, clients that leave, clients that do not read: the queue is short, and nobody waits for them."""

import asyncio
import socket
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from typing import Any

import openai
import pytest
from scripted import halted, scripted
from serving import HELLO, Serving, raw_post, read_all, read_until, serving, wait_until

from convmodel import ConversationModel

pytestmark = pytest.mark.loopback

STEP = 0.15  # seconds that a forward pass takes in tests that count them; a busy machine may be slow to hear of things
LONG = [262] * 110


@pytest.fixture
def own(served_models: dict[str, ConversationModel], request: pytest.FixtureRequest) -> Iterator[Serving]:
    """A server of the test's own, with one place for a response in work."""
    settings = getattr(request, "param", {})
    with serving({"tiny": served_models["tiny"]}, **settings) as served:
        served.engine().max_rows = 1
        yield served
        wait_until(served.is_idle)


@pytest.mark.parametrize("own", [{"max_queue": 2}], indirect=True)
def test_a_full_queue_is_429(own: Serving) -> None:
    scheduler = own.scheduler()
    with ThreadPoolExecutor() as pool, halted(own.model()) as go_on:
        asked = [pool.submit(own.chat, max_tokens=2)]
        wait_until(lambda: (scheduler.waiting, scheduler.running) == (0, 1))
        asked += [pool.submit(own.chat, max_tokens=2) for _ in range(2)]
        wait_until(lambda: (scheduler.waiting, scheduler.running) == (2, 1))
        for stream in (False, True):
            refused = own.chat(stream=stream)
            assert (refused.status, refused.error["code"]) == (429, "queue_full")
            assert refused.error["type"] == "rate_limit_error"
            assert 1 <= int(refused.headers["retry-after"]) <= 60
        assert own.post("/v1/completions", model="tiny", prompt="Hi").status == 429
        assert own.post("/v1/responses", model="tiny", input="Hi").status == 429
        with (
            openai.OpenAI(base_url=f"{own.url}/v1", api_key="none", max_retries=0) as client,
            pytest.raises(openai.RateLimitError),
        ):
            client.completions.create(model="tiny", prompt="Hi")
        assert own.get("/v1/models").status == 200
        assert b'convmodel_refused_requests_total{model="tiny"} 5.0' in own.get("/metrics").body
        assert b'convmodel_waiting_requests{model="tiny"} 2.0' in own.get("/metrics").body
        go_on.set()
        assert [each.result().status for each in asked] == [200, 200, 200]


@pytest.mark.parametrize("own", [{"max_queue": 4}], indirect=True)
def test_the_queue_is_short_however_many_come_at_once(own: Serving) -> None:
    with ThreadPoolExecutor(40) as pool, halted(own.model()) as go_on:
        asked = [pool.submit(own.chat, [{"role": "user", "content": "Hi " * 2000}], max_tokens=1) for _ in range(40)]
        wait_until(lambda: sum(each.done() for each in asked) >= 35)
        assert own.scheduler().waiting <= 4
        go_on.set()
        # A text of that length has no room; it is told so, but not before there was a place to wait.
        assert {each.result().status for each in asked} <= {400, 429}


@pytest.mark.parametrize("own", [{"wait_seconds": 0.15}], indirect=True)
def test_who_waits_too_long_is_told_so(own: Serving) -> None:
    with scripted(own.model(), LONG, seconds=0.1), own.begin(stream=True) as running:
        read_until(running, b'"content":" the"')
        waited = own.chat(max_tokens=2)
        assert (waited.status, waited.error["code"]) == (503, "waited")
        assert int(waited.headers["retry-after"]) >= 1


@pytest.mark.slow
@pytest.mark.parametrize("own", [{"run_seconds": 1.0}], indirect=True)
def test_a_response_that_takes_too_long_is_ended(own: Serving) -> None:
    with scripted(own.model(), LONG, LONG, seconds=0.1):
        whole = own.chat(max_tokens=100)
        assert (whole.status, whole.error["code"]) == (504, "run_limit")
        stream = own.chat(max_tokens=100, stream=True)
    assert stream.events[1]["choices"][0]["delta"]["content"]
    assert stream.events[-1]["error"]["code"] == "run_limit"


@pytest.mark.slow
@pytest.mark.parametrize("stream", [True, False], ids=["streaming", "whole"])
def test_a_client_that_leaves_frees_its_place_within_a_step(
    own: Serving, stream: bool, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    with scripted(own.model(), LONG, "Hi", seconds=STEP) as script:
        leaving = own.begin(stream=stream, max_tokens=100)
        wait_until(lambda: script.steps >= 3)
        leaving.close()
        before = script.steps
        wait_until(own.is_idle)
        assert script.steps - before <= 2  # the step in work, and maybe one before the loop hears of it
        assert own.chat().json["choices"][0]["message"]["content"] == "Hi"
        wait_until(lambda: not own.tasks())
    told = [
        record.__dict__["fields"]["status"] for record in caplog.records if record.name == "convmodel.server.access"
    ]
    assert told == [200 if stream else 499, 200]


@pytest.mark.parametrize("stream", [True, False], ids=["streaming", "whole"])
def test_a_client_that_waits_may_leave(own: Serving, stream: bool) -> None:
    scheduler = own.scheduler()
    with scripted(own.model(), LONG, seconds=STEP) as script, own.begin(stream=True) as running:
        read_until(running, b'"content":" the"')
        leaving = own.begin(stream=stream)
        wait_until(lambda: scheduler.waiting == 1)
        leaving.close()
        before = script.steps
        wait_until(lambda: own.engine().load == (1, 0))
        assert script.steps - before <= 2
    assert len(script.prompts) == 1


@pytest.mark.slow
def test_all_choices_and_prompts_of_a_client_that_leaves_end(own: Serving) -> None:
    own.engine().max_rows = 32
    with scripted(own.model(), *[LONG] * 6, seconds=STEP):
        with own.connect() as leaving:
            leaving.sendall(raw_post("/v1/completions", model="tiny", prompt=["a", "b", "c"], n=2, max_tokens=100))
            wait_until(lambda: own.engine().load == (6, 0))
        assert wait_until(own.is_idle) < 8  # the whole takes 15 seconds
    assert b'outcome="cancelled"} 3.0' in own.get("/metrics").body


def test_a_stop_button_before_the_body_is_there_leaves_nothing(own: Serving) -> None:
    for _ in range(20):
        with own.connect() as connection:
            connection.sendall(b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: 50\r\n")
            connection.sendall(b'Content-Type: application/json\r\n\r\n{"model"')
    wait_until(lambda: not own.server.server_state.tasks)


@pytest.mark.slow
def test_two_hundred_clients_vanish_and_the_next_one_is_answered_promptly(
    served_models: dict[str, ConversationModel],
) -> None:
    async def vanish(own: Serving, number: int) -> None:
        messages = [{"role": "user", "content": f"Tell me {number}"}]
        body = {"model": "tiny", "messages": messages, "stream": number % 2 == 0, "max_tokens": 100}
        _, writer = await asyncio.open_connection("127.0.0.1", own.port)
        writer.write(raw_post("/v1/chat/completions", **body))
        await writer.drain()
        await asyncio.sleep(0.1)
        writer.transport.abort()

    async def all_vanish(own: Serving) -> None:
        await asyncio.gather(*(vanish(own, number) for number in range(200)))

    with serving({"tiny": served_models["tiny"]}) as own:
        asyncio.run(all_vanish(own))
        answers = []
        took = wait_until(lambda: answers.append(own.chat(max_tokens=2)) or answers[-1].status == 200)
        assert took < 10
        assert {answer.status for answer in answers} <= {200, 429}
        wait_until(own.is_idle)
        wait_until(lambda: not own.tasks())
        assert threading.active_count() < 20


@pytest.mark.slow
@pytest.mark.parametrize("own", [{"stall_seconds": 0.3, "head_seconds": 0.5}], indirect=True)
def test_who_reads_nothing_is_let_go(own: Serving) -> None:
    own.server.servers[0].sockets[0].setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
    with socket.socket() as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connection.connect(("127.0.0.1", own.port))
        body = {"model": "tiny", "messages": HELLO, "n": 8, "stream": True, "logprobs": True, "top_logprobs": 20}
        connection.sendall(raw_post("/v1/chat/completions", **body, max_tokens=100))
        with scripted(own.model(), *[LONG] * 8):
            wait_until(lambda: own.scheduler().running)
            wait_until(own.is_idle)
        wait_until(lambda: not own.server.server_state.connections)


def test_a_slow_reader_gets_all_and_holds_nobody_up(own: Serving) -> None:
    own.engine().max_rows = 4
    with scripted(own.model(), LONG, "Hi"), own.begin(stream=True, max_tokens=100) as slow:
        found = read_until(slow, b'"content":" the"')
        assert own.chat().json["choices"][0]["message"]["content"] == "Hi"
        while part := slow.recv(2000):
            found += part
    assert found.count(b'"content":" the"') == 100
    assert b"data: [DONE]" in found


@pytest.mark.parametrize("own", [{"ping_seconds": 0.05}], indirect=True)
def test_a_stream_says_that_it_is_alive(own: Serving) -> None:
    with halted(own.model()) as go_on, own.begin(stream=True, max_tokens=2) as waiting:
        begun = read_until(waiting, b": ping\n\n", 3)
        go_on.set()
        assert b"data: [DONE]" in read_all(waiting)
    assert begun.count(b"data: ") == 1


def test_a_step_that_fails_ends_what_is_in_work_and_no_other(own: Serving, monkeypatch: pytest.MonkeyPatch) -> None:
    engine, step, fails = own.engine(), own.engine().step, threading.Event()

    def broken() -> Any:
        if fails.is_set():
            raise RuntimeError("out of order")
        return step()

    monkeypatch.setattr(engine, "step", broken)
    with scripted(own.model(), LONG, seconds=0.1), own.begin(stream=True, max_tokens=100) as running:
        read_until(running, b'"content":" the"')
        fails.set()
        assert b'"server_error"' in read_all(running)
        assert own.chat(max_tokens=2).status == 500
        fails.clear()
    assert own.chat(max_tokens=2).status == 200


def test_python_and_clients_may_use_one_engine(own: Serving, served_models: dict[str, ConversationModel]) -> None:
    own.engine().max_rows = 8
    model = served_models["tiny"]
    expected = model.generate(["Hello"], max_new_tokens=20, reply_as="assistant", min_new_tokens=1).responses
    with ThreadPoolExecutor() as pool:
        asked = [pool.submit(own.chat, max_tokens=20, temperature=0) for _ in range(6)]
        with ExitStack() as stack:
            stack.enter_context(pytest.MonkeyPatch.context()).setattr(model, "_engine", own.engine())
            said = [model.generate(["Hello"], max_new_tokens=20, reply_as="assistant", min_new_tokens=1).responses]
        assert said == [expected]
        assert {each.result().json["choices"][0]["message"]["content"] for each in asked} == {*expected}
