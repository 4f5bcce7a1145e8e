"""A server that is told to stop answers what it has taken; and the command as people run it."""

import json
import signal
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
from scripted import halted, scripted
from serving import Serving, data_lines, read_all, read_until, serving, serving_loaded, wait_until

from convmodel import ConversationModel

pytestmark = pytest.mark.loopback

LONG = [262] * 110


@pytest.fixture
def own(served_models: dict[str, ConversationModel], request: pytest.FixtureRequest) -> Iterator[Serving]:
    with serving({"tiny": served_models["tiny"]}, **getattr(request, "param", {})) as served:
        yield served


def stop(own: Serving) -> None:
    """What a signal does; a thread gets none."""
    own.server.handle_exit(signal.SIGTERM, None)


def has_ended(own: Serving) -> bool:
    try:
        own.connect().close()
    except OSError:
        return True
    return False


def test_streams_end_whole_and_nothing_new_is_taken(own: Serving) -> None:
    with (
        scripted(own.model(), LONG, LONG),
        halted(own.model(), steps=2) as go_on,
        own.begin(stream=True, max_tokens=100) as stream,
    ):
        begun = read_until(stream, b'"content":" the"')
        whole = own.begin(max_tokens=100)  # not before: its prompt would be one of the two steps
        wait_until(lambda: own.scheduler().running + own.scheduler().waiting == 2)
        stop(own)
        ready = own.get("/ready")
        assert (ready.status, ready.json) == (503, {"status": "draining"})
        assert own.get("/health").status == 200
        refused = own.chat(max_tokens=1)
        assert (refused.status, refused.error["code"]) == (503, "draining")
        assert int(refused.headers["retry-after"]) >= 1
        assert own.post("/v1/completions", model="tiny", prompt="Hi").status == 503
        go_on.set()
        lines = data_lines(begun + read_all(stream))
        with whole:
            answer = json.loads(read_all(whole).partition(b"\r\n\r\n")[2])
    assert lines[-1] == "[DONE]"
    assert sum('"content":" the"' in line for line in lines) == 100
    assert answer["choices"][0]["message"]["content"] == " the" * 100
    wait_until(lambda: has_ended(own))


@pytest.mark.slow
def test_those_that_wait_are_answered_too(own: Serving) -> None:
    own.engine().max_rows = 1
    with scripted(own.model(), LONG, "Good", "Good"), ThreadPoolExecutor() as pool:
        with halted(own.model(), steps=2) as go_on, own.begin(stream=True, max_tokens=100) as first:
            read_until(first, b'"content":" the"')
            waiting = [pool.submit(own.chat) for _ in range(2)]
            wait_until(lambda: own.scheduler().waiting == 2)
            stop(own)
            go_on.set()
            read_all(first)
        said = [each.result().json["choices"][0]["message"]["content"] for each in waiting]
    assert said == ["Good", "Good"]


@pytest.mark.slow
@pytest.mark.parametrize("own", [{"drain_seconds": 0.1}], indirect=True)
def test_the_deadline_ends_what_goes_on(own: Serving) -> None:
    with (
        scripted(own.model(), LONG, LONG, seconds=0.15),
        own.begin(stream=True, max_tokens=100) as stream,
        own.begin(max_tokens=100) as whole,
    ):
        read_until(stream, b'"content":" the"')
        wait_until(lambda: own.engine().load == (2, 0))
        stop(own)
        assert json.loads(data_lines(read_all(stream))[-1])["error"]["code"] == "draining"
        answer = read_all(whole)
    assert answer.startswith(b"HTTP/1.1 503 ")
    assert json.loads(answer.partition(b"\r\n\r\n")[2])["error"]["code"] == "draining"
    wait_until(lambda: has_ended(own))


def test_asked_twice_it_ends_at_once(own: Serving) -> None:
    with scripted(own.model(), LONG, seconds=0.15), own.begin(stream=True, max_tokens=100) as stream:
        read_until(stream, b'"content":" the"')
        stop(own)
        stop(own)
        assert "[DONE]" not in data_lines(read_all(stream))


def test_it_may_be_stopped_while_it_loads(served_models: dict[str, ConversationModel]) -> None:
    go_on = threading.Event()
    with serving_loaded(lambda: served_models if go_on.wait(30) else {}) as loading, loading.connect() as connection:
        connection.sendall(b"GET /v1/models HTTP/1.1\r\nHost: localhost\r\n")
        stop(loading)
        connection.sendall(b"Connection: close\r\n\r\n")
        answer = read_all(connection)
        assert not answer or answer.startswith(b"HTTP/1.1 503")
        wait_until(lambda: has_ended(loading))
        go_on.set()


def test_a_server_that_has_nothing_to_do_ends_at_once(own: Serving) -> None:
    stop(own)
    assert wait_until(lambda: has_ended(own)) < own.registry.settings.drain_seconds / 2
    assert not [thread.name for thread in threading.enumerate() if thread.name == "loading"]
