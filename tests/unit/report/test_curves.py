"""The curves: what is drawn where, with what names, as a picture and as a page that needs nothing else."""

import math
import sys
from collections.abc import Sequence
from dataclasses import replace

import pytest
from matplotlib.figure import Figure

from convmodel.errors import ConfigError, MissingExtraError
from convmodel.report.curves import COLOURS, draw_curves, smoothed
from convmodel.training.metrics_reader import Metrics


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


def test_a_fit_on_judgements_has_rewards_in_place_of_its_loss_and_no_best_validation() -> None:
    usual, judged = fit("usual"), fit("judged")
    train = [{**point, "reward_chosen": n / 10, "reward_rejected": -n / 5} for n, point in enumerate(judged.train)]
    judged = replace(judged, train=train, begin={"config": {"objective": "kto"}})
    figure = draw_curves([judged], smooth=0.0)

    assert [axes.get_ylabel() for axes in figure.axes] == ["loss, nats per token", "reward", "learning\nrate"]
    assert lines(figure) == [([10, 25, 40], [3.5, 3.0, 3.25])]
    chosen, _, rejected, _ = (values for _, values in lines(figure, 1))
    assert (chosen, rejected) == ([0.0, 0.1, 0.2, pytest.approx(0.3)], [0.0, -0.2, -0.4, pytest.approx(-0.6)])
    assert legend(figure) == ["judged", "chosen", "rejected", "validation"]
    assert judged.best is None
    both = draw_curves([usual, judged])
    assert legend(both)[2:] == ["chosen", "rejected", "training", "training, smoothed", "validation", "best validation"]


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
    assert [axes.get_ylabel() for axes in figure.axes] == ["loss, nats per token", "learning\nrate"]
    assert figure.axes[1].get_xlabel() == "steps"
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

    with pytest.raises(MissingExtraError, match=r"curves need matplotlib \(the extra eval\): .*pip install "):
        draw_curves([fit()])
