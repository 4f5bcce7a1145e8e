"""`convmodel tokenizer`: trains vocabularies.

Owns: the printed summary. `layout.vocabulary` does the training.
"""

from pathlib import Path
from typing import Annotated

import typer
from typer import Argument, Option

from convmodel.cli import flags
from convmodel.cli.console import (
    check_output_dir,
    print_json,
    print_message,
    print_table,
    program,
    silence_transformers,
)
from convmodel.cli.help import Command, Group
from convmodel.data.progress import console
from convmodel.data.reading.shapes import AUTO
from convmodel.errors import SaveError
from convmodel.hf_model.from_scratch import SHAPES, estimate_tokens, vocabulary_size
from convmodel.layout.vocabulary import KINDS, train_vocabulary

_EXAMPLES = 3  # turns shown as tokens

app = typer.Typer(cls=Group, no_args_is_help=True)


@app.callback()
def group() -> None:
    """Train a tokenizer, for models that are trained from scratch."""


@app.command("train", cls=Command)
def train(
    data: Annotated[str, Argument(help=f"Conversations: {flags.SOURCE_HELP}.", metavar="DATA")],
    *,
    vocab_size: Annotated[
        int | None,
        Option(min=1, help="Number of entries; by default chosen for the small model size and the amount of text."),
    ] = None,
    kind: Annotated[
        str, Option(help="Algorithm: bpe (byte-pair encoding) or unigram (Unigram language model).")
    ] = KINDS[0],
    output_dir: Annotated[str, Option("--output-dir", "-o", help="Folder to save the tokenizer in.")] = "tokenizer",
    overwrite: Annotated[bool, Option("--overwrite", help="Replace a tokenizer in the output folder.")] = False,
    format: flags.Format = AUTO,
    on_error: flags.OnError = "fail",
    as_json: flags.Json = False,
) -> None:
    """Train a tokenizer on conversations in any language.

    `convmodel tokenizer train chats.jsonl --vocab-size 4000`

    `convmodel fit chats.jsonl --from-scratch small --tokenizer tokenizer`

    The tokenizer is byte-level: it encodes any text in any script. A larger vocabulary encodes text in fewer tokens but
    makes the model larger, and rare entries are learned poorly; start with one entry per few hundred bytes of text.
    """
    check_tokenizer_dir(output_dir, overwrite=overwrite)
    with console.status(f"training a vocabulary on {data} ..."):
        silence_transformers()
        from convmodel.layout.tokenizer import ConversationTokenizer

        reader = flags.open_reader(data, format, on_error)
        turns = [turn for conversation in reader for turn in conversation.turns]
        text_bytes = sum(len(turn.encode()) for turn in turns)
        entries = vocabulary_size(SHAPES["small"], text_bytes) if vocab_size is None else vocab_size
        tokenizer = ConversationTokenizer(train_vocabulary(turns, entries, kind))
        tokenizer.save_pretrained(output_dir)
        text_tokens = estimate_tokens(tokenizer, turns) - len(turns)
    result = {
        "entries": len(tokenizer),
        "kind": kind,
        "turns": len(turns),
        "text_bytes": text_bytes,
        "bytes_per_token": text_bytes / max(1, text_tokens),
        "skipped": reader.problems.count,
        "output_dir": output_dir,
    }
    if as_json:
        print_json(result)
        return
    note = ", all that this text yields" if len(tokenizer) < entries else ""
    rows = [
        ("entries", f"{len(tokenizer):,}{note}"),
        ("bytes per token", f"{result['bytes_per_token']:.2f}"),
        ("training turns", f"{len(turns):,}"),
    ]
    if reader.problems.count:
        rows.append(("skipped rows", f"{reader.problems.count:,}"))
    print_table(("", output_dir), rows)
    for turn in turns[:_EXAMPLES]:
        tokens = "|".join(tokenizer.decode([token_id]) for token_id in tokenizer.encode(turn)).replace("\n", "\\n")
        console.print(f"  {tokens}", markup=False, highlight=False, overflow="ellipsis", no_wrap=True)
    print_message(f"Train a model with it:  {program()} fit {data} --from-scratch small --tokenizer {output_dir}")


def check_tokenizer_dir(folder: str, *, overwrite: bool) -> None:
    """Checks that saving replaces at most a tokenizer, and not a model, whose folder has the same files and more."""
    if (Path(folder) / "config.json").exists():
        raise SaveError(f"{folder} holds a model: give another --output-dir")
    check_output_dir(folder, overwrite=overwrite, content="a tokenizer", files=["tokenizer.json"])
