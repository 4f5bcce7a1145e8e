"""Curves of fits as a file: a picture, or a page that needs nothing else.

Owns: what the page shows, the curves' colours on light and dark screens, and writing either whole or not at all.
"""

import io
import os
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from convmodel.errors import ConfigError
from convmodel.files.atomic import staged
from convmodel.report.curves import COLOURS, INK, SIZE, draw_curves
from convmodel.report.html import page, table, to_html
from convmodel.report.run_comparison import differing_settings, incomparable, run_metrics
from convmodel.report.svg import to_svg
from convmodel.training.metrics_reader import Metrics

SUFFIXES = (".png", ".html")
"""The suffixes of the files that can be written."""

_DOTS_PER_INCH = 150
_NARROW = (4.2, 5.0)  # inches; on a phone's screen the letters stay readable
_ON_DARK = ("#4ea3e0", "#f08a4b", "#35c79a", "#e29ac4", "#9ad4f5", "#f2bd4a")

_STYLE = f"""
:root {{ {" ".join(f"--fit{n}: {colour};" for n, colour in enumerate(COLOURS))} }}
@media (prefers-color-scheme: dark) {{
  :root {{ {" ".join(f"--fit{n}: {colour};" for n, colour in enumerate(_ON_DARK))} }} }}
.narrow {{ display: none; }}
@media (max-width: 34rem) {{ .narrow {{ display: block; }} .wide {{ display: none; }} }}
"""


def write_curves(
    path: str | os.PathLike[str], runs: Sequence[Metrics], title: str | None = None, **options: Any
) -> None:
    """Writes the curves of fits as .png, or as .html with the metrics and the settings that differ.

    An earlier file is replaced. A page's title is by default the fits' names; `options` are those of `draw_curves`.

    Raises:
        ConfigError: If the file has another suffix, or nothing was measured yet.
        MissingExtraError: If matplotlib is not installed.
        SaveError: If the file cannot be written.
    """
    path = Path(path)
    require_suffix(path)
    if path.suffix.lower() == ".png":
        content = _picture(runs, title, options)
    else:
        content = _report(runs, title or ", ".join(run.name for run in runs), options).encode()
    with staged(path.parent) as stage:
        (stage / path.name).write_bytes(content)


def require_suffix(path: Path) -> None:
    """Raises ConfigError if a file has none of `SUFFIXES`."""
    if path.suffix.lower() not in SUFFIXES:
        raise ConfigError(f"{path} is not a name for curves: end it in {' or '.join(SUFFIXES)}")


def _picture(runs: Sequence[Metrics], title: str | None, options: dict[str, Any]) -> bytes:
    file = io.BytesIO()
    figure = draw_curves(runs, title=title, **options)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph")  # a name may have letters that matplotlib's font lacks
        figure.savefig(file, format="png", dpi=_DOTS_PER_INCH)
    return file.getvalue()


def _report(runs: Sequence[Metrics], title: str, options: dict[str, Any]) -> str:
    parts = [
        f'<figure class="{name}">{_inline(runs, name, size, options)}</figure>'
        for name, size in (("wide", SIZE), ("narrow", _NARROW))
    ]
    columns = ["", *(run.name for run in runs)]
    parts += ["<h2>Metrics</h2>", table(columns, run_metrics(runs))]
    if sentence := incomparable(runs):
        parts.append(f"<p>{to_html(sentence)}</p>")
    if settings := differing_settings(runs):
        parts += ["<h2>Settings that differ</h2>", table(columns, settings)]
    return page(title, parts, _STYLE)


def _inline(runs: Sequence[Metrics], name: str, size: tuple[float, float], options: dict[str, Any]) -> str:
    """Draws for a page, whose style sets the colours."""
    figure = draw_curves(runs, size=size, **options)
    figure.patch.set_alpha(0)
    svg = to_svg(figure, name, "loss and validation curves")
    for number, colour in enumerate(COLOURS):
        svg = svg.replace(colour, f"var(--fit{number})")
    return svg.replace(INK, "currentColor")
