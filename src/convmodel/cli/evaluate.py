"""`convmodel evaluate`: measures a model on conversations."""

from typing import Annotated

import typer

from convmodel.cli.console import console, load_model, print_json, print_table
from convmodel.cli.data_options import FormatOption, OnErrorOption
from convmodel.cli.model_options import MODEL_HELP, QuantizeOption
from convmodel.data.reading import ConversationReader
from convmodel.data.shapes import AUTO


def command(
    model: Annotated[str, typer.Argument(help=MODEL_HELP, metavar="MODEL")],
    *,
    data: Annotated[
        str, typer.Option(help="Conversations: a file, a folder, - or owner/name of the hub.", show_default=False)
    ],
    format: FormatOption = AUTO,
    on_error: OnErrorOption = "fail",
    batch_size: Annotated[int, typer.Option(min=1, help="Windows at a time; changes speed, not the result.")] = 8,
    max_length: Annotated[
        int | None, typer.Option(min=4, help="Longest window in tokens; by default as in training.")
    ] = None,
    loss_on: Annotated[
        str | None,
        typer.Option(help="Whose turns count: all, responses, last, or a speaker's name; by default as in training."),
    ] = None,
    quantize: QuantizeOption = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Measures loss, perplexity and bits a byte of a model on conversations it has not learned from.

    Perplexity is per token and compares models of one vocabulary only; bits a byte compares any two models.
    """
    conversations = ConversationReader(data, shape=format, on_error=on_error)  # type: ignore[arg-type]
    conversation_model = load_model(model, quantize=quantize)
    with console.status(f"measuring {model} on {data} ..."):
        result = conversation_model.evaluate(
            conversations, batch_size=batch_size, max_length=max_length, loss_on=loss_on
        )
    if as_json:
        print_json(result.to_dict())
        return
    rows = [
        ("perplexity", f"{result.perplexity:.3f}"),
        ("loss, nats a token", f"{result.loss:.4f}"),
        ("bits a byte", f"{result.bits_per_byte:.4f}"),
        ("supervised tokens", f"{result.tokens:,}"),
        ("conversations", f"{result.conversations:,}"),
    ]
    if result.unsupervised:
        rows.append(("conversations without a supervised turn", f"{result.unsupervised:,}"))
    if result.cut:
        rows.append(("tokens cut off turns longer than a window", f"{result.cut:,}"))
    if result.skipped:
        rows.append(("rows that could not be used", f"{result.skipped:,}"))
    print_table(("", model), rows)
