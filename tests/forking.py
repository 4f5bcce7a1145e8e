"""Python programs in processes of their own that need not import torch and transformers again.

Owns: one parent process for each test worker, which imports them once, and the children that it forks. A child runs a
module or a script as `python` does, with its own arguments, environment, folder and output, and dies as any process
does. Where forking is not safe (macOS), every program imports everything for itself.
"""

import atexit
import gc
import json
import os
import runpy
import select
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import IO, Any

IMPORTS = (
    "accelerate",
    "convmodel.model",
    "datasets",
    "peft",
    "pydantic",
    "rich.progress",
    "torch.distributed.checkpoint.state_dict",
    "torch.distributed.fsdp",
    "transformers.models.gpt2.modeling_gpt2",
    "transformers.models.llama.modeling_llama",
    "transformers.trainer",
    "typer.rich_utils",
)
"""What the parent imports: nothing of `convmodel.cli`, which reads the environment when it is imported."""

_one_at_a_time = threading.Lock()


class Running:
    """A running program, with the attributes and methods of `subprocess.Popen` that tests use."""

    def __init__(self, arguments: Sequence[str], cwd: Path | None, env: Mapping[str, str]) -> None:
        self.args = list(arguments)
        self.returncode: int | None = None
        self._out, self._err = _scratch_file(), _scratch_file()
        status, child_end = os.pipe()
        self._status = os.fdopen(status)
        request = {"arguments": self.args, "cwd": str(cwd or Path.cwd()), "env": dict(env)}
        with _one_at_a_time:
            files = [self._out.fileno(), self._err.fileno(), child_end]
            socket.send_fds(_parent(), [json.dumps(request).encode()], files)
        os.close(child_end)
        self.pid = int(self._status.readline())

    def wait(self, timeout: float | None = None) -> int:
        """Waits for the end, and returns the exit code, or minus the number of the signal."""
        if self.returncode is None:
            if not select.select([self._status], [], [], timeout)[0]:
                raise subprocess.TimeoutExpired(self.args, timeout or 0.0)
            self.returncode = int(self._status.readline())
        return self.returncode

    def poll(self) -> int | None:
        with suppress(subprocess.TimeoutExpired):
            self.wait(0.0)
        return self.returncode

    def communicate(self, timeout: float | None = None) -> tuple[str, str]:
        """Waits for the end, and returns stdout and stderr."""
        try:
            self.wait(timeout)
        except subprocess.TimeoutExpired:
            self.kill()
            raise
        out, err = (_content(file) for file in (self._out, self._err))
        self._status.close()
        return out, err

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


Process = Running | subprocess.Popen[str]


def start(arguments: Sequence[str], *, env: Mapping[str, str], cwd: Path | None = None, fresh: bool = False) -> Process:
    """Starts a Python program.

    Args:
        arguments: `-m`, a module and its arguments, or a script and its arguments.
        env: The whole environment.
        cwd: The folder to start in.
        fresh: Whether the program imports everything for itself, as it does for users.
    """
    if sys.platform == "linux" and not fresh:
        return Running(arguments, cwd, env)
    line, pipe = [sys.executable, *arguments], subprocess.PIPE
    return subprocess.Popen(line, cwd=cwd, env=env, stdout=pipe, stderr=pipe, text=True)


def run(arguments: Sequence[str], *, timeout: float, **options: Any) -> "subprocess.CompletedProcess[str]":
    """Runs a Python program to its end."""
    program = start(arguments, **options)
    out, err = program.communicate(timeout=timeout)
    assert program.returncode is not None
    return subprocess.CompletedProcess(list(arguments), program.returncode, out, err)


def run_together(
    arguments: Sequence[str], processes: int, *, env: Mapping[str, str], timeout: float, **options: Any
) -> "subprocess.CompletedProcess[str]":
    """Runs processes that train together, in the environment that `torchrun` makes; the first that fails ends all."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        address = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free.getsockname()[1])}
    members = []
    for rank in range(processes):
        place = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": processes, "LOCAL_WORLD_SIZE": processes}
        own = {name: str(value) for name, value in place.items()}
        members.append(start(arguments, env={**env, **address, **own}, **options))
    end = time.monotonic() + timeout
    code = 0
    while any(member.poll() is None for member in members):
        code = code or next((member.returncode for member in members if member.returncode), 0)
        if code or time.monotonic() > end:
            for member in members:
                member.kill()
        time.sleep(0.005)
    outputs = [member.communicate() for member in members]
    code = code or next((member.returncode for member in members if member.returncode), 0)
    return subprocess.CompletedProcess(list(arguments), code, *map("".join, zip(*outputs, strict=True)))


def _scratch_file() -> IO[str]:
    return tempfile.TemporaryFile("w+", encoding="utf-8")


def _content(file: IO[str]) -> str:
    with file:
        file.seek(0)
        return file.read()


@cache
def _parent() -> socket.socket:
    """Starts the process that forks; it ends when this process does."""
    ours, its = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    process = subprocess.Popen([sys.executable, __file__], stdin=its, stdout=subprocess.DEVNULL)
    its.close()

    def end() -> None:
        ours.close()
        process.wait()

    atexit.register(end)
    return ours


def _serve() -> None:
    """Forks a child for each request. Returns in a child, which is to run what `sys.argv` says."""
    requests = socket.socket(fileno=os.dup(0))
    with Path(os.devnull).open() as nothing:
        os.dup2(nothing.fileno(), 0)
    for name in IMPORTS:
        import_module(name)
    gc.freeze()
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for those who wait for the children
    while True:
        message, files, _, _ = socket.recv_fds(requests, 2**20, 3)
        if not message:
            sys.exit()
        if os.fork():
            for file in files:
                os.close(file)
            continue
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        requests.close()
        out, err, status = files
        if child := os.fork():
            os.write(status, f"{child}\n".encode())
            os.write(status, f"{os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])}\n".encode())
            os._exit(0)
        os.close(status)
        os.dup2(out, 1)
        os.dup2(err, 2)
        for file in (out, err):
            os.close(file)
        _become(**json.loads(message))
        return


def _become(arguments: list[str], cwd: str, env: dict[str, str]) -> None:
    os.environ.clear()
    os.environ.update(env)
    os.chdir(cwd)
    sys.argv = arguments


if __name__ == "__main__":
    _serve()
    if sys.argv[0] == "-m":
        sys.argv = sys.argv[1:]
        sys.path[0] = str(Path.cwd())
        runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
    else:
        sys.path[0] = str(Path(sys.argv[0]).parent.resolve())
        runpy.run_path(sys.argv[0], run_name="__main__")
