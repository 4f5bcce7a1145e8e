"""The evaluation report as one self-contained HTML page, without scripts, other files or network access.

Owns: the page. Other modules measure, compare and write the sentences.
"""

from html import escape

import numpy as np

from convmodel.conversation import Conversation
from convmodel.evaluation.metric import Difference
from convmodel.report.evaluation.explanations import Section, format_value, sections, summaries, title, with_unit
from convmodel.report.evaluation.plots import depth_plot, length_plot, speed_plot, stop_plot
from convmodel.report.evaluation.results import SHOWN_RESPONSES, Comparison, EvaluationReport
from convmodel.report.html import Html, page, plots, table, to_html

EXTREMES = 3
"""How many of the best and of the worst predicted conversations the report shows."""

_MAX_CHARS = 600  # of a turn that are shown

_STYLE = """
.explanation { color: var(--soft); font-weight: 400; font-size: .85rem; max-width: 34rem; }
.values td { white-space: normal; min-width: 6.5rem; } .values td .explanation { white-space: nowrap; }
.values thead th { min-width: 7rem; overflow-wrap: anywhere; }
.verdict { border-left: 4px solid var(--bar); padding-left: .8rem; }
.exchange { border-top: 1px solid var(--line); padding: .6rem 0; }
.turn { margin: .25rem 0; padding: .3rem .6rem; border-radius: .6rem; background: var(--s0); white-space: pre-wrap;
  width: fit-content; max-width: 92%; overflow-wrap: anywhere; }
.turn.other { background: var(--s1); margin-left: auto; }
.turn.model { background: var(--s2); margin-left: auto; }
.turn .who { display: block; color: var(--soft); font-size: .75rem; }
details { margin: .4rem 0; } summary { cursor: pointer; overflow-wrap: anywhere; }
code { overflow-wrap: anywhere; font-size: .85rem; }
"""


def report_page(report: EvaluationReport) -> str:
    """Writes a report as HTML.

    Raises:
        MissingExtraError: If matplotlib is not installed.
    """
    parts = [
        _summary(report),
        _plots(report),
        *map(_section, sections(report.models, report.settings.seed)),
        _speakers(report),
        *map(_comparison, report.comparisons),
        _extremes(report),
        _responses(report),
        _copies(report),
        _heading("Reproducibility"),
        table(["", ""], [(name, Html(f"<code>{to_html(value)}</code>")) for name, value in report.facts()], "checks"),
    ]
    return page(title(report.models[: report.own]), parts, _STYLE)


def _heading(text: str) -> str:
    return f"<h2>{to_html(text)}</h2>"


def _explanation(text: str) -> str:
    return f'<div class="explanation">{to_html(text)}</div>'


def _summary(report: EvaluationReport) -> str:
    about = (
        f"Measured on {report.data['conversations']:,} conversations of {report.data['name']}, which no model should "
        "have been trained on. Each value has a 95 % bootstrap confidence interval over the conversations. Between "
        "equally good models about one of twenty metrics differs by chance."
    )
    paragraphs = [f"<p>{to_html(text)}</p>" for text in summaries(report.models[: report.own])]
    paragraphs += [f"<p>{to_html(report.targets())}</p>"] if report.targets() else []
    paragraphs += [f'<p class="verdict">{to_html(comparison.verdict())}</p>' for comparison in report.comparisons]
    return "\n".join([*paragraphs, f'<p class="about">{to_html(about)}</p>'])


def _plots(report: EvaluationReport) -> str:
    measured = [model for model in report.models if model.likelihood is not None]
    responding = [model for model in report.models if model.exchanges]
    drawings = {
        "Perplexity by turn": depth_plot(measured, report.settings.seed),
        "Calibration of turn ends": stop_plot(measured),
        "Tokens per second": speed_plot(measured),
    }
    if responding:
        drawings["Response lengths"] = length_plot(responding)
    return plots(drawings)


def _section(section: Section) -> str:
    rows = [
        [
            Html(f"{to_html(definition.label)}{_explanation(definition.explanation)}"),
            *(Html(f"{to_html(cell.value)}{_explanation(cell.interval)}") for cell in cells),
        ]
        for definition, cells in section.rows
    ]
    return f"{_heading(section.topic)}\n{table(['', *section.names], rows, 'numbers values')}"


def _speakers(report: EvaluationReport) -> str:
    speakers = report.models[0].speakers
    if len(speakers) < 2:
        return ""
    shown = ("perplexity", "bits_per_byte", "token_accuracy", "stop_probability")
    by_speaker = {name: [metric for metric in metrics if metric.name in shown] for name, metrics in speakers.items()}
    labels = [metric.definition.label for metric in next(iter(by_speaker.values()))]
    rows = [
        # Without intervals, which take seconds each on many conversations.
        [name, *(with_unit(metric.value, metric.definition.percent) for metric in metrics)]
        for name, metrics in by_speaker.items()
    ]
    return f"{_heading('Prediction by speaker')}\n{table(['speaker', *labels], rows)}"


def _comparison(comparison: Comparison) -> str:
    def row(difference: Difference) -> list[str]:
        percent, estimate = difference.definition.percent, difference.difference
        values = (difference.first, difference.second, estimate.value, estimate.low, estimate.high)
        first, second, value, low, high = (format_value(value, percent) for value in values)
        labels = {"none": "no difference", "better": "✓ better", "worse": "✗ worse"}
        verdict = "too few to tell" if difference.too_few else labels.get(difference.verdict, difference.verdict)
        return [difference.definition.label + ", %" * percent, first, second, value, f"{low} to {high}", verdict]

    columns = ["", comparison.first, comparison.second, "difference", "interval", ""]
    return (
        f"{_heading(f'{comparison.second} compared with {comparison.first}')}\n"
        f"{table(columns, map(row, comparison.differences))}"
    )


def _extremes(report: EvaluationReport) -> str:
    """Shows the conversations that the model predicts best and worst, by nats per token."""
    losses = report.models[0].losses
    if losses is None or not len(report.conversations):
        return ""
    with np.errstate(invalid="ignore", divide="ignore", over="ignore"):
        per_token = losses[:, 0] / losses[:, 1]
        perplexities = np.exp(per_token)
    order = [int(index) for index in np.argsort(per_token) if np.isfinite(per_token[index])]
    parts = []
    for heading, indices in (
        ("Best predicted conversations", order[:EXTREMES]),
        ("Worst predicted conversations", order[::-1][:EXTREMES]),
    ):
        parts.append(_heading(heading))
        for index in indices:
            summary = f"conversation {index + 1}, perplexity {format_value(perplexities[index], False)}"
            turns = _turns(report.conversations[index])
            parts.append(f"<details><summary>{summary}</summary>{turns}</details>")
    return "\n".join(parts)


def _turns(conversation: Conversation) -> str:
    names = list(dict.fromkeys(conversation.turn_speakers))
    return "".join(
        _turn(speaker, text, " other" * (names.index(speaker) % 2))
        for speaker, text in zip(conversation.turn_speakers, conversation.turns, strict=True)
    )


def _turn(speaker: str, text: str, kind: str = "") -> str:
    cut = text if len(text) <= _MAX_CHARS else text[: _MAX_CHARS - 1] + "…"
    return f'<div class="turn{kind}"><span class="who">{to_html(speaker)}</span>{escape(cut)}</div>'


def _responses(report: EvaluationReport) -> str:
    """Shows the newest turn of some contexts, the reference, and the response of each model."""
    names, rows = report.responses()
    if not rows:
        return ""
    parts = [_heading("Responses")]
    for context, (reference, *texts) in rows:
        turns = _turn(context.turn_speakers[-1], context.turns[-1]) + _turn("reference", reference, " other")
        turns += "".join(_turn(name, text, " model") for name, text in zip(names, texts, strict=True))
        parts.append(f'<div class="exchange">{turns}</div>')
    return "\n".join(parts)


def _copies(report: EvaluationReport) -> str:
    copies = [copy for copy in report.models[0].copies if copy is not None]
    if not copies:
        return ""
    parts = [_heading("Copied from the training data")]
    for copy in copies[:SHOWN_RESPONSES]:
        turns = _turn("response", copy.response, " model") + _turn("training data", copy.source)
        parts.append(f'<div class="exchange">{turns}</div>')
    return "\n".join(parts)
