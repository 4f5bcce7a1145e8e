"""Loss and validation curves of fits, as one picture.

Owns: drawing them. Knows measurements only, as `convmodel.training.metrics_reader` reads them.
"""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

from convmodel.errors import ConfigError, MissingExtraError
from convmodel.layout.token_view import visible_line
from convmodel.report.svg import line_end, style_axes
from convmodel.training.metrics_reader import Metrics, Point, is_finite

if TYPE_CHECKING:
    from matplotlib.figure import Figure

By = Literal["steps", "tokens"]

INK = "#1c1e21"
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00")
"""Distinct also for the colour-blind: six of the eight of Okabe and Ito, "Color universal design" (2008)."""

SIZE = (8.0, 5.0)  # inches
_DASHES = ("-", "--", ":", "-.")  # for more fits than colours
_POINTS = 1500  # along a line; more than a picture this wide can show
_MARKERS = 20  # along a line
_LONGEST_NAME = 40
_REWARDS = ("reward_chosen", "reward_rejected")
_REJECTED: dict[str, Any] = {"linestyle": (0, (1.5, 1.2)), "linewidth": 1.8}
_VALIDATION: dict[str, Any] = {"linewidth": 1.0, "marker": "o", "markersize": 4.5, "zorder": 3}
_BEST: dict[str, Any] = {"marker": "o", "markersize": 10.0, "markerfacecolor": "none", "zorder": 4}


def smoothed(values: Sequence[float], smooth: float | None = None) -> list[float]:
    """Averages exponentially, with the bias of the first values corrected.

    m[t] = smooth m[t-1] + (1 - smooth) x[t] with m[0] = 0, divided by 1 - smooth^t, as Adam does with its moments
    (Kingma and Ba 2015, https://arxiv.org/abs/1412.6980, section 3). The weight `smooth` is from 0, which changes
    nothing, to below 1; by default it averages over two and a half values, or half a percent of many.

    Example:
        >>> smoothed([4.0, 1.0], 0.5)  # (0.5 * 0.5 * 4 + 0.5 * 1) / (1 - 0.5 * 0.5)
        [4.0, 2.0]
    """
    if smooth is None:
        smooth = 1 - 1 / max(2.5, len(values) / 200)
    means, mean, weight = [], 0.0, 1.0
    for value in values:
        mean = smooth * mean + (1 - smooth) * value
        weight *= smooth
        means.append(mean / (1 - weight))
    return means


def draw_curves(
    runs: Sequence[Metrics],
    *,
    by: By = "steps",
    smooth: float | None = None,
    title: str | None = None,
    size: tuple[float, float] = SIZE,
) -> "Figure":
    """Draws the training loss, as measured and `smoothed`, the validations, and the learning rate below.

    The fits have a colour each, the horizontal axis is steps or training tokens, and the size is in inches. For fits on
    judgements a panel has the rewards of chosen and rejected responses in place of the training loss.

    Raises:
        MissingExtraError: If matplotlib is not installed.
        ConfigError: If nothing was measured yet, or the axis is tokens and they were not counted.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise MissingExtraError("curves need matplotlib", "eval") from error
    if not any(run.train or run.validations for run in runs):
        raise ConfigError("there is nothing to draw yet: no loss has been logged")
    figure = Figure(figsize=size, layout="constrained")
    heights = (4, 3, 1) if any(run.of_judgements for run in runs) else (4, 1)
    panels = [*figure.subplots(len(heights), height_ratios=heights, sharex=True)]
    styles = [(COLOURS[n % len(COLOURS)], _DASHES[n // len(COLOURS) % len(_DASHES)]) for n in range(len(runs))]
    for run, style in zip(runs, styles, strict=True):
        _draw(panels, run, style, by, smooth)
    _style_panels(figure, panels, by)
    if title:
        figure.suptitle(visible_line(title), color=INK, fontsize="large", parse_math=False, wrap=True)
    _legend(figure, runs, styles)
    return figure


def _draw(panels: Sequence[Any], run: Metrics, style: tuple[str, str], by: By, smooth: float | None) -> None:
    """Draws the lines of one fit."""
    loss, rate = panels[0], panels[-1]
    colour, dash = style
    place = _places(run, by)
    measured = ((panels[1], _REWARDS),) if run.of_judgements else ((loss, ("loss",)),)
    for panel, names in measured:
        for name in names:
            steps, values = _line(run.train, name, place)
            line = _REJECTED if name == "reward_rejected" else {"linestyle": dash, "linewidth": 1.8}
            panel.plot(*_thinned(steps, values), color=colour, linewidth=0.8, alpha=0.35)
            panel.plot(*_thinned(steps, smoothed(values, smooth)), color=colour, **line)
    validations = _line(run.validations, "eval_loss", place)
    marked = max(1, len(validations[0]) // _MARKERS)
    loss.plot(*validations, color=colour, linestyle=dash, markevery=marked, **_VALIDATION)
    rate.plot(*_thinned(*_line(run.train, "learning_rate", place)), color=colour, linestyle=dash, linewidth=1.2)
    if run.best is not None:
        loss.plot(place(run.best), float(run.best["eval_loss"]), color=colour, **_BEST)


def _places(run: Metrics, by: By) -> Any:
    """Returns the function from points to their horizontal position; tokens of validations are interpolated."""
    if by == "steps":
        return lambda point: float(point["step"])
    points = [*run.train, *run.validations]
    counts = {0: 0.0} | {point["step"]: float(point["tokens"]) for point in points if is_finite(point.get("tokens"))}
    if points and len(counts) < 2:
        raise ConfigError(f"{run.name} has no count of tokens: draw it over steps")
    import numpy as np

    steps = sorted(counts)
    tokens = [counts[step] for step in steps]
    return lambda point: float(np.interp(point["step"], steps, tokens))


def _line(points: Sequence[Point], name: str, place: Any) -> tuple[list[float], list[float]]:
    drawn = [point for point in points if is_finite(point.get(name))]
    return [place(point) for point in drawn], [float(point[name]) for point in drawn]


def _thinned(xs: list[float], ys: list[float]) -> tuple[list[float], list[float]]:
    """Keeps the lowest and the highest of neighbouring points, so that a long fit's picture stays small and exact."""
    if len(xs) <= _POINTS:
        return xs, ys
    width = math.ceil(2 * len(xs) / _POINTS)
    kept: list[int] = []
    for start in range(0, len(xs), width):
        near = range(start, min(start + width, len(xs)))
        kept += sorted({min(near, key=ys.__getitem__), max(near, key=ys.__getitem__)})
    kept = sorted({0, *kept, len(xs) - 1})
    return [xs[index] for index in kept], [ys[index] for index in kept]


def _style_panels(figure: Any, panels: Sequence[Any], by: By) -> None:
    from matplotlib.ticker import EngFormatter, FuncFormatter, MaxNLocator

    loss, rate = panels[0], panels[-1]
    if len(panels) > 2:
        panels[1].set_ylabel("reward")
    for axes in panels:
        style_axes(axes, INK)
        axes.grid(axis="y", color=INK, alpha=0.12, linewidth=0.6)
        axes.set_axisbelow(True)
    loss.set_ylabel("loss, nats per token")
    rate.set_ylabel("learning\nrate")
    rate.set_xlabel({"steps": "steps", "tokens": "training tokens"}[by])
    rate.set_xlim(left=0)
    rate.set_ylim(bottom=0)
    rate.yaxis.set_major_locator(MaxNLocator(nbins=2))
    rate.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    rate.xaxis.set_major_locator(MaxNLocator(nbins=6, steps=[1, 2, 2.5, 5, 10], integer=True))
    rate.xaxis.set_major_formatter(EngFormatter() if by == "tokens" else FuncFormatter(lambda step, _: f"{step:,.0f}"))
    figure.align_ylabels()


def _legend(figure: Any, runs: Sequence[Metrics], styles: Sequence[tuple[str, Any]]) -> None:
    """Names the colours and the kinds of lines below the curves, where it hides none."""
    from matplotlib.lines import Line2D

    ink = styles[0][0] if len(runs) == 1 else INK
    keys = [Line2D([], [], color=colour, linestyle=dash, linewidth=2.5) for colour, dash in styles]
    names = [_legend_name(run) for run in runs]
    if any(run.train and run.of_judgements for run in runs):
        keys += [Line2D([], [], color=ink, linewidth=1.8), Line2D([], [], color=ink, **_REJECTED)]
        names += ["chosen", "rejected"]
    if any(run.train and not run.of_judgements for run in runs):
        keys += [Line2D([], [], color=ink, linewidth=0.8, alpha=0.4), Line2D([], [], color=ink, linewidth=1.8)]
        names += ["training", "training, smoothed"]
    if any(run.validations for run in runs):
        keys += [Line2D([], [], color=ink, **_VALIDATION)]
        names += ["validation"]
    if any(run.best for run in runs):
        keys += [Line2D([], [], color=ink, linestyle="", **_BEST)]
        names += ["best validation"]
    columns = max(1, int(figure.get_figwidth() // (0.9 + 0.075 * max(map(len, names)))))
    legend = figure.legend(
        keys, [" "] * len(keys), loc="outside lower center", ncols=min(columns, len(keys)), frameon=False,
        labelcolor=INK, fontsize="small", handlelength=2.6,
    )  # fmt: skip
    for text, name in zip(legend.get_texts(), names, strict=True):
        text.set_parse_math(False)  # a folder's name may have dollars, or begin with what a legend leaves out
        text.set_text(name)


def _legend_name(run: Metrics) -> str:
    name = line_end(run.name, _LONGEST_NAME)
    perplexity = (run.best or {}).get("eval_perplexity")
    return name if perplexity is None else f"{name} (best perplexity {perplexity:,.2f})"
