"""Importing: from exports and data of any shape to clean, split conversations in files that training reads.

Owns: the order of the steps: all input is either written or counted.
"""

import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from datetime import timedelta
from functools import partial
from pathlib import Path

from convmodel.conversation import Conversation
from convmodel.data.importing.cleaning import Cleaner, CleaningRules
from convmodel.data.importing.deduplication import available_near
from convmodel.data.importing.exports.formats import Format, find_format, format_names, recognised
from convmodel.data.importing.exports.messages import Chat
from convmodel.data.importing.exports.text_lines import first_bytes
from convmodel.data.importing.exports.unread import unknown, unread
from convmodel.data.importing.segmenting import (
    Segmenting,
    choose_gap,
    is_silent,
    parts_of,
    rename,
    require_joinable,
    segment,
    show_gap,
    silent,
    speakers_of,
)
from convmodel.data.importing.speakers import SpeakerTable
from convmodel.data.importing.splitting import (
    PARTS,
    SHARES,
    Shares,
    Split,
    SplitBy,
    require_no_leakage,
    split,
    too_small,
)
from convmodel.data.importing.summary import ImportSummary
from convmodel.data.reading.columns import Columns
from convmodel.data.reading.decoding import STDIN, encodable
from convmodel.data.reading.problems import SHOWN, OnError, Problems
from convmodel.data.reading.reader import ConversationReader
from convmodel.data.reading.rows import data_files, is_data_file, visible_paths
from convmodel.data.reading.shapes import AUTO, SHAPES
from convmodel.data.reading.writing import write_jsonl
from convmodel.errors import ConfigError, ConversationError, install_command
from convmodel.files.atomic import staged


@dataclass(frozen=True, slots=True, kw_only=True)
class ImportOptions:
    """How to import.

    Attributes:
        format: The export or shape of the data, one of `format_names()` or `SHAPES`; detected by default.
        columns: The columns of tables with a message per row, if they have unusual names; all sources are then tables.
        gap: The pause after which a new conversation starts; None to choose it from the data.
        segmenting: How messages become conversations, apart from the gap.
        seed: The seed of a random split.
    """

    format: str = AUTO
    columns: Columns | None = None
    on_error: OnError = "fail"
    gap: timedelta | None = None
    segmenting: Segmenting = field(default_factory=Segmenting)
    cleaning: CleaningRules = field(default_factory=CleaningRules)
    shares: Shares = SHARES
    seed: int = 42
    split_by: SplitBy = "auto"

    def __post_init__(self) -> None:
        if self.segmenting.merge_others and self.segmenting.me is None:
            raise ConfigError("merge_others needs the speaker to learn: set me too")
        is_export = find_format(self.format) is not None
        if self.columns and is_export:
            raise ConfigError(f"the format {self.format} has no columns: leave --format or --columns out")
        if not is_export and self.format not in (AUTO, *SHAPES):
            names = ", ".join((AUTO, *format_names(), *SHAPES))
            raise ConfigError(f"there is no format {self.format}; there are {names}")


def import_conversations(
    sources: Sequence[str | Path],
    output: str | Path,
    options: ImportOptions | None = None,
    progress: Callable[[int], None] | None = None,
) -> ImportSummary:
    """Reads chats and conversations, cleans and splits them, and writes `train`, `valid` and `test.jsonl`.

    Args:
        sources: Files, folders, `-` for standard input, or data sets on the Hub.
        output: The folder to write; files of those names in it are replaced, all or none.
        options: The options; by default `ImportOptions()`.
        progress: Called from time to time with the number of conversations cleaned so far.

    Raises:
        ConversationError: If something cannot be read, nothing is left, or a part duplicates conversations of another.
        SaveError: If the folder cannot be written.
        MissingExtraError: If the rules have a threshold of near-duplicates, and datasketch is not installed.
    """
    options = options or ImportOptions()
    summary = ImportSummary()
    problems = Problems(options.on_error)
    chats, others = _read(sources, options, problems, summary)
    how = _segmenting(options, chats, summary)
    summary.speakers = speakers_of(chats)
    table = SpeakerTable(keep_messages=how.keep_messages)
    for part in itertools.chain.from_iterable(parts_of(chat, how.gap) for chat in chats):
        table.add((message.speaker, message.text) for message in part)
    cleaner = Cleaner(options.cleaning, people=summary.speakers)
    segments = segment(chats, how, summary.dropped, problems) if chats else ()
    conversations = itertools.chain(((one, ()) for one in segments), _with_me(others, how, summary, table))
    kept = []
    for conversation in _named(cleaner.clean_renamed(conversations), options, summary):
        kept.append(conversation)
        if progress and not len(kept) % 100:
            progress(len(kept))
    summary.problems, summary.first_problems = problems.count, problems.messages
    summary.dropped += summary.carried.left_out
    summary.conversations = cleaner.rows_in + summary.dropped.total()
    summary.dropped += cleaner.dropped
    summary.masked = cleaner.masked
    summary.speaker_turns, summary.first_words = table.turns, table.first_words
    summary.notes += [*summary.carried.notes(), *table.warnings()]
    if not kept:
        names = encodable(", ".join(map(str, sources))[:200])
        raise ConversationError(f"{names}: {summary.why_nothing(how.me)}")
    near = _near(options)
    parts = split(kept, options.shares, seed=options.seed, by=options.split_by, near=near)
    require_no_leakage(parts.train, {"valid": parts.valid, "test": parts.test}, near=near)
    require_no_leakage(parts.valid, {"test": parts.test}, near=near, name="valid")
    if near is None:
        summary.notes.append(f"near-duplicates were not looked for, only exact ones: {install_command('train')}")
    summary.notes.append(f"split {parts.method}")
    summary.notes += filter(None, [too_small(parts)])
    summary.enough_shares = parts.enough
    if summary.speaker_turns.total() > summary.turns:
        summary.notes.append(
            f"the speakers have {summary.speaker_turns.total():,} turns in the data as read, of which "
            f"{summary.turns:,} were written: conversations were left out, or several speakers' turns joined"
        )
    summary.notes = [*map(encodable, summary.notes)]
    _write(parts, Path(output), summary)
    return summary


def _near(options: ImportOptions) -> float | None:
    """Returns the threshold for splitting: duplicates stay in one part even if they are kept."""
    near = options.cleaning.near_duplicates
    return available_near() if near is None else near


def _read(
    sources: Sequence[str | Path], options: ImportOptions, problems: Problems, summary: ImportSummary
) -> tuple[list[Chat], Iterator[Conversation]]:
    """Reads all chats, since the gap is chosen from all of them; other data is read lazily."""
    chats: list[Chat] = []
    readers: list[tuple[ConversationReader, str]] = []
    for source in sources:
        tables: list[tuple[str | Path, Format | None]] = [(source, None)]
        for path, format in tables if options.columns else _recognised(source, options.format, problems, summary):
            if format is None:
                shape = options.format if options.format in SHAPES else AUTO
                check = partial(require_joinable, how=options.segmenting)
                edit = partial(summary.carried.edit, shape=shape, check=check)
                reader = ConversationReader(
                    path, shape=shape, on_error=options.on_error, columns=options.columns, edit=edit, check=check
                )
                readers.append((reader, _folder_of(source)))
                continue
            new_chats = list(_chats(format, Path(path), problems, is_part=Path(path) != Path(source)))
            summary.formats[format.name] += 1
            for chat in new_chats:
                chat.folder = _folder_of(source)
                summary.add_chat(chat)
            chats += new_chats
    summary.entries += problems.count
    return chats, itertools.chain.from_iterable(_rows(*reader, problems, summary) for reader in readers)


def _chats(format: Format, path: Path, problems: Problems, *, is_part: bool) -> Iterator[Chat]:
    """Reads the chats of a file; what of a part of a folder cannot be read is a problem like any other."""
    try:
        yield from format.read(path, problems)
    except ConversationError as error:
        if not is_part or problems.on_error == "fail":
            raise
        problems.add(str(error))


def _folder_of(source: str | Path) -> str:
    """Returns the start of a source's places that ids leave out: they do not depend on where the data lies."""
    return f"{parent}/" if (parent := encodable(str(Path(source).parent))) not in (".", "/") else ""


def _rows(
    reader: ConversationReader, folder: str, problems: Problems, summary: ImportSummary
) -> Iterator[Conversation]:
    try:
        for conversation in reader:
            id = conversation.id
            yield replace(conversation, id=id.removeprefix(folder)) if folder and id else conversation
    except ConversationError as error:
        if problems.on_error == "fail":
            raise
        if not reader.complete or not reader.problems.count:  # a damaged file, or one without rows
            problems.add(str(error))
            summary.entries += 1
    summary.entries += reader.rows
    summary.formats += reader.shapes
    problems.count += reader.problems.count
    problems.messages = [*problems.messages, *reader.problems.messages][:SHOWN]


def _recognised(
    source: str | Path, name: str, problems: Problems, summary: ImportSummary
) -> Iterator[tuple[str | Path, Format | None]]:
    """Detects what a source is: one export, a folder of several, or data of another shape."""
    path = Path(source)
    if named := find_format(name):
        inside = [] if named.matches(path) or not path.is_dir() else sorted(path.rglob("*"))
        exports = [file for file in inside if named.matches(file)]
        if path.is_dir() and inside and not exports:
            raise ConversationError(f"{path} holds no export of the format {name}")
        for file in exports or [path]:
            yield file, named
    elif name in SHAPES or str(source) == STDIN or not path.exists():
        yield source, None
    elif path.is_dir():
        yield from _folder(path, problems, summary)
    elif format := recognised(path):
        yield path, format
    elif path.suffix and not is_data_file(path):
        first_bytes(path)  # raises if the file was not recognised because it cannot be read
        raise ConversationError(unread(path) or unknown(path, format_names()))
    elif why := unread(path):
        problems.add(why)
    else:
        yield path, None


def _folder(folder: Path, problems: Problems, summary: ImportSummary) -> Iterator[tuple[Path, Format | None]]:
    """Yields the exports and data files in a folder and its subfolders; other files are ignored and counted."""
    taken: set[Path] = set()
    ignored: list[Path] = []
    for path in [folder, *visible_paths(folder)]:
        if not taken.isdisjoint(path.parents):
            continue
        format = _whole(path) if path.is_dir() else recognised(path)
        if format or is_data_file(path):
            taken.add(path)
            if format is None and (why := unread(path)):
                problems.add(why)
            else:
                yield path, format
        elif path.is_file():
            ignored.append(path)
    if not taken:
        if ignored:
            why = next(filter(None, map(unread, ignored)), None)
            raise ConversationError(why or unknown(ignored[0], format_names()))
        data_files(folder)  # raises the error
    if ignored:
        summary.notes.append(f"{len(ignored):,} files in {folder} have no known format and were ignored")


def _whole(folder: Path) -> Format | None:
    """Returns the format of a folder that is one export: everything in it is of one kind."""
    format = recognised(folder)
    for path in visible_paths(folder) if format else ():
        if path.is_file():
            other = recognised(path)
            if other not in (None, format) or (other is None and is_data_file(path) and ".json" not in path.suffixes):
                return None
    return format


def _segmenting(options: ImportOptions, chats: Sequence[Chat], summary: ImportSummary) -> Segmenting:
    timed = any(chat.parted and message.time for chat in chats for message in chat.messages[:1])
    if options.gap is not None or not timed:
        return replace(options.segmenting, gap=options.gap or options.segmenting.gap)
    gap, why = choose_gap(chats)
    summary.notes.append(f"a new conversation starts after a pause of more than {show_gap(gap)}, {why}")
    return replace(options.segmenting, gap=gap)


def _with_me(
    conversations: Iterable[Conversation], how: Segmenting, summary: ImportSummary, table: SpeakerTable
) -> Iterator[tuple[Conversation, tuple[str, ...]]]:
    """Renames the speakers, and yields names to mask, too; leaves out conversations without the speaker to learn."""
    for conversation in conversations:
        spoken = zip(conversation.turn_speakers, conversation.turns, strict=True)
        table.add(itertools.islice(spoken, conversation.pinned, None))
        if how.me is not None and is_silent(conversation, how.me):
            summary.dropped[silent(how.me)] += 1
        else:
            yield rename(conversation, how), (*conversation.speaker_names, *summary.carried.names)


def _named(
    conversations: Iterable[Conversation], options: ImportOptions, summary: ImportSummary
) -> Iterator[Conversation]:
    for number, conversation in enumerate(conversations, 1):
        summary.turns += len(conversation.turns) - conversation.pinned
        # An id contains the name of a file, which is often a person's name.
        yield replace(conversation, id=f"{number:06d}") if options.cleaning.redact else conversation


def _write(parts: Split, output: Path, summary: ImportSummary) -> None:
    with staged(output) as stage:
        for name in PARTS:
            if conversations := getattr(parts, name):
                summary.written[f"{name}.jsonl"] = write_jsonl(stage / f"{name}.jsonl", conversations)
    for name in PARTS:
        if f"{name}.jsonl" not in summary.written:  # of an earlier import, with other shares
            (output / f"{name}.jsonl").unlink(missing_ok=True)
