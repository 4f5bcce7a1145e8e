"""The file of recorded answers, and the journal beside it while answers are missing.

Owns: the lines of the journal, what is kept after a kill, when a call may resume, and which answers become training
data. Does not know servers.
"""

import json
import os
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field, fields
from io import BufferedReader, FileIO
from pathlib import Path
from typing import Any

from convmodel.conversation import Conversation
from convmodel.data.reading.writing import write_jsonl
from convmodel.errors import ConfigError, ConversationError, ConvModelError, SaveError
from convmodel.files.atomic import lock, staged
from convmodel.files.json_lines import to_line, write_whole
from convmodel.generation.recording.contexts import ContextToAnswer
from convmodel.hf_model.fingerprint import differing_facts

RECORDED, CUT, REFUSED, EMPTY, REJECTED = "recorded", "cut", "refused", "empty", "rejected"


@dataclass(frozen=True, slots=True)
class Answer:
    """What a server returned for a context.

    Attributes:
        text: The text of the answer; empty if there is none.
        outcome: `recorded`, `cut` at the length limit, `refused` by a content filter or the model, `empty`, or
            `rejected`: the server does not accept the context.
        reason: Why it was refused or rejected.
        max_tokens: The length limit that was requested; None for the server's own.
        prompt_tokens: Tokens of the context, if the server reports them.
        response_tokens: Tokens of the answer, if the server reports them.
    """

    text: str
    outcome: str = RECORDED
    reason: str = ""
    max_tokens: int | None = None
    prompt_tokens: int = 0
    response_tokens: int = 0

    def is_final(self, max_tokens: int | None) -> bool:
        """Returns whether the same request with this length limit would be of no use."""
        if self.outcome != CUT or max_tokens == self.max_tokens:
            return True
        return None not in (max_tokens, self.max_tokens) and (max_tokens or 0) < (self.max_tokens or 0)


@dataclass(frozen=True, slots=True)
class Failure:
    """A context without an answer: the server failed at each attempt, or the recording was stopped."""

    reason: str = ""


@dataclass(slots=True)
class RecordingSummary:
    """The result of a recording.

    Attributes:
        contexts: How many contexts there are.
        kept: How many of them an earlier call had answers to.
        outcomes: Answers by outcome.
        reasons: The first reason of each outcome that has one.
        problems: Rows that are not contexts and were left out.
        failed: Contexts without an answer, because the server failed or the recording was stopped.
        first_failure: Why the first of these failed.
        prompt_tokens: Tokens of all answered contexts.
        response_tokens: Tokens of all answers.
        written: Conversations in the file.
    """

    contexts: int = 0
    kept: int = 0
    outcomes: Counter[str] = field(default_factory=Counter)
    reasons: dict[str, str] = field(default_factory=dict)
    problems: int = 0
    failed: int = 0
    first_failure: str = ""
    prompt_tokens: int = 0
    response_tokens: int = 0
    written: int = 0

    def add(self, answer: Answer) -> None:
        """Counts an answer."""
        self.outcomes[answer.outcome] += 1
        if answer.reason:
            self.reasons.setdefault(answer.outcome, answer.reason)
        self.prompt_tokens += answer.prompt_tokens
        self.response_tokens += answer.response_tokens

    def to_dict(self) -> dict[str, Any]:
        """Returns the summary for JSON."""
        return asdict(self) | {"outcomes": dict(self.outcomes)}


class Journal:
    """Answers by the number of their context, on the disk as soon as they are added.

    The lines may be in any order; half a line, which a kill or a full disk left, is removed. A line that was damaged
    is passed over, so that its context is asked again and those after it are not.
    """

    def __init__(self, file: FileIO, path: Path) -> None:
        """Reads the answers of an earlier call from an open file, which is locked by the caller."""
        self._file = file
        self._path = path
        self._lines: dict[int, tuple[int, int]] = {}  # where each answer lies, so that texts are not kept in memory
        self._end = position = 0
        self._is_new = True  # nothing of this recording is in the file
        self.facts: dict[str, Any] | None = None
        lines = BufferedReader(file)
        for line in lines:
            record = _parse(line)
            if self.facts is None:
                if record is None or "contexts" not in record:
                    break
                self.facts = record
            elif (number := _number_of(record)) is not None:
                self._lines[number] = (position, len(line))
                self._end = position + len(line)
            position += len(line)
        lines.detach()
        if self.facts is None and b"\n" in _head(file):
            raise SaveError(f"{path} was not written by `convmodel record`: give another --output, or remove it")
        if not self._lines:
            self.facts = None  # a recording without answers binds no later one to its settings
        self._had_answers = bool(self._lines)

    def start(self, facts: dict[str, Any]) -> None:
        """Begins a journal, whose first answer replaces what is in the file, or resumes one after its last answer."""
        self._is_new = self.facts is None
        if self._is_new:
            self._lines, self.facts = {}, dict(facts)
        else:
            self._file.truncate(self._end)

    def bind(self, model: str) -> None:
        """Notes which model answers, if the settings do not name one.

        Raises:
            ConfigError: If the answers so far are another model's.
        """
        facts = self.facts or {}
        if (earlier := facts.get("model")) not in (None, model):
            has = f"has answers of the model {earlier}, and the server now has {model}"
            raise ConfigError(f"{self._path} {has}: --overwrite starts over")
        facts["model"] = model

    @property
    def is_of_use(self) -> bool:
        """Whether the file has answers, of this recording or of an earlier one that was not replaced."""
        return bool(self._lines) or self._had_answers

    def __len__(self) -> int:
        return len(self._lines)

    def __contains__(self, number: int) -> bool:
        return number in self._lines

    def __getitem__(self, number: int) -> Answer:
        position, length = self._lines[number]
        self._file.seek(position)
        record = json.loads(self._file.read(length))
        del record["number"]
        return Answer(**record)

    def add(self, number: int, answer: Answer) -> None:
        """Adds an answer, or replaces an earlier one; when this returns, it is on the disk.

        Raises:
            SaveError: If it cannot be written; the other answers stay.
        """
        if self._is_new:
            self._replace()
        start = self._end
        length = self._write({"number": number, **asdict(answer)})
        self._lines[number] = (start, length)

    def _replace(self) -> None:
        """Empties the file, of an earlier recording or half a line, only now that there is an answer to put there."""
        self._file.truncate(0)
        self._end, self._is_new, self._had_answers = 0, False, False
        self._write(self.facts or {})

    def _write(self, record: dict[str, Any]) -> int:
        line = to_line(record)
        try:
            self._file.seek(self._end)
            write_whole(self._file, line, sync=True)
        except OSError as error:
            raise SaveError(
                f"{self._path} cannot be written: {error.strerror or error}; the answers in it stay, and the same "
                "command resumes"
            ) from error
        self._end += len(line)
        return len(line)


@contextmanager
def open_journal(
    path: str | os.PathLike[str], facts: dict[str, Any], *, source: Any = None, overwrite: bool = False
) -> Iterator[Journal]:
    """Opens the journal of a file of answers, which is beside it (`journal_path`); removes one without answers.

    Args:
        path: The file of answers.
        facts: What must be equal for a call to resume another; `contexts` is None if they cannot be read again.
        source: The source of the contexts, which the file must not replace.
        overwrite: Whether an existing file and journal are replaced.

    Raises:
        ConfigError: If the journal was started with other facts.
        SaveError: If the file exists without a journal, is being written by another process, or cannot be written.
    """
    path, note = Path(path), journal_path(path)
    journal: Journal | None = None
    try:
        _require_writable(path, source, resumes=overwrite or note.exists())
        path.parent.mkdir(parents=True, exist_ok=True)
        with note.open("r+b" if note.exists() else "x+b", buffering=0) as file:
            if not lock(file.fileno()):
                raise SaveError(f"{path} is being recorded by another process: wait for it, or end it")
            journal = Journal(file, note)
            if overwrite:
                journal.facts = None
            elif journal.facts is not None:
                _require_same(path, journal.facts, facts)
            journal.start(facts)
            yield journal
    except OSError as error:
        if isinstance(error, ConvModelError):
            raise
        raise SaveError(f"{path} cannot be written: {error.strerror or error}; choose another file") from error
    finally:
        if journal is not None and not journal.is_of_use:
            with suppress(OSError):  # a failure while nothing was recorded is the error to report
                note.unlink()


def write_answers(
    path: str | os.PathLike[str], contexts: Iterable[ContextToAnswer], journal: Journal, *, keep_cut: bool = False
) -> int:
    """Writes all answers so far as conversations, in the order of their contexts, and returns their number.

    Raises:
        SaveError: If the file cannot be written; an earlier one stays, and so does the journal.
    """
    kept = (RECORDED, CUT) if keep_cut else (RECORDED,)

    def conversations() -> Iterator[Conversation]:
        for number, context in enumerate(contexts):
            if number in journal and (answer := journal[number]).outcome in kept:
                yield context.answered(answer.text)

    path = Path(path)
    with staged(path.parent) as stage:
        return write_jsonl(stage / path.name, conversations())


def journal_path(path: str | os.PathLike[str]) -> Path:
    """Returns the file beside a file of answers that has all answers until there is one to each context."""
    return Path(f"{os.fspath(path)}.recording")


def is_usable(text: str) -> bool:
    """Returns whether a text can be a turn: not empty, and not too long."""
    try:
        Conversation([text])
    except ConversationError:
        return False
    return True


def _head(file: FileIO) -> bytes:
    file.seek(0)
    return file.read(1024)


def _parse(line: bytes) -> dict[str, Any] | None:
    """Returns the record of a line of the journal; None for half a line or a damaged one."""
    try:
        record = json.loads(line) if line.endswith(b"\n") else None
    except ValueError:  # part of a block that the disk never got
        return None
    return record if isinstance(record, dict) else None


def _number_of(record: dict[str, Any] | None) -> int | None:
    """Returns the number of the context that a record answers; None if it is not an answer."""
    names = {item.name for item in fields(Answer)} | {"number"}
    if record is None or record.keys() != names or type(record["number"]) is not int:
        return None
    return record["number"]


def _require_writable(path: Path, source: Any, *, resumes: bool) -> None:
    if path.is_dir():
        raise SaveError(f"{path} is a folder: give a file")
    is_file = isinstance(source, str | os.PathLike) and Path(source).is_file()
    if is_file and path.exists() and path.samefile(str(source)):
        raise SaveError(f"{path} holds the contexts: give another --output")
    if isinstance(source, str | os.PathLike) and Path(source).resolve() in path.resolve().parents:
        raise SaveError(f"{path} is in the folder of the contexts, and would be one: give another --output")
    if path.suffix.lower() != ".jsonl":
        raise SaveError(f"{path} would not be read as what it is: give an --output that ends with .jsonl")
    if path.exists() and not resumes:
        raise SaveError(f"{path} already exists: give another --output, or --overwrite to replace it")


def _require_same(path: Path, earlier: dict[str, Any], facts: dict[str, Any]) -> None:
    if facts["contexts"] is None:
        raise ConfigError(f"{path} is unfinished, and its contexts cannot be read again: --overwrite starts over")
    if facts["model"] is None:  # the only one of the server, which is compared when it is known
        facts = {**facts, "model": earlier.get("model")}
    different = differing_facts({**earlier, "contexts": ""}, {**facts, "contexts": ""})
    if facts["contexts"] != earlier["contexts"]:
        different = ["the contexts have changed", *different]
    if different:
        raise ConfigError(f"{path} was started with other settings ({'; '.join(different)}): --overwrite starts over")
