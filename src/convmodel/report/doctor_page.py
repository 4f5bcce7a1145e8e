"""The doctor's results as one page that needs nothing else: no script, no other file, no network.

Owns: the page. What it shows is checked, counted and estimated in `convmodel.training.doctor`.
"""

import os
from collections.abc import Sequence
from html import escape
from pathlib import Path

from convmodel.files.atomic import replace_text
from convmodel.layout.token_view import ShownToken, visible_line
from convmodel.report.html import SPEAKER_COLOURS, page, plots, table, to_html
from convmodel.report.svg import bars, histogram
from convmodel.training.doctor.checks import Check
from convmodel.training.doctor.estimate import Estimate
from convmodel.training.doctor.statistics import Histogram, Statistics
from convmodel.training.units import duration, short_count, size

MARKS = {"pass": "✓", "warn": "!", "fail": "✗"}
"""The mark of each status, so that it does not depend on colour alone."""

_STYLE = """
.fix, .legend { color: var(--soft); }
.window { border-left: 3px solid var(--line); padding-left: .7rem; margin: .8rem 0; line-height: 2; }
.t { border-radius: .25rem; padding: .1rem .2rem; margin-right: .12rem; font-family: ui-monospace, monospace;
  font-size: .88rem; }
.window .t:not(.learned) { opacity: .7; } .learned { font-weight: 700; text-decoration: underline; }
.separator { border: 1px solid currentColor; }
"""


def write_doctor_page(
    path: str | os.PathLike[str],
    *,
    title: str,
    checks: Sequence[Check],
    statistics: Statistics,
    windows: Sequence[Sequence[ShownToken]],
    estimate: Estimate | None = None,
) -> None:
    """Writes the page, whole or not at all; the windows are those of one conversation.

    Raises:
        MissingExtraError: If matplotlib is not installed.
        SaveError: If the file cannot be written.
    """
    parts = [_checks(checks), _plots(statistics), _statistics(statistics)]
    if estimate is not None:
        parts += ["<h2>Time and memory estimate</h2>", table(["", ""], estimate_rows(estimate))]
    replace_text(Path(path), page(title, [*parts, _tokens(windows)], _STYLE))


def _checks(checks: Sequence[Check]) -> str:
    counts = {status: sum(check.status == status for check in checks) for status in MARKS}
    rows = "".join(
        f'<tr><td class="status {check.status}">{MARKS[check.status]} {check.status}</td>'
        f"<th>{to_html(check.name)}</th><td>{to_html(check.finding)}"
        + (f'<div class="fix">→ {to_html(check.fix)}</div>' if check.fix else "")
        + "</td></tr>\n"
        for check in checks
    )
    summary = f"{counts['pass']} passed, {counts['warn']} to think about, {counts['fail']} failed"
    return f'<h2>Checks</h2>\n<p class="about">{summary}</p>\n<table class="checks"><tbody>\n{rows}</tbody></table>'


def _plots(statistics: Statistics) -> str:
    speakers = [(visible_line(name), tokens) for name, _, tokens in statistics.by_speaker()]
    drawings = {
        "Turns per conversation": histogram(
            statistics.turns_per_conversation, "turns", "turns per conversation", "conversations"
        ),
        "Tokens per turn": histogram(statistics.tokens_per_turn, "tokens", "tokens per turn", "turns"),
        "Tokens per speaker": bars(speakers, "speakers", "tokens"),
    }
    return f"<h2>The training data</h2>\n{plots(drawings)}"


def _statistics(statistics: Statistics) -> str:
    about = (
        f"{statistics.conversations:,} conversations, {statistics.turns:,} turns, {statistics.tokens:,} tokens of text"
    )
    spread = {
        "Turns per conversation": statistics.turns_per_conversation,
        "Tokens per turn": statistics.tokens_per_turn,
    }
    speakers = [
        [name, f"{turns:,}", f"{tokens:,}", f"{tokens / max(1, statistics.tokens):.1%}"]
        for name, turns, tokens in statistics.by_speaker()
    ]
    return (
        f'<p class="about">{about}</p>\n'
        + table(["", *SPREAD_NAMES], [[name, *spread_row(values)] for name, values in spread.items()])
        + table(["Speaker", "turns", "tokens", "share"], speakers)
    )


SPREAD_NAMES = ("mean", "median", "90%", "99%", "max")
"""The columns of `spread_row`."""


def spread_row(values: Histogram) -> list[str]:
    """Returns the mean and percentiles of some values, as text.

    Example:
        >>> from collections import Counter
        >>> spread_row(Histogram(Counter([1, 2, 2, 9])))
        ['3.5', '2', '9', '9', '9']
    """
    return [f"{values.mean:,.1f}", *(f"{values.percentile(percent):,}" for percent in (50, 90, 99, 100))]


def estimate_rows(estimate: Estimate) -> list[tuple[str, str]]:
    """Returns the name and the value of each part of an estimate, as text."""
    most = "at most " if estimate.at_most else ""
    padding = 1 - estimate.tokens / max(1, estimate.padded_tokens)
    available = "" if estimate.available_bytes is None else f" of {size(estimate.available_bytes)} available"
    largest = [f"{short_count(count)} ({what})" for what, count in estimate.largest_models().items()]
    return [
        ("steps", f"{most}{estimate.steps:,}"),
        ("tokens", f"{most}{estimate.tokens:,} (and {padding:.0%} padding)"),
        ("time", f"{most}about {duration(estimate.seconds)}"),
        ("memory, without Python and torch", f"about {size(estimate.memory_bytes)}{available}"),
        *([("largest model", "about " + ", ".join(largest) + " parameters")] if largest else []),
    ]


def _tokens(windows: Sequence[Sequence[ShownToken]]) -> str:
    if not windows:
        return '<h2>One conversation as the model sees it</h2>\n<p class="about">None of its turns is supervised.</p>'
    names = list(dict.fromkeys(token.speaker for window in windows for token in window))
    legend = " ".join(
        f'<span class="t s{number % SPEAKER_COLOURS}">{to_html(name)}</span>' for number, name in enumerate(names)
    )
    marks = (
        '<span class="t learned">learned</span> <span class="t">context</span> '
        '<span class="t separator">separator</span>, · space, ↵ new line, ⟨F0⟩ part of a character'
    )
    shown = "\n".join(f'<div class="window">{_window(window, names)}</div>' for window in windows)
    return f'<h2>One conversation as the model sees it</h2>\n<p class="legend">{legend} {marks}</p>\n{shown}'


def _window(window: Sequence[ShownToken], names: list[str]) -> str:
    spans = []
    for number, token in enumerate(window):
        marks = " learned" * token.supervised + " separator" * token.is_marker
        is_first = token.is_marker and 0 < number < len(window) - 1 and not window[number - 1].is_marker
        line = "<br>" if is_first else ""
        colour = names.index(token.speaker) % SPEAKER_COLOURS
        spans.append(f'{line}<span class="t s{colour}{marks}" title="{token.id}">{escape(token.text)}</span>')
    return "<wbr>".join(spans)
