"""`convmodel import`: chat exports and data of any shape to clean, split conversations."""

from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING, Annotated

import typer

from convmodel.cli.console import console, print_json, print_table, program
from convmodel.cli.data_options import OnErrorOption
from convmodel.data.importing.cleaning import CleaningRules
from convmodel.data.importing.deduplication import NEAR
from convmodel.data.importing.exports.formats import FORMATS
from convmodel.data.importing.splitting import PARTS, SHARES
from convmodel.data.reading.shapes import AUTO, SHAPES
from convmodel.errors import ConfigError, SaveError

if TYPE_CHECKING:
    from convmodel.data.importing.pipeline import ImportSummary

_CLEANING, _SPLITTING = "Cleaning", "Splitting"
_RULES = CleaningRules()


def command(
    sources: Annotated[
        list[str],
        typer.Argument(help="Exports, files or folders; - for standard input; owner/name for a dataset of the hub."),
    ],
    *,
    output: Annotated[str, typer.Option("--output", "-o", help="The folder to write.")] = "data",
    format: Annotated[
        str,
        typer.Option(
            help=f"The export or shape of the data, by default recognised: {', '.join(FORMATS)}; {', '.join(SHAPES)}."
        ),
    ] = AUTO,
    me: Annotated[
        str | None,
        typer.Option(
            help="Who the model is to speak like; becomes `assistant`. Conversations without them are left out.",
            show_default=False,
        ),
    ] = None,
    merge_others: Annotated[
        bool, typer.Option("--merge-others", help="All but --me become `user`, for models that know two speakers only.")
    ] = False,
    gap: Annotated[
        str | None,
        typer.Option(
            help="The pause after which a new conversation begins: 30m, 1h, 2d. By default chosen from the data."
        ),
    ] = None,
    keep_messages: Annotated[
        bool, typer.Option("--keep-messages", help="Messages of one speaker in a row stay turns of their own.")
    ] = False,
    min_turns: Annotated[
        int, typer.Option(help="Fewest turns of a conversation.", rich_help_panel=_CLEANING)
    ] = _RULES.min_turns,
    max_turns: Annotated[int | None, typer.Option(help="Most turns.", rich_help_panel=_CLEANING)] = None,
    max_chars: Annotated[int | None, typer.Option(help="Most characters.", rich_help_panel=_CLEANING)] = None,
    min_speakers: Annotated[
        int, typer.Option(help="Fewest speakers.", rich_help_panel=_CLEANING)
    ] = _RULES.min_speakers,
    near: Annotated[
        float,
        typer.Option(
            help="Similarity from which on a conversation repeats an earlier one: 0.5 to 1.", rich_help_panel=_CLEANING
        ),
    ] = NEAR,
    keep_duplicates: Annotated[
        bool, typer.Option("--keep-duplicates", help="Leave repeats in.", rich_help_panel=_CLEANING)
    ] = False,
    redact: Annotated[
        bool,
        typer.Option(
            "--redact",
            help="Mask web, mail and IP addresses, phone, card and account numbers; give speakers pseudonyms.",
            rich_help_panel=_CLEANING,
        ),
    ] = False,
    shares: Annotated[
        str,
        typer.Option("--split", help="Shares of train, valid and test.", metavar="A,B,C", rich_help_panel=_SPLITTING),
    ] = ",".join(map(str, SHARES)),
    split_by: Annotated[
        str,
        typer.Option(
            help="time (the newest for test), random, or auto: time where there is one.", rich_help_panel=_SPLITTING
        ),
    ] = "auto",
    seed: Annotated[int, typer.Option(help="What a random split begins with.", rich_help_panel=_SPLITTING)] = 42,
    on_error: OnErrorOption = "fail",
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an earlier import in the folder.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the summary as JSON.")] = False,
) -> None:
    """Turns chat exports, or conversations in any shape, into clean files to train on.

    `convmodel import "WhatsApp Chat with Bob.txt" --me Ann` writes `data/train.jsonl`, `valid.jsonl` and `test.jsonl`,
    in which Ann is the assistant.

    Exports of WhatsApp, Telegram, Discord, Slack, Messenger, Instagram, LINE, ChatGPT and Claude are recognised, plain
    `Name: text` transcripts too, and JSONL, JSON, YAML, CSV, TSV and Parquet of the shapes that others use (ShareGPT,
    role/content messages, prompt and response, ...). Nothing is dropped silently: a table says what came in, what was
    left out and why, and what went out.
    """
    from convmodel.data.importing.pipeline import ImportOptions, import_conversations
    from convmodel.data.importing.segmenting import Segmenting, parse_gap

    if not overwrite and any(Path(output, f"{name}.jsonl").exists() for name in PARTS):
        raise SaveError(f"{output} already holds an import: give another --output, or --overwrite to replace it")
    options = ImportOptions(
        format=format,
        on_error=on_error,  # type: ignore[arg-type]
        gap=parse_gap(gap) if gap else None,
        segmenting=Segmenting(me=me, merge_others=merge_others, keep_messages=keep_messages),
        cleaning=CleaningRules(
            min_turns=min_turns,
            max_turns=max_turns,
            max_chars=max_chars,
            min_speakers=min_speakers,
            deduplicate=not keep_duplicates,
            near_duplicates=near,
            redact=redact,
        ),
        shares=_shares(shares),
        seed=seed,
        split_by=split_by,  # type: ignore[arg-type]
    )
    with console.status("reading ...") as status:
        shown = "cleaning: {:,} conversations kept so far ..."
        summary = import_conversations(sources, output, options, lambda kept: status.update(shown.format(kept)))
    if as_json:
        print_json(summary.to_dict())
        return
    _show(summary)
    train, valid = Path(output, "train.jsonl"), Path(output, "valid.jsonl")
    given = (f" --valid {quote(str(valid))}" if valid.name in summary.written else "") + (
        " --loss-on assistant" if me else ""
    )
    for label, line in (
        ("Look at it:   ", f"doctor gpt2 {quote(str(train))}"),
        ("Learn from it:", f"fit {quote(str(train))}{given}"),
    ):
        console.print(label, program(), line, style="dim", soft_wrap=True, highlight=False)


def _shares(text: str) -> tuple[float, ...]:
    try:
        return tuple(float(share) for share in text.split(","))
    except ValueError as error:
        raise ConfigError(f"split is {text!r}: write three shares, such as {','.join(map(str, SHARES))}") from error


def _show(summary: "ImportSummary") -> None:
    """Draws the summary: in, left out and why, out."""
    rows = [(f"{name} (files or rows)", f"{count:,}") for name, count in summary.formats.most_common()]
    rows.append(("messages and rows read", f"{summary.entries:,}"))
    rows += [(f"  left out: {reason}", f"{count:,}") for reason, count in summary.dropped_entries.most_common()]
    if summary.problems:
        rows.append(("  left out: could not be read", f"{summary.problems:,}"))
    rows.append(("conversations", f"{summary.conversations:,}"))
    rows += [(f"  left out: {reason}", f"{count:,}") for reason, count in summary.dropped.most_common()]
    rows += [(f"masked: {kind}", f"{count:,}") for kind, count in summary.masked.most_common()]
    rows += [(name, f"{count:,}") for name, count in summary.written.items()]
    rows.append(("turns written", f"{summary.turns:,}"))
    print_table(("", "number"), rows)
    for note in (*summary.notes, *(f"left out: {message}" for message in summary.first_problems)):
        console.print(f"- {note}", markup=False, highlight=False, soft_wrap=True)
