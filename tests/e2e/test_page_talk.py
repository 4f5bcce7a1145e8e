"""Talking on the page: turns, branches, conversations."""

from collections.abc import Callable
from typing import Any

import pytest
from page_acts import expect_turns, shown, talk
from playwright.sync_api import Page, expect
from serving import Serving, wait_until

pytestmark = [pytest.mark.loopback, pytest.mark.slow]


def test_turns_are_said_and_kept(page: Page, saying: Callable[..., Any]) -> None:
    with saying("Hi there!", "I study music"):
        talk(page, "Hello")
        talk(page, "What do you study?")

    expect_turns(page, ["Hello", "Hi there!", "What do you study?", "I study music"])
    expect(page.locator("article.theirs").last).to_contain_text("tokens per second")
    expect(page.locator("#used-text")).to_contain_text("of 512 positions used")
    page.reload()
    expect_turns(page, ["Hello", "Hi there!", "What do you study?", "I study music"])
    expect(page.locator("#list .name")).to_have_text(["Hello"])
    expect(page.locator("#said")).to_be_empty()


def test_what_is_said_is_what_the_model_would_generate(page: Page, server: Serving) -> None:
    page.get_by_role("button", name="Settings").click()
    page.get_by_label("Seed").fill("5")
    page.get_by_role("button", name="Done").click()
    talk(page, "What do you do for fun?")

    model = server.registry.get("chitchat").model
    drawing = {"do_sample": True, "temperature": 0.8, "top_p": 0.95, "top_k": 0, "seed": 5, "min_new_tokens": 1}
    assert shown(page)[1] == model.generate(["What do you do for fun?"], **drawing).responses[0]
    page.get_by_role("button", name="Regenerate").click()
    expect(page.get_by_text("2 / 2")).to_be_visible()
    expect(page.get_by_role("button", name="Send")).to_be_visible()
    another = model.generate(["What do you do for fun?"], **drawing | {"seed": 6}).responses[0]
    assert shown(page)[1] == another


def test_a_response_comes_in_pieces_and_can_be_stopped(page: Page, server: Serving, saying: Callable[..., Any]) -> None:
    with saying("one two three four five six seven eight nine ten " * 20, seconds=0.25):
        page.get_by_label("Your turn", exact=True).fill("Count")
        page.keyboard.press("Enter")
        expect(page.locator("article.theirs .text")).to_contain_text("two")
        page.keyboard.press("Escape")
        expect(page.locator("article.theirs")).to_contain_text("stopped")
        wait_until(lambda: server.is_idle("chitchat"))

    assert 2 <= len(shown(page)[1].split()) < 120
    expect(page.get_by_role("button", name="Send")).to_be_visible()


def test_other_responses_are_branches(page: Page, saying: Callable[..., Any]) -> None:
    with saying("First", "Second", "Third"):
        talk(page, "Hello")
        page.get_by_role("button", name="Regenerate").click()
        expect(page.get_by_text("2 / 2")).to_be_visible()
        expect_turns(page, ["Hello", "Second"])
        page.get_by_role("button", name="Previous branch").click()
        expect_turns(page, ["Hello", "First"])
        talk(page, "Go on")
        page.get_by_role("button", name="Next branch").click()
        expect_turns(page, ["Hello", "Second"])
        page.get_by_role("button", name="Previous branch").click()
        expect_turns(page, ["Hello", "First", "Go on", "Third"])


def test_any_turn_can_be_edited(page: Page, saying: Callable[..., Any]) -> None:
    with saying("First", "Second") as script:
        talk(page, "Hello")
        page.locator("article.mine").get_by_role("button", name="Edit").click()
        page.get_by_label("Edit the turn").fill("Good evening")
        page.get_by_role("button", name="Send as a branch").click()
        expect(page.locator("article.theirs .text")).to_have_text("Second")
        page.locator("article.theirs").get_by_role("button", name="Edit").click()
        page.get_by_label("Edit the turn").fill("Mended")
        page.get_by_role("button", name="Keep as a branch").click()
        expect(page.locator("article.theirs .text")).to_have_text("Mended")

    assert len(script.prompts) == 2
    expect_turns(page, ["Good evening", "Mended"])
    page.locator("article.mine").get_by_role("button", name="Previous branch").click()
    expect_turns(page, ["Hello", "First"])
    page.locator("article.mine").get_by_role("button", name="Edit").click()
    page.keyboard.press("Escape")
    expect(page.locator("article.mine .text")).to_be_visible()
    expect_turns(page, ["Hello", "First"])


def test_a_turn_is_copied(page: Page, saying: Callable[..., Any]) -> None:
    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    with saying("Copy me"):
        talk(page, "Hello")
    page.locator("article.theirs").get_by_role("button", name="Copy").click()
    expect(page.locator("#said")).to_have_text("Copied.")
    expect(page.locator("article.theirs").get_by_role("button", name="Copied")).to_be_visible()
    assert page.evaluate("navigator.clipboard.readText()") == "Copy me"
    expect(page.locator("article.theirs").get_by_role("button", name="Copied")).to_have_count(0)
    page.evaluate("navigator.clipboard.writeText = null")
    page.locator("article.mine").get_by_role("button", name="Copy").click()  # as over plain HTTP from another machine
    expect(page.locator("article.mine").get_by_role("button", name="Copied")).to_be_visible()
    assert page.evaluate("navigator.clipboard.readText()") == "Hello"


def test_conversations_are_listed_found_renamed_and_deleted(page: Page, saying: Callable[..., Any]) -> None:
    names = page.locator("#list .name")
    with saying("About cats", "About dogs"):
        talk(page, "Hello cats")
        page.get_by_role("button", name="New conversation").first.click()
        talk(page, "Hello dogs")
    expect(names).to_have_text(["Hello dogs", "Hello cats"])

    page.get_by_label("Search conversations").fill("about CATS")
    expect(names).to_have_text(["Hello cats"])
    page.get_by_label("Search conversations").fill("fish")
    expect(page.get_by_text("No matches.")).to_be_visible()
    page.get_by_label("Search conversations").fill("")

    page.get_by_label("More of Hello cats").click()
    page.get_by_role("button", name="Rename").click()
    page.get_by_role("textbox", name="Rename this conversation").fill("Cats")
    page.keyboard.press("Enter")
    expect(names).to_have_text(["Hello dogs", "Cats"])

    for answer, left in (("Cancel", ["Hello dogs", "Cats"]), ("Delete", ["Cats"])):
        page.get_by_label("More of Hello dogs").click()
        page.locator("#list details[open]").get_by_role("button", name="Delete").click()
        page.locator("#ask-dialog").get_by_role("button", name=answer).click()
        expect(names).to_have_text(left)
    expect_turns(page, ["Hello cats", "About cats"])
    page.reload()
    expect(names).to_have_text(["Cats"])


def test_two_tabs_know_of_each_other(page: Page, server: Serving, saying: Callable[..., Any]) -> None:
    other = page.context.new_page()
    other.goto(server.url)
    with saying("Hi", "Hey"):
        talk(page, "From one tab")
        expect(other.locator("#list .name")).to_have_text(["From one tab"])
        talk(other, "From the other")
    expect(page.locator("#list .name")).to_have_text(["From the other", "From one tab"])
    expect_turns(page, ["From one tab", "Hi"])
