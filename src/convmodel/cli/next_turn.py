"""`convmodel next-turn`: teaches a small head to rank responses, and tells how often it is right."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.progress import Progress

from convmodel.cli.console import console, load_model, print_json, print_table
from convmodel.cli.data_options import FormatOption, OnErrorOption
from convmodel.data.reading.reader import read_conversations
from convmodel.data.reading.shapes import AUTO
from convmodel.errors import ConfigError

if TYPE_CHECKING:
    from convmodel.hf_model.next_turn import Hits


def command(
    model: Annotated[str, typer.Argument(help="A folder; the head is saved in it.", metavar="MODEL")],
    train: Annotated[str, typer.Argument(help="Conversations to learn from: a few hundred.", metavar="TRAIN")],
    *,
    valid: Annotated[str | None, typer.Option(help="Conversations to measure it on.")] = None,
    format: FormatOption = AUTO,
    on_error: OnErrorOption = "fail",
    limit: Annotated[int, typer.Option(min=2, help="How many conversations of each file are used.")] = 300,
    negatives: Annotated[int, typer.Option(min=1, help="How many other turns each next turn is told from.")] = 4,
    valid_negatives: Annotated[int, typer.Option(min=1, help="The same where it is measured.")] = 9,
    seed: Annotated[int, typer.Option(help="Chooses the other turns.")] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Teaches a head to tell a conversation's next turn from turns said elsewhere, which `--rerank next-turn` uses.

    The model stays as it is. hits@1 is how often the real next turn comes first.

    `convmodel next-turn model train.jsonl --valid valid.jsonl`

    `convmodel generate "Hi" -n 5 --top-p 0.95 --rerank next-turn`
    """
    from convmodel.hf_model.next_turn import fit_next_turn_head, next_turn_hits

    if not Path(model).is_dir():
        raise ConfigError(f"{model} is no folder, and the head is saved in it: save the model in one first")
    files = {"train": train} | ({} if valid is None else {"valid": valid})
    read = {
        name: read_conversations(file, shape=format, on_error=on_error)[:limit]  # type: ignore[arg-type]
        for name, file in files.items()
    }
    loaded = load_model(model)
    hf_model, tokenizer = loaded.hf_model, loaded.tokenizer
    with _progress(f"learning from {train}", len(read["train"])) as progress:
        head, hits = fit_next_turn_head(
            hf_model, tokenizer, read["train"], negatives=negatives, seed=seed, progress=progress
        )
    found = {"train": hits}
    if valid is not None:
        with _progress(f"measuring on {valid}", len(read["valid"])) as progress:
            found["valid"] = next_turn_hits(
                head, hf_model, tokenizer, read["valid"], negatives=valid_negatives, seed=seed, progress=progress
            )
    head.save(model)
    _show(found, as_json=as_json)


def _show(found: "dict[str, Hits]", *, as_json: bool) -> None:
    from dataclasses import asdict

    if as_json:
        print_json({name: asdict(hits) for name, hits in found.items()})
        return
    rows = [
        ("hits@1", *(f"{hits.head:.3f}" for hits in found.values())),
        ("by likelihood a token", *(f"{hits.likelihood:.3f}" for hits in found.values())),
        ("by chance", *(f"{hits.chance:.3f}" for hits in found.values())),
        ("conversations", *(f"{hits.conversations:,}" for hits in found.values())),
    ]
    if any(hits.left_out for hits in found.values()):
        rows.append(("left out: of one turn", *(f"{hits.left_out:,}" for hits in found.values())))
    print_table(("", *found), rows)


@contextmanager
def _progress(what: str, total: int) -> Iterator[Callable[[int], None]]:
    with Progress(console=console, transient=True) as bar:
        task = bar.add_task(what, total=total)
        yield lambda done: bar.update(task, completed=done)
