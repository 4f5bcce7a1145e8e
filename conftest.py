"""What every test lives with, doctests of `src` included: no network, and a home of its own."""

import gc
import importlib.util
import os
import shlex
import shutil
import signal
import socket
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import hypothesis
import pytest
from filelock import FileLock
from sybil import Example, Sybil
from sybil.parsers.markdown import CodeBlockParser, PythonCodeBlockParser, SkipParser
from typer.testing import CliRunner

# Set before any test imports transformers, which reads them once, at its import.
_home = tempfile.TemporaryDirectory(prefix="convmodel-tests-")
os.environ.update(
    HOME=_home.name,
    XDG_CACHE_HOME=f"{_home.name}/cache",
    HF_HOME=f"{_home.name}/huggingface",
    HF_HUB_OFFLINE="1",
    HF_HUB_DISABLE_TELEMETRY="1",
    CONVMODEL_DEVICE="cpu",  # equalities are exact there, and the tests are about convmodel, not about a GPU
)
# The models are so small that threads cost more than they bring, many times more while the cores are busy.
os.environ.setdefault("OMP_NUM_THREADS", "1")
for name in ("HF_TOKEN", "HF_HUB_CACHE", "TRANSFORMERS_CACHE"):
    os.environ.pop(name, None)

# No deadline, because the first example pays for imports; the same examples in every run.
hypothesis.settings.register_profile("convmodel", deadline=None, derandomize=True)
hypothesis.settings.load_profile("convmodel")

collect_ignore = [
    "tests/data",
    "tests/clients",
    *([] if importlib.util.find_spec("ray") else ["src/convmodel/server/ray_app.py"]),
]
"""Data, and modules that need packages which are not of the development environment: Ray is larger than all of it, and
clients of the server exclude each other."""

SLOW_PAGES = ("from-scratch.md", "when-it-talks-badly.md")

_loopback_allowed = False


class NetworkBlockedError(RuntimeError):
    """A test tried to reach a network. Not an OSError, so that no retry loop swallows it."""


def pytest_configure() -> None:
    """Puts the guard in place before any fixture, of whatever scope, can open a connection."""
    # A shell starts what runs in its background without Ctrl-C, which tests are about.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    for method in ("connect", "connect_ex"):
        setattr(socket.socket, method, _guarded(getattr(socket.socket, method)))
    look_up = socket.getaddrinfo

    def getaddrinfo(host: Any, *arguments: Any, **options: Any) -> Any:
        if not (host is None or _is_loopback(host)):
            raise NetworkBlockedError(f"a test tried to look up {host!r}; tests run without a network")
        return look_up(host, *arguments, **options)

    socket.getaddrinfo = getaddrinfo


@pytest.hookimpl(trylast=True)
def pytest_collection_finish() -> None:
    """Keeps what is imported by now out of garbage collection, which each run of training asks for several times."""
    gc.collect()
    gc.freeze()


def pytest_itemcollected(item: pytest.Item) -> None:
    """Marks the blocks of pages that train one model after another as slow."""
    if item.path.name in SLOW_PAGES:
        item.add_marker(pytest.mark.slow)


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
def make_once(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, Callable[[Path], Any]], Path]:
    """Makes a folder once for all workers of a run, and returns it. Read such a folder, don't write to it."""
    root = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        root = root.parent  # which the workers share

    def make_once(name: str, make: Callable[[Path], Any]) -> Path:
        folder, done = root / "shared" / name, root / f"{name}.done"
        with FileLock(root / f"{name}.lock"):
            if not done.exists():
                folder.parent.mkdir(exist_ok=True)
                make(folder)
                done.touch()
        return folder

    return make_once


@pytest.fixture(scope="session")
def gpt2_folder(make_once: Callable[..., Path]) -> Path:
    """GPT-2's real tokenizer with a tiny GPT-2 of random weights. Read it, don't write to it."""
    import tokenizers_zoo

    return make_once("gpt2", tokenizers_zoo.save_gpt2)


@pytest.fixture(scope="session")
def model_folder(gpt2_folder: Path, make_once: Callable[..., Path]) -> Path:
    """The tiny GPT-2, fine-tuned until it says what the pages of `docs/` show. Read it, don't write to it."""
    from convmodel import ConversationModel

    def fit(folder: Path) -> None:
        talks = [["Hello", "How are you", "Good thank you", "Glad to hear it"], ["Hi", "Hi there", "What's new?"]]
        options = {"epochs": 90, "learning_rate": 1e-2, "batch_size": 2, "weight_decay": 0.0}
        ConversationModel.from_pretrained(gpt2_folder).fit(talks, output_dir=str(folder), **options)

    return make_once("model", fit)


@pytest.fixture
def reader_folder(gpt2_folder: Path, model_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder in which a reader of the docs types: `gpt2`, `model`, and files with conversations."""
    _furnish(tmp_path, gpt2_folder, model_folder)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture(scope="session")
def _page_folders() -> dict[Path, Path]:
    return {}


@pytest.fixture
def _page_folder(
    request: pytest.FixtureRequest,
    _page_folders: dict[Path, Path],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    """Runs the blocks of one page in one such folder, since later ones use what earlier ones made."""
    page = request.node.path
    if page not in _page_folders:
        _page_folders[page] = tmp_path_factory.mktemp("page")
        models = request.getfixturevalue("gpt2_folder"), request.getfixturevalue("model_folder")
        _furnish(_page_folders[page], *models)
    monkeypatch.chdir(_page_folders[page])


def _furnish(folder: Path, gpt2_folder: Path, model_folder: Path) -> None:
    from importlib.resources import files

    sample = files("convmodel") / "assets" / "sample"
    for name in ("train", "valid", "test"):
        lines = (sample / f"{name}.jsonl").read_text(encoding="utf-8").splitlines(keepends=True)
        (folder / f"{name}.jsonl").write_text("".join(lines[:4]), encoding="utf-8")
    (folder / "chatterbot_corpus").mkdir()
    (folder / "chatterbot_corpus/data").symlink_to(Path(__file__).parent / "tests/data/chatterbot")
    (folder / "gpt2").symlink_to(gpt2_folder)
    shutil.copytree(model_folder, folder / "model")


@pytest.fixture(autouse=True)
def _doctest_folder(request: pytest.FixtureRequest) -> None:
    """Runs doctests where `"gpt2"` and `"model"` are tiny models, so that they read as users write."""
    if isinstance(request.node, pytest.DoctestItem) and "from_pretrained" in request.node.dtest.docstring:
        request.getfixturevalue("reader_folder")


def _run_shell(example: Example) -> str | None:
    """Runs a `sh` block of a page line by line; long training stops early, and of `make` only the target is checked."""
    from convmodel.cli.main import app

    for line in example.parsed.splitlines():
        program, *arguments = shlex.split(line, comments=True) or [""]
        if program == "make":
            subprocess.run(
                ["make", "-n", "-C", str(Path(__file__).parent), *arguments], check=True, capture_output=True
            )
        elif program == "convmodel":
            if arguments[:1] == ["fit"] and {"--epochs", "--valid"} & {*arguments}:
                arguments += ["--max-steps", "3"]
            result = CliRunner().invoke(app, arguments, input="Hello\n/quit\n", catch_exceptions=False)
            if result.exit_code:
                return f"{line}: exit code {result.exit_code}\n{result.output}"
        elif program:
            return f"no test can run {line!r}"
    return None


pytest_collect_file = Sybil(
    parsers=[PythonCodeBlockParser(), CodeBlockParser("sh", _run_shell), SkipParser()],
    patterns=["README.md", "CONTRIBUTING.md", "docs/*.md"],
    fixtures=["_page_folder"],
).pytest()
