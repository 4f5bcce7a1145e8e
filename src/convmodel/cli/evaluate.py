"""`convmodel evaluate`: measures models on conversations, and compares them.

Owns: which metrics are on by default. The metrics are computed and described in `report.evaluation`.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from typer import Argument, Option

from convmodel.cli import flags
from convmodel.cli.console import (
    check_output_file,
    load_model,
    print_json,
    print_message,
    print_result,
    print_table,
    silence_transformers,
)
from convmodel.data.progress import ProgressBar, console
from convmodel.data.reading.reader import ConversationReader
from convmodel.data.reading.shapes import AUTO
from convmodel.errors import ConfigError, ConversationError, LogitsError, ModelLoadError, SaveError
from convmodel.generation.defaults import TEMPERATURE, TOP_P

if TYPE_CHECKING:
    from convmodel.report.evaluation.model_evaluation import ModelEvaluation
    from convmodel.report.evaluation.results import EvaluationReport

_DEFAULTS = {"responses": 100, "distractors": 9, "self_chats": 20}


def _count(name: str, what: str, with_flags: str = "--report") -> Any:
    """Returns an option for a number whose default is 0, or higher with other flags."""
    return Option(min=0, help=f"Number of {what} [default: 0; {_DEFAULTS[name]} with {with_flags}]")


def command(
    models: Annotated[
        list[str],
        Argument(help=f"Model, or models to compare: {flags.MODEL_SOURCES}.", metavar="MODEL"),
    ],
    *,
    data: flags.Data,
    format: flags.Format = AUTO,
    on_error: flags.OnError = "fail",
    train: Annotated[
        str | None,
        Option(help="Training data: finds copies of it in the responses, and adds a nearest-context baseline."),
    ] = None,
    base: Annotated[
        str | None,
        Option(help="Base model to compare with; in a report, by default the one that the model card names."),
    ] = None,
    report: Annotated[
        list[Path] | None,
        Option("--report", "-o", help="File for the whole report: .html, .md or .json; may be repeated."),
    ] = None,
    card: Annotated[
        bool, Option("--card", help="Write the metrics into the model card, README.md in the first model's folder.")
    ] = False,
    responses: Annotated[
        int | None,
        _count(
            "responses",
            "contexts to generate responses to, for the metrics of generated text.",
            with_flags="--report or --train",
        ),
    ] = None,
    distractors: Annotated[
        int | None, _count("distractors", "wrong turns that each true next turn is ranked against.")
    ] = None,
    self_chats: Annotated[int | None, _count("self_chats", "conversations that the model has with itself.")] = None,
    greedy: flags.Greedy = False,
    temperature: flags.Temperature = TEMPERATURE,
    top_p: flags.TopP = TOP_P,
    max_new_tokens: flags.MaxNewTokens = None,
    seed: Annotated[int, Option(min=0, help="Seed of resampling, distractors, and sampling.")] = 0,
    batch_size: Annotated[int, Option(min=1, help="Windows per forward pass; changes the speed, not the result.")] = 8,
    max_length: Annotated[
        int | None, Option(min=4, help="Maximum length of a window in tokens; by default as in training.")
    ] = None,
    loss_on: Annotated[
        str | None,
        Option(help="Turns to measure: all, responses, last, or a speaker's name; by default as in training."),
    ] = None,
    quantize: flags.Quantize = None,
    layout: flags.Layout = "auto",
    as_json: flags.Json = False,
) -> None:
    """Evaluate models on held-out conversations: how well they predict them, and how they respond.

    `convmodel evaluate model --data test.jsonl --train train.jsonl --report report.html`

    `convmodel evaluate old new --data test.jsonl --responses 100`

    Each metric comes with a 95 % bootstrap confidence interval over the conversations. Perplexity is per token and
    compares only models with the same vocabulary; bits per byte compares any two models. Installed packages may add
    metrics.
    """
    for path in report or []:
        if path.suffix not in (".html", ".md", ".json"):
            raise ConfigError(f"--report {path}: its name must end with .html, .md or .json")
        check_output_file(path)
    if train is not None and responses == 0:
        raise ConfigError("--train finds copies in responses, but --responses is 0: leave out one of them")
    if card and not Path(models[0], "README.md").is_file():
        raise SaveError(f"--card finds no README.md in {models[0]}: give a folder that has a model card first")
    counts = {"responses": responses, "distractors": distractors, "self_chats": self_chats}
    defaults = _DEFAULTS if report else {"responses": _DEFAULTS["responses"]} if train else {}
    settings = {"batch_size": batch_size, "max_length": max_length, "loss_on": loss_on, "seed": seed}
    settings |= {name: defaults.get(name, 0) if count is None else count for name, count in counts.items()}
    flags.require_one_stdin(data, train)
    _require_packages(report or [], responds=bool(settings["responses"]), compares_training=train is not None)
    options = flags.sampling_options(greedy=greedy, temperature=temperature, top_p=top_p, max_new_tokens=max_new_tokens)
    report_card = _evaluate(
        models,
        data=flags.open_reader(data, format, on_error),
        train=train,
        base=base,
        find_base=bool(report),
        loading={"quantize": quantize, "layout": layout},
        settings={**settings, "on_error": on_error, "generation": options},
    )
    try:  # printed first, since a full disk may prevent files; written even if a pipe is closed
        if as_json:
            likelihood = report_card.models[0].likelihood
            print_json((likelihood.to_dict() if likelihood and len(models) == 1 else {}) | report_card.to_dict())
        else:
            _print(report_card)
    finally:
        _write(report or [], Path(models[0]) if card else None, report_card)


def _require_packages(reports: Sequence[Path], *, responds: bool, compares_training: bool) -> None:
    """Checks, before anything is measured, that the packages that the results need are installed."""
    from convmodel.evaluation.bleu_chrf import require_sacrebleu
    from convmodel.evaluation.retrieval_baseline import require_bm25s
    from convmodel.report.svg import require_matplotlib

    if responds:
        require_sacrebleu()
    if responds and compares_training:
        require_bm25s()
    if any(path.suffix == ".html" for path in reports):
        require_matplotlib()


def _write(reports: Sequence[Path], carded: Path | None, report_card: "EvaluationReport") -> None:
    """Writes the reports, and the metrics into the model card of a folder."""
    from convmodel.report.evaluation.files import write_evaluation_report
    from convmodel.report.evaluation.markdown_report import update_model_card

    for path in reports:
        with console.status(f"writing {path} ..."):
            write_evaluation_report(path, report_card)
        print_message(f"wrote the report to {path}")
    if carded is not None:
        update_model_card(carded, report_card)


def _evaluate(
    models: list[str],
    *,
    data: ConversationReader,
    train: str | None,
    base: str | None,
    find_base: bool,
    loading: dict[str, Any],
    settings: dict[str, Any],
) -> "EvaluationReport":
    """Loads and measures one model after the other."""
    conversations = [*data]
    training = None if train is None else ConversationReader(train, on_error=settings["on_error"]).repeatable()
    if training is not None:
        next(iter(training))  # reports an unreadable file before anything is measured
    from convmodel.hf_model.model_card import recorded_base
    from convmodel.report.evaluation.evaluate import evaluate_model
    from convmodel.report.evaluation.model_evaluation import Settings
    from convmodel.report.evaluation.results import data_fingerprint, make_report, nearest_context
    from convmodel.report.evaluation.targets import common_targets

    silence_transformers()
    names = list(dict.fromkeys(models))
    compared, layout = [*names, base] if base else names, loading["layout"]
    options, alike = common_targets(compared, conversations, Settings(**settings), layout)
    recorded = recorded_base(models[0]) if base is None and find_base else None
    if recorded is not None and recorded not in names:
        try:
            options, alike = common_targets([*names, recorded], conversations, Settings(**settings), layout)
            base = recorded
        except (ModelLoadError, ConversationError) as error:
            print_message(f"not compared with the base model: {error}")

    def measure(name: str) -> "ModelEvaluation":
        model = load_model(name, **loading)
        with ProgressBar("measuring", unit="conversations") as bar:
            bar.update(note=name)
            return evaluate_model(
                model,
                name,
                alike,
                options,
                training=training,
                progress=bar.show,
            )

    measured = [measure(name) for name in names]
    before = None
    try:
        before = None if base is None else measure(base)
    except (ModelLoadError, LogitsError) as error:
        if base != recorded:
            raise
        print_message(f"not compared with the base model: {error}")
    with console.status("comparing ..."):
        nearest = nearest_context(measured[0], training) if training is not None and options.responses else None
        facts: dict[str, Any] = {"name": str(data.source), "skipped": data.problems.count}
        if len(alike) < len(conversations):
            facts["not_alike"] = len(conversations) - len(alike)
        if training is not None:
            facts |= {"training": str(training.source), "training_sha256": data_fingerprint(training)}
        return make_report(measured, alike, options, data=facts, base=before, nearest=nearest)


def _print(card: "EvaluationReport") -> None:
    """Prints a table with a row per metric and a column per model, and a verdict per comparison."""
    from convmodel.report.evaluation.explanations import Cell

    models, seed = card.models, card.settings.seed
    columns = [
        {metric.name: Cell.of(metric.estimate(seed), metric.definition.percent).text for metric in model.metrics}
        for model in models
    ]
    labels = {metric.name: metric.definition.label for model in models for metric in model.metrics}
    rows = [(label, *(column.get(name, "") for column in columns)) for name, label in labels.items()]
    results = [model.likelihood for model in models]
    fields = {
        "supervised tokens": "tokens",
        "conversations": "conversations",
        "conversations without a supervised turn": "unsupervised",
        "tokens cut off turns longer than a window": "cut",
    }
    for label, name in fields.items():
        counts = [getattr(result, name) if result else None for result in results]
        if any(counts):
            rows.append((label, *("" if count is None else f"{count:,}" for count in counts)))
    if skipped := card.data["skipped"] + max((result.skipped for result in results if result), default=0):
        rows.append(("skipped rows", *(f"{skipped:,}" for _ in results)))
    left_out = [len(model.requested) - len(model.exchanges) for model in models]
    if any(left_out):
        rows.append(("contexts without a response", *(f"{count:,}" for count in left_out)))
    print_table(("", *(model.name for model in models)), rows)
    for note in [f"{model.name}: {note}" for model in models for note in model.notes] + [card.targets()]:
        if note:
            print_result("\n" + note)
    for comparison in card.comparisons:
        print_result("\n" + comparison.verdict())
