"""The report as one page that needs nothing else: no script, no other file, no network.

Owns: the page. All that users wrote is escaped; what is measured and what is said about it comes from other modules.
"""

import json
from html import escape

import numpy as np

from convmodel.conversation import Conversation
from convmodel.evaluation.metric import Difference
from convmodel.layout.token_view import visible_line
from convmodel.report.evaluation.explanations import Group, groups, number, summaries, title
from convmodel.report.evaluation.plots import depth_plot, length_plot, speed_plot, stop_plot
from convmodel.report.evaluation.results import Comparison, ReportCard, versions
from convmodel.report.html import page, table

SHOWN_RESPONSES = 20
"""How many responses a report shows."""

EXTREMES = 3
"""How many of the best and of the worst conversations it shows."""

_LONGEST = 600  # characters of a turn that are shown

_STYLE = """
.why { color: var(--soft); font-weight: 400; font-size: .85rem; max-width: 34rem; }
.figures td { white-space: normal; min-width: 6.5rem; } .figures td .why { white-space: nowrap; }
.figures thead th { min-width: 7rem; overflow-wrap: anywhere; }
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


def report_page(card: ReportCard) -> str:
    """Writes a card as HTML.

    Raises:
        MissingExtraError: If matplotlib is not installed.
    """
    parts = [
        _summary(card),
        _plots(card),
        *map(_figures, groups(card.models, card.settings.seed)),
        _speakers(card),
        *map(_comparison, card.comparisons),
        _extremes(card),
        _responses(card),
        _copies(card),
        _identity(card),
    ]
    return page(title(card.models[: card.own]), "\n".join(parts), _STYLE)


def _summary(card: ReportCard) -> str:
    about = (
        f"Measured on {card.data['conversations']:,} conversations of {card.data['name']} that no model should have "
        "learned from. After each number stands the interval that it would most likely (95 %) lie in with other "
        "conversations of the same kind. Of twenty differences between models, one may show by chance."
    )
    sentences = "".join(f"<p>{escape(each)}</p>\n" for each in summaries(card.models[: card.own]))
    verdicts = "".join(f'<p class="verdict">{escape(each.verdict())}</p>' for each in card.comparisons)
    return f"{sentences}{verdicts}\n<p class='about'>{escape(about)}</p>"


def _plots(card: ReportCard) -> str:
    measured = [model for model in card.models if model.result is not None]
    talking = [model for model in card.models if model.exchanges]
    drawn = {
        "How unsure it is, turn by turn": depth_plot(measured, card.settings.seed),
        "Does it know where turns end?": stop_plot(measured),
        "Tokens a second": speed_plot(measured),
    }
    if talking:
        drawn["How long responses are"] = length_plot(talking)
    figures = "\n".join(f"<figure><figcaption>{name}</figcaption>{svg}</figure>" for name, svg in drawn.items())
    return f'<div class="plots">\n{figures}\n</div>'


def _figures(group: Group) -> str:
    head = "".join(f"<th>{escape(visible_line(name))}</th>" for name in group.names)
    body = "".join(
        f'<tr><th>{escape(label)}<div class="why">{escape(meaning)}</div></th>'
        + "".join(f'<td>{escape(value)}<div class="why">{escape(interval)}</div></td>' for value, interval in cells)
        + "</tr>\n"
        for label, meaning, cells in group.rows
    )
    return (
        f'<h2>{escape(group.title)}</h2>\n<div class="scroll"><table class="numbers figures"><thead><tr><th></th>{head}'
        f"</tr></thead><tbody>\n{body}</tbody></table></div>"
    )


def _speakers(card: ReportCard) -> str:
    own = card.models[0]
    if len(own.speakers) < 2:
        return ""
    wanted = ("perplexity", "bits_per_byte", "token_accuracy", "stop_probability")
    lines = [
        [visible_line(name)]
        + [number(each.value, each.percent) + " %" * each.percent for each in figures
           if each.name in wanted]
        for name, figures in own.speakers.items()
    ]  # fmt: skip
    labels = [each.label for each in next(iter(own.speakers.values())) if each.name in wanted]
    return "<h2>Who it predicts how well</h2>\n" + table(["speaker", *labels], lines)


def _comparison(comparison: Comparison) -> str:
    def line(found: Difference) -> list[str]:
        numbers = (found.first, found.second, found.difference.value, found.difference.low, found.difference.high)
        first, second, value, low, high = (number(each, found.percent) for each in numbers)
        word = {"none": "no difference", "better": "✓ better", "worse": "✗ worse"}.get(found.verdict, found.verdict)
        return [found.label + ", %" * found.percent, first, second, value, f"{low} to {high}", word]

    names = visible_line(comparison.first), visible_line(comparison.second)
    head = ["", *names, "difference", "interval", ""]
    return f"<h2>{escape(names[1])} against {escape(names[0])}</h2>\n" + table(
        head, [line(found) for found in comparison.differences]
    )


def _extremes(card: ReportCard) -> str:
    """Shows the conversations that the model predicts best and worst, by nats a token."""
    losses = card.models[0].losses
    if losses is None or not len(card.conversations):
        return ""
    with np.errstate(invalid="ignore", divide="ignore"):
        each = losses[:, 0] / losses[:, 1]
    order = [int(index) for index in np.argsort(each) if np.isfinite(each[index])]
    chosen = {"Predicted best": order[:EXTREMES], "Predicted worst": order[::-1][:EXTREMES]}
    parts = []
    for heading, indices in chosen.items():
        parts.append(f"<h2>{heading}</h2>")
        for index in indices:
            turns = _turns(card.conversations[index])
            called = f"conversation {index + 1}, perplexity {number(float(np.exp(min(each[index], 700))), False)}"
            parts.append(f"<details><summary>{called}</summary>{turns}</details>")
    return "\n".join(parts)


def _turns(conversation: Conversation) -> str:
    names = list(dict.fromkeys(conversation.turn_speakers))
    return "".join(
        _turn(who, text, " other" * (names.index(who) % 2))
        for who, text in zip(conversation.turn_speakers, conversation.turns, strict=True)
    )


def _turn(who: str, text: str, kind: str = "") -> str:
    cut = text if len(text) <= _LONGEST else text[: _LONGEST - 1] + "…"
    return f'<div class="turn{kind}"><span class="who">{escape(visible_line(who))}</span>{escape(cut)}</div>'


def _responses(card: ReportCard) -> str:
    """Shows the newest turn of some contexts, what people said, and what each model says."""
    models = [model for model in card.models if model.exchanges]
    if not models:
        return ""
    parts = ["<h2>Responses</h2>"]
    for index, exchange in enumerate(models[0].exchanges[:SHOWN_RESPONSES]):
        said = _turn(exchange.context.turn_speakers[-1], exchange.context.turns[-1])
        said += _turn("really said", exchange.reference, " other")
        for model in models:
            said += _turn(model.name, model.exchanges[index].response or "(nothing)", " model")
        parts.append(f'<div class="exchange">{said}</div>')
    return "\n".join(parts)


def _copies(card: ReportCard) -> str:
    found = [copy for copy in card.models[0].copies if copy is not None]
    if not found:
        return ""
    said = "".join(
        f'<div class="exchange">{_turn("the model says", copy.said, " model")}'
        f"{_turn('the training data has', copy.source)}</div>"
        for copy in found[:SHOWN_RESPONSES]
    )
    return f"<h2>Copied from the training data</h2>\n{said}"


def _identity(card: ReportCard) -> str:
    facts = {"made at": card.made_at} | {f"data: {name}": value for name, value in card.data.items()}
    for model in card.models:
        facts |= {f"{model.name}: {name}": value for name, value in (model.identity | model.signatures).items()}
    facts |= {f"setting: {name}": value for name, value in card.settings.to_dict().items()} | versions()
    lines = "".join(
        f"<tr><th>{escape(visible_line(str(name)))}</th><td><code>{escape(_plain(value))}</code></td></tr>"
        for name, value in facts.items()
    )
    return f'<h2>To repeat this</h2>\n<table class="checks"><tbody>{lines}</tbody></table>'


def _plain(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value, default=str)
