"""Pictures as SVG inside a page.

Owns: drawing histograms and bars, and giving a drawing the page's colours. Knows counts only.
"""

import io
import re
import warnings
from collections.abc import Sequence
from importlib import import_module
from typing import Any

from convmodel.errors import MissingExtraError
from convmodel.layout.token_view import visible_line
from convmodel.training.doctor.statistics import Histogram

INK, FILL = "#010203", "#010204"
"""Placeholders that the page's own colours replace."""

_SIZE = (4.2, 2.7)  # inches; on a phone's screen the letters stay readable
_BARS = 30
_LONGEST_NAME = 18


def histogram(values: Histogram, name: str, label: str, counted: str) -> str:
    """Draws how often each value occurs, as SVG; the largest hundredth of the values share the last bar.

    `name` is the prefix of the picture's ids within the page, `label` that of the values, `counted` that of the counts.
    """
    figure, axes = new_figure()
    last = max(1, values.percentile(99))
    width = -(-last // _BARS)
    heights = [0] * (-(-last // width) + 1)
    for value, count in values.counts.items():
        heights[min(value, last) // width] += count
    starts = [number * width for number in range(len(heights))]
    axes.bar(starts, heights, width=0.9 * width, align="center" if width == 1 else "edge", color=FILL)
    axes.set_xlabel(label + (" (last bar: this or more)" if values.percentile(100) > last else ""))
    axes.set_ylabel(counted)
    _whole_numbers(axes.xaxis, axes.yaxis)
    return to_svg(figure, name, f"{counted} by {label}")


def bars(rows: Sequence[tuple[str, int]], name: str, label: str) -> str:
    """Draws a bar for each name, as SVG."""
    figure, axes = new_figure(max(_SIZE[1], 0.6 + 0.22 * len(rows)))
    places = range(len(rows))
    axes.barh(places, [value for _, value in rows], height=0.75, color=FILL)
    names = [text if len(text) <= _LONGEST_NAME else text[: _LONGEST_NAME - 1] + "…" for text, _ in rows]
    axes.set_yticks(places, names, parse_math=False)  # a name may have dollars
    axes.invert_yaxis()
    axes.set_xlabel(label)
    _whole_numbers(axes.xaxis, limit=3)  # names leave little room for numbers
    return to_svg(figure, name, label)


def require_matplotlib() -> None:
    """Raises a `MissingExtraError` unless matplotlib is installed."""
    try:
        import_module("matplotlib")
    except ImportError as error:  # also of what it needs
        raise MissingExtraError("a report's pictures need matplotlib", "eval") from error


def new_figure(height: float = _SIZE[1]) -> tuple[Any, Any]:
    """Returns an empty picture and its axes, in the page's colours.

    Raises:
        MissingExtraError: If matplotlib is not installed.
    """
    require_matplotlib()
    from matplotlib.figure import Figure

    figure = Figure(figsize=(_SIZE[0], height), layout="constrained")
    figure.patch.set_alpha(0)
    axes = figure.subplots()
    style_axes(axes, INK)
    return figure, axes


def style_axes(axes: Any, ink: str) -> None:
    """Leaves the left and the lower line only, and draws these and the text in one colour."""
    axes.patch.set_alpha(0)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(ink)
    axes.tick_params(colors=ink)
    for axis in (axes.xaxis, axes.yaxis):
        axis.label.set_color(ink)
        axis.get_offset_text().set_color(ink)


def line_end(text: str, limit: int) -> str:
    """Returns a text on one line, of a long one only the end, which distinguishes names of folders."""
    line = visible_line(text)
    return line if len(line) <= limit else "…" + line[1 - limit :]


def _whole_numbers(*axes: Any, limit: int = 5) -> None:
    from matplotlib.ticker import FuncFormatter, MaxNLocator

    for axis in axes:
        axis.set_major_locator(MaxNLocator(nbins=limit, integer=True))
        axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))


def to_svg(figure: Any, name: str, description: str) -> str:
    """Returns a figure as an element that scales with the page, has its colours, and ids of its own."""
    import matplotlib

    file = io.StringIO()
    with warnings.catch_warnings(), matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": name}):
        warnings.filterwarnings("ignore", message="Glyph")  # the reader's fonts draw the text, not matplotlib's
        figure.savefig(file, format="svg", metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
    svg = file.getvalue()
    svg = svg[svg.index("<svg") :].strip()
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(r'(id="|href="#|url\(#)', rf"\1{name}-", svg)
    svg = svg.replace(INK, "currentColor").replace(FILL, "var(--bar)")
    return svg.replace("<svg", f'<svg role="img" aria-label="{description}"', 1)
