"""`convmodel demo`: the whole path once, on the built-in model and conversations that come with the package."""

from importlib.resources import as_file, files
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from convmodel.cli.console import console, load_model, print_json, print_table, program, require_free
from convmodel.files.hub import CHITCHAT
from convmodel.training.config import FitConfig
from convmodel.training.units import duration, millions

if TYPE_CHECKING:
    from convmodel.conversation import Conversation
    from convmodel.evaluation.likelihood import EvaluationResult
    from convmodel.model import ConversationModel

DEMO_MODEL = Path("demo-model")
"""Where the model is saved; a second demo replaces the first one's."""

SETTINGS: dict[str, Any] = {"learning_rate": 1e-3, "batch_size": 16, "dropout": 0.1}
SHOWN = 3
"""Held-out contexts that are answered before and after."""

SHORT = 100
"""Most characters of a context that is shown."""


def command(
    *,
    output_dir: Annotated[
        Path, typer.Option(help="Where the model is saved; the default is replaced without asking.")
    ] = DEMO_MODEL,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace a model in another folder.")] = False,
    epochs: Annotated[float, typer.Option(help="Passes over the conversations.")] = 3.0,
    seed: Annotated[int, typer.Option(help="Seeds order, dropout and answers.")] = 42,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Fine-tunes the built-in model on conversations in another voice, and shows what comes of it.

    Takes about a minute on two cores and needs no network. The built-in model has learned small talk between people of
    today; here it learns to talk like those in Shakespeare's comedies.
    """
    require_free(output_dir, overwrite=overwrite or output_dir == DEMO_MODEL)
    config = FitConfig.from_options(
        SETTINGS | {"epochs": epochs, "output_dir": str(output_dir), "seed": seed, "resume": False}
    )
    model = load_model(CHITCHAT)
    train, valid, test = (_conversations(name) for name in ("train", "valid", "test"))
    size = millions(model.hf_model.num_parameters())
    _say(f"{CHITCHAT} has learned small talk between people of today: a GPT-2 of {size} parameters.")
    _say(f"Now it reads {len(train):,} conversations of Shakespeare's comedies. {len(test):,} others are held out.")
    contexts = _choose_contexts(test)
    before, old = model.evaluate(test), _answers(model, contexts, seed)
    result = model.fit(train, valid, config=config)
    after, new = model.evaluate(test), _answers(model, contexts, seed)
    answers = [
        {"context": context, "before": earlier, "after": later}
        for context, earlier, later in zip(contexts, old, new, strict=True)
    ]
    if as_json:
        print_json(
            {
                "before": before.to_dict(),
                "after": after.to_dict(),
                "seconds": result.seconds,
                "answers": answers,
                "output_dir": str(output_dir),
            }
        )
        return
    _show_measurements(before, after, result.seconds)
    print_table(("held-out context", "before", "after"), [list(row.values()) for row in answers], text=True)
    _say(f"\nThe model is in {output_dir}/. How to go on:")
    for line in (
        f"chat --model {output_dir}",
        f'generate --model {output_dir} "How are you today?" --top-p 0.9',
        f"fit YOUR_CHATS.jsonl --model {CHITCHAT} --output-dir model",
        "--help",
    ):
        _say(f"  {program()} {line}")


def _say(text: str) -> None:
    console.print(text, markup=False, highlight=False, soft_wrap=True)


def _conversations(name: str) -> "list[Conversation]":
    from convmodel.data.reading.reader import read_conversations

    with as_file(files("convmodel") / "assets" / "stage" / f"{name}.jsonl") as path:
        return read_conversations(path)


def _choose_contexts(test: "list[Conversation]") -> list[str]:
    """Takes the first turns of conversations from all over the held-out ones, short enough to be shown."""
    short = [conversation.turns[0] for conversation in test if len(conversation.turns[0]) <= SHORT]
    return short[:: len(short) // SHOWN][:SHOWN]


def _answers(model: "ConversationModel", contexts: list[str], seed: int) -> list[str]:
    drawing = {"max_new_tokens": 60, "do_sample": True, "top_p": 0.9, "temperature": 0.7}
    said = [model.generate([context], seed=seed + n, **drawing).responses[0] for n, context in enumerate(contexts)]
    return [" / ".join(text.strip().splitlines()) for text in said]


def _show_measurements(before: "EvaluationResult", after: "EvaluationResult", seconds: float) -> None:
    rows = [
        ("perplexity a token", f"{before.perplexity:,.1f}", f"{after.perplexity:,.1f}"),
        ("bits a byte of text", f"{before.bits_per_byte:.2f}", f"{after.bits_per_byte:.2f}"),
    ]
    print_table(("held-out conversations", "before", "after"), rows)
    change = after.perplexity / before.perplexity - 1
    moved = f"{'fell' if change < 0 else 'rose'} by {abs(change):.0%}"
    _say(f"In {duration(seconds)}, perplexity {moved}. Lower is better.\n")
