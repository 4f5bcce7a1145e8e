"""Which connection is closed when there are too many, and what is logged of it."""

import logging
import resource
from types import SimpleNamespace
from typing import Any

import pytest

from convmodel.server.connections import Connections, connection_limit


class Connection:
    """What `Connections` uses of a protocol."""

    def __init__(self) -> None:
        self.receives_body = self.aborted = False
        self.transport = SimpleNamespace(abort=self.abort)

    def abort(self) -> None:
        self.aborted = True


def opened(connections: Connections, count: int) -> list[Any]:
    added: list[Any] = [Connection() for _ in range(count)]
    for connection in added:
        connections.add(connection)
    return added


def test_the_longest_idle_is_closed_first() -> None:
    connections = Connections(3)
    first, second, third = opened(connections, 3)
    connections.set_idle(first, False)
    connections.set_idle(second, False)
    connections.set_idle(first, True)  # after the third became idle
    opened(connections, 1)
    assert [each.aborted for each in (first, second, third)] == [False, False, True]
    opened(connections, 1)
    assert [each.aborted for each in (first, second, third)] == [True, False, True]
    assert len(connections) == 3


def test_more_of_an_incomplete_head_makes_no_connection_younger() -> None:
    connections = Connections(2)
    first, _ = opened(connections, 2)
    connections.set_idle(first, True)
    opened(connections, 1)
    assert first.aborted


def test_without_idle_ones_that_of_an_incomplete_body_is_closed_and_else_the_new_one() -> None:
    connections = Connections(2)
    first, second = opened(connections, 2)
    for connection in (first, second):
        connections.set_idle(connection, False)
    second.receives_body = True
    [third] = opened(connections, 1)
    assert [each.aborted for each in (first, second, third)] == [False, True, False]
    connections.set_idle(third, False)
    [fourth] = opened(connections, 1)
    assert [each.aborted for each in (first, third, fourth)] == [False, False, True]
    connections.set_idle(fourth, True)  # it is gone
    assert len(connections) == 2


def test_a_report_is_one_line(caplog: pytest.LogCaptureFixture) -> None:
    connections = Connections(2)
    opened(connections, 1000)
    loop: Any = SimpleNamespace(default_exception_handler=lambda context: logging.error("other %s", context["message"]))
    for _ in range(1000):
        connections.on_loop_error(loop, {"message": "socket.accept() out of system resource"})
    connections.report()
    connections.report()
    [line] = [record.getMessage() for record in caplog.records]
    assert line.startswith("too many connections: 998 idle ones were closed, 0 new ones refused, 1000 not accepted")
    connections.on_loop_error(loop, {"message": "a task failed"})
    assert caplog.records[-1].getMessage() == "other a task failed"


def test_the_limit_leaves_room_for_other_files(monkeypatch: pytest.MonkeyPatch) -> None:
    def limit(soft: int) -> int:
        monkeypatch.setattr(resource, "getrlimit", lambda _: (soft, resource.RLIM_INFINITY))
        return connection_limit()

    assert 700 < limit(1024) < 1000
    assert 4 <= limit(64) < 48
    assert limit(10**6) == limit(resource.RLIM_INFINITY) == 65_536
    assert Connections(limit(64)).accepted_at_once <= 12
