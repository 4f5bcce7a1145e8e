"""The pictures of an evaluation report.

Owns: drawing measured values. Colours and SVG are those of `convmodel.report.svg`.
"""

import re
from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np

from convmodel.evaluation.word_split import words
from convmodel.layout.token_view import visible_line
from convmodel.report.evaluation.model_evaluation import ModelEvaluation
from convmodel.report.svg import FILL, INK, bars, line_end, new_figure, to_svg

_COLOURS = (FILL, "#e69f00", "#009e73", "#cc79a7", "#56b4e9")  # Okabe and Ito's, readable on light and dark
_MARKERS = ("o", "s", "^", "D", "v")
_STEPS = 12  # bars of lengths
_ROOM = 11  # characters of a model's name beside a bar
_FAR_APART = 10  # times the lowest perplexity; beyond that, a logarithmic axis is needed to distinguish the lower ones
_LINE: dict[str, Any] = {"markersize": 4, "linewidth": 1}


def depth_plot(models: Sequence[ModelEvaluation], seed: int) -> str:
    """Draws perplexity by the number of the turn, with intervals."""
    figure, axes = new_figure()
    names = sorted({name for model in models for name in model.depths}, key=lambda name: int(name.rstrip("+")))
    for index, model in enumerate(models):
        drawn_names = [name for name in names if name in model.depths]
        estimates = [model.depths[name][0].estimate(seed) for name in drawn_names]
        places = [names.index(name) + 0.12 * index for name in drawn_names]
        values, low, high = np.array([(estimate.value, estimate.low, estimate.high) for estimate in estimates]).T
        spread = np.nan_to_num([values - low, high - values])
        axes.errorbar(places, values, yerr=np.maximum(spread, 0), **_style(index))
    axes.set_xticks(range(len(names)), names)
    drawn = [metrics[0].value for model in models for metrics in model.depths.values()]
    if max(drawn) > _FAR_APART * min(drawn):
        axes.set_yscale("log")
    else:
        axes.set_ylim(bottom=0)
    axes.set_xlabel("turn of the conversation")
    axes.set_ylabel("perplexity")
    _legend(axes, models)
    return to_svg(figure, "depth", "perplexity by turn")


def stop_plot(models: Sequence[ModelEvaluation]) -> str:
    """Draws the frequency of turn ends by p(end); a calibrated model is on the diagonal."""
    figure, axes = new_figure()
    axes.plot([0, 1], [0, 1], color=INK, linewidth=0.8, linestyle=":")
    for index, model in enumerate(models):
        if (calibration := model.calibration) is not None:
            targets, probability, ends = calibration[:, calibration[0] > 0]
            axes.plot(probability / targets, ends / targets, **_style(index))
    axes.set_xlabel("p(end)")
    axes.set_ylabel("frequency of ends")
    _legend(axes, models)
    return to_svg(figure, "stops", "calibration of ends")


def length_plot(models: Sequence[ModelEvaluation]) -> str:
    """Draws the number of responses by their words, with the references for comparison."""
    figure, axes = new_figure()
    references = [len(words(exchange.reference)) for exchange in models[0].exchanges]
    lines = [(references, {"color": INK, "linestyle": ":"})]
    for index, model in enumerate(models):
        lines.append(([len(words(exchange.response)) for exchange in model.exchanges], _style(index)))
    longest = int(np.percentile([length for lengths, _ in lines for length in lengths], 98)) + 1
    width = -(-longest // _STEPS)
    bins = range(longest // width + 1)
    for lengths, style in lines:
        counts = Counter(min(length, longest) // width for length in lengths)
        axes.plot([number * width for number in bins], [counts[number] for number in bins], **style)
    axes.set_xlabel("words in a response (dotted: references)")
    axes.set_ylabel("responses")
    axes.set_ylim(bottom=0)
    _legend(axes, models)
    return to_svg(figure, "lengths", "responses by length")


def speed_plot(models: Sequence[ModelEvaluation]) -> str:
    """Draws the tokens per second of each model."""
    texts = {"read": "input", "generated": "output"}
    rows = [
        (f"{_end(model.name)} {texts[name]}", round(speed)) for model in models for name, speed in model.speed.items()
    ]
    return bars(rows, "speed", "tokens per second")


def _style(index: int) -> dict[str, Any]:
    return {"color": _COLOURS[index % len(_COLOURS)], "marker": _MARKERS[index % len(_MARKERS)], **_LINE}


def _legend(axes: Any, models: Sequence[ModelEvaluation]) -> None:
    """Names the models, where there are several."""
    if len(models) < 2:
        return
    for index, model in enumerate(models):
        axes.plot([], [], **_style(index), label=line_end(model.name, 24))
    legend = axes.legend(frameon=False, fontsize="small", labelcolor=INK)
    for text in legend.get_texts():
        text.set_parse_math(False)  # a folder's name may have dollars


def _end(name: str) -> str:
    """Returns the last part of a name, which distinguishes models, cut to the room beside a bar."""
    line = visible_line(name).rstrip("/")
    return line_end(re.split("[/:]", line)[-1] or line, _ROOM)
