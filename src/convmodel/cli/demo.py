"""`convmodel demo`: fine-tunes the built-in model on conversations in the package, and compares before and after.

Owns: the settings of this run, and which examples are printed.
"""

from importlib.resources import as_file, files
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from typer import Option

from convmodel.cli import flags
from convmodel.cli.console import check_output_dir, load_model, print_json, print_message, print_table, program
from convmodel.files.hub import CHITCHAT
from convmodel.layout.architecture import window_length
from convmodel.training.config import FitConfig
from convmodel.training.units import duration, millions

if TYPE_CHECKING:
    from convmodel.conversation import Conversation
    from convmodel.evaluation.likelihood import EvaluationResult
    from convmodel.model import ConversationModel

DEMO_MODEL = Path("demo-model")  # the default output folder; another demo replaces it
SETTINGS: dict[str, Any] = {"learning_rate": 1e-3, "batch_size": 16, "dropout": 0.1}
EXAMPLES = 3  # number of held-out contexts to respond to before and after
MAX_CHARS = 100  # maximum length of such a context


def command(
    *,
    output_dir: Annotated[
        Path,
        Option("--output-dir", "-o", help="Folder to save the model in; the default folder is replaced if it exists."),
    ] = DEMO_MODEL,
    overwrite: Annotated[bool, Option("--overwrite", help="Replace a model in an --output-dir that you give.")] = False,
    epochs: Annotated[float, Option(help="Number of passes over the training conversations.")] = 3.0,
    seed: Annotated[int, Option(help="Seed of data order, dropout, and sampling.")] = 42,
    as_json: flags.Json = False,
) -> None:
    """Fine-tune the built-in model on dialogues from Shakespeare's comedies, and evaluate it before and after.

    Takes one to three minutes on two CPU cores and needs no network. The built-in model was trained on present-day
    small talk; the fine-tuned model, which is saved in `demo-model`, writes like Shakespeare's characters.
    """
    check_output_dir(output_dir, overwrite=overwrite or output_dir == DEMO_MODEL)
    config = FitConfig.from_options(
        SETTINGS | {"epochs": epochs, "output_dir": str(output_dir), "seed": seed, "resume": False}
    )
    model = load_model(CHITCHAT)
    from convmodel.training.fit import require_accelerate  # imports torch, which loading has imported by now

    require_accelerate()  # before the evaluation, which takes a while
    train, valid, test = (_conversations(name) for name in ("train", "valid", "test"))
    size = millions(model.hf_model.num_parameters())
    print_message(f"{CHITCHAT} is a GPT-2 with {size} parameters, trained on present-day small talk.")
    print_message(
        f"Fine-tuning it on {len(train):,} conversations of Shakespeare's comedies; {len(test):,} others are held out."
    )
    contexts = _choose_contexts(test)
    # The same targets before and after, whatever the built-in model was trained with.
    targets: dict[str, Any] = {"max_length": window_length(model.hf_model.config), "loss_on": config.loss_on}
    before, old_responses = model.evaluate(test, **targets), _generate(model, contexts, seed)
    result = model.fit(train, valid, config=config)
    after, new_responses = model.evaluate(test, **targets), _generate(model, contexts, seed)
    examples = [
        {"context": context, "before": old, "after": new}
        for context, old, new in zip(contexts, old_responses, new_responses, strict=True)
    ]
    if as_json:
        metrics = {"before": before.to_dict(), "after": after.to_dict(), "seconds": result.seconds}
        print_json({**metrics, "responses": examples, "output_dir": str(output_dir)})
        return
    _print_metrics(before, after, result.seconds)
    print_table(("held-out context", "before", "after"), [list(row.values()) for row in examples], text=True)
    print_message(f"\nSaved the model to {output_dir}/. Next steps:")
    for line in (
        f"chat --model {output_dir}",
        f'generate --model {output_dir} "How are you today?" --top-p 0.9',
        f"fit YOUR_CHATS.jsonl --model {CHITCHAT} --output-dir model",
        "--help",
    ):
        print_message(f"  {program()} {line}")


def _conversations(name: str) -> "list[Conversation]":
    from convmodel.data.reading.reader import read_conversations

    with as_file(files("convmodel") / "assets" / "stage" / f"{name}.jsonl") as path:
        return read_conversations(path)


def _choose_contexts(test: "list[Conversation]") -> list[str]:
    """Returns short first turns, evenly spaced over the held-out conversations."""
    short = [conversation.turns[0] for conversation in test if len(conversation.turns[0]) <= MAX_CHARS]
    return short[:: len(short) // EXAMPLES][:EXAMPLES]


def _generate(model: "ConversationModel", contexts: list[str], seed: int) -> list[str]:
    options: dict[str, Any] = {"max_new_tokens": 60, "do_sample": True, "top_p": 0.9, "temperature": 0.7}
    outputs = [model.generate([context], seed=seed + n, **options) for n, context in enumerate(contexts)]
    return [" / ".join(output.responses[0].strip().splitlines()) for output in outputs]


def _print_metrics(before: "EvaluationResult", after: "EvaluationResult", seconds: float) -> None:
    rows = [
        ("perplexity per token", f"{before.perplexity:,.1f}", f"{after.perplexity:,.1f}"),
        ("bits per byte of text", f"{before.bits_per_byte:.2f}", f"{after.bits_per_byte:.2f}"),
    ]
    print_table(("held-out conversations", "before", "after"), rows)
    change = after.perplexity / before.perplexity - 1
    direction = "fell" if change < 0 else "rose"
    print_message(f"In {duration(seconds)}, perplexity {direction} by {abs(change):.0%}. Lower is better.\n")
