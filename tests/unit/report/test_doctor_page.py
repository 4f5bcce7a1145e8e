"""The report: one page that needs nothing else, and in which no text of users is markup."""

import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from html_page import Page

from convmodel import Conversation, ConversationTokenizer
from convmodel.errors import MissingExtraError, SaveError
from convmodel.layout.token_view import token_view
from convmodel.report.doctor_page import write_doctor_page
from convmodel.training.doctor.checks import Check
from convmodel.training.doctor.estimate import Estimate
from convmodel.training.doctor.statistics import Statistics

EVIL = "</svg><script>alert('x')</script> & $\\frac{1}{2}$ [/bold]"
TALKS = [
    Conversation(["Hello there", "How are <b>you</b>?"], ["Ann", EVIL]),
    Conversation(["おはよう", "Fine"], ["あやこ", "Ann"]),
]
CHECKS = [
    Check("cut", "pass", "no turn is longer"),
    Check("text", "warn", f"of {EVIL}", "choose <another>"),
    Check("leakage", "fail", "3 repeat", "remove them"),
]
ESTIMATE = Estimate(39, 900, 1000, 150.0, 3 << 30, 1 << 30, 8 << 30, parameters=100 << 20, weight_bytes=400 << 20)
Write = Callable[..., str]


@pytest.fixture
def write(gpt2_tokenizer: ConversationTokenizer, tmp_path: Path) -> Write:
    def write(path: Path = tmp_path / "report.html", **changed: Any) -> str:
        options: dict[str, Any] = {
            "title": f"talks.jsonl {EVIL}",
            "checks": CHECKS,
            "statistics": Statistics.collect(TALKS, gpt2_tokenizer),
            "windows": token_view(gpt2_tokenizer, TALKS[0], max_length=64, loss_on="all"),
            "estimate": ESTIMATE,
        }
        write_doctor_page(path, **(options | changed))
        return path.read_text(encoding="utf-8")

    return write


def test_the_page_is_whole(write: Write) -> None:
    page = Page(write())

    assert page.elements["svg"] == 3
    assert page.elements["script"] == 0
    assert page.elements["meta"] == 2
    for said in ("1 passed, 1 to think about, 1 failed", "✗ fail", "→ remove them", "about 2.5 min"):
        assert said in page.text
    largest = "about 327.4 M (all weights), 603.2 M (lora), 764.2 M (lora and quantize int8) parameters"
    for said in (largest, "about 3.0 GiB of 8.0 GiB available", "900 (and 10% padding)", "2 conversations, 4 turns"):
        assert said in page.text


def test_nothing_is_loaded_from_elsewhere(write: Write) -> None:
    html = write()
    page = Page(html)

    assert all(place.startswith("#") for place in page.referred)
    assert not re.search(r"@import|url\((?!#)|<link|<img|<iframe|<script", html)
    assert set(re.findall(r"https?://[^\"]*", html)) == {"http://www.w3.org/2000/svg", "http://www.w3.org/1999/xlink"}


def test_pictures_do_not_disturb_each_other(write: Write) -> None:
    html = write()
    page = Page(html)

    assert len(page.ids) == len(set(page.ids))
    assert {place[1:] for place in page.referred} <= set(page.ids)
    assert set(re.findall(r"url\(#([^)]*)\)", html)) <= set(page.ids)


def test_text_of_users_is_text(write: Write) -> None:
    page = Page(write())

    assert page.text.count("<script>") >= 3  # in the title, a finding and a speaker's name
    assert page.elements["b"] == 0
    assert "あやこ" in page.text
    assert "choose <another>" in page.text


def test_both_light_and_dark_are_there(write: Write) -> None:
    html = write()

    assert "prefers-color-scheme: dark" in html
    assert 'name="viewport"' in html
    assert "currentColor" in html
    assert "#010203" not in html
    assert "#010204" not in html


def test_tokens_are_shown_with_their_marks(write: Write) -> None:
    html = write()

    assert '<span class="t s0 separator" title="50256">&lt;sep&gt;</span>' in html  # opens the window: no target
    assert '<br><span class="t s1 learned separator" title="50256">&lt;sep&gt;</span>' in html
    assert '<span class="t s0 learned" title="612">·there</span>' in html


def test_without_an_estimate_and_without_a_window_it_says_so(write: Write) -> None:
    text = Page(write(estimate=None, windows=[])).text

    assert "Time and memory estimate" not in text
    assert "None of its turns is supervised." in text


def test_the_page_replaces_what_was_there_and_leaves_nothing_else(write: Write, tmp_path: Path) -> None:
    (tmp_path / "report.html").write_text("old")

    assert write().startswith("<!DOCTYPE html>")
    assert [path.name for path in tmp_path.iterdir()] == ["report.html"]


def test_a_place_that_cannot_be_written_is_an_error(write: Write, tmp_path: Path) -> None:
    with pytest.raises(SaveError, match=r"none/report.html cannot be written: No such file or directory"):
        write(tmp_path / "none" / "report.html")
    (tmp_path / "folder").mkdir()
    with pytest.raises(SaveError, match="folder cannot be written"):
        write(tmp_path / "folder")
    assert [path.name for path in tmp_path.iterdir()] == ["folder"]


def test_without_matplotlib_the_cure_is_named(write: Write, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)

    with pytest.raises(MissingExtraError, match=r"\(the extra eval\): .*pip install "):
        write()
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("turns", [1, 3, 1000])
def test_any_number_of_turns_can_be_drawn(write: Write, gpt2_tokenizer: ConversationTokenizer, turns: int) -> None:
    talk = Conversation(["Hello"] * turns, [f"${number}_{{" for number in range(turns)])

    assert Page(write(statistics=Statistics.collect([talk], gpt2_tokenizer))).elements["svg"] == 3
