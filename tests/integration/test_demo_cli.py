"""`convmodel demo`: what it prints, and that it learns."""

import importlib.util
import json
from collections.abc import Callable

import pytest

from convmodel.cli import demo

Run = Callable[..., int]


def test_the_demo_shows_measurements_answers_and_how_to_go_on(
    run: Run, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = demo._conversations
    monkeypatch.setattr(demo, "_conversations", lambda name: whole(name)[:20])

    code = run("demo", "--epochs", "0.2", "--output-dir", "shown")

    out, err = capfd.readouterr()
    assert code == 0
    assert "perplexity per token" in out
    assert "perplexity fell by" in err
    assert [line.split()[:2] for line in out.splitlines()][:3] == [
        ["held-out", "conversations"],
        ["perplexity", "per"],
        ["bits", "per"],
    ]
    assert out.count("held-out context") == 1
    for context in demo._choose_contexts(whole("test")[:20]):
        assert context.split()[0] in out
    assert "convmodel chat --model shown" in err
    assert run("generate", "-m", "shown", "Hello") == 0


def test_without_accelerate_it_ends_before_it_evaluates(
    run: Run, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "accelerate" else find_spec(name))
    monkeypatch.setattr(demo, "_generate", None)  # which comes with the evaluation

    assert run("demo") == 1
    assert "training needs accelerate (the extra train)" in capfd.readouterr().err


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_the_demo_lowers_perplexity_by_a_third_and_more(run: Run, capfd: pytest.CaptureFixture[str]) -> None:
    run("demo", "--epochs", "1", "--json")

    result = json.loads(capfd.readouterr().out)

    assert result["after"]["perplexity"] < 0.7 * result["before"]["perplexity"]
    assert [set(response) for response in result["responses"]] == [{"context", "before", "after"}] * 3
    assert all(response["before"] != response["after"] for response in result["responses"])
