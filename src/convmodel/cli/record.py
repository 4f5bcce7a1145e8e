"""`convmodel record`: asks a model behind OpenAI's API for answers, and keeps them as training data.

Owns: the flags and the printed summary. The work is `recording.py`'s.
"""

import time
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Annotated, Any

from typer import Argument, Exit, Option

from convmodel.arguments.values import without_none
from convmodel.cli import flags
from convmodel.cli.console import print_json, print_message
from convmodel.data.reading.shapes import AUTO
from convmodel.errors import ConfigError, ConvModelError, GenerationError, SaveError
from convmodel.generation.recording.answers_file import (
    CUT,
    EMPTY,
    REFUSED,
    REJECTED,
    RecordingSummary,
    journal_path,
    open_journal,
)
from convmodel.generation.recording.contexts import Contexts
from convmodel.server.settings import KEY_VARIABLE
from convmodel.training.units import duration

_pace = partial(Option, rich_help_panel="Pace and failures")
_LIMITS = ("max_completion_tokens", "max_tokens")  # the parameter's names in OpenAI's API, the second in older servers
_OWN = ("model", "messages", "n", "stream", "tools", "functions")  # parameters that are set here, or not recorded

_LEFT_OUT = {
    CUT: "{count} answers were cut at the length limit and left out, since a model would learn to stop there: the same "
    "command with a higher --max-tokens asks for these again, --keep-cut keeps them",
    REFUSED: "{count} contexts were refused and left out, the first by: {reason}",
    EMPTY: "{count} answers have no text and were left out, the first with {reason}",
    REJECTED: "{count} contexts were rejected by the server and left out, the first with: {reason}; the same command "
    "asks for these again",
}


def command(
    contexts: Annotated[str, Argument(help=f"Contexts: {flags.SOURCE_HELP}.", metavar="CONTEXTS")],
    *,
    url: Annotated[str, Option(help="Server with OpenAI's API, such as api.openai.com or 127.0.0.1:8000.")],
    output: Annotated[Path, Option("--output", "-o", help="JSONL file for the conversations with their answers.")],
    model: Annotated[
        str | None, Option("--model", "-m", help="Model of the server; may be left out if it has only one.")
    ] = None,
    each_turn: Annotated[
        bool,
        Option(
            "--each-turn", help="Ask for each turn of the assistant, given the turns before it in the conversation."
        ),
    ] = False,
    system: Annotated[str | None, Option(help="System message for contexts that begin with none.")] = None,
    reply_as: Annotated[
        str | None, Option(help="Speaker of the answers. [default: whose turn it is; assistant with --each-turn]")
    ] = None,
    max_tokens: Annotated[
        int | None, Option(min=1, help="Maximum length of an answer in tokens. [default: the server's]")
    ] = None,
    temperature: Annotated[
        float | None,
        Option(min=0.0, help="Sampling temperature; 0 for the most likely answer. [default: the server's]"),
    ] = None,
    option: Annotated[
        list[str] | None,
        Option(help="Any other parameter of the requests, as NAME=VALUE; may be repeated.", metavar="NAME=VALUE"),
    ] = None,
    keep_cut: Annotated[bool, Option("--keep-cut", help="Keep answers that the length limit cut.")] = False,
    parallel: Annotated[int, _pace(min=1, max=64, help="Number of requests at the same time.")] = 4,
    requests_per_minute: Annotated[
        float | None, _pace(min=0.01, metavar="N", help="Most requests that begin in a minute. [default: no limit]")
    ] = None,
    timeout: Annotated[float, _pace(min=0.1, help="Seconds to wait for a response.")] = 120.0,
    max_failures: Annotated[int, _pace(min=1, help="Failed contexts in a row after which the server is given up.")] = 5,
    api_key: Annotated[
        str | None,
        Option(
            envvar=KEY_VARIABLE, help="API key of the server. By default that in OPENAI_API_KEY, for openai.com alone."
        ),
    ] = None,
    key_file: Annotated[Path | None, Option(help="File with the API key, in its first line.")] = None,
    format: flags.Format = AUTO,
    on_error: flags.OnError = "fail",
    overwrite: Annotated[bool, Option("--overwrite", help="Start from the beginning, and replace --output.")] = False,
    as_json: flags.Json = False,
) -> None:
    """Record the answers of a model behind OpenAI's API as training data, to copy it while it exists.

    `convmodel record contexts.jsonl --url api.openai.com --model ft:gpt-4o-mini:me::abc -o data.jsonl`

    A context is a conversation that ends with a turn to answer. With `--each-turn` the conversations may be whole ones:
    each turn of the assistant is requested again. In the result only the recorded answers have a weight in the loss.

    Each answer is on the disk when it arrives. If the recording was stopped or killed, the same command resumes it,
    requests nothing that it has, and writes the same file. Requests to a busy server are repeated, at the time that it
    names or after doubling pauses. If contexts failed, the exit code is 1. Record test data, too: `convmodel evaluate`
    then measures how close a model comes that was trained on the answers.
    """
    from convmodel.cli.recording import Recording
    from convmodel.cli.remote_answers import RemoteAnswers
    from convmodel.cli.remote_server import RemoteServer, openai_key, read_key

    begin = time.monotonic()
    body = _body(max_tokens, temperature, option or [])
    reader = flags.open_reader(contexts, format, on_error)
    how = {"each_turn": each_turn, "reply_as": reply_as, "system": system}
    readable = Contexts.read(reader, how)
    key = read_key(key_file) if key_file is not None else api_key or openai_key(url)
    with RemoteServer(url, api_key=key, timeout=timeout, connections=parallel) as server:
        facts = {"contexts": reader.fingerprint(), "url": server.url, "model": model, **how}
        facts |= {name: value for name, value in body.items() if name not in _LIMITS}
        limit = next((body[name] for name in _LIMITS if name in body), None)
        answers = RemoteAnswers(server, body, parallel, requests_per_minute, max_failures, limit)
        with open_journal(output, facts, source=reader.source, overwrite=overwrite) as journal:
            recording = Recording(readable, answers, journal, output, keep_cut=keep_cut)
            try:
                recording.run(server, model)
            except ConvModelError:
                with suppress(SaveError):  # the first error is the one to report
                    recording.finish()
                    if recording.summary.outcomes or recording.summary.failed:
                        _print(recording.summary, output, time.monotonic() - begin)
                raise
            recording.finish()
    if recording.is_complete:
        journal_path(output).unlink(missing_ok=True)
    if as_json:
        print_json(recording.summary.to_dict())
    _print(recording.summary, output, time.monotonic() - begin)
    if readable.problems:
        print_message(f"{readable.left_out:,} rows were left out, the first: {readable.problems[0]}", style="yellow")
    if not recording.summary.written:
        raise GenerationError(f"{output} was not written: no context has an answer to keep")
    if recording.summary.failed:  # what follows in a script would train on a part
        raise Exit(1)


def _body(max_tokens: int | None, temperature: float | None, pairs: list[str]) -> dict[str, Any]:
    """Returns the parameters of the requests."""
    given = {_LIMITS[0]: max_tokens, "temperature": temperature}
    options = flags.parse_options(pairs, "top_p=0.9")
    if wrong := [name for name in options if name in _OWN]:
        raise ConfigError(f"--option {wrong[0]} does not suit a recording: leave it out")
    return without_none(given) | options


def _print(summary: RecordingSummary, path: Path, seconds: float) -> None:
    kept = f", {summary.kept:,} of them by an earlier call" if summary.kept else ""
    print_message(
        f"{path}: {summary.written:,} of {summary.contexts:,} contexts with their answers{kept}, in "
        f"{duration(seconds)}; {summary.prompt_tokens:,} prompt tokens and {summary.response_tokens:,} response tokens "
        "in all"
    )
    for outcome, text in _LEFT_OUT.items():
        if count := summary.outcomes[outcome]:
            print_message(text.format(count=f"{count:,}", reason=summary.reasons.get(outcome, "")), style="yellow")
    if summary.failed:
        print_message(
            f"{summary.failed:,} contexts failed, the first with: {summary.first_failure}; the same command resumes",
            style="yellow",
        )
