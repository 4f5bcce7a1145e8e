"""`convmodel doctor` on judgements: ratings, corrections, votes, and other programs' preference data.

Owns: reading them, and which of the doctor's results there are without a model. The checks are `training.doctor`'s.
"""

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from convmodel.cli import flags
from convmodel.cli.console import print_json
from convmodel.cli.doctor_display import check_report, print_examination, write_report
from convmodel.cli.improve_sources import typical_own_turns, typical_replay, validation
from convmodel.data.judgements.judgement import Judgement
from convmodel.data.judgements.reader import JudgementReader
from convmodel.data.progress import console
from convmodel.data.reading.shapes import AUTO
from convmodel.errors import ConfigError
from convmodel.training.config import FitConfig
from convmodel.training.improvement import own_turn_settings, run_settings

if TYPE_CHECKING:
    from convmodel.layout.token_view import ShownToken
    from convmodel.model import ConversationModel

JUDGEMENTS = "judgements"
"""The `--format` of judgements."""


@dataclass(frozen=True, slots=True)
class Sources:
    """What is read, and how."""

    data: str
    valid: str | None
    on_error: str
    model: str  # the name of the model that learns, if there is one


@dataclass(frozen=True, slots=True)
class Display:
    """The number of the judgement to show as tokens, the file of a report, and whether to print JSON."""

    number: int
    report: Path | None
    as_json: bool


def doctor_judgements(
    sources: Sources,
    load: "Callable[[], ConversationModel] | None",
    settings: Mapping[str, Any],
    display: Display,
    *,
    measure: bool = True,
) -> None:
    """Checks judgements, of which one is shown as tokens if there is a model; exits with 1 if a check fails.

    `settings` are those that the user chose for the run whose time and memory are estimated.
    """
    config = FitConfig.from_options(run_settings(settings))
    number, report = display.number, display.report
    if report is not None:
        if load is None:
            raise ConfigError(f"--report shows tokens, which needs a model: convmodel doctor MODEL {sources.data}")
        check_report(report)
    reader = JudgementReader(sources.data, on_error=sources.on_error)  # type: ignore[arg-type]
    judgements = list(reader)
    if number > len(judgements):
        raise ConfigError(f"conversation is {number}, but there are only {len(judgements):,} judgements")
    valid = None if sources.valid is None else list(flags.open_reader(sources.valid, AUTO, sources.on_error))
    model = None if load is None else load()
    from convmodel.training.doctor.judgement_checks import examine_judgements
    from convmodel.training.fit_data import Sources as RunSources

    run = None
    if measure and model is not None:
        validating = list(validation(None, AUTO, sources.on_error)) if valid is None else valid
        learned = [*judgements, *typical_own_turns(sources.model, judgements, config.objective)]
        if len(learned) > len(judgements):
            config = replace(config, **own_turn_settings(settings, len(learned)))
        run = RunSources(learned, validating, typical_replay(sources.model))
    with console.status(f"examining {len(judgements):,} judgements ..."):
        parts = None if model is None else (model.hf_model, model.tokenizer)
        examination = examine_judgements(judgements, reader.summary, valid, parts, config, run=run)
    windows = [] if model is None else _tokens(model, judgements[number - 1], examination.max_length)
    try:  # printed first, since a full disk may prevent the report; written even if a pipe is closed
        if display.as_json:
            statistics = examination.statistics
            print_json(
                {
                    "judgements": reader.summary.to_dict(),
                    "checks": [asdict(check) for check in examination.checks],
                    "estimate": examination.estimate and asdict(examination.estimate),
                    "statistics": None if statistics is None else statistics.to_dict(),
                }
            )
        else:
            print_examination(examination, windows, f"judgement {number}")
    finally:
        if report is not None:
            write_report(report, f"{sources.data}, judgements", examination, windows)
    if examination.failed:
        raise typer.Exit(1)


def _tokens(model: "ConversationModel", judgement: Judgement, max_length: int) -> "list[list[ShownToken]]":
    """Returns the tokens of a judgement with its good response, or else its bad one."""
    from convmodel.layout.token_view import token_view

    conversation = judgement.conversation(judgement.chosen or judgement.rejected or "")
    return token_view(model.tokenizer, conversation, max_length=max_length, loss_on="last")
