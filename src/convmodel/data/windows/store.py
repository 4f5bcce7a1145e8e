"""Windows on disk: made once, read one by one, however many there are.

Owns: the Arrow file of windows, where it is kept, and when it is made anew.
"""

import hashlib
import json
import logging
import mmap
import os
import shutil
import sys
import tempfile
import time
import weakref
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from itertools import chain, islice
from pathlib import Path
from typing import Any, overload

import numpy as np
import numpy.typing as npt
from tqdm.auto import tqdm

from convmodel.conversation import Conversation
from convmodel.data.reading.reader import ConversationReader
from convmodel.data.windows.encoding import (
    CHUNK,
    Account,
    Chunk,
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
from convmodel.layout.windows import CONTEXT_SHARE

logger = logging.getLogger(__name__)

SMALL = IN_THIS_PROCESS * CHUNK
"""Conversations from which on windows live on disk; fewer are made in memory, in little time."""

CACHE_BYTES = 20 << 30
"""How much of the disk made windows may take; beyond it, those that were not used for the longest time go."""

_ABANDONED = 24 * 3600  # seconds; no encoding takes so long
_WINDOWS, _ACCOUNT = "windows.arrow", "account.json"
_RESIDENT = 100  # windows; the kernel maps up to 64 KiB around each place that is read


class StoredWindows(Sequence[Window]):
    """Windows in an Arrow file, each read when it is asked for.

    Attributes:
        lengths: The length of each, in tokens.
    """

    def __init__(self, path: Path, *, temporary: bool = False) -> None:
        """Opens a file.

        Args:
            path: The file; `datasets.Dataset.from_file` reads it too.
            temporary: Whether its folder is deleted when the windows are no longer used.
        """
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
        """How many windows there are."""
        return len(self.lengths)

    @overload
    def __getitem__(self, index: int) -> Window: ...
    @overload
    def __getitem__(self, index: slice) -> list[Window]: ...
    def __getitem__(self, index: int | slice) -> Window | list[Window]:
        """Reads one window, or several."""
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
        """Gives pages back: a mapped file that is read all over would count as this process's memory as a whole."""
        self._read = 0
        if hasattr(mmap, "MADV_DONTNEED"):
            self._map.madvise(mmap.MADV_DONTNEED)


@dataclass(frozen=True, slots=True)
class _Columns:
    """One batch of the file, as views of the mapped memory; window `i` is from `offsets[i]` to `offsets[i + 1]`.

    Weights have offsets of their own, since most windows have none.
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
    """Encodes conversations as windows: in memory if they are there already or few, else on disk.

    What was made of a file is kept in the cache (`CONVMODEL_CACHE`, by default `~/.cache/convmodel`) and used again as
    long as the file, the tokenizer and the options are the same.

    Raises:
        ConversationError: If the data is malformed, or has no supervised turn.
        ContextTooLongError: If a conversation's pinned turns leave no room in a window.
        MissingExtraError: If they need the disk, and pyarrow is not installed.
        SaveError: If the disk cannot be written.
    """
    reader = conversations if isinstance(conversations, ConversationReader) else ConversationReader(conversations)
    options = {"max_length": max_length, "loss_on": loss_on, "on_error": reader.problems.on_error}
    rest = iter(reader)
    known = isinstance(reader.source, Sequence) and not isinstance(reader.source, str)
    first = list(rest if known else islice(rest, SMALL))
    if known or len(first) < SMALL:
        made = encode_windows(first, tokenizer, **options)  # type: ignore[arg-type]
        made.account.note(reader.problems)
        return made
    encode = partial(encode_chunk, tokenizer=tokenizer, **options)  # type: ignore[arg-type]
    fingerprint = reader.fingerprint()
    if fingerprint is None:
        scratch = Path(tempfile.mkdtemp(prefix="convmodel-windows-"))
        try:
            _make(scratch, chain(first, rest), reader, encode)
            return _open(scratch, loss_on, temporary=True)
        except BaseException:
            shutil.rmtree(scratch, ignore_errors=True)
            raise
    folder = cache_folder() / "windows" / _key(fingerprint, tokenizer, options)
    if (folder / _ACCOUNT).exists() and (folder / _WINDOWS).exists():
        logger.info("the windows of %s are in %s already", reader.source, folder)
    else:
        try:
            _make(folder, chain(first, rest), reader, encode)
        except SaveError as error:
            raise SaveError(f"{error}; CONVMODEL_CACHE names the folder for it") from error
        _make_room(folder)
    os.utime(folder / _ACCOUNT)
    return _open(folder, loss_on)


def cache_folder() -> Path:
    """Returns where things are kept that can be made again: `CONVMODEL_CACHE`, or the user's cache folder."""
    own = os.environ.get("CONVMODEL_CACHE")
    base = os.environ.get("XDG_CACHE_HOME")
    return Path(own) if own else (Path(base) if base else Path.home() / ".cache") / "convmodel"


def _key(fingerprint: str, tokenizer: ConversationTokenizer, options: dict[str, Any]) -> str:
    """Names everything that the windows depend on."""
    layout = tokenizer.layout
    depends = [_code(), fingerprint, options, CONTEXT_SHARE]
    depends += [layout.separator_id, layout.use_token_types, tokenizer.hf_tokenizer.backend_tokenizer.to_str()]
    return hashlib.blake2b(json.dumps(depends).encode(), digest_size=16).hexdigest()


def _code() -> str:
    """Hashes the code that makes windows, so that another version of it makes them anew."""
    package = Path(__file__).parents[1]
    digest = hashlib.blake2b(digest_size=16)
    for path in sorted([*package.glob("*.py"), *package.glob("data/*.py")]):
        digest.update(path.read_bytes())
    return digest.hexdigest()


def _make(
    folder: Path, conversations: Iterable[Conversation], reader: ConversationReader, encode: Callable[[Numbered], Chunk]
) -> None:
    """Encodes conversations into a folder."""
    pa = _pyarrow()
    account = Account()
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
    shown = tqdm(desc="encoding", unit=" conversations", unit_scale=True, delay=2, disable=not sys.stderr.isatty())
    with shown, staged(folder) as stage, pa.OSFile(str(stage / _WINDOWS), "wb") as file:
        with pa.ipc.new_stream(file, schema) as writer:
            for batch, part in in_processes(work, chunks(conversations)):
                writer.write_batch(batch)
                account.add(part)
                shown.update(part.conversations)
        account.note(reader.problems)
        (stage / _ACCOUNT).write_text(json.dumps(asdict(account)), encoding="utf-8")


def _arrow_chunk(numbered: Numbered, *, encode: Callable[[Numbered], Chunk], schema: Any) -> tuple[Any, Account]:
    """Encodes a chunk as columns, which travel between processes faster than objects do."""
    pa = _pyarrow()
    chunk = encode(numbered)
    windows = chunk.windows
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
    return pa.record_batch(columns, schema=schema), chunk.account


def _open(folder: Path, loss_on: LossOn, *, temporary: bool = False) -> WindowSet:
    saved = json.loads((folder / _ACCOUNT).read_text(encoding="utf-8"))
    speakers = saved.pop("speakers")
    account = Account(**saved, speakers=None if speakers is None else tuple(speakers))
    require_windows(account, loss_on)
    windows = StoredWindows(folder / _WINDOWS, temporary=temporary)
    return WindowSet(windows, windows.lengths, account)


def _make_room(newest: Path) -> None:
    """Deletes the windows that were not used for the longest time, as long as all take too much of the disk."""
    for stage in newest.parent.glob("*/.convmodel-*"):  # of a process that was killed
        if time.time() - stage.stat().st_mtime > _ABANDONED:
            shutil.rmtree(stage, ignore_errors=True)
    made = [folder for folder in newest.parent.iterdir() if (folder / _ACCOUNT).exists()]
    made.sort(key=lambda folder: (folder / _ACCOUNT).stat().st_mtime)
    total = sum((folder / _WINDOWS).stat().st_size for folder in made)
    for folder in made:
        if total > CACHE_BYTES and folder != newest:
            total -= (folder / _WINDOWS).stat().st_size
            shutil.rmtree(folder, ignore_errors=True)


def _pyarrow() -> Any:
    try:
        import pyarrow
    except ImportError as error:
        raise MissingExtraError("data of this size needs pyarrow: pip install 'convmodel[train]'") from error
    return pyarrow
