"""The report's pictures.

Owns: drawing measured numbers; colours and SVG are those of the doctor's pictures.
"""

import re
from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np

from convmodel.evaluation.word_split import words
from convmodel.layout.token_view import visible_line
from convmodel.report.evaluation.evaluate import Evaluated
from convmodel.report.svg import FILL, INK, bars, new_figure, to_svg

_COLOURS = (FILL, "#e69f00", "#009e73", "#cc79a7", "#56b4e9")  # Okabe and Ito's, readable on light and dark
_MARKERS = ("o", "s", "^", "D", "v")
_STEPS = 12  # bars of lengths
_ROOM = 11  # characters of a model's name beside a bar
_FAR_APART = 10  # times the lowest perplexity: beyond, the lower ones could not be told apart


def depth_plot(models: Sequence[Evaluated], seed: int) -> str:
    """Draws perplexity by the number of the turn, with intervals."""
    figure, axes = new_figure()
    names = list(dict.fromkeys(name for model in models for name in model.depths))
    for index, model in enumerate(models):
        found = [model.depths[name][0].estimate(seed) for name in names if name in model.depths]
        places = [names.index(name) + 0.12 * index for name in model.depths]
        values = np.array([each.value for each in found])
        spread = np.nan_to_num([values - [each.low for each in found], [each.high for each in found] - values])
        colour, marker = _style(index)
        axes.errorbar(
            places, values, yerr=np.maximum(spread, 0), color=colour, marker=marker, markersize=4, linewidth=1
        )
    axes.set_xticks(range(len(names)), names)
    drawn = [figures[0].value for model in models for figures in model.depths.values()]
    if max(drawn) > _FAR_APART * min(drawn):
        axes.set_yscale("log")
    else:
        axes.set_ylim(bottom=0)
    axes.set_xlabel("turn of the conversation")
    axes.set_ylabel("perplexity")
    _legend(axes, models)
    return to_svg(figure, "depth", "perplexity by turn")


def stop_plot(models: Sequence[Evaluated]) -> str:
    """Draws how often a turn ends where a model is so sure that it does; on the diagonal it is right."""
    figure, axes = new_figure()
    axes.plot([0, 1], [0, 1], color=INK, linewidth=0.8, linestyle=":")
    for index, model in enumerate(models):
        if model.stops is not None:
            targets, certain, ends = model.stops[model.stops[:, 0] > 0].T
            colour, marker = _style(index)
            axes.plot(certain / targets, ends / targets, color=colour, marker=marker, markersize=4, linewidth=1)
    axes.set_xlabel("how sure the model is of an end")
    axes.set_ylabel("how often it is one")
    _legend(axes, models)
    return to_svg(figure, "stops", "calibration of ends")


def length_plot(models: Sequence[Evaluated]) -> str:
    """Draws how many responses have how many words, beside what people said."""
    figure, axes = new_figure()
    lengths = [[len(words(each.reference)) for each in models[0].exchanges]]
    lengths += [[len(words(each.response)) for each in model.exchanges] for model in models]
    longest = int(np.percentile([length for each in lengths for length in each], 98)) + 1
    width = -(-longest // _STEPS)
    for index, each in enumerate(lengths):
        counted = Counter(min(length, longest) // width for length in each)
        places = range(longest // width + 1)
        colour, marker = (INK, "") if index == 0 else _style(index - 1)
        style = ":" if index == 0 else "-"
        axes.plot([place * width for place in places], [counted[place] for place in places], style, color=colour,
                  marker=marker, markersize=4, linewidth=1.2)  # fmt: skip
    axes.set_xlabel("words in a response (dotted: people)")
    axes.set_ylabel("responses")
    axes.set_ylim(bottom=0)
    _legend(axes, models)
    return to_svg(figure, "lengths", "responses by length")


def speed_plot(models: Sequence[Evaluated]) -> str:
    """Draws the tokens a second of each model."""
    shown = {"read": "reads", "generated": "writes"}
    found = [
        (f"{_end(model.name)} {shown[name]}", round(speed)) for model in models for name, speed in model.speed.items()
    ]
    return bars(found, "speed", "tokens a second")


def _style(index: int) -> tuple[str, str]:
    return _COLOURS[index % len(_COLOURS)], _MARKERS[index % len(_MARKERS)]


def _legend(axes: Any, models: Sequence[Evaluated]) -> None:
    """Names the models, where there are several."""
    if len(models) < 2:
        return
    for index, model in enumerate(models):
        colour, marker = _style(index)
        axes.plot([], [], color=colour, marker=marker, markersize=4, linewidth=1, label=_short(model.name))
    legend = axes.legend(frameon=False, fontsize="small", labelcolor=INK)
    for text in legend.get_texts():
        text.set_parse_math(False)  # a folder's name may have dollars


def _end(name: str) -> str:
    """Returns the part of a name that tells models apart, as long as there is room beside a bar."""
    line = visible_line(name).rstrip("/")
    last = re.split("[/:]", line)[-1] or line
    return last if len(last) <= _ROOM else "…" + last[1 - _ROOM :]


def _short(name: str) -> str:
    line = visible_line(name)
    return line if len(line) <= 24 else "…" + line[-23:]
