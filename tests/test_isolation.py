"""The guard that every test lives with works: no network, no home of the person who runs the tests."""

import os
import socket
import tempfile
from pathlib import Path

import pytest


@pytest.mark.parametrize("address", [("192.0.2.1", 80), ("127.0.0.1", 80), ("::1", 80), ("example.com", 80)])
def test_connections_are_refused(address: tuple[str, int]) -> None:
    family = socket.AF_INET6 if ":" in address[0] else socket.AF_INET
    with socket.socket(family) as client, pytest.raises(RuntimeError, match="without a network"):
        client.connect(address)


def test_names_are_not_looked_up() -> None:
    with pytest.raises(RuntimeError, match="without a network"):
        socket.create_connection(("example.com", 443))


@pytest.mark.loopback
def test_a_marked_test_may_talk_to_its_own_server() -> None:
    with (
        socket.create_server(("127.0.0.1", 0)) as server,
        socket.create_connection(server.getsockname()) as client,
    ):
        assert client.getpeername() == server.getsockname()
        with pytest.raises(RuntimeError, match="without a network"):
            socket.create_connection(("192.0.2.1", 80))


def test_home_is_temporary() -> None:
    assert Path.home().is_relative_to(tempfile.gettempdir())
    assert Path(os.environ["HF_HOME"]).is_relative_to(Path.home())
