"""Curves as a file: a picture, or a page that needs nothing else."""

import io
import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from html_page import Page
from matplotlib.image import imread

from convmodel.errors import ConfigError, SaveError
from convmodel.report.curves import COLOURS, INK
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
    assert found.text.count("loss, nats per token") == 2  # on a wide screen, on a narrow one
    assert re.search(r"best validation perplexity\s*20\.09\s*7\.39", found.text)
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


@pytest.mark.slow
def test_names_are_text(tmp_path: Path) -> None:
    html = page(tmp_path / "a.html", [fit(EVIL), fit("b")])
    found = Page(html)

    assert found.elements["script"] == 0
    assert "\u202e" not in html
    # In the page's title, its heading and its table whole, in its two legends shortened.
    assert found.text.count("_</svg><script>alert('x')</script> & $\\frac{1}{2}$ あや⟨U+202E⟩") == 3
    assert found.text.count("あや⟨U+202E⟩ (best perplexity 20.09)") == 2


def test_a_file_has_to_say_what_it_is(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"curves.jpg is not a name for curves: end it in .png or .html"):
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
