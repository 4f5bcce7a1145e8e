"""What every test lives with, doctests of `src` included: no network, and a home of its own."""

import os
import socket
import tempfile
from collections.abc import Callable, Iterator
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import hypothesis
import pytest

# Set before any test imports transformers, which reads them once, at its import.
_home = tempfile.TemporaryDirectory(prefix="convmodel-tests-")
os.environ.update(
    HOME=_home.name,
    XDG_CACHE_HOME=f"{_home.name}/cache",
    HF_HOME=f"{_home.name}/huggingface",
    HF_HUB_OFFLINE="1",
    HF_HUB_DISABLE_TELEMETRY="1",
)
for name in ("HF_TOKEN", "HF_HUB_CACHE", "TRANSFORMERS_CACHE"):
    os.environ.pop(name, None)

# No deadline, because the first example pays for imports; the same examples in every run.
hypothesis.settings.register_profile("convmodel", deadline=None, derandomize=True)
hypothesis.settings.load_profile("convmodel")

_loopback_allowed = False


class NetworkBlockedError(RuntimeError):
    """A test tried to reach a network. Not an OSError, so that no retry loop swallows it."""


def pytest_configure() -> None:
    """Puts the guard in place before any fixture, of whatever scope, can open a connection."""
    for method in ("connect", "connect_ex"):
        setattr(socket.socket, method, _guarded(getattr(socket.socket, method)))
    look_up = socket.getaddrinfo

    def getaddrinfo(host: Any, *arguments: Any, **options: Any) -> Any:
        if not (host is None or _is_loopback(host)):
            raise NetworkBlockedError(f"a test tried to look up {host!r}; tests run without a network")
        return look_up(host, *arguments, **options)

    socket.getaddrinfo = getaddrinfo


def pytest_unconfigure() -> None:
    _home.cleanup()


def _guarded(connect: Callable[..., Any]) -> Callable[..., Any]:
    def guarded(self: socket.socket, address: Any) -> Any:
        if self.family != socket.AF_UNIX and not (_loopback_allowed and _is_loopback(address[0])):
            raise NetworkBlockedError(
                f"a test tried to connect to {address!r}; tests run without a network"
                " (mark one that talks to its own server with @pytest.mark.loopback)"
            )
        return connect(self, address)

    return guarded


def _is_loopback(host: str | bytes) -> bool:
    name = host.decode() if isinstance(host, bytes) else host
    if name == "localhost":
        return True
    try:
        return ip_address(name).is_loopback
    except ValueError:
        return False


@pytest.fixture(autouse=True)
def _loopback(request: pytest.FixtureRequest) -> Iterator[None]:
    global _loopback_allowed
    _loopback_allowed = request.node.get_closest_marker("loopback") is not None
    yield
    _loopback_allowed = False


@pytest.fixture(scope="session")
def gpt2_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """GPT-2's real tokenizer with a tiny GPT-2 of random weights. Read it, don't write to it."""
    import tokenizers_zoo

    folder = tmp_path_factory.mktemp("named") / "gpt2"
    tokenizers_zoo.save_gpt2(folder)
    return folder


@pytest.fixture(autouse=True)
def _doctest_folder(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Runs doctests in a folder where `"gpt2"` is the tiny model, so that they read as users write."""
    if isinstance(request.node, pytest.DoctestItem):
        folder = tmp_path_factory.mktemp("doctest")
        (folder / "gpt2").symlink_to(request.getfixturevalue("gpt2_folder"))
        monkeypatch.chdir(folder)
