"""The doctor's findings as one page that needs nothing else: no script, no other file, no network.

Owns: the page. All that users wrote is escaped; what is found and counted comes from the other modules.
"""

import os
from collections.abc import Sequence
from html import escape
from pathlib import Path

from convmodel.layout.token_view import ShownToken, visible_line
from convmodel.report.html import SPEAKER_COLOURS, page, table, write_text
from convmodel.report.svg import bars, histogram
from convmodel.training.doctor.checks import Check
from convmodel.training.doctor.estimate import Estimate
from convmodel.training.doctor.statistics import Histogram, Statistics
from convmodel.training.units import duration, size

MARKS = {"pass": "✓", "warn": "!", "fail": "✗"}
"""How a status is shown beside its word, so that colour is not all there is."""


def write_report(
    path: str | os.PathLike[str],
    *,
    title: str,
    checks: Sequence[Check],
    statistics: Statistics,
    windows: Sequence[Sequence[ShownToken]],
    estimate: Estimate | None = None,
) -> None:
    """Writes the page, whole or not at all.

    Args:
        path: The file; what was there is replaced.
        title: What was looked at.
        checks: What was found.
        statistics: What was counted.
        windows: One conversation as tokens.
        estimate: What the run will take, if that was measured.

    Raises:
        MissingExtraError: If matplotlib is not installed.
        SaveError: If the file cannot be written.
    """
    parts = [_checks(checks), _plots(statistics), _numbers(statistics)]
    if estimate is not None:
        parts.append(_estimate(estimate))
    parts.append(_tokens(windows))
    write_text(Path(path), page(title, "\n".join(parts)))


def _checks(checks: Sequence[Check]) -> str:
    counts = {status: sum(check.status == status for check in checks) for status in MARKS}
    rows = "".join(
        f'<tr><td class="status {check.status}">{MARKS[check.status]} {check.status}</td>'
        f"<th>{escape(check.name)}</th><td>{escape(visible_line(check.finding))}"
        + (f'<div class="cure">→ {escape(visible_line(check.cure))}</div>' if check.cure else "")
        + "</td></tr>\n"
        for check in checks
    )
    summary = f"{counts['pass']} passed, {counts['warn']} to think about, {counts['fail']} failed"
    return f'<h2>Checks</h2>\n<p class="about">{summary}</p>\n<table class="checks"><tbody>\n{rows}</tbody></table>'


def _plots(statistics: Statistics) -> str:
    speakers = [(visible_line(name), tokens) for name, _, tokens in statistics.by_speaker()]
    drawn = {
        "Turns in a conversation": histogram(
            statistics.turns_per_conversation, "turns", "turns in a conversation", "conversations"
        ),
        "Tokens in a turn": histogram(statistics.tokens_per_turn, "tokens", "tokens in a turn", "turns"),
        "Who says how much": bars(speakers, "speakers", "tokens"),
    }
    figures = "\n".join(f"<figure><figcaption>{name}</figcaption>{svg}</figure>" for name, svg in drawn.items())
    return f'<h2>The data</h2>\n<div class="plots">\n{figures}\n</div>'


def _numbers(statistics: Statistics) -> str:
    about = (
        f"{statistics.conversations:,} conversations, {statistics.turns:,} turns, {statistics.tokens:,} tokens of text"
    )
    spread = {
        "Turns in a conversation": statistics.turns_per_conversation,
        "Tokens in a turn": statistics.tokens_per_turn,
    }
    speakers = [
        [visible_line(name), f"{turns:,}", f"{tokens:,}", f"{tokens / max(1, statistics.tokens):.1%}"]
        for name, turns, tokens in statistics.by_speaker()
    ]
    return (
        f'<p class="about">{about}</p>\n'
        + table(["", *(SPREAD_NAMES)], [[name, *spread_row(values)] for name, values in spread.items()])
        + table(["Speaker", "turns", "tokens", "share"], speakers)
    )


SPREAD_NAMES = ("mean", "median", "90%", "99%", "max")
"""The columns of `spread_row`."""


def spread_row(values: Histogram) -> list[str]:
    """Describes numbers by their mean and percentiles, as text.

    Example:
        >>> from collections import Counter
        >>> spread_row(Histogram(Counter([1, 2, 2, 9])))
        ['3.5', '2', '9', '9', '9']
    """
    return [f"{values.mean:,.1f}", *(f"{values.percentile(percent):,}" for percent in (50, 90, 99, 100))]


def _estimate(estimate: Estimate) -> str:
    return "<h2>What the run will take</h2>\n" + table(["", ""], [list(row) for row in estimate_rows(estimate)])


def estimate_rows(estimate: Estimate) -> list[tuple[str, str]]:
    """Says what an estimate holds, line by line."""
    padding = 1 - estimate.tokens / max(1, estimate.padded_tokens)
    available = "" if estimate.available_bytes is None else f" of {size(estimate.available_bytes)} available"
    return [
        ("updates", f"{estimate.steps:,}"),
        ("tokens", f"{estimate.tokens:,} (and {padding:.0%} padding)"),
        ("time", f"about {duration(estimate.seconds)}"),
        ("memory", f"about {size(estimate.memory_bytes)}{available}"),
    ]


def _tokens(windows: Sequence[Sequence[ShownToken]]) -> str:
    if not windows:
        return '<h2>One conversation as the model sees it</h2>\n<p class="about">None of its turns is supervised.</p>'
    names = list(dict.fromkeys(token.speaker for window in windows for token in window))
    legend = " ".join(
        f'<span class="t s{number % SPEAKER_COLOURS}">{escape(visible_line(name))}</span>'
        for number, name in enumerate(names)
    )
    learned = (
        '<span class="t learned">learned</span> <span class="t">context</span> '
        '<span class="t separator">separator</span>, · space, ↵ new line, ⟨F0⟩ part of a character'
    )
    shown = "\n".join(f'<div class="window">{_window(window, names)}</div>' for window in windows)
    return f'<h2>One conversation as the model sees it</h2>\n<p class="legend">{legend} {learned}</p>\n{shown}'


def _window(window: Sequence[ShownToken], names: list[str]) -> str:
    spans = []
    for number, token in enumerate(window):
        marks = " learned" * token.supervised + " separator" * token.is_separator
        line = "<br>" if token.is_separator and 0 < number < len(window) - 1 else ""
        colour = names.index(token.speaker) % SPEAKER_COLOURS
        spans.append(f'{line}<span class="t s{colour}{marks}" title="{token.id}">{escape(token.text)}</span>')
    return "<wbr>".join(spans)
