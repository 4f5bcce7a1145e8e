"""`convmodel tokenizer`: vocabularies of one's own."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from convmodel.cli.console import console, print_json, print_table, program, quieten_transformers, require_free
from convmodel.cli.data_options import FormatOption, OnErrorOption
from convmodel.data.reading.reader import ConversationReader
from convmodel.data.reading.shapes import AUTO
from convmodel.errors import SaveError
from convmodel.hf_model.from_scratch import SHAPES, estimate_tokens, vocabulary_size
from convmodel.layout.vocabulary import KINDS, train_vocabulary

if TYPE_CHECKING:
    from convmodel.layout.tokenizer import ConversationTokenizer

SHOWN = 3
"""Turns that are shown in pieces."""

app = typer.Typer(no_args_is_help=True, help="Learns vocabularies, for models that are trained from scratch.")


@app.callback()
def group() -> None:
    """Learns vocabularies, for models that are trained from scratch."""


@app.command("train")
def train(
    data: Annotated[
        str,
        typer.Argument(help="Conversations: a file, a folder, - or owner/name of the hub.", metavar="DATA"),
    ],
    *,
    vocab_size: Annotated[
        int | None,
        typer.Option(
            min=1, help="Entries; by default what suits a small model and this much text.", show_default=False
        ),
    ] = None,
    kind: Annotated[
        str, typer.Option(help="bpe joins what often stands together; unigram maximises the likelihood of the text.")
    ] = KINDS[0],
    output_dir: Annotated[str, typer.Option(help="The folder to write.")] = "tokenizer",
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace a vocabulary in the folder.")] = False,
    format: FormatOption = AUTO,
    on_error: OnErrorOption = "fail",
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Learns a vocabulary from conversations of any language.

    `convmodel tokenizer train chats.jsonl --vocab-size 4000`

    `convmodel fit chats.jsonl --from-scratch small --tokenizer tokenizer`

    It is made of bytes, so that any text of any script can be written in it. A larger one makes text shorter and the
    model larger; rare entries are learned badly: some hundred bytes of text for each are a good start.
    """
    require_vocabulary_folder(output_dir, overwrite=overwrite)
    with console.status(f"learning a vocabulary from {data} ..."):
        quieten_transformers()
        from convmodel.layout.tokenizer import ConversationTokenizer

        reader = ConversationReader(data, shape=format, on_error=on_error)  # type: ignore[arg-type]
        turns = [turn for conversation in reader for turn in conversation.turns]
        text_bytes = sum(len(turn.encode()) for turn in turns)
        entries = vocabulary_size(SHAPES["small"], text_bytes) if vocab_size is None else vocab_size
        tokenizer = ConversationTokenizer(train_vocabulary(turns, entries, kind))
        tokenizer.save_pretrained(output_dir)
        tokens = estimate_tokens(tokenizer, turns) - len(turns)
    measured = {
        "entries": len(tokenizer),
        "kind": kind,
        "turns": len(turns),
        "text_bytes": text_bytes,
        "bytes_per_token": text_bytes / max(1, tokens),
        "skipped": reader.problems.count,
        "output_dir": output_dir,
    }
    if as_json:
        print_json(measured)
        return
    _show(measured, len(tokenizer) < entries)
    for turn in turns[:SHOWN]:
        console.print(
            f"  {_in_pieces(tokenizer, turn)}", markup=False, highlight=False, overflow="ellipsis", no_wrap=True
        )
    console.print(
        f"Learn from scratch with it:  {program()} fit {data} --from-scratch small --tokenizer {output_dir}",
        markup=False,
        highlight=False,
        soft_wrap=True,
    )


def require_vocabulary_folder(folder: str, *, overwrite: bool) -> None:
    """Checks that only a vocabulary may be replaced, and no model, which has the same files and more.

    Raises:
        SaveError: If something else would be.
    """
    if (Path(folder) / "config.json").exists():
        raise SaveError(f"{folder} holds a model: give another --output-dir")
    require_free(folder, overwrite=overwrite, what="a vocabulary", marks=["tokenizer.json"])


def _show(measured: dict[str, Any], fewer: bool) -> None:
    rows = [
        ("entries", f"{measured['entries']:,}" + (", all that the text has" if fewer else "")),
        ("bytes of text a token", f"{measured['bytes_per_token']:.2f}"),
        ("turns learned from", f"{measured['turns']:,}"),
    ]
    if measured["skipped"]:
        rows.append(("rows that could not be used", f"{measured['skipped']:,}"))
    print_table(("", str(measured["output_dir"])), rows)


def _in_pieces(tokenizer: "ConversationTokenizer", turn: str) -> str:
    """Shows where a turn is cut."""
    return "|".join(tokenizer.decode([index]) for index in tokenizer.encode(turn)).replace("\n", "\\n")
