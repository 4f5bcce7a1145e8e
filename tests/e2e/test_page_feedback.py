"""Judgements that the page sends without being asked: edits of responses, and regenerations that were kept."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from page_acts import expect_turns, talk, wait_for
from playwright.sync_api import Page, Route, expect

from convmodel.data.judgements.judgement import Judgement
from convmodel.data.judgements.reader import JudgementReader

pytestmark = [pytest.mark.loopback, pytest.mark.slow]


@pytest.fixture
def file(place: Path) -> Path:
    """The server's file of feedback, without what other tests wrote."""
    path = place / "feedback.jsonl"
    path.unlink(missing_ok=True)
    return path


def read(page: Page, file: Path, lines: int) -> list[Judgement]:
    """The judgements of the file, once it has so many."""
    wait_for(page, lambda: file.exists() and file.read_bytes().count(b"\n") >= lines)
    return list(JudgementReader(file, regeneration_weight=1))


def edit(page: Page, text: str) -> None:
    page.locator("article.theirs").last.get_by_role("button", name="Edit").click()
    page.get_by_label("Edit the turn").fill(text)
    page.keyboard.press("Enter")


def regenerate(page: Page, text: str) -> None:
    page.locator("article.theirs").last.get_by_role("button", name="Regenerate").click()
    expect(page.locator("#talk article .text").last).to_have_text(text)
    expect(page.locator("#send")).to_be_visible()


def test_an_edited_response_is_better_than_the_old_one(page: Page, file: Path, saying: Callable[..., Any]) -> None:
    with saying("Go away"):
        talk(page, "Hello")
    edit(page, "Good morning!")
    expect(page.locator("article.theirs").last).to_contain_text("Good morning!")

    [judgement] = read(page, file, 1)
    assert (judgement.chosen, judgement.rejected, judgement.kind) == ("Good morning!", "Go away", "edit")
    assert (judgement.context.turns, judgement.responder, judgement.model) == (("Hello",), "assistant", "chitchat")


def test_a_regeneration_counts_once_the_conversation_continues_with_it(
    page: Page, file: Path, saying: Callable[..., Any]
) -> None:
    with saying("First", "Second", "Third", "Fine"):
        talk(page, "Hello")
        regenerate(page, "Second")
        regenerate(page, "Third")
        assert not file.exists()
        talk(page, "How are you?")

    [judgement] = read(page, file, 1)
    assert (judgement.chosen, judgement.rejected, judgement.kind) == ("Third", "Second", "regeneration")
    assert judgement.context.turns == ("Hello",)


def test_the_first_response_kept_says_nothing(page: Page, file: Path, saying: Callable[..., Any]) -> None:
    with saying("First", "Second", "Fine"):
        talk(page, "Hello")
        regenerate(page, "Second")
        page.get_by_role("button", name="Previous").click()
        expect(page.locator("#talk article .text").last).to_have_text("First")
        talk(page, "How are you?")

    expect_turns(page, ["Hello", "First", "How are you?", "Fine"])
    assert not file.exists()


def test_an_edit_of_the_own_turn_and_an_edited_response_say_nothing_more(
    page: Page, file: Path, saying: Callable[..., Any]
) -> None:
    with saying("Go away", "Again", "Fine"):
        talk(page, "Hello")
        edit(page, "Good morning!")
        talk(page, "How are you?")
        page.locator("article.mine").last.get_by_role("button", name="Edit").click()
        page.get_by_label("Edit the turn").fill("And you?")
        page.keyboard.press("Enter")
        expect(page.locator("#talk article .text").last).to_have_text("Fine")

    assert [judgement.kind for judgement in read(page, file, 1)] == ["edit"]


def test_a_server_without_feedback_gets_nothing(page: Page, file: Path, saying: Callable[..., Any]) -> None:
    def off(route: Route) -> None:
        found = route.fetch().json()
        for each in found["data"]:
            each["convmodel"]["feedback"] = False
        route.fulfill(json=found)

    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    page.route("**/v1/models", off)
    page.reload()
    with saying("First", "Second", "Fine"):
        talk(page, "Hello")
        regenerate(page, "Second")
        edit(page, "Better")
        talk(page, "How are you?")

    assert not [url for url in asked if url.endswith("/feedback")]
    assert not file.exists()


def test_what_could_not_be_saved_is_shown(page: Page, file: Path, saying: Callable[..., Any]) -> None:
    with saying("Go away"):
        talk(page, "Hello")
    page.route("**/feedback", lambda route: route.fulfill(status=507, json={"error": {"message": "No room"}}))
    edit(page, "Good morning!")

    expect(page.locator("#notice")).to_contain_text("The edit was not saved as feedback: No room")
    expect_turns(page, ["Hello", "Good morning!"])
    assert not file.exists()


def test_a_thumb_counts_once(page: Page, file: Path, saying: Callable[..., Any]) -> None:
    with saying("Go away"):
        talk(page, "Hello")
    for name in ("Bad", "Bad", "Good", "Good"):
        thumb = page.get_by_role("button", name=f"{name} response")
        thumb.click()
        expect(thumb).to_have_attribute("aria-pressed", "true")

    judgements = read(page, file, 2)
    assert [(each.chosen, each.rejected) for each in judgements] == [(None, "Go away"), ("Go away", None)]
    assert all(each.model == "chitchat" and each.fingerprint for each in judgements)


def test_the_text_of_a_person_is_never_that_of_the_model(page: Page, file: Path, saying: Callable[..., Any]) -> None:
    with saying("Go away"):
        talk(page, "Hello")
    edit(page, "Good morning!")
    expect(page.locator("article.theirs").last).to_contain_text("Good morning!")
    edit(page, "Good evening!")
    expect(page.locator("article.theirs").last).to_contain_text("Good evening!")
    page.get_by_role("button", name="It should have said").click()
    page.get_by_role("dialog").get_by_role("textbox").fill("Good night!")
    page.get_by_role("button", name="Save").click()
    expect(page.locator("article.theirs").last).to_contain_text("Good night!")

    judgements = read(page, file, 3)
    assert [(each.chosen, each.rejected, each.kind, each.model) for each in judgements] == [
        ("Good morning!", "Go away", "edit", "chitchat"),
        ("Good evening!", None, "thumb", ""),
        ("Good night!", None, "thumb", ""),
    ]
    assert [bool(each.fingerprint) for each in judgements] == [True, False, False]
    assert all(each.context.turns == ("Hello",) for each in judgements)


def test_what_was_imported_has_no_model(page: Page, file: Path, saying: Callable[..., Any]) -> None:
    with saying("Go away"):
        talk(page, "Hello")
    with page.expect_download() as download:
        page.get_by_role("button", name="Export all").click()
    line = Path(download.value.path()).read_bytes()
    page.evaluate("localStorage.clear(); sessionStorage.clear()")
    page.reload()
    page.locator("#file").set_input_files({"name": "c.jsonl", "mimeType": "application/jsonl", "buffer": line})
    expect(page.locator("article.theirs")).to_contain_text("Go away")
    page.get_by_role("button", name="Bad response").click()

    [judgement] = read(page, file, 1)
    assert (judgement.rejected, judgement.model, judgement.fingerprint) == ("Go away", "", "")


def test_a_version_that_is_not_served_any_more_has_no_fingerprint(
    page: Page, file: Path, saying: Callable[..., Any]
) -> None:
    def other(route: Route) -> None:
        found = route.fetch().json()
        for each in found["data"]:
            each["convmodel"]["version"] = "chitchat-1"
        route.fulfill(json=found)

    page.route("**/v1/models", other)
    page.reload()
    with saying("Go away"):
        talk(page, "Hello")
    page.get_by_role("button", name="Bad response").click()

    [judgement] = read(page, file, 1)
    assert (judgement.model, judgement.fingerprint) == ("chitchat", "")


def test_judgements_are_saved_in_the_order_in_which_they_were_made(
    page: Page, file: Path, saying: Callable[..., Any]
) -> None:
    with saying("Go away"):
        talk(page, "Hello")
    sent: list[Route] = []

    def hold_first(route: Route) -> None:
        sent.append(route)
        if len(sent) > 1:
            route.continue_()

    page.route("**/feedback", hold_first)
    for text in ("Good morning!", "Good evening!"):
        edit(page, text)
        expect(page.locator("article.theirs").last).to_contain_text(text)
    wait_for(page, lambda: sent)
    page.evaluate("new Promise((resolve) => setTimeout(resolve))")  # whatever else would have been sent is
    [first] = sent
    first.continue_()

    assert [judgement.chosen for judgement in read(page, file, 2)] == ["Good morning!", "Good evening!"]
