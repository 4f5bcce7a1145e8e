"""`convmodel next-turn`: trains a small head that ranks responses, and measures it."""

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from typer import Argument, Option

from convmodel.cli import flags
from convmodel.cli.console import load_model, print_json, print_table
from convmodel.data.progress import ProgressBar
from convmodel.data.reading.shapes import AUTO
from convmodel.errors import ConfigError

if TYPE_CHECKING:
    from convmodel.hf_model.next_turn import Hits


def command(
    model: Annotated[str, Argument(help="Folder of a model; the head is saved there.", metavar="MODEL")],
    train: Annotated[
        str, Argument(help=f"Training conversations, a few hundred: {flags.SOURCE_HELP}.", metavar="TRAIN")
    ],
    *,
    valid: Annotated[str | None, Option(help="Validation conversations, to measure the head on.")] = None,
    format: flags.Format = AUTO,
    on_error: flags.OnError = "fail",
    limit: Annotated[int, Option(min=2, help="Maximum number of conversations to use from each source.")] = 300,
    negatives: Annotated[
        int, Option(min=1, help="Number of wrong turns that each true next turn is ranked against in training.")
    ] = 4,
    valid_negatives: Annotated[int, Option(min=1, help="The same for --valid.")] = 9,
    seed: Annotated[int, Option(help="Seed of the choice of wrong turns.")] = 0,
    as_json: flags.Json = False,
) -> None:
    """Train a head that ranks a conversation's true next turn above random other turns, for `--rerank next-turn`.

    `convmodel next-turn model train.jsonl --valid valid.jsonl`

    `convmodel generate "Hi" -n 5 --top-p 0.95 --rerank next-turn`

    The model itself does not change. hits@1 is how often the true next turn is ranked first.
    """
    from convmodel.hf_model.next_turn import fit_next_turn_head, next_turn_hits

    if not Path(model).is_dir():
        raise ConfigError(f"{model} is not a folder: save the model in one first, since the head is saved there")
    sources = {"train": train} | ({} if valid is None else {"valid": valid})
    conversations = {name: [*flags.open_reader(source, format, on_error)][:limit] for name, source in sources.items()}
    loaded = load_model(model)
    hf_model, tokenizer = loaded.hf_model, loaded.tokenizer
    with ProgressBar("training", len(conversations["train"]), unit="conversations") as bar:
        head, train_hits = fit_next_turn_head(
            hf_model, tokenizer, conversations["train"], negatives=negatives, seed=seed, progress=bar.update
        )
    hits = {"train": train_hits}
    if valid is not None:
        with ProgressBar("measuring", len(conversations["valid"]), unit="conversations") as bar:
            held_out = conversations["valid"]
            hits["valid"] = next_turn_hits(
                head, hf_model, tokenizer, held_out, negatives=valid_negatives, seed=seed, progress=bar.update
            )
    head.save(model)
    if as_json:
        print_json({name: asdict(split) for name, split in hits.items()})
    else:
        _print(hits)


def _print(hits: "dict[str, Hits]") -> None:
    """Prints a column per split."""
    splits = hits.values()
    rows = [
        ("hits@1", *(f"{split.head:.3f}" for split in splits)),
        ("hits@1 by likelihood per token", *(f"{split.likelihood:.3f}" for split in splits)),
        ("hits@1 by chance", *(f"{split.chance:.3f}" for split in splits)),
        ("conversations", *(f"{split.conversations:,}" for split in splits)),
    ]
    if any(split.left_out for split in splits):
        rows.append(("skipped: only one turn", *(f"{split.left_out:,}" for split in splits)))
    print_table(("", *hits), rows)
