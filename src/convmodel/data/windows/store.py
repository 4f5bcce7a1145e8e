"""Windows on disk: encoded once, read one by one, however many there are.

Owns: the Arrow file of windows, the cache that keeps it, and when it is encoded again.
"""

import hashlib
import json
import logging
import mmap
import os
import re
import shutil
import tempfile
import time
import weakref
from collections.abc import Callable, Iterable, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass
from functools import partial
from itertools import chain, islice
from pathlib import Path
from typing import Any, overload

import numpy as np
import numpy.typing as npt

from convmodel.conversation import Conversation
from convmodel.data.progress import ProgressBar
from convmodel.data.reading.reader import ConversationReader
from convmodel.data.windows.encoding import (
    CHUNK,
    EncodedChunk,
    EncodingSummary,
    Numbered,
    WindowSet,
    chunks,
    encode_chunk,
    encode_windows,
    require_windows,
)
from convmodel.data.windows.workers import IN_THIS_PROCESS, in_processes
from convmodel.errors import MissingExtraError, SaveError
from convmodel.files.atomic import staged
from convmodel.layout.sequence import IGNORED, LossOn, Window
from convmodel.layout.tokenizer import ConversationTokenizer

logger = logging.getLogger(__name__)

SMALL = IN_THIS_PROCESS * CHUNK
"""From this many conversations on, windows are kept on disk; fewer are quickly encoded in memory."""

CACHE_BYTES = 20 << 30
"""Size limit of the cache; beyond it, the least recently used windows are deleted."""

_ABANDONED = 24 * 3600  # seconds; no encoding takes so long
_WINDOWS, _SUMMARY = "windows.arrow", "account.json"
_RESIDENT = 100  # windows; the kernel maps up to 64 KiB around each place that is read

_PACKAGE = Path(__file__).parents[2]
_DECIDING = ("conversation.py", "data/reading/*.py", "data/windows/*.py", "layout/*.py")
# A line that does nothing: blank, a comment, or (a part of) a docstring.
_IDLE_LINES = re.compile(rb'^[ \t]*(?:#.*|r?"""(?>[\s\S]*?"""))?[ \t]*\n', re.MULTILINE)


class StoredWindows(Sequence[Window]):
    """Windows in an Arrow file, read on access; `datasets.Dataset.from_file` reads it too.

    The folder of a temporary file is deleted when the windows are no longer used. `lengths` are in tokens.
    """

    def __init__(self, path: Path, *, temporary: bool = False) -> None:
        pa = _pyarrow()
        if temporary:
            weakref.finalize(self, shutil.rmtree, path.parent, ignore_errors=True)
        with path.open("rb") as file:
            self._map = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        table = pa.ipc.open_stream(pa.py_buffer(self._map)).read_all()
        self._chunks = [_Columns.of(batch) for batch in table.to_batches()]
        self._first = np.cumsum([0, *(len(chunk.cut) for chunk in self._chunks)])
        lengths = [np.diff(chunk.offsets) for chunk in self._chunks]
        self.lengths: npt.NDArray[np.int32] = np.concatenate([np.zeros(0, np.int32), *lengths])
        self._release()

    def __len__(self) -> int:
        return len(self.lengths)

    @overload
    def __getitem__(self, index: int) -> Window: ...
    @overload
    def __getitem__(self, index: slice) -> list[Window]: ...
    def __getitem__(self, index: int | slice) -> Window | list[Window]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        if not -len(self) <= index < len(self):
            raise IndexError(index)
        index %= len(self)
        place = int(np.searchsorted(self._first, index, side="right")) - 1
        chunk, row = self._chunks[place], index - int(self._first[place])
        part = slice(chunk.offsets[row], chunk.offsets[row + 1])
        ids = chunk.input_ids[part]
        window = Window(
            ids.tolist(),
            chunk.types[part].tolist(),
            np.where(chunk.supervised[part] == 1, ids, IGNORED).tolist(),
            int(chunk.text_bytes[row]),
            int(chunk.cut[row]),
            chunk.weights[chunk.weight_offsets[row] : chunk.weight_offsets[row + 1]].tolist() or None,
            chunk.sources[row].as_py(),
        )
        self._read += 1
        if self._read == _RESIDENT:
            self._release()
        return window

    def _release(self) -> None:
        """Releases mapped pages: random reads would otherwise keep the whole file in this process's memory."""
        self._read = 0
        if hasattr(mmap, "MADV_DONTNEED"):
            self._map.madvise(mmap.MADV_DONTNEED)


@dataclass(frozen=True, slots=True)
class _Columns:
    """One batch of the file, as views of mapped memory; window `i` spans `offsets[i]` to `offsets[i + 1]`.

    Weights have their own offsets, since most windows have none.
    """

    offsets: npt.NDArray[np.int32]
    weight_offsets: npt.NDArray[np.int32]
    input_ids: npt.NDArray[np.int32]
    types: npt.NDArray[np.uint16]
    supervised: npt.NDArray[np.uint8]
    text_bytes: npt.NDArray[np.int32]
    cut: npt.NDArray[np.int32]
    weights: npt.NDArray[np.float64]
    sources: Any

    @classmethod
    def of(cls, batch: Any) -> "_Columns":
        lists = {name: batch[name] for name in ("input_ids", "types", "supervised", "weights")}
        values = {name: column.values.to_numpy() for name, column in lists.items()}
        numbers = {name: batch[name].to_numpy() for name in ("text_bytes", "cut")}
        offsets, weight_offsets = (lists[name].offsets.to_numpy() for name in ("input_ids", "weights"))
        return cls(offsets, weight_offsets, sources=batch["source"], **values, **numbers)


def prepare_windows(
    conversations: Iterable[Conversation],
    tokenizer: ConversationTokenizer,
    *,
    max_length: int,
    loss_on: LossOn,
) -> WindowSet:
    """Encodes conversations as windows: in memory if they are few or in memory already, else on disk.

    The windows of a file are cached (in `CONVMODEL_CACHE`, by default `~/.cache/convmodel`) and reused while the file,
    the tokenizer, the options and the code that makes windows stay the same.

    Raises:
        ConversationError: If the data is malformed, or has no supervised turn.
        ContextTooLongError: If a conversation's pinned turns leave no room in a window.
        MissingExtraError: If the windows belong on disk, and pyarrow is not installed.
        SaveError: If the disk cannot be written.
    """
    reader = conversations if isinstance(conversations, ConversationReader) else ConversationReader(conversations)
    options = {"max_length": max_length, "loss_on": loss_on, "on_error": reader.problems.on_error}
    remaining = iter(reader)
    in_memory = isinstance(reader.source, Sequence) and not isinstance(reader.source, str)
    first = list(remaining if in_memory else islice(remaining, SMALL))
    if in_memory or len(first) < SMALL:
        windows = encode_windows(first, tokenizer, **options)  # type: ignore[arg-type]
        windows.summary.add_problems(reader.problems)
        return windows
    encode = partial(encode_chunk, tokenizer=tokenizer, **options)  # type: ignore[arg-type]
    fingerprint = reader.fingerprint()
    if fingerprint is None:
        scratch = Path(tempfile.mkdtemp(prefix="convmodel-windows-"))
        try:
            _write(scratch, chain(first, remaining), reader, encode)
            return _open(scratch, loss_on, temporary=True)
        except BaseException:
            shutil.rmtree(scratch, ignore_errors=True)
            raise
    folder = cache_folder() / "windows" / _key(fingerprint, tokenizer, options)
    if (folder / _SUMMARY).exists() and (folder / _WINDOWS).exists():
        logger.info("using the cached windows of %s in %s", reader.source, folder)
    else:
        try:
            _write(folder, chain(first, remaining), reader, encode)
        except SaveError as error:
            raise SaveError(f"{error}; CONVMODEL_CACHE names the folder for it") from error
        _evict(folder)
    os.utime(folder / _SUMMARY)
    return _open(folder, loss_on)


def cache_folder() -> Path:
    """Returns the folder for files that can be made again: `CONVMODEL_CACHE`, or one in the user's cache folder."""
    if folder := os.environ.get("CONVMODEL_CACHE"):
        return Path(folder)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "convmodel"


def _key(fingerprint: str, tokenizer: ConversationTokenizer, options: dict[str, Any]) -> str:
    """Hashes everything that decides the windows."""
    layout = tokenizer.layout
    template = layout.template.to_dict() if layout.template else None
    roles = (layout.names, layout.speakers, layout.loss_on)  # which of the speakers is the assistant
    control = (layout.separator_id, layout.bos_id, template, roles if template else None)
    parts: list[Any] = [_code_hash(), fingerprint, options, control, layout.use_token_types]
    parts.append(tokenizer.hf_tokenizer.backend_tokenizer.to_str())
    return hashlib.blake2b(json.dumps(parts).encode(), digest_size=16).hexdigest()


def _code_hash() -> str:
    """Hashes the code that turns files into windows, without comments and docstrings.

    A hash cannot be forgotten as a format number can, and takes about a millisecond.
    """
    digest = hashlib.blake2b(digest_size=16)
    for path in sorted(path for pattern in _DECIDING for path in _PACKAGE.glob(pattern)):
        digest.update(path.name.encode() + b"\0" + _IDLE_LINES.sub(b"", path.read_bytes()))
    return digest.hexdigest()


def _write(
    folder: Path,
    conversations: Iterable[Conversation],
    reader: ConversationReader,
    encode: Callable[[Numbered], EncodedChunk],
) -> None:
    """Encodes conversations into a folder."""
    pa = _pyarrow()
    summary = EncodingSummary()
    schema = pa.schema(
        [
            ("input_ids", pa.list_(pa.int32())),
            ("types", pa.list_(pa.uint16())),
            ("supervised", pa.list_(pa.uint8())),
            ("text_bytes", pa.int32()),
            ("cut", pa.int32()),
            ("weights", pa.list_(pa.float64())),
            ("source", pa.string()),
        ]
    )
    work = partial(_arrow_chunk, encode=encode, schema=schema)
    progress = ProgressBar("encoding", unit="conversations")
    with closing(progress), staged(folder) as stage, pa.OSFile(str(stage / _WINDOWS), "wb") as file:
        with pa.ipc.new_stream(file, schema) as writer:
            for batch, chunk_summary in in_processes(work, chunks(conversations)):
                writer.write_batch(batch)
                summary.add(chunk_summary)
                progress.start()  # the bar has a thread, so it begins when the workers are forked
                progress.update(summary.conversations)
        summary.add_problems(reader.problems)
        (stage / _SUMMARY).write_text(json.dumps(asdict(summary)), encoding="utf-8", newline="\n")


def _arrow_chunk(
    numbered: Numbered, *, encode: Callable[[Numbered], EncodedChunk], schema: Any
) -> tuple[Any, EncodingSummary]:
    """Encodes a chunk as columns, which are sent between processes faster than objects."""
    pa = _pyarrow()
    windows, summary = encode(numbered)
    offsets = pa.array(np.cumsum([0, *(len(window.input_ids) for window in windows)]), pa.int32())

    def column(rows: Iterable[Sequence[int]], kind: str) -> Any:
        return pa.ListArray.from_arrays(offsets, pa.array(np.fromiter(chain.from_iterable(rows), kind)))

    columns = [
        column((window.input_ids for window in windows), "int32"),
        column((window.types for window in windows), "uint16"),
        column(([label != IGNORED for label in window.labels] for window in windows), "uint8"),
        pa.array([window.text_bytes for window in windows], pa.int32()),
        pa.array([window.cut for window in windows], pa.int32()),
        pa.array([window.weights for window in windows], pa.list_(pa.float64())),
        pa.array([window.source for window in windows], pa.string()),
    ]
    return pa.record_batch(columns, schema=schema), summary


def _open(folder: Path, loss_on: LossOn, *, temporary: bool = False) -> WindowSet:
    saved = json.loads((folder / _SUMMARY).read_text(encoding="utf-8"))
    speakers = saved.pop("speakers")
    summary = EncodingSummary(**saved, speakers=None if speakers is None else tuple(speakers))
    require_windows(summary, loss_on)
    windows = StoredWindows(folder / _WINDOWS, temporary=temporary)
    return WindowSet(windows, windows.lengths, summary)


def _evict(newest: Path) -> None:
    """Deletes the least recently used windows until the cache fits in `CACHE_BYTES`; never the newest."""
    for stage in newest.parent.glob("*/.convmodel-*"):  # of a process that was killed
        if time.time() - stage.stat().st_mtime > _ABANDONED:
            shutil.rmtree(stage, ignore_errors=True)
    folders = [folder for folder in newest.parent.iterdir() if (folder / _SUMMARY).exists()]
    folders.sort(key=lambda folder: (folder / _SUMMARY).stat().st_mtime)
    total = sum((folder / _WINDOWS).stat().st_size for folder in folders)
    for folder in folders:
        if total > CACHE_BYTES and folder != newest:
            total -= (folder / _WINDOWS).stat().st_size
            shutil.rmtree(folder, ignore_errors=True)


def _pyarrow() -> Any:
    try:
        import pyarrow
    except ImportError as error:
        raise MissingExtraError("data of this size needs pyarrow", "train") from error
    return pyarrow
