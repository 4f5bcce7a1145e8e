"""What is stored, and when: reloads at any moment, several tabs, a storage that is full or not allowed."""

import json
import re
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from page_acts import compare, expect_turns, say, shown, stored, talk
from playwright.sync_api import Browser, Page, expect
from serving import Serving, program, wait_until

pytestmark = [pytest.mark.loopback, pytest.mark.slow]

SLOW = "one two three four five six seven eight nine ten " * 8


def test_a_reload_before_the_first_token_keeps_the_turn(
    page: Page, server: Serving, saying: Callable[..., Any]
) -> None:
    with saying("Late", "Here I am", "And more", seconds=1.0):
        say(page, "Hello")
        expect(page.get_by_role("button", name="Stop")).to_be_visible()
        page.reload()
        expect_turns(page, ["Hello"])
        wait_until(lambda: server.is_idle("chitchat"))
    with saying("Here I am", "And more"):
        page.get_by_role("button", name="Get a response").click()
        expect(page.locator("article.theirs .text")).to_have_text("Here I am")
        talk(page, "Well?")
    expect_turns(page, ["Hello", "Here I am", "Well?", "And more"])


@pytest.mark.parametrize("event", ["reload", "crash", "close"])
def test_a_reload_during_a_response_keeps_what_came(
    page: Page, server: Serving, saying: Callable[..., Any], event: str
) -> None:
    with saying(SLOW, seconds=0.25):
        say(page, "Count")
        expect(page.locator("article.theirs .text")).to_contain_text("two")
        if event == "crash":  # of the browser, without a chance to store anything more
            page.evaluate("window.addEventListener('pagehide', (event) => event.stopImmediatePropagation(), true)")
            wait_until(lambda: "one two" in json.dumps(stored(page)))
        if event == "close":
            context = page.context
            page.close()
            page = context.new_page()
            page.goto(server.url)
        else:
            page.reload()
        wait_until(lambda: server.is_idle("chitchat"))
    expect(page.locator("article.theirs")).to_contain_text("incomplete")
    first, half = shown(page)
    assert first == "Count"
    assert SLOW.startswith(half)
    assert half.startswith("one two")
    with saying("Fine", "All of it"):
        talk(page, "Continue")
        expect_turns(page, ["Count", half, "Continue", "Fine"])
        page.get_by_role("button", name="Regenerate").first.click()
        expect(page.locator("article.theirs .text")).to_have_text("All of it")
    page.reload()
    expect_turns(page, ["Count", "All of it"])
    expect(page.get_by_text("2 / 2")).to_be_visible()


def test_a_reload_after_a_stop_and_while_regenerating(page: Page, server: Serving, saying: Callable[..., Any]) -> None:
    with saying(SLOW, SLOW, seconds=0.25):
        say(page, "Count")
        expect(page.locator("article.theirs .text")).to_contain_text("two")
        page.keyboard.press("Escape")
        expect(page.locator("article.theirs")).to_contain_text("stopped")
        page.reload()
        expect(page.locator("article.theirs")).to_contain_text("stopped")
        wait_until(lambda: server.is_idle("chitchat"))
        page.get_by_role("button", name="Regenerate").click()
        expect(page.locator("article.theirs")).not_to_contain_text("stopped")  # the first response, with "two", too
        expect(page.locator("article.theirs .text")).to_contain_text("two")
        page.reload()
        wait_until(lambda: server.is_idle("chitchat"))
    expect(page.get_by_text("2 / 2")).to_be_visible()
    expect(page.locator("article.theirs")).to_contain_text("incomplete")


def test_a_reload_while_comparing_keeps_both_responses(page: Page, server: Serving, saying: Callable[..., Any]) -> None:
    compare(page)
    with saying("From chitchat"), saying("From other", name="other"):
        say(page, "Who are you?")
        page.get_by_role("button", name="Neither").wait_for()
        page.reload()
    expect(page.get_by_text("/ 2")).to_be_visible()
    texts = []
    for name in ("Previous branch", "Next branch"):
        if page.get_by_role("button", name=name).is_enabled():
            texts.append(shown(page)[1])
            page.get_by_role("button", name=name).click()
            expect(page.get_by_role("button", name=name)).to_be_disabled()
            texts.append(shown(page)[1])
            break
    assert sorted(texts) == ["From chitchat", "From other"]
    with saying("Fine"):
        talk(page, "Well")


def test_a_conversation_that_an_earlier_version_broke_is_mended(page: Page, saying: Callable[..., Any]) -> None:
    turns = {
        "a": {"id": "a", "parent": None, "next": ["b"], "at": 0, "role": "user", "speaker": "user", "text": "Hello"},
        "b": {"id": "b", "parent": "a", "next": ["c"], "at": 0, "role": "assistant", "speaker": "assistant", "text": "",
              "streaming": True},
        "c": {"id": "c", "parent": "b", "next": [], "at": 0, "role": "user", "speaker": "user", "text": "Hello?"},
    }  # fmt: skip
    old = {
        "id": "old",
        "title": "Hello",
        "created": 1,
        "updated": 1,
        "system": "",
        "top": ["a"],
        "at": 0,
        "turns": turns,
    }
    entries = {"old": json.dumps(old), "bad": "null", "worse": '{"id": "worse", "turns": {}}', "half": '{"id": "ha'}
    for name, text in entries.items():
        page.evaluate("([name, text]) => localStorage.setItem('convmodel.talk.' + name, text)", [name, text])
    page.reload()
    expect(page.locator("#notice")).to_contain_text("3 stored conversations are damaged and not shown.")
    page.locator("#list .name").click()
    expect_turns(page, ["Hello", "Hello?"])
    with saying("Here"):
        page.get_by_role("button", name="Get a response").click()
        expect(page.locator("article.theirs .text")).to_have_text("Here")


def test_a_reload_shows_the_same_conversation_at_its_end(page: Page, saying: Callable[..., Any]) -> None:
    with saying("Hi", "Hey"):
        talk(page, "First\n" + "A line\n" * 40)
        page.get_by_role("button", name="New conversation").click()
        talk(page, "Second")
    page.locator("#list .name", has_text="First").click()
    page.reload()
    assert len(shown(page)[0]) > 100
    page.get_by_role("heading", name="First").wait_for()
    expect(page.get_by_role("button", name="Good response")).to_be_visible()  # what the server's facts add
    assert page.evaluate("talk.scrollHeight - talk.scrollTop - talk.clientHeight") < 2
    page.get_by_role("button", name="New conversation").click()
    page.reload()
    expect_turns(page, [])


def test_tabs_of_one_conversation_lose_no_turn(page: Page, server: Serving, saying: Callable[..., Any]) -> None:
    with saying("Hi"):
        talk(page, "Hello")
    tabs = [page, page.context.new_page(), page.context.new_page()]
    for each in tabs[1:]:
        each.goto(server.url)
        expect(each.locator("article")).to_have_count(2)
    with saying(*[SLOW[:49]] * 3, seconds=0.05):
        for number, each in enumerate(tabs):
            say(each, f"From tab {number}")
        for each in tabs:
            expect(each.get_by_role("button", name="Send")).to_be_visible(timeout=30_000)
    page.reload()
    [kept] = stored(page)
    texts = sorted(turn["text"] for turn in kept["turns"].values())
    assert texts == sorted(["Hello", "Hi", *[f"From tab {number}" for number in range(3)], *[SLOW[:49]] * 3])
    assert not any(turn.get("partial") for turn in kept["turns"].values())


def test_a_tab_streams_while_another_edits_and_renames(page: Page, server: Serving, saying: Callable[..., Any]) -> None:
    with saying("Hi"):
        talk(page, "Hello")
    other = page.context.new_page()
    other.goto(server.url)
    other.locator("article.theirs").get_by_role("button", name="Edit").click()
    other.get_by_label("Edit the turn").fill("Half a correct")
    with saying(SLOW, seconds=0.02):
        say(page, "Count")
        expect(other.locator("article.theirs .text").last).to_contain_text("one two")  # while it streams
        expect(other.get_by_label("Edit the turn")).to_have_value("Half a correct")
        other.get_by_label("Edit the turn").fill("Half a correction")
        other.get_by_role("button", name="Keep as a branch").click()
        other.get_by_label("More of Hello").click()
        other.get_by_role("button", name="Rename").click()
        other.get_by_role("textbox", name="Rename this conversation").fill("Greetings")
        other.keyboard.press("Enter")
        expect(page.locator("#title")).to_have_text("Greetings")
        expect(page.get_by_role("button", name="Send")).to_be_visible(timeout=30_000)
    expect_turns(page, ["Hello", "Hi", "Count", SLOW])
    expect(page.locator("article.theirs").first).to_contain_text("1 / 2")
    expect_turns(other, ["Hello", "Half a correction"])
    other.get_by_role("button", name="Previous branch").click()
    expect(other.locator("article.theirs .text").last).to_have_text(SLOW.strip())
    expect(other.locator("article.theirs").last).not_to_contain_text("incomplete")
    [kept] = stored(page)
    assert kept["title"] == "Greetings"
    assert len(kept["turns"]) == 5


def test_a_conversation_deleted_in_another_tab_stays_deleted(
    page: Page, server: Serving, saying: Callable[..., Any]
) -> None:
    with saying("Hi"):
        talk(page, "Hello")
    other = page.context.new_page()
    other.goto(server.url)
    with saying(SLOW, seconds=0.25):
        say(page, "Count")
        expect(page.locator("article.theirs .text").last).to_contain_text("two")
        other.get_by_label("More of Hello").click()
        other.locator("#list details[open]").get_by_role("button", name="Delete").click()
        page.get_by_label("Your turn", exact=True).fill("And my next")
        other.locator("#ask-dialog").get_by_role("button", name="Delete").click()
        expect(page.locator("#notice")).to_contain_text("deleted in another tab")
        assert wait_until(lambda: server.is_idle("chitchat")) < 10  # the whole takes 20 seconds
    for each in (page, other):
        expect(each.locator("#list .name")).to_have_count(0)
        expect_turns(each, [])
    expect(page.get_by_label("Your turn", exact=True)).to_have_value("And my next")
    page.wait_for_timeout(1200)
    assert stored(page) == []


def test_a_full_storage_is_reported_and_loses_nothing_that_was_stored(page: Page, saying: Callable[..., Any]) -> None:
    with saying("Hi", "Still here", "Again"):
        talk(page, "Hello")
        page.evaluate("""() => {
            let text = "x".repeat(1 << 20);
            for (let number = 0; text; number += 1) {
                try { localStorage.setItem(`other.${number}`, text); } catch { text = text.slice(text.length / 2 + 1); }
            }
        }""")
        talk(page, "Are you there?")
        expect(page.locator("#notice")).to_contain_text("storage is full")
        expect_turns(page, ["Hello", "Hi", "Are you there?", "Still here"])
        page.evaluate(
            "Object.keys(localStorage).forEach(key => key.startsWith('other.') && localStorage.removeItem(key))"
        )
        talk(page, "And now?")
    page.reload()
    expect_turns(page, ["Hello", "Hi", "Are you there?", "Still here", "And now?", "Again"])


def test_the_page_works_without_a_storage(page: Page, saying: Callable[..., Any]) -> None:
    page.add_init_script("""for (const name of ["localStorage", "sessionStorage"]) {
        Object.defineProperty(window, name, { get() { throw new DOMException("denied", "SecurityError"); } });
    }""")
    page.reload()
    expect(page.locator("#notice")).to_contain_text("The browser stores nothing for this page")
    with saying("Hi"):
        talk(page, "Hello")
    expect_turns(page, ["Hello", "Hi"])
    page.get_by_role("button", name="New conversation").click()
    page.locator("#list .name").click()
    expect_turns(page, ["Hello", "Hi"])


def test_a_draft_survives_changes_of_other_tabs(page: Page, server: Serving, saying: Callable[..., Any]) -> None:
    other = page.context.new_page()
    other.goto(server.url)
    page.get_by_label("Your turn", exact=True).fill("I am typ")
    with saying("Hi"):
        talk(other, "Hello")
    expect(page.locator("#list .name")).to_have_text(["Hello"])
    expect(page.get_by_label("Your turn", exact=True)).to_be_focused()
    page.keyboard.type("ing")
    expect(page.get_by_label("Your turn", exact=True)).to_have_value("I am typing")


@pytest.mark.long
def test_a_server_that_is_killed_and_restarted_loses_nothing(browser: Browser, tmp_path: Path) -> None:
    page = browser.new_context().new_page()
    with program(tmp_path, "builtin:chitchat") as first:
        wait_until(first.ready, 120)
        page.goto(first.url)
        page.get_by_label("Your turn", exact=True).fill("Hello")
        page.keyboard.press("Enter")
        expect(page.locator("article.theirs .tools")).to_be_visible(timeout=30_000)
        say(page, "Tell me about a film, please")
        first.end(signal.SIGKILL)
        expect(page.locator("#notice")).to_contain_text(re.compile("connection was lost|does not answer"))
        count = len(shown(page))
        say(page, "Are you there?")
        expect(page.locator("#notice")).to_contain_text("does not answer")
    with program(tmp_path, "renamed=builtin:chitchat", "--port", str(first.port)):
        wait_until(first.ready, 120)
        page.reload()
        assert "Are you there?" in shown(page)
        assert len(shown(page)) >= count
        page.get_by_role("button", name="Get a response").click()
        expect(page.locator("article.theirs .tools").last).to_be_visible(timeout=30_000)
        expect(page.locator("article h2").last).to_have_text("renamed")
    page.context.close()


def test_a_draft_survives_a_reload_and_an_edit_is_stored_at_once(page: Page, saying: Callable[..., Any]) -> None:
    with saying("Hi"):
        talk(page, "Hello")
    page.get_by_label("Your turn", exact=True).fill("Half a thou")
    page.route("**/v1/chat/completions", lambda route: route.abort())
    page.locator("article.mine").get_by_role("button", name="Edit").click()
    page.get_by_label("Edit the turn").fill("Good evening")
    page.get_by_role("button", name="Send as a branch").click()
    expect(page.locator("#notice")).to_contain_text("Your text is kept.")
    assert "Good evening" in json.dumps(stored(page))
    page.reload()
    expect(page.get_by_label("Your turn", exact=True)).to_have_value("Half a thou")
    expect_turns(page, ["Good evening"])
