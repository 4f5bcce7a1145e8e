"""The curves: what is drawn where, with what names, as a picture and as a page that needs nothing else."""

import io
import math
import re
import sys
from collections import Counter
from collections.abc import Sequence
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from matplotlib.figure import Figure
from matplotlib.image import imread

from convmodel.errors import ConfigError, MissingExtraError, SaveError
from convmodel.report.curves import COLOURS, INK, draw_curves, smoothed
from convmodel.report.curves_file import write_curves
from convmodel.training.metrics_reader import Metrics

EVIL = "_</svg><script>alert('x')</script> & $\\frac{1}{2}$ あや\u202e"


def fit(name: str = "model", *, loss: float = 3.0, tokens: bool = True, validated: bool = True) -> Metrics:
    train = [
        {"step": step, "loss": loss - step / 40, "learning_rate": 1e-4 * (1 - step / 50)}
        | ({"tokens": 100 * step} if tokens else {})
        for step in (10, 20, 30, 40)
    ]
    losses = {10: loss + 0.5, 25: loss, 40: loss + 0.25} if validated else {}
    valid = [{"step": step, "eval_loss": at, "eval_perplexity": math.exp(at)} for step, at in losses.items()]
    return Metrics(name, train, valid, {"config": {"learning_rate": loss / 1e4}, "steps": 40})


def lines(figure: Figure, panel: int = 0) -> list[tuple[Sequence[float], Sequence[float]]]:
    return [(list(line.get_xdata()), list(line.get_ydata())) for line in figure.axes[panel].lines]


def legend(figure: Figure) -> list[str]:
    return [text.get_text() for text in figure.legends[0].get_texts()]


class Page(HTMLParser):
    """Checks that elements are closed in order; collects text, elements, ids and what is referred to."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.elements: Counter[str] = Counter()
        self.ids: list[str] = []
        self.referred: list[str] = []
        self.text = ""
        self.feed(html)
        assert not self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements[tag] += 1
        if tag != "meta":
            self.open.append(tag)
        self.ids += [str(value) for name, value in attrs if name == "id"]
        self.referred += [str(value) for name, value in attrs if name in {"src", "href", "xlink:href"}]

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag != "meta":
            self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


def test_smoothing_is_the_hand_made_one() -> None:
    # m = 0.8, 0.84, 1.072; corrected by 1 - 0.8, 1 - 0.64, 1 - 0.512
    assert smoothed([4.0, 1.0, 2.0], 0.8) == pytest.approx([4.0, 0.84 / 0.36, 1.072 / 0.488])
    assert smoothed([4.0, 1.0, 2.0], 0.0) == [4.0, 1.0, 2.0]
    assert smoothed([2.5] * 1000) == pytest.approx([2.5] * 1000)
    assert smoothed([]) == []


def test_long_curves_are_smoothed_over_half_a_percent_of_them() -> None:
    assert smoothed([1.0, 0.0])[1] == pytest.approx(0.24 / 0.64)  # smooth = 0.6: two and a half values
    weight = 1 - 200 / 4000
    assert smoothed([1.0, 0.0] + [0.0] * 3998)[1] == pytest.approx(weight * (1 - weight) / (1 - weight**2))


def test_what_was_measured_is_drawn() -> None:
    figure = draw_curves([fit()], smooth=0.5, title="a_b^c $x$")

    raw, even, valid, best = lines(figure)
    assert raw == ([10, 20, 30, 40], [2.75, 2.5, 2.25, 2.0])
    assert even == ([10, 20, 30, 40], smoothed([2.75, 2.5, 2.25, 2.0], 0.5))
    assert valid == ([10, 25, 40], [3.5, 3.0, 3.25])
    assert best == ([25], [3.0])
    assert lines(figure, 1) == [([10, 20, 30, 40], pytest.approx([8e-5, 6e-5, 4e-5, 2e-5]))]
    assert legend(figure) == [
        "model (best perplexity 20.09)", "training", "training, smoothed", "validation", "best validation",
    ]  # fmt: skip
    assert [axes.get_ylabel() for axes in figure.axes] == ["loss, nats a token", "learning\nrate"]
    assert figure.axes[1].get_xlabel() == "updates"
    assert figure.get_suptitle() == "a_b^c $x$"


def test_a_fit_has_a_colour_and_after_the_colours_another_dash() -> None:
    figure = draw_curves([fit(str(number)) for number in range(8)])

    even = [line for line in figure.axes[0].lines if line.get_linewidth() == 1.8]
    assert [line.get_color() for line in even] == [*COLOURS, *COLOURS[:2]]
    assert [line.get_linestyle() for line in even] == ["-"] * 6 + ["--"] * 2
    assert legend(figure)[:8] == [f"{number} (best perplexity 20.09)" for number in range(8)]


def test_curves_over_tokens() -> None:
    figure = draw_curves([fit()], by="tokens")

    raw, _, valid, best = lines(figure)
    assert raw[0] == [1000, 2000, 3000, 4000]
    assert valid[0] == [1000, 2500, 4000]  # between the updates around it
    assert best[0] == [2500]
    assert figure.axes[1].get_xlabel() == "training tokens"
    with pytest.raises(ConfigError, match="b has no count of tokens: draw it over steps"):
        draw_curves([fit("a"), fit("b", tokens=False)], by="tokens")


def test_a_fit_at_its_beginning_does_not_spoil_the_others() -> None:
    new = Metrics("new", [], [])
    figure = draw_curves([new, fit(validated=False)], by="tokens")

    assert legend(figure) == ["new", "model", "training", "training, smoothed"]
    with pytest.raises(ConfigError, match="nothing to draw yet"):
        draw_curves([new])


def test_gaps_are_left_where_nothing_was_measured() -> None:
    points = [{"step": 1, "loss": 2.0}, {"step": 2, "loss": None}, {"step": 3, "loss": 1.0}]
    valid = [{"step": 2, "eval_loss": None, "eval_perplexity": None}]

    figure = draw_curves([Metrics("model", points, valid)])

    assert lines(figure)[0] == ([1, 3], [2.0, 1.0])
    assert legend(figure)[0] == "model"


def test_long_curves_keep_their_peaks() -> None:
    points = [{"step": step, "loss": 100.0 if step == 31_415 else step % 7} for step in range(1, 50_001)]

    xs, ys = lines(draw_curves([Metrics("long", points, [])]))[0]

    assert len(xs) <= 1502
    assert (xs[0], xs[-1]) == (1, 50_000)
    assert list(xs) == sorted(xs)
    assert (max(ys), xs[ys.index(max(ys))]) == (100.0, 31_415)
    assert min(ys) == 0


def test_without_matplotlib_the_cure_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)

    with pytest.raises(MissingExtraError, match=re.escape("pip install 'convmodel[eval]'")):
        draw_curves([fit()])


def test_a_picture_has_white_paper_and_the_fits_colours(tmp_path: Path) -> None:
    write_curves(tmp_path / "new" / "curves.png", [fit("a"), fit(EVIL, loss=2.0)], "curves")

    pixels = (imread(io.BytesIO((tmp_path / "new" / "curves.png").read_bytes())) * 255).round().astype(int)
    assert pixels.shape == (750, 1200, 4)
    assert pixels[0, 0].tolist() == [255] * 4
    for colour in COLOURS[:2]:
        rgb = [int(colour[start : start + 2], 16) for start in (1, 3, 5)]
        assert (pixels[..., :3] == rgb).all(axis=-1).sum() > 200
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["curves.png"]


def page(path: Path, runs: Sequence[Metrics], **options: Any) -> str:
    write_curves(path, runs, **options)
    return path.read_text(encoding="utf-8")


def test_a_page_has_curves_figures_and_the_settings_that_differ(tmp_path: Path) -> None:
    found = Page(page(tmp_path / "a.html", [fit("a"), fit("b", loss=2.0)]))

    assert (found.elements["svg"], found.elements["script"], found.elements["table"]) == (2, 0, 2)
    assert found.text.count("loss, nats a token") == 2  # on a wide screen, on a narrow one
    assert re.search(r"its perplexity\s*20\.09\s*7\.39", found.text)
    assert re.search(r"Settings that differ\s*a\s*b\s*learning_rate\s*0\.0003\s*0\.0002", found.text)
    alone = Page(page(tmp_path / "a.html", [fit("a")], title="One"))
    assert alone.elements["table"] == 1
    assert alone.text.strip().startswith("One")


def test_a_page_loads_nothing_and_names_nothing_twice(tmp_path: Path) -> None:
    html = page(tmp_path / "a.HTML", [fit("a"), fit("b")])
    found = Page(html)

    assert all(place.startswith("#") for place in found.referred)
    assert set(re.findall(r"https?://[^\"]*", html)) == {"http://www.w3.org/2000/svg", "http://www.w3.org/1999/xlink"}
    assert len(found.ids) == len(set(found.ids))
    assert {place[1:] for place in found.referred} <= set(found.ids)


def test_a_page_has_its_own_colours_on_light_and_on_dark(tmp_path: Path) -> None:
    html = page(tmp_path / "a.html", [fit(str(number)) for number in range(6)])
    drawn = "".join(re.findall(r"<svg.*?</svg>", html, flags=re.DOTALL))

    assert set(re.findall(r"var\((--\w+)\)", drawn)) == {f"--fit{number}" for number in range(6)}
    assert "currentColor" in drawn
    for fixed in (INK, *COLOURS, "fill: #fff"):  # nor is there white paper below
        assert fixed not in drawn
    light, dark = html.split("--fit0: ")[1:]
    assert light.startswith(COLOURS[0])
    assert dark.startswith("#4ea3e0")
    assert light.rstrip().endswith("(prefers-color-scheme: dark) {\n  :root {")


def test_names_are_text(tmp_path: Path) -> None:
    html = page(tmp_path / "a.html", [fit(EVIL), fit("b")])
    found = Page(html)

    assert found.elements["script"] == 0
    assert "\u202e" not in html
    # In the page's title, its heading and its table whole, in its two legends shortened.
    assert found.text.count("_</svg><script>alert('x')</script> & $\\frac{1}{2}$ あや⟨U+202E⟩") == 3
    assert found.text.count("あや⟨U+202E⟩ (best perplexity 20.09)") == 2


def test_a_file_has_to_say_what_it_is(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"curves.jpg is no name for curves: end it in .png or .html"):
        write_curves(tmp_path / "curves.jpg", [fit()])


def test_a_file_that_cannot_be_written_leaves_the_old_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "curves.png"
    path.write_bytes(b"old")

    def full(self: Path, content: bytes) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(SaveError, match="cannot be written: No space left on device"):
        write_curves(path, [fit()])
    assert [found.name for found in tmp_path.iterdir()] == ["curves.png"]
    assert path.read_bytes() == b"old"
