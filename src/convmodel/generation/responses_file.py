"""Responses to a file of contexts, in a file that grows while they are made.

Owns: the form of a line, what is kept when the process was killed, and when two calls are the same work.
"""

import json
import os
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path
from typing import Any, BinaryIO

from convmodel.conversation import Conversation
from convmodel.data.reading.reader import ConversationReader
from convmodel.errors import ConfigError, ConversationError, ConvModelError, SaveError
from convmodel.files.atomic import lock
from convmodel.files.json_lines import write_line
from convmodel.generation.batched import TOGETHER, Result, respond_to_many
from convmodel.generation.engine.engine import Engine
from convmodel.generation.options import OWN_OPTIONS, GenerationOptions
from convmodel.hf_model.fingerprint import differences, model_fingerprint
from convmodel.hf_model.quantization import is_quantized
from convmodel.layout.tokenizer import ConversationTokenizer


@dataclass(frozen=True, slots=True)
class Written:
    """What a file of responses holds.

    Attributes:
        contexts: How many contexts there were, a line each.
        failed: How many of the lines tell an error.
        first_error: The first error of this call; None without one.
        kept: How many lines were there already.
        prompt_tokens: How many tokens of contexts were read in this call.
        response_tokens: How many tokens were generated in this call.
    """

    contexts: int
    failed: int
    first_error: str | None
    kept: int
    prompt_tokens: int
    response_tokens: int


def write_responses(
    engine: Engine,
    tokenizer: ConversationTokenizer,
    contexts: ConversationReader,
    path: str | os.PathLike[str],
    options: GenerationOptions,
    *,
    overwrite: bool = False,
    progress: Callable[[int], None] = lambda _: None,
) -> Written:
    """Generates responses to all contexts of a source and writes one line of JSON for each, in their order.

    Every so many lines are on the disk before the next are begun. After a kill, the same call goes on there, and the
    file at the end is the one that an undisturbed call writes, byte for byte: whole groups are made again, so that the
    same contexts share their steps.

    Args:
        engine: What generates.
        tokenizer: The layout.
        contexts: A file, a folder, or anything else that a reader reads.
        path: The file to write. Beside it stands `PATH.unfinished` until all is done.
        options: For all responses.
        overwrite: Whether what is there is replaced.
        progress: Called with the number of contexts that have been responded to.

    Raises:
        ConversationError: If the source cannot be read at all; an error in one of its lines becomes a line.
        ConfigError: If the file is the beginning of something else.
        SaveError: If the file is there already, is being written, or cannot be written; what is on the disk stays.
    """
    source = contexts.source
    is_file = isinstance(source, str | os.PathLike) and Path(source).exists()
    if is_file and Path(path).exists() and Path(path).samefile(str(source)):
        raise SaveError(f"{path} holds the contexts: give another --output")
    facts = _facts(engine, contexts, options)
    told, prompt_tokens, response_tokens = _Told(), 0, 0
    ids: deque[str | None] = deque()

    def noted() -> Iterator[Conversation | ConversationError]:
        for context in contexts.with_errors():
            ids.append(context.id if isinstance(context, Conversation) else None)
            yield context

    unread = noted()
    first = [*islice(unread, 1)]  # before the file is opened, so that nothing is made of a source that cannot be read
    if not first:
        raise ConversationError(f"{contexts.source} holds no conversation to respond to")
    with _opened(Path(path), facts, overwrite=overwrite) as file:
        for line in _whole_groups(file):
            told.add(json.loads(line))
        asked = chain(first, unread)
        kept = sum(1 for _ in islice(asked, told.lines))
        for _ in range(kept):
            ids.popleft()
        progress(kept)
        for result in respond_to_many(engine, tokenizer, asked, options, first=kept, progress=progress):
            record = _record(ids.popleft(), result)
            told.add(record)
            prompt_tokens += record.get("prompt_tokens", 0)
            response_tokens += sum(record.get("response_tokens", ()))
            write_line(file, record, sync=told.lines % TOGETHER == 0)
    return Written(told.lines, told.failed, told.first_error, kept, prompt_tokens, response_tokens)


class _Told:
    """What the lines of a file say, counted."""

    def __init__(self) -> None:
        self.lines = self.failed = 0
        self.first_error: str | None = None

    def add(self, record: dict[str, Any]) -> None:
        self.lines += 1
        if "error" in record:
            self.failed += 1
            self.first_error = self.first_error or record["error"]


def _record(name: str | None, result: Result) -> dict[str, Any]:
    """Writes a result as the object of a line."""
    known = {} if name is None else {"id": name}
    if isinstance(result, ConvModelError):
        return known | {"error": str(result)}
    told = result.to_dict()
    del told["context"]  # it is in the file of contexts
    return known | told


def _facts(engine: Engine, contexts: ConversationReader, options: GenerationOptions) -> dict[str, Any]:
    """What must be the same for one call to go on where another was stopped."""
    facts = {
        "contexts": contexts.fingerprint(),
        "model": model_fingerprint(engine.hf_model),
        "weights": "int8" if is_quantized(engine.hf_model) else str(engine.hf_model.dtype),
        **options.hf,
        **{name: getattr(options, name) for name in sorted(OWN_OPTIONS)},
        "max_length": options.max_length,
    }
    same: dict[str, Any] = json.loads(json.dumps(facts, default=str))
    return same


@contextmanager
def _opened(path: Path, facts: dict[str, Any], *, overwrite: bool) -> Iterator[BinaryIO]:
    """Opens the file to go on with, and keeps the note beside it as long as the work is not done."""
    note = Path(f"{path}.unfinished")
    try:
        there = json.loads(note.read_text(encoding="utf-8")) if note.exists() and not overwrite else None
        begun = not overwrite and path.exists() and path.stat().st_size > 0
        if begun:
            _require_same(path, there, facts)
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("r+b" if path.exists() else "x+b") as file:
            if not lock(file.fileno()):
                raise SaveError(f"{path} is being written by another process: wait for it, or end it")
            if not begun:
                note.write_text(json.dumps(facts, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")
                file.truncate()
            yield file
            file.flush()
            os.fsync(file.fileno())
        note.unlink()
    except OSError as error:
        if isinstance(error, ConvModelError):
            raise
        raise SaveError(
            f"{path} cannot be written: {error.strerror or error}; what is finished stays, and the same command goes on"
        ) from error


def _require_same(path: Path, there: dict[str, Any] | None, facts: dict[str, Any]) -> None:
    if there is None:
        raise SaveError(f"{path} is there already: give another --output, or --overwrite to replace it")
    if facts["contexts"] is None:
        raise ConfigError(f"{path} is half written, and its contexts cannot be read again: --overwrite begins anew")
    if different := differences(there, facts):
        raise ConfigError(
            f"{path} is the beginning of something else ({'; '.join(different)}): --overwrite begins anew"
        )


def _whole_groups(file: BinaryIO) -> list[bytes]:
    """Returns the lines of whole groups, and cuts off what follows them."""
    lines = [line for line in file if line.endswith(b"\n")]
    kept = lines[: len(lines) // TOGETHER * TOGETHER]
    file.seek(sum(map(len, kept)))
    file.truncate()
    return kept
