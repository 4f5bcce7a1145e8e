"""Makes this process one of another system, as far as Linux can: `become(SYSTEM)`, before convmodel is imported.

For `win32` and `darwin` it takes away what those systems lack: modules, functions and signals, starting processes by
fork, opening a folder, renaming onto a file that exists, and line feeds in text files that are written without a
`newline`. What is theirs alone is not there: their kernels, file
systems, consoles and GPUs.
"""

import asyncio
import builtins
import errno
import importlib
import io
import multiprocessing
import os
import shutil
import signal
import sys
from pathlib import Path
from typing import Any

# These look at `sys.platform` themselves when they are imported, and then want the real system.
IMPORTS = (
    "accelerate", "concurrent.futures.process", "ctypes", "datasets", "fastapi", "huggingface_hub", "matplotlib",
    "peft", "prompt_toolkit.output.defaults", "prompt_toolkit.shortcuts", "pyarrow.parquet", "rich.progress",
    "tempfile", "torch", "torch.distributed.checkpoint.state_dict", "torch.distributed.fsdp", "transformers.generation",
    "transformers.models.gpt2.modeling_gpt2", "transformers.trainer", "typer.rich_utils", "uvicorn",
    "uvicorn.protocols.http.h11_impl", "xllamacpp",
)  # fmt: skip

MODULES = {"win32": ("fcntl", "grp", "pwd", "resource", "termios", "tty"), "darwin": ()}
FUNCTIONS = {
    "win32": (
        "fork", "getpgid", "getpriority", "getuid", "killpg", "sched_getaffinity", "setpriority", "setsid", "sysconf",
    ),
    "darwin": ("sched_getaffinity", "sched_setaffinity", "memfd_create"),
}  # fmt: skip
SIGNALS = {"win32": ("SIGHUP", "SIGKILL", "SIGUSR1", "SIGUSR2"), "darwin": ()}


class _Missing:
    """Finds no module of another system."""

    def __init__(self, names: tuple[str, ...]) -> None:
        self._names = names

    def find_spec(self, name: str, *_: Any) -> None:
        if name in self._names:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)


def become(system: str) -> None:
    """Takes from this process what the system lacks."""
    for name in IMPORTS:
        importlib.import_module(name)
    asyncio.new_event_loop().close()
    for name in MODULES[system]:
        sys.modules.pop(name, None)
    sys.meta_path.insert(0, _Missing(MODULES[system]))  # type: ignore[arg-type]
    for name in FUNCTIONS[system]:
        if hasattr(os, name):
            delattr(os, name)
    for name in SIGNALS[system]:
        delattr(signal, name)
    spawn: Any = multiprocessing.get_context("spawn")
    multiprocessing.get_context = lambda method=None: _context(spawn, method)  # type: ignore[assignment]
    if system == "win32":
        os.open, os.rename = _open, _rename
        io.open = builtins.open = _open_file
        shutil._use_fd_functions = False  # type: ignore[attr-defined] # removes folders without opening them
    sys.platform = system


def _context(spawn: Any, method: str | None) -> Any:
    if method == "fork":
        raise ValueError("cannot find context for 'fork'")
    return spawn


_real_open, _real_rename, _real_open_file = os.open, os.rename, io.open


def _open_file(
    file: Any, mode: str = "r", buffering: int = -1, encoding: Any = None, errors: Any = None, newline: Any = None,
    *args: Any, **options: Any,
) -> Any:  # fmt: skip
    """Opens a file; without a `newline`, a line feed is written with a carriage return."""
    if newline is None and "b" not in mode and set(mode) & set("wax"):
        newline = "\r\n"
    return _real_open_file(file, mode, buffering, encoding, errors, newline, *args, **options)


def _open(path: Any, *args: Any, **options: Any) -> int:
    if Path(path).is_dir():
        raise PermissionError(errno.EACCES, "Permission denied", str(path))
    return _real_open(path, *args, **options)


def _rename(source: Any, target: Any, **options: Any) -> None:
    if Path(target).exists():
        raise FileExistsError(errno.EEXIST, "Cannot create a file when that file already exists", str(target))
    _real_rename(source, target, **options)
