"""Responses to a file of contexts, written to a file as they are generated.

Owns: the format of a line, what is kept after a kill, and when a call may resume an unfinished file.
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
from convmodel.files.atomic import lock, replace_text
from convmodel.files.json_lines import write_line
from convmodel.generation.batched import CONTEXTS_AT_ONCE, Result, respond_to_many
from convmodel.generation.engine.engine import Engine
from convmodel.generation.options import OWN_OPTIONS, GenerationOptions
from convmodel.hf_model.fingerprint import differing_facts, model_fingerprint
from convmodel.hf_model.quantization import is_quantized
from convmodel.layout.tokenizer import ConversationTokenizer


@dataclass(slots=True)
class ResponsesSummary:
    """The result of `write_responses`.

    Attributes:
        contexts: How many contexts, and lines, there are.
        failed: How many of the lines hold an error.
        first_error: The first of these errors; None without one.
        kept: How many lines an earlier call had written.
        prompt_tokens: How many prompt tokens this call read.
        response_tokens: How many tokens this call generated.
    """

    contexts: int = 0
    failed: int = 0
    first_error: str | None = None
    kept: int = 0
    prompt_tokens: int = 0
    response_tokens: int = 0

    def add(self, record: dict[str, Any]) -> None:
        """Counts a line."""
        self.contexts += 1
        if "error" in record:
            self.failed += 1
            self.first_error = self.first_error or record["error"]


def write_responses(
    engine: Engine,
    tokenizer: ConversationTokenizer,
    contexts: ConversationReader,
    path: str | os.PathLike[str],
    options: GenerationOptions,
    *,
    overwrite: bool = False,
    progress: Callable[[int], None] = lambda _: None,
) -> ResponsesSummary:
    """Generates responses to all contexts of a source and writes one line of JSON for each, in their order.

    Each group of lines is synced to disk before the next is started. After a kill, the same call resumes, and the final
    file is byte for byte that of an uninterrupted call: whole groups are generated again, so that the same contexts
    share their steps.

    Args:
        engine: Generates the responses.
        tokenizer: The layout.
        contexts: A file, a folder, or anything else that a reader reads.
        path: The file to write. `PATH.unfinished` exists beside it until it is complete.
        options: For all responses.
        overwrite: Whether an existing file is replaced.
        progress: Called with the number of contexts that are finished.

    Raises:
        ConversationError: If the source cannot be read at all; an error in one of its lines becomes a line.
        ConfigError: If the file was started with other contexts, another model or other options.
        SaveError: If the file exists, is being written by another process, or cannot be written.
    """
    source = contexts.source
    is_file = isinstance(source, str | os.PathLike) and Path(source).exists()
    if is_file and Path(path).exists() and Path(path).samefile(str(source)):
        raise SaveError(f"{path} holds the contexts: give another --output")
    facts = _facts(engine, contexts, options)
    summary = ResponsesSummary()
    ids: deque[str | None] = deque()

    def with_ids_noted() -> Iterator[Conversation | ConversationError]:
        for context in contexts.with_errors():
            ids.append(context.id if isinstance(context, Conversation) else None)
            yield context

    unread = with_ids_noted()
    first = [*islice(unread, 1)]  # before the file is opened, so that an unreadable source creates no file
    if not first:
        raise ConversationError(f"{contexts.source} holds no conversation to respond to")
    with _opened(Path(path), facts, overwrite=overwrite) as file:
        for line in _whole_groups(file):
            summary.add(json.loads(line))
        remaining = chain(first, unread)
        summary.kept = sum(1 for _ in islice(remaining, summary.contexts))
        for _ in range(summary.kept):
            ids.popleft()
        progress(summary.kept)
        for result in respond_to_many(engine, tokenizer, remaining, options, first=summary.kept, progress=progress):
            record = _record(ids.popleft(), result)
            summary.add(record)
            summary.prompt_tokens += record.get("prompt_tokens", 0)
            summary.response_tokens += sum(record.get("response_tokens", ()))
            write_line(file, record, sync=summary.contexts % CONTEXTS_AT_ONCE == 0)
    return summary


def _record(name: str | None, result: Result) -> dict[str, Any]:
    """Returns a result as the JSON object of a line."""
    record: dict[str, Any] = {} if name is None else {"id": name}
    if isinstance(result, ConvModelError):
        return record | {"error": str(result)}
    output = result.to_dict()
    del output["context"]  # the file of contexts has it
    return record | output


def _facts(engine: Engine, contexts: ConversationReader, options: GenerationOptions) -> dict[str, Any]:
    """Returns what must be equal for a call to resume another."""
    facts: dict[str, Any] = {
        "contexts": contexts.fingerprint(),
        "model": model_fingerprint(engine.hf_model),
        "weights": "int8" if is_quantized(engine.hf_model) else str(engine.hf_model.dtype),
        **options.hf,
        **{name: getattr(options, name) for name in sorted(OWN_OPTIONS)},
        "max_length": options.max_length,
    }
    if options.grammar is not None:
        facts["grammar"] = options.grammar.text
    as_json: dict[str, Any] = json.loads(json.dumps(facts, default=str))
    return as_json


@contextmanager
def _opened(path: Path, facts: dict[str, Any], *, overwrite: bool) -> Iterator[BinaryIO]:
    """Opens the file to append to, with a note of the facts beside it until it is complete."""
    note = Path(f"{path}.unfinished")
    try:
        earlier = json.loads(note.read_text(encoding="utf-8")) if note.exists() and not overwrite else None
        resumes = not overwrite and path.exists() and path.stat().st_size > 0
        if resumes:
            _require_same(path, earlier, facts)
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("r+b" if path.exists() else "x+b") as file:
            if not lock(file.fileno()):
                raise SaveError(f"{path} is being written by another process: wait for it, or end it")
            if not resumes:
                replace_text(note, json.dumps(facts, ensure_ascii=False, indent=1) + "\n")
                file.truncate()
            yield file
            file.flush()
            os.fsync(file.fileno())
        note.unlink()
    except OSError as error:
        if isinstance(error, ConvModelError):
            raise
        raise SaveError(
            f"{path} cannot be written: {error.strerror or error}; finished lines stay, and the same command resumes"
        ) from error


def _require_same(path: Path, earlier: dict[str, Any] | None, facts: dict[str, Any]) -> None:
    if earlier is None:
        raise SaveError(f"{path} already exists: give another --output, or --overwrite to replace it")
    if facts["contexts"] is None:
        raise ConfigError(f"{path} is unfinished, and its contexts cannot be read again: --overwrite starts over")
    if different := differing_facts(earlier, facts):
        raise ConfigError(f"{path} was started with other settings ({'; '.join(different)}): --overwrite starts over")


def _whole_groups(file: BinaryIO) -> list[bytes]:
    """Returns the lines of whole groups, and truncates the file after them."""
    lines = [line for line in file if line.endswith(b"\n")]
    kept = lines[: len(lines) // CONTEXTS_AT_ONCE * CONTEXTS_AT_ONCE]
    file.seek(sum(map(len, kept)))
    file.truncate()
    return kept
