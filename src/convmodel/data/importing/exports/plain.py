"""Plain transcripts: `Name: text`, without times.

Owns: which words before a colon are names, and where one chat of a file ends and the next starts.
"""

import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from convmodel.data.importing.exports.heads import head_of, unknown_heads
from convmodel.data.importing.exports.messages import Chat, Message
from convmodel.data.importing.exports.names import is_like_a_sentence
from convmodel.data.importing.exports.text_lines import add_unrecognised, first_lines
from convmodel.data.reading.decoding import read_text
from convmodel.data.reading.problems import Problems

SUFFIXES = frozenset({"", ".log", ".md", ".text", ".txt"})
"""Suffixes of files that may be transcripts."""

LONG = 20
"""With so many lines of the form `Name: text` or more, a name must begin more than one of them."""

# No sentence punctuation; a dot only after up to three letters, as in `Dr. Ann B.`
_OPENING = re.compile(
    r"\s{0,3}(?P<name>[^\s:\uff1a](?:[^:\uff1a,;!?\"<>\[\]{}|=\t.]|(?<=\b\w)\.|(?<=\b\w\w)\.|(?<=\b\w\w\w)\.){0,39})\s?"
    r"(?::(?:\*\*)?(?:\s+|$)|\uff1a\s*)(?P<text>.*)"
)
# Without a space after the colon, which is then not one of a time or an address.
_TIGHT = re.compile(r"\s{0,3}(?P<name>[^\s:][^:]{0,39}?):(?!//)(?!(?<=\d:)\d)(?P<text>\S.*)")
_DATED = re.compile(r"\d\s?[./-]\s?\d")
_SEPARATOR = re.compile(r"\s*(?:-{3,}|\*{3,}|={3,})\s*")


def matches(path: Path) -> bool:
    """Returns whether at least half of the first lines are `Name: text`, and two names begin more than one of them."""
    lines = first_lines(path) if path.suffix.casefold() in SUFFIXES else []
    openings = [opening[0] for line in lines if (opening := _opening(line))]
    recurring = [name for name, count in Counter(openings).items() if count > 1]
    dated = sum(bool(_DATED.search(name)) for name in openings)
    if 2 * dated > len(openings):  # an export with unknown dates
        return False
    return 2 * len(openings) >= len(lines) and len(recurring) >= 2


def read(path: Path, problems: Problems) -> Iterator[Chat]:
    """Reads the chats of a transcript: a line of `---`, `***` or `===` separates them.

    A name that begins only one line is treated as text, and its line continues the message before it, if the file has
    many lines of the form `Name: text`, or the name is several words of which the first or the last is in lower case
    (`Two things were odd: ...`). The notes of each chat list the names.

    Raises:
        ConversationError: If the file cannot be read, or has a bad line and problems are errors.
    """
    lines = read_text(path).split("\n")
    names, notes = _names(lines)
    begins_a_message = unknown_heads(names)
    if not names:
        add_unrecognised(problems, str(path), lines, "no line has the form `Name: text`")
        return
    number = 0
    for start, end in _blocks(lines):
        chat = _chat(lines[start:end], start, names, begins_a_message, path, problems)
        if chat.entries:
            number += 1
            chat.name = path.stem if number == 1 else f"{path.stem}#{number}"
            chat.notes = list(notes)
            yield chat


def _opening(line: str) -> tuple[str, str] | None:
    """Splits a line into a name and the text after its colon; None if it does not begin with a name."""
    match = _OPENING.fullmatch(line)
    if not match:
        return None
    name = match["name"].strip("* ")  # bold in Markdown
    return (name, match["text"]) if any(map(str.isalnum, name)) else None


def _tight_opening(line: str) -> tuple[str, str] | None:
    match = _TIGHT.fullmatch(line)
    return (match["name"].strip("* "), match["text"]) if match else None


def _names(lines: Sequence[str]) -> tuple[set[str], list[str]]:
    """Finds the speakers of the whole file, with notes for the user."""
    places = defaultdict(list)
    for number, line in enumerate(lines, 1):
        if opening := _opening(line):
            places[opening[0]].append(number)
    is_long = sum(map(len, places.values())) >= LONG
    once = {name: at[0] for name, at in places.items() if len(at) == 1 and (is_long or is_like_a_sentence(name))}
    names = [name for name in places if name not in once]
    notes = [f"names found: {', '.join(names)}"]
    if once:
        listed = ", ".join(f"{name} (line {line})" for name, line in once.items())
        notes.append(f"taken for text, not for names, as each begins only one line: {listed}")
    return set(names), notes


def _blocks(lines: Sequence[str]) -> Iterator[tuple[int, int]]:
    """Yields where the lines of each chat start and end."""
    start = 0
    for index, line in enumerate(lines):
        if _SEPARATOR.fullmatch(line):
            yield start, index
            start = index + 1
    yield start, len(lines)


def _chat(
    lines: Sequence[str],
    start: int,
    names: set[str],
    begins_a_message: Callable[[str], bool],
    path: Path,
    problems: Problems,
) -> Chat:
    entries: list[tuple[str, int, list[str]]] = []
    left_out = False
    for number, line in enumerate(lines, start + 1):
        opening = _opening(line) or _tight_opening(line)
        if opening and opening[0] in names:
            entries.append((opening[0], number, [opening[1]]))
            left_out = False
        elif begins_a_message(line) or ((head := head_of(line, number)) and ":" in head.rest):
            left_out = True
            problems.add(
                f"{path}:{number}: this line begins like a message with a time, which transcripts do not have: remove "
                "the time, or indent the line if it is text"
            )
        elif left_out:
            continue
        elif entries:
            entries[-1][2].append(line)
        elif line.strip():
            problems.add(f"{path}:{number}: no name before this text: begin the line with `Name: `, or remove it")
    chat = Chat(path.stem)
    for speaker, number, text_lines in entries:
        text = "\n".join(text_lines).strip()
        if text:
            chat.messages.append(Message(speaker, text, None, f"{path}:{number}"))
        else:
            chat.dropped["empty message"] += 1
    return chat
