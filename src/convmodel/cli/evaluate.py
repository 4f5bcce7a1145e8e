"""`convmodel evaluate`: measures models on conversations, and compares them."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from convmodel.cli.console import console, load_model, print_json, print_result, print_table
from convmodel.cli.data_options import FormatOption, OnErrorOption
from convmodel.cli.model_options import (
    MODEL_HELP,
    GreedyOption,
    QuantizeOption,
    TemperatureOption,
    TopPOption,
    sampling,
)
from convmodel.data.reading.reader import ConversationReader
from convmodel.data.reading.shapes import AUTO
from convmodel.errors import ConfigError, ModelLoadError, SaveError
from convmodel.generation.defaults import TEMPERATURE, TOP_P

if TYPE_CHECKING:
    from collections.abc import Callable

    from convmodel.evaluation.metric import Estimate
    from convmodel.report.evaluation.evaluate import Evaluated
    from convmodel.report.evaluation.results import ReportCard

_WITH_REPORT = {"responses": 100, "distractors": 9, "self_chats": 20}


def command(
    models: Annotated[list[str], typer.Argument(help=f"{MODEL_HELP} Several are compared.", metavar="MODEL...")],
    *,
    data: Annotated[
        str, typer.Option(help="Conversations: a file, a folder, - or owner/name of the hub.", show_default=False)
    ],
    format: FormatOption = AUTO,
    on_error: OnErrorOption = "fail",
    train: Annotated[
        str | None,
        typer.Option(help="What they learned from: finds copies; a baseline says what was said there."),
    ] = None,
    base: Annotated[
        str | None,
        typer.Option(help="The model before fine-tuning, to compare with; in a report by default what its card names."),
    ] = None,
    report: Annotated[
        list[Path] | None, typer.Option(help="Write all of it as one file: .html, .md or .json.", show_default=False)
    ] = None,
    card: Annotated[
        bool, typer.Option("--card", help="Put the figures into the README.md of the first model's folder.")
    ] = False,
    responses: Annotated[
        int | None,
        typer.Option(
            min=0,
            help=f"To how many contexts responses are generated; with a report or --train {_WITH_REPORT['responses']}.",
        ),
    ] = None,
    distractors: Annotated[
        int | None,
        typer.Option(
            min=0, help=f"From how many others a next turn is told; with a report {_WITH_REPORT['distractors']}."
        ),
    ] = None,
    self_chats: Annotated[
        int | None,
        typer.Option(min=0, help=f"How many conversations with itself; with a report {_WITH_REPORT['self_chats']}."),
    ] = None,
    greedy: GreedyOption = False,
    temperature: TemperatureOption = TEMPERATURE,
    top_p: TopPOption = TOP_P,
    max_new_tokens: Annotated[int | None, typer.Option(min=1, help="Longest response in tokens.")] = None,
    seed: Annotated[int, typer.Option(min=0, help="Seeds resamples, distractors and sampling.")] = 0,
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
    """Measures models on conversations they have not learned from: how well they predict, and what they say.

    Intervals hold 95 % of the resamples of the conversations. Perplexity is per token and compares models of one
    vocabulary only; bits a byte compares any two models.

    `convmodel evaluate model --data test.jsonl --train train.jsonl --report report.html`

    `convmodel evaluate old new --data test.jsonl --responses 100`
    """
    _check_reports(report or [])
    if train is not None and responses == 0:
        raise ConfigError("--train finds copies in responses, but --responses is 0: leave out one of them")
    if card and not Path(models[0], "README.md").is_file():
        raise SaveError(f"--card finds no README.md in {models[0]}: give a folder that has a model card first")
    asked = {"responses": responses, "distractors": distractors, "self_chats": self_chats}
    by_default = _WITH_REPORT if report else {"responses": _WITH_REPORT["responses"]} if train else {}
    found = _card(
        models,
        data=ConversationReader(data, shape=format, on_error=on_error),  # type: ignore[arg-type]
        train=train,
        base=base,
        find_base=bool(report),
        quantize=quantize,
        settings={
            "batch_size": batch_size,
            "max_length": max_length,
            "loss_on": loss_on,
            "seed": seed,
            "on_error": on_error,
            "generation": sampling(greedy=greedy, temperature=temperature, top_p=top_p, max_new_tokens=max_new_tokens),
        }
        | {name: by_default.get(name, 0) if number is None else number for name, number in asked.items()},
    )
    for path in report or []:
        _write(path, found)
    if card:
        from convmodel.report.evaluation.markdown_report import update_model_card

        update_model_card(Path(models[0]), found)
    if as_json:
        likelihood = found.models[0].result
        print_json((likelihood.to_dict() if likelihood and len(models) == 1 else {}) | found.to_dict())
    else:
        _show(found)


def _check_reports(reports: list[Path]) -> None:
    for path in reports:
        if path.suffix not in (".html", ".md", ".json"):
            raise ConfigError(f"--report {path}: its name must end with .html, .md or .json")
        if path.is_dir() or not path.parent.is_dir():
            raise SaveError(f"{path} cannot be written: give a file in a folder that exists")


def _card(
    models: list[str],
    *,
    data: ConversationReader,
    train: str | None,
    base: str | None,
    find_base: bool,
    quantize: str | None,
    settings: dict[str, Any],
) -> "ReportCard":
    """Loads one model after the other and measures it."""
    conversations = [*data]
    training = None if train is None else ConversationReader(train, on_error=settings["on_error"])
    if training is not None:
        next(iter(training))  # what cannot be read is told before anything is measured
    from convmodel.report.evaluation.evaluate import Settings, evaluate_model
    from convmodel.report.evaluation.results import data_identity, make_card, nearest_context

    chosen = Settings(**settings)

    def measure(name: str) -> "Evaluated":
        model = load_model(name, quantize=quantize)
        with console.status(f"measuring {name} ...") as status:
            return evaluate_model(
                model,
                name,
                conversations,
                chosen,
                training=training,
                say=lambda what: status.update(f"{name}: {what} ..."),
            )

    measured = [measure(name) for name in dict.fromkeys(models)]
    before = None if base is None else measure(base)
    if base is None and find_base:
        before = _found_base(models, measure)
    with console.status("comparing ..."):
        nearest = nearest_context(measured[0], training) if training is not None and chosen.responses else None
        facts: dict[str, Any] = {"name": str(data.source), "skipped": data.problems.count}
        if training is not None:
            facts |= {"training": str(training.source), "training_sha256": data_identity(training)}
        return make_card(measured, conversations, chosen, data=facts, base=before, nearest=nearest)


def _found_base(models: list[str], measure: "Callable[[str], Evaluated]") -> "Evaluated | None":
    """Measures the model that the first one was fine-tuned from, if its folder names one that can still be loaded."""
    from convmodel.report.evaluation.base_model import recorded_base

    name = recorded_base(models[0])
    if name is None or name in models:
        return None
    try:
        return measure(name)
    except ModelLoadError as error:
        console.print(f"not compared with the model before fine-tuning: {error}", markup=False, highlight=False)
        return None


def _write(path: Path, card: "ReportCard") -> None:
    from convmodel.report.evaluation.files import write_report

    with console.status(f"writing {path} ..."):
        write_report(path, card)
    console.print(f"the report is in {path}", markup=False, highlight=False, soft_wrap=True)


def _show(card: "ReportCard") -> None:
    """Shows a line a figure and a column a model, and what is different."""
    from convmodel.report.evaluation.explanations import shown
    from convmodel.report.evaluation.results import estimates

    names = list(
        dict.fromkeys((figure.name, figure.label, figure.percent) for each in card.models for figure in each.figures)
    )
    columns = [estimates(each.figures, card.settings.seed) for each in card.models]

    def cell(found: "Estimate | None", percent: bool) -> str:
        return "" if found is None else shown(found, percent)

    rows = [(label, *(cell(column.get(name), percent) for column in columns)) for name, label, percent in names]
    results = [each.result for each in card.models]
    facts = {
        "supervised tokens": "tokens",
        "conversations": "conversations",
        "conversations without a supervised turn": "unsupervised",
        "tokens cut off turns longer than a window": "cut",
    }
    for label, name in facts.items():
        numbers = [getattr(result, name) if result else None for result in results]
        if any(numbers):
            rows.append((label, *("" if number is None else f"{number:,}" for number in numbers)))
    if skipped := card.data["skipped"] + max((result.skipped for result in results if result), default=0):
        rows.append(("rows that could not be used", *(f"{skipped:,}" for _ in results)))
    left_out = [len(each.asked) - len(each.exchanges) for each in card.models]
    if any(left_out):
        rows.append(("contexts that could not be responded to", *(f"{count:,}" for count in left_out)))
    print_table(("", *(each.name for each in card.models)), rows)
    for comparison in card.comparisons:
        print_result("\n" + comparison.verdict())
