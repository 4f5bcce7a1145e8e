"""GGUF files: one file with a model's weights, vocabulary and settings, as llama.cpp, Ollama and LM Studio keep them.

Owns: recognizing such a file, its header, and refusing files that are cut off, split, or hold no whole model. What the
settings mean to transformers is in `layout.gguf`, the conversion of weights in `hf_model.gguf_weights`.
"""

import functools
import importlib.util
import mmap
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any, NamedTuple

from convmodel.errors import MissingExtraError, ModelLoadError

MAGIC = b"GGUF"
SUFFIX = ".gguf"
_VERSIONS = (2, 3)
_NUMBERS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
_UINT32, _STRING, _ARRAY = 4, 8, 9
"""The format's codes of value types: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md."""


END_NAMES = ("eos", "eot", "eom")
"""llama.cpp's names of the tokens that end a response."""


class Tensor(NamedTuple):
    """Where a weight is in the file."""

    name: str
    shape: tuple[int, ...]  # as torch has it
    kind: int  # of ggml, such as Q4_K
    offset: int  # from the beginning of the data


@dataclass(frozen=True, slots=True)
class GgufFile:
    """A file's header."""

    path: Path
    size: int  # of the file, in bytes
    metadata: dict[str, Any]  # of an array the number of its elements
    places: dict[str, tuple[int, int]]  # where in the file each entry of the metadata begins and ends
    arrays: frozenset[str]
    tensors: tuple[Tensor, ...]
    data_start: int

    @property
    def architecture(self) -> str:
        """llama.cpp's name of the architecture."""
        return str(self.metadata["general.architecture"])

    @property
    def quantization(self) -> str:
        """The type of most weights, such as Q4_K_M, as file names have it."""
        from gguf import GGMLQuantizationType, LlamaFileType

        try:
            return LlamaFileType(self.metadata["general.file_type"]).name.removeprefix("MOSTLY_").removeprefix("ALL_")
        except (KeyError, ValueError):
            sizes: dict[int, int] = {}
            for tensor in self.tensors:
                sizes[tensor.kind] = sizes.get(tensor.kind, 0) + prod(tensor.shape)
            return GGMLQuantizationType(max(sizes, key=sizes.__getitem__)).name


def is_gguf(name: str) -> bool:
    """Returns whether a name is that of a GGUF file: by its suffix, or, as Ollama's have none, by its first bytes."""
    path = Path(name)
    try:
        if path.suffix.lower() == SUFFIX:
            return not path.is_dir()
        if not path.is_file():
            return False
        with path.open("rb") as file:
            return file.read(len(MAGIC)) == MAGIC
    except (OSError, ValueError):
        return False


def require_gguf() -> None:
    """Raises a `MissingExtraError` unless the package gguf is installed."""
    if importlib.util.find_spec("gguf") is None:
        raise MissingExtraError("GGUF files need the package gguf", "export")


def read_header(path: Path) -> GgufFile:
    """Reads the header of a GGUF file, once per process.

    Raises:
        MissingExtraError: If the package gguf is not installed.
        ModelLoadError: If it is not a GGUF file, is cut off, or is not a whole model.
    """
    require_gguf()
    try:
        status = path.stat()
        return _read(path, status.st_mtime_ns, status.st_size)
    except OSError as error:
        if isinstance(error, ModelLoadError):
            raise
        raise ModelLoadError(f"the file {path} cannot be read: {error.strerror}") from error


@functools.lru_cache(maxsize=4)
def _read(path: Path, _changed: int, size: int) -> GgufFile:
    with path.open("rb") as file:
        if file.read(len(MAGIC)) != MAGIC:
            raise ModelLoadError(f"{path} is not a GGUF file, which begins with GGUF: give another file, or a folder")
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            try:
                header = _parse(path, size, data)
            except (struct.error, UnicodeDecodeError, IndexError) as error:
                raise _cut_off(path) from error
    _require_whole(header)
    return header


def _cut_off(path: Path) -> ModelLoadError:
    return ModelLoadError(f"the file {path} is cut off or damaged: download it again")


class _Cursor:
    """Reads one value after the other."""

    def __init__(self, data: mmap.mmap) -> None:
        self.data = data
        self.place = len(MAGIC)

    def number(self, code: str) -> Any:
        (value,) = struct.unpack_from(f"<{code}", self.data, self.place)
        self.place += struct.calcsize(f"<{code}")
        return value

    def string(self) -> str:
        size = self.number("Q")
        self._skip(size)
        return self.data[self.place - size : self.place].decode()

    def value(self, kind: int) -> Any:
        """Reads a value; of an array only the number of its elements."""
        if kind == _STRING:
            return self.string()
        if kind != _ARRAY:
            return self.number(_code(kind))
        of, count = self.number("I"), self.number("Q")
        if of == _STRING:
            for _ in range(count):
                self._skip(self.number("Q"))
        elif of == _ARRAY:
            for _ in range(count):
                self.value(of)
        else:
            self._skip(count * struct.calcsize(f"<{_code(of)}"))
        return count

    def _skip(self, size: int) -> None:
        self.place += size
        if self.place > len(self.data):
            raise IndexError("past the end")


def _code(kind: int) -> str:
    if kind not in _NUMBERS:
        raise IndexError(f"no such type of values: {kind}")
    return _NUMBERS[kind]


def _parse(path: Path, size: int, data: mmap.mmap) -> GgufFile:
    cursor = _Cursor(data)
    version = cursor.number("I")
    if version not in _VERSIONS:
        raise ModelLoadError(
            f"{path} is of version {version} of the GGUF format, or big-endian; versions {_VERSIONS[0]} and "
            f"{_VERSIONS[1]} can be read: convert the model again with a current llama.cpp"
        )
    tensors, entries = cursor.number("Q"), cursor.number("Q")
    metadata: dict[str, Any] = {}
    places, arrays = {}, set()
    for _ in range(entries):
        begin, name, kind = cursor.place, cursor.string(), cursor.number("I")
        metadata[name] = cursor.value(kind)
        places[name] = (begin, cursor.place)
        arrays |= {name} if kind == _ARRAY else set()
    table = tuple(_tensors(cursor, tensors))
    alignment = metadata.get("general.alignment", 32)
    start = -(-cursor.place // alignment) * alignment
    return GgufFile(path, size, metadata, places, frozenset(arrays), table, start)


def _tensors(cursor: _Cursor, count: int) -> Iterator[Tensor]:
    for _ in range(count):
        name = cursor.string()
        shape = [cursor.number("Q") for _ in range(cursor.number("I"))]
        yield Tensor(name, tuple(reversed(shape)), cursor.number("I"), cursor.number("Q"))


def _require_whole(file: GgufFile) -> None:
    """Raises a `ModelLoadError` unless the file is a whole model that ends where its header says."""
    parts = file.metadata.get("split.count", 0)
    if parts > 1:
        raise ModelLoadError(
            f"{file.path} is one of {parts} parts of a model: merge them into one file with llama.cpp's "
            f"`llama-gguf-split --merge FIRST_PART OUTPUT{SUFFIX}`"
        )
    kind = file.metadata.get("general.type", "model")
    if kind != "model" or "general.architecture" not in file.metadata or not file.tensors:
        what = "only a vocabulary" if kind == "model" else f"of the kind {kind}"
        raise ModelLoadError(f"{file.path} is not a whole model but {what}: give the file with the model's weights")
    if any(file.data_start + tensor.offset + byte_size(tensor, file.path) > file.size for tensor in file.tensors):
        raise _cut_off(file.path)


def byte_size(tensor: Tensor, path: Path) -> int:
    """Returns how many bytes of the file a weight takes."""
    from gguf.constants import GGML_QUANT_SIZES, GGMLQuantizationType

    try:
        values, size = GGML_QUANT_SIZES[GGMLQuantizationType(tensor.kind)]
    except (ValueError, KeyError) as error:
        raise ModelLoadError(
            f"{path} has weights of ggml's type {tensor.kind}, which the package gguf does not know: update it with "
            "`pip install -U gguf`, or choose another quantization"
        ) from error
    return prod(tensor.shape) // values * size


def write_settings(file: GgufFile, path: Path) -> None:
    """Writes a GGUF file with the settings of another and the names of its weights, but no vocabulary and no weights.

    The package gguf takes half a minute to read the 262,144 entries of Gemma's vocabulary. Here is their number alone.
    """
    data = file.path.open("rb")
    kept = [name for name in file.metadata if not (name in file.arrays and name.startswith("tokenizer."))]
    size_name, size = f"{file.architecture}.vocab_size", file.metadata.get("tokenizer.ggml.tokens", 0)
    sizes = b"" if size_name in kept else _packed(size_name) + struct.pack("<II", _UINT32, size)
    with data, path.open("wb") as out:
        out.write(MAGIC + struct.pack("<IQQ", _VERSIONS[-1], len(file.tensors), len(kept) + bool(sizes)) + sizes)
        for name in kept:
            begin, end = file.places[name]
            data.seek(begin)
            out.write(data.read(end - begin))
        for tensor in file.tensors:  # one number each, all the same
            out.write(_packed(tensor.name) + struct.pack("<IQIQ", 1, 1, 0, 0))
        out.write(bytes(-out.tell() % file.metadata.get("general.alignment", 32) + struct.calcsize("<f")))


def _packed(text: str) -> bytes:
    return struct.pack("<Q", len(text.encode())) + text.encode()
