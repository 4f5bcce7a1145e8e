"""The doctor's findings as one page that needs nothing else: no script, no other file, no network.

Owns: the page. All that users wrote is escaped; what is found and counted comes from the other modules.
"""

import os
import secrets
from collections.abc import Sequence
from html import escape
from pathlib import Path

from convmodel.doctor.checks import Check
from convmodel.doctor.estimate import Estimate
from convmodel.doctor.plots import bars, histogram
from convmodel.doctor.statistics import Histogram, Statistics
from convmodel.doctor.token_view import ShownToken, visible_line
from convmodel.doctor.words import duration, size
from convmodel.errors import SaveError

MARKS = {"pass": "✓", "warn": "!", "fail": "✗"}
"""How a status is shown beside its word, so that colour is not all there is."""

SPEAKER_COLOURS = 6
"""Speakers with a colour of their own; later ones share them."""

_STYLE = """
:root { color-scheme: light dark; --paper: #fff; --ink: #1c1e21; --soft: #646a73; --line: #d9dce1; --bar: #3b7dd8;
  --pass: #1a7f37; --warn: #9a6700; --fail: #c62828;
  --s0: #dbe9ff; --s1: #ffe7cf; --s2: #dcf5dc; --s3: #f4dcf6; --s4: #fff3b8; --s5: #d3f2f2; }
@media (prefers-color-scheme: dark) { :root { --paper: #16181c; --ink: #e4e6ea; --soft: #9aa1ab; --line: #363a41;
  --bar: #6ba3ee; --pass: #4cc46a; --warn: #e0b040; --fail: #ff7b72;
  --s0: #1d3557; --s1: #573a1d; --s2: #1f4727; --s3: #4a2550; --s4: #4d4414; --s5: #174647; } }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 62rem; padding: 1rem; background: var(--paper); color: var(--ink);
  font: 16px/1.5 system-ui, sans-serif; overflow-wrap: break-word; }
h1, .checks td { overflow-wrap: anywhere; }
h1 { font-size: 1.5rem; line-height: 1.25; } h2 { font-size: 1.15rem; margin-top: 2rem; }
p.about, .cure, .legend { color: var(--soft); }
table { border-collapse: collapse; width: 100%; } .scroll { overflow-x: auto; margin-bottom: 1.5rem; }
th, td { text-align: left; vertical-align: top; padding: .35rem .7rem .35rem 0; border-top: 1px solid var(--line); }
thead th { border-top: 0; } .numbers td { text-align: right; white-space: nowrap; }
.numbers thead th { text-align: right; }
.numbers thead th:first-child { text-align: left; } .checks th, .status { white-space: nowrap; }
.pass { color: var(--pass); } .warn { color: var(--warn); } .fail { color: var(--fail); } .status { font-weight: 600; }
.plots { display: grid; gap: 1rem; grid-template-columns: repeat(auto-fit, minmax(min(18rem, 100%), 1fr)); }
figure { margin: 0; } figcaption { font-weight: 600; font-size: .95rem; } svg { width: 100%; height: auto; }
.window { border-left: 3px solid var(--line); padding-left: .7rem; margin: .8rem 0; line-height: 2; }
.t { border-radius: .25rem; padding: .1rem .2rem; margin-right: .12rem; font-family: ui-monospace, monospace;
  font-size: .88rem; }
.window .t:not(.learned) { opacity: .7; } .learned { font-weight: 700; text-decoration: underline; }
.separator { border: 1px solid currentColor; }
@media (max-width: 34rem) { .checks tr { display: block; border-top: 1px solid var(--line); padding: .4rem 0; }
  .numbers { font-size: .875rem; } .numbers th, .numbers td { padding-right: .4rem; }
  .numbers td { white-space: normal; }
  .checks td, .checks th { border: 0; padding: 0 .5rem 0 0; } .checks td:last-child { display: block; } }
""" + "".join(f".s{i} {{ background: var(--s{i}); }} " for i in range(SPEAKER_COLOURS))


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


def page(title: str, body: str, style: str = "") -> str:
    """Makes a page that needs nothing else, readable on light and dark and on a phone.

    Args:
        title: Its heading.
        body: HTML.
        style: CSS beside what every page has.
    """
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{escape(title)}</title>
<style>{_STYLE}{style}</style>
</head>
<body>
<h1>{escape(title)}</h1>
{body}
</body>
</html>
"""


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


def table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Makes a table of text, whose first column names the rows; an empty heading row is left out."""
    head = "".join(f"<th>{escape(name)}</th>" for name in columns)
    body = "".join(
        f"<tr><th>{escape(row[0])}</th>" + "".join(f"<td>{escape(cell)}</td>" for cell in row[1:]) + "</tr>\n"
        for row in rows
    )
    thead = f"<thead><tr>{head}</tr></thead>" if any(columns) else ""
    return f'<div class="scroll"><table class="numbers">{thead}<tbody>\n{body}</tbody></table></div>\n'


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


def write_text(path: Path, text: str) -> None:
    """Writes beside the place and moves in, so that a page is never half there.

    Raises:
        SaveError: If the file cannot be written.
    """
    part = path.parent / f".{path.name}.{secrets.token_hex(4)}"
    try:
        part.write_text(text, encoding="utf-8")
        part.replace(path)
    except OSError as error:
        raise SaveError(f"{path} cannot be written: {error.strerror or error}; choose another file") from error
    finally:
        part.unlink(missing_ok=True)
