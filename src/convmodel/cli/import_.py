"""`convmodel import`: converts chat exports, and data of any format, to clean, split training files.

Owns: the printed summary. `data.importing.pipeline` does the import.
"""

from functools import partial
from itertools import chain, count
from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING, Annotated

from typer import Argument, Option

from convmodel.cli import flags
from convmodel.cli.console import DEFAULT_MODEL, print_json, print_message, print_table, program
from convmodel.cli.starting_point import BASE_MODEL
from convmodel.data.importing.cleaning import CleaningRules
from convmodel.data.importing.deduplication import NEAR, available_near
from convmodel.data.importing.exports.formats import FORMATS
from convmodel.data.importing.splitting import FEW, PARTS, SHARES
from convmodel.data.progress import ProgressBar
from convmodel.data.reading.columns import Columns
from convmodel.data.reading.shapes import AUTO, SHAPES
from convmodel.errors import ConfigError, SaveError
from convmodel.files.download import is_downloaded
from convmodel.files.hub import CHITCHAT, CHITCHAT_RATE

if TYPE_CHECKING:
    from convmodel.data.importing.summary import ImportSummary

_cleaning = partial(Option, rich_help_panel="Cleaning")
_splitting = partial(Option, rich_help_panel="Splitting")
_RULES = CleaningRules()
_SPEAKERS = 20  # rows of the table of speakers


def command(
    sources: Annotated[
        list[str],
        Argument(
            help="Chat exports, data files or folders; - for standard input; owner/name of a dataset on the Hub.",
            metavar="SOURCE",
        ),
    ],
    *,
    output: Annotated[str, Option("--output", "-o", help="Folder for the converted files.")] = "data",
    format: Annotated[
        str,
        Option(
            help="Format of the sources: auto (recognize it), an export "
            f"({', '.join(FORMATS)}), one of an installed package, or other data ({', '.join(SHAPES)})."
        ),
    ] = AUTO,
    columns: Annotated[
        str | None,
        Option(
            help="Columns of a table with a message per row, where they have other names: "
            "conversation=ticket_id,speaker=sender,text=message, and time=NAME.",
            metavar="PART=COLUMN,...",
        ),
    ] = None,
    me: Annotated[
        str | None,
        Option(
            help="Name of the speaker whose turns the model learns to write; renamed to `assistant`. Conversations "
            "without this speaker are dropped."
        ),
    ] = None,
    merge_others: Annotated[
        bool,
        Option(
            "--merge-others", help="Rename all speakers but --me to `user`, for models that support only two speakers."
        ),
    ] = False,
    gap: Annotated[
        str | None,
        Option(help="Pause after which a new conversation begins: 30m, 1h, 2d; by default estimated from the data."),
    ] = None,
    keep_messages: Annotated[
        bool,
        Option(
            "--keep-messages", help="Keep consecutive messages of a speaker as separate turns instead of joining them."
        ),
    ] = False,
    min_turns: Annotated[int, _cleaning(help="Minimum number of turns in a conversation.")] = _RULES.min_turns,
    max_turns: Annotated[int | None, _cleaning(help="Maximum number of turns in a conversation.")] = None,
    max_chars: Annotated[int | None, _cleaning(help="Maximum number of characters in a conversation.")] = None,
    min_speakers: Annotated[int, _cleaning(help="Minimum number of speakers in a conversation.")] = _RULES.min_speakers,
    near: Annotated[
        float | None,
        _cleaning(
            help="Drop near-duplicates: conversations whose Jaccard similarity of word trigrams to an earlier one is "
            "at least this, from 0.5 to 1. Needs datasketch (the extra train); without it, the default drops exact "
            f"duplicates only. [default: {NEAR}]",
        ),
    ] = None,
    keep_duplicates: Annotated[
        bool, _cleaning("--keep-duplicates", help="Keep duplicates and near-duplicates.")
    ] = False,
    redact: Annotated[
        bool,
        _cleaning(
            "--redact",
            help="Mask URLs, email and IP addresses, phone, card and account numbers; replace speakers' names with "
            "pseudonyms.",
        ),
    ] = False,
    shares: Annotated[
        str, _splitting("--split", help="Fractions for train, valid and test.", metavar="A,B,C")
    ] = ",".join(map(str, SHARES)),
    split_by: Annotated[
        str,
        _splitting(
            help="How to split: time (newest conversations to test), random, or auto: by time if the data has times."
        ),
    ] = "auto",
    seed: Annotated[int, _splitting(help="Seed of a random split.")] = 42,
    on_error: flags.OnError = "fail",
    overwrite: Annotated[bool, Option("--overwrite", help="Replace an earlier import in the folder.")] = False,
    as_json: flags.Json = False,
) -> None:
    """Convert chat exports, or conversations in other formats, to clean training files.

    `convmodel import "WhatsApp Chat with Bob.txt" --me Bob` writes `data/train.jsonl`, `valid.jsonl` and `test.jsonl`,
    in which Bob is the assistant.

    Supports exports of WhatsApp, Signal, Telegram, Discord, Slack, Messenger, Instagram, LINE, KakaoTalk, Google Chat,
    ChatGPT, Claude and DeepSeek, plain `Name: text` transcripts, and JSONL, JSON, YAML, CSV, TSV and Parquet in common
    formats (ShareGPT, role/content messages, prompt and response, ...). Installed packages may add exports. Prints what
    was read, what was dropped and why, who speaks, and what was written.
    """
    from convmodel.data.importing.pipeline import ImportOptions, import_conversations
    from convmodel.data.importing.segmenting import Segmenting, parse_gap

    is_replaced = any(Path(output, f"{name}.jsonl").exists() for name in PARTS)
    if is_replaced and not overwrite:
        raise SaveError(f"{output} already holds an import: give another --output, or --overwrite to replace it")
    options = ImportOptions(
        format=format,
        columns=Columns.parse(columns) if columns else None,
        on_error=on_error,  # type: ignore[arg-type]
        gap=parse_gap(gap) if gap else None,
        segmenting=Segmenting(me=me, merge_others=merge_others, keep_messages=keep_messages),
        cleaning=CleaningRules(
            min_turns=min_turns,
            max_turns=max_turns,
            max_chars=max_chars,
            min_speakers=min_speakers,
            deduplicate=not keep_duplicates,
            near_duplicates=available_near() if near is None else near,
            redact=redact,
        ),
        shares=_parse_shares(shares),
        seed=seed,
        split_by=split_by,  # type: ignore[arg-type]
    )
    with ProgressBar("reading", unit="conversations") as bar:
        summary = import_conversations(sources, output, options, lambda kept: bar.show("cleaning", kept))
    if as_json:
        print_json(summary.to_dict())
        return
    _print(summary)
    if is_replaced and "test.jsonl" in summary.written:
        print_message(
            "- test.jsonl may now hold conversations that an earlier model was trained on: train again before you "
            "evaluate"
        )
    is_chat = summary.carried.rows and "assistant" in summary.speaker_turns  # OpenAI trains on the assistant's turns
    _print_commands(Path(output), summary, me, on_assistant=bool(me or is_chat))


def _print_commands(output: Path, summary: "ImportSummary", me: str | None, *, on_assistant: bool) -> None:
    """Prints the commands to take next: those of docs/quickstart.md."""
    model = BASE_MODEL if Path(BASE_MODEL).is_dir() or is_downloaded(BASE_MODEL) else CHITCHAT
    files = quote(str(output / "train.jsonl"))
    if "valid.jsonl" in summary.written:
        files += f" --valid {quote(str(output / 'valid.jsonl'))}"
    loss_flag = " --loss-on assistant" if on_assistant else ""
    rate_flag = f" --learning-rate {CHITCHAT_RATE}" if model == CHITCHAT else ""
    print_message(f"Check it:     {program()} doctor {model} {files}{loss_flag} --no-estimate", style="dim")
    print_message(
        f"Train on it:  {program()} fit {files} --model {model}{loss_flag}{rate_flag} "
        f"--output-dir {_free_folder(me or '')}",
        style="dim",
    )


def _free_folder(me: str) -> str:
    """Returns the name of a new folder for the model: that of whom it imitates, if it is an ASCII word."""
    word = next(iter(me.lower().split()), "")
    name = word if word.isascii() and word.isalnum() else DEFAULT_MODEL
    folders = chain([name], (f"{name}-{number}" for number in count(2)))
    return next(folder for folder in folders if not Path(folder).exists())


def _parse_shares(text: str) -> tuple[float, ...]:
    try:
        return tuple(float(share) for share in text.split(","))
    except ValueError as error:
        raise ConfigError(f"split is {text!r}: write three fractions, such as {','.join(map(str, SHARES))}") from error


def _print(summary: "ImportSummary") -> None:
    """Prints what was read, what was dropped and why, and what was written."""
    rows = [(f"{name} (files or rows)", f"{count:,}") for name, count in summary.formats.most_common()]
    rows.append(("messages and rows read", f"{summary.entries:,}"))
    rows += [(f"  dropped: {reason}", f"{count:,}") for reason, count in summary.dropped_entries.most_common()]
    rows += [(f"  left out of messages: {kind}", f"{count:,}") for kind, count in summary.dropped_parts.most_common()]
    if summary.problems:
        rows.append(("  dropped: could not be read", f"{summary.problems:,}"))
    rows.append(("conversations", f"{summary.conversations:,}"))
    rows += [(f"  dropped: {reason}", f"{count:,}") for reason, count in summary.dropped.most_common()]
    rows += [(f"masked: {kind}", f"{count:,}") for kind, count in summary.masked.most_common()]
    rows += [(name, f"{count:,}") for name, count in summary.written.items()]
    rows.append(("turns written", f"{summary.turns:,}"))
    print_table(("", "count"), rows)
    speakers = summary.speaker_turns.most_common(_SPEAKERS)
    print_table(
        ("speaker", "turns", "first words"),
        [(name, f"{turns:,}", summary.first_words[name]) for name, turns in speakers],
        left=("first words",),
    )
    if more := len(summary.speaker_turns) - len(speakers):
        print_message(f"- {more:,} more speakers have fewer turns")
    if summary.carried.places:
        print_message("- --json lists all rows of each kind of content")
    for note in (*summary.notes, *(f"dropped: {message}" for message in summary.first_problems)):
        print_message(f"- {note}")
    if summary.enough_shares:
        split = ",".join(f"{share:g}" for share in summary.enough_shares)
        print_message(f"- or import again with --overwrite --split {split}, which gives each at least {FEW}")
