"""`convmodel generate`: generates responses to one context, or to a file of contexts.

Owns: how flags become options of `ConversationModel.generate`, which checks them.
"""

import re
import time
from typing import TYPE_CHECKING, Annotated, Any

from typer import Argument, Option

from convmodel.arguments.values import without_none
from convmodel.cli import flags
from convmodel.cli.console import load_model, print_json, print_message, print_result
from convmodel.conversation import Conversation
from convmodel.data.progress import ProgressBar
from convmodel.data.reading.reader import ConversationReader
from convmodel.data.reading.shapes import AUTO
from convmodel.errors import ConfigError
from convmodel.training.units import duration

_PAIR = re.compile(r"[A-Za-z_]\w*=")  # an option of `generate` with its value

if TYPE_CHECKING:
    from convmodel.model import ConversationModel


def command(
    context: Annotated[
        list[str] | None, Argument(help="The context: the turns so far, oldest first.", metavar="TURN")
    ] = None,
    *,
    input: Annotated[str | None, Option("--input", "-i", help=f"Contexts to respond to: {flags.SOURCE_HELP}.")] = None,
    output: Annotated[
        list[str] | None,
        Option("--output", "-o", help="JSONL file for the responses to --input.", metavar="FILE"),
    ] = None,
    overwrite: Annotated[bool, Option("--overwrite", help="Replace an existing --output file.")] = False,
    format: flags.Format = AUTO,
    model: flags.Model = None,
    max_new_tokens: flags.MaxNewTokens = None,
    do_sample: Annotated[
        bool, Option("--do-sample", help="Sample instead of taking the most likely token at each step.")
    ] = False,
    temperature: Annotated[
        float | None,
        Option(help="Sampling temperature: above 1 more varied, below 1 more predictable; implies --do-sample."),
    ] = None,
    top_p: Annotated[
        float | None,
        Option(help="Sample from the most likely tokens with this total probability; implies --do-sample."),
    ] = None,
    num_return_sequences: Annotated[int | None, Option("-n", min=1, help="Number of responses.")] = None,
    rerank: Annotated[
        str | None,
        Option(
            help="Sort the responses of -n, best first, by likelihood, mmi (generic responses last) or next-turn (the "
            "head that `convmodel next-turn` trains)."
        ),
    ] = None,
    seed: Annotated[int | None, Option(help="Seed of sampling, for repeatable results.")] = None,
    reply_as: Annotated[
        str | None,
        Option(
            help="Speaker of the response. Turns given as arguments alternate between user and assistant; contexts of "
            "--input name their speakers."
        ),
    ] = None,
    quantize: flags.Quantize = None,
    layout: flags.Layout = "auto",
    option: Annotated[
        list[str] | None,
        Option(help="Any option of transformers' `generate`, as NAME=VALUE; may be repeated.", metavar="NAME=VALUE"),
    ] = None,
    as_json: flags.Json = False,
) -> None:
    """Generate a response to a conversation, or to every conversation of a file.

    `convmodel generate "Hello" "Hi, how are you?" --top-p 0.95 --seed 1`

    `convmodel generate --input contexts.jsonl --output responses.jsonl`

    The contexts of a file are processed in batches, several times as fast as one by one. If the run was stopped or
    killed, the same command resumes it. A context that cannot be used gets a line with its error.
    """
    values = {
        "max_new_tokens": max_new_tokens,
        "do_sample": do_sample or None,
        "temperature": temperature,
        "top_p": top_p,
        "num_return_sequences": num_return_sequences,
        "seed": seed,
        "reply_as": reply_as,
        "rerank": rerank,
    }
    # -o was short for --option before it was the output, and `-o num_beams=2` still is.
    options_given = [*(option or []), *(value for value in output or [] if _PAIR.match(value))]
    files = [value for value in output or [] if not _PAIR.match(value)]
    options = without_none(values) | flags.parse_options(options_given)
    if input is not None:
        if context or as_json or len(files) != 1:
            raise ConfigError("--input takes --output once, and neither turns nor --json")
        reader = ConversationReader(input, shape=format)
        loaded = _load(model or flags.default_model(), options, quantize=quantize, layout=layout)
        _generate_file(*loaded, reader, files[0], overwrite=overwrite)
        return
    if not context or files:
        raise ConfigError('give turns, such as: convmodel generate "Hello"; or --input FILE with --output FILE')
    conversation_model, options = _load(model or flags.default_model(), options, quantize=quantize, layout=layout)
    speakers = Conversation(context).speaker_names
    if reply_as is not None and len(speakers) > 1 and reply_as not in speakers:
        print_message(
            f"{reply_as} has not spoken yet: the turns are by {' and '.join(speakers)}, so the response is by a third "
            "speaker, which may not occur in the training data",
            style="yellow",
        )
    result = conversation_model.generate(context, **options)
    if as_json:
        print_json(result.to_dict())
        return
    for response in result.responses:
        print_result(response)


def _load(model: str, options: dict[str, Any], **loading: Any) -> "tuple[ConversationModel, dict[str, Any]]":
    """Loads a model and, for `rerank="next-turn"`, the head that ranks its responses."""
    from convmodel.hf_model.next_turn import NextTurnHead

    conversation_model = load_model(model, **loading)
    if options.get("rerank") == "next-turn":
        options = options | {"rerank": NextTurnHead.load(model, conversation_model.hf_model)}
    return conversation_model, options


def _generate_file(
    model: "ConversationModel", options: dict[str, Any], contexts: ConversationReader, path: str, *, overwrite: bool
) -> None:
    from convmodel.generation.options import read_options
    from convmodel.generation.responses_file import write_responses

    checked = read_options(model.hf_model, model.tokenizer, options)
    start = time.monotonic()
    with ProgressBar("generating", unit="contexts") as bar:
        summary = write_responses(
            model.engine,
            model.tokenizer,
            contexts,
            path,
            checked,
            overwrite=overwrite,
            progress=bar.update,
        )
    seconds = time.monotonic() - start
    kept = f", {summary.kept:,} of them from an earlier run" if summary.kept else ""
    print_message(
        f"{path}: {summary.contexts:,} contexts{kept}; {summary.prompt_tokens:,} prompt tokens and "
        f"{summary.response_tokens:,} generated tokens in {duration(seconds)}"
    )
    if summary.failed:
        print_message(f"{summary.failed:,} contexts failed, the first with: {summary.first_error}", style="yellow")
