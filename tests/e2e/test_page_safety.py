"""Nothing that anybody types, imports or generates becomes part of the page; what goes wrong is told in words."""

import json
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from page_acts import expect_turns, talk
from playwright.sync_api import Browser, Page, Route, expect
from serving import Serving, serving, wait_until

from convmodel import ConversationModel
from convmodel.server.api import web_page as page_module

pytestmark = [pytest.mark.loopback, pytest.mark.slow]

EVIL = '<img src=x onerror="window.evil=1"><script>window.evil=1</script>"\'><svg onload=window.evil=1>'
STATIC = Path(page_module.__file__).parents[1] / "static"


def test_texts_are_text_everywhere(page: Page, saying: Callable[..., Any], tmp_path: Path) -> None:
    page.get_by_role("button", name="Settings").click()
    for name in ("My name", "Model's name"):
        page.get_by_label(name).fill(EVIL[:60])
    page.get_by_label("Seed").fill("1")
    page.get_by_label("Key").fill(EVIL)
    page.get_by_label("Key").fill("")
    page.get_by_role("button", name="Done").click()
    with saying(EVIL, EVIL):
        talk(page, EVIL)
        page.locator("article.mine").get_by_role("button", name="Edit").click()
        page.get_by_role("textbox", name="Edit the turn").fill(EVIL + "!")
        page.get_by_role("button", name="Send as a branch").click()
        expect(page.locator("article.theirs .tools button").first).to_be_visible()
    expect_turns(page, [EVIL + "!", EVIL])
    page.get_by_label(re.compile("More of")).click()
    page.get_by_role("button", name="Rename").click()
    page.get_by_role("textbox", name="Rename this conversation").fill(EVIL)
    page.keyboard.press("Enter")
    expect(page.locator("#title")).to_have_text(EVIL)
    page.get_by_label("Search conversations").fill(EVIL)
    file = tmp_path / f"{EVIL[:5]}.jsonl".replace("/", "")
    file.write_text(json.dumps({"messages": [{"role": EVIL[:60], "content": EVIL}]}) + f"\n{EVIL}\n")
    page.get_by_label("A JSONL file of conversations").set_input_files(file)
    expect(page.locator("#notice")).to_contain_text("1 skipped")
    page.get_by_role("button", name="Inspect").click()
    expect(page.locator("#inspector .token").first).to_be_visible()
    page.route("**/tokenize", lambda route: route.fulfill(status=400, json={"error": {"message": EVIL}}))
    page.get_by_role("button", name="Inspect").click()
    page.get_by_role("button", name="Inspect").click()
    expect(page.locator("#inspector")).to_contain_text(EVIL)

    assert page.evaluate("window.evil") is None
    assert page.locator("#side img, main img, #inspector img, body script, svg").count() == 0


def test_names_from_the_server_are_text(page: Page) -> None:
    facts = {"positions": 512, "system": True, "feedback": True, "max_new_tokens": 9, "defaults": {}}
    models = {"data": [{"id": EVIL, "convmodel": facts}, {"id": "b", "convmodel": facts}]}
    page.route("**/v1/models", lambda route: route.fulfill(json=models))
    page.evaluate("localStorage.clear()")
    page.reload()
    expect(page.get_by_role("heading", name="Chat with")).to_contain_text(EVIL)
    page.get_by_role("button", name="Settings").click()
    page.get_by_label("System message").fill(EVIL)
    page.get_by_role("button", name="Done").click()
    page.get_by_role("button", name="Compare").click()
    expect(page.get_by_role("dialog")).to_be_visible()
    assert page.evaluate("window.evil") is None


def test_the_policy_lets_nothing_in(page: Page, server: Serving) -> None:
    for path in ("/", "/static/main.js", "/static/style.css"):
        headers = server.get(path).headers
        assert "default-src 'none'" in headers["content-security-policy"]
        assert "unsafe" not in headers["content-security-policy"]
        assert headers["x-content-type-options"] == "nosniff"
    page.evaluate("""() => {
        const script = document.createElement("script");
        script.textContent = "window.evil = 1";
        document.body.append(script);
        document.body.insertAdjacentHTML("beforeend", "<img src=x onerror='window.evil=1'>");
    }""")
    assert page.evaluate("window.evil") is None
    assert server.get("/static/../app.py").status == 404
    assert server.get("/static/%2e%2e%2fapp.py").status == 404


def test_what_is_loaded_at_first_is_small(page: Page) -> None:
    sizes: dict[str, int] = {}
    page.on("requestfinished", lambda request: sizes.update({request.url: request.sizes()["responseBodySize"]}))
    page.reload()
    page.get_by_role("heading", name="Chat with chitchat").wait_for()
    page.wait_for_load_state("networkidle")
    loaded = {Path(url).name: size for url, size in sizes.items() if "/static/" in url}
    assert {"main.js", "view.js", "style.css"} <= loaded.keys()
    assert not {"train.js", "improve.js", "curve.js"} & loaded.keys()
    assert sum(loaded.values()) < 105_000


def test_the_sources_are_small_and_make_no_html() -> None:
    files = [*STATIC.iterdir()]
    assert sum(len(each.read_bytes()) for each in files) < 161_000
    for each in files:
        text = each.read_text(encoding="utf-8")
        assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\(|new Function", text)
        assert not re.search(r"https?://(?!www\.w3\.org/2000/svg)", text)
        assert each.suffix != ".html" or not re.search(r"<style|\sstyle=|\son\w+=|<script(?![^>]*\ssrc=)", text)


def test_a_key_is_asked_for_and_used(browser: Browser) -> None:
    model = ConversationModel.from_pretrained("builtin:chitchat")
    with serving({"chitchat": model}, api_keys=("secret",)) as server:
        page = browser.new_page()
        page.goto(server.url)
        expect(page.locator("#notice")).to_contain_text("needs a key")
        page.get_by_role("button", name="Open settings").click()
        page.get_by_label("Key").fill("secret")
        page.get_by_role("button", name="Done").click()
        expect(page.get_by_role("heading", name="Chat with chitchat")).to_be_visible()
        talk(page, "Hello")
        assert page.evaluate("JSON.stringify(localStorage)").count("secret") == 0
        page.close()


def fails_once(page: Page, **answer: Any) -> None:
    """Lets the first request for a response go wrong."""
    left = [1]

    def once(route: Route) -> None:
        if left:
            left.clear()
            route.fulfill(**answer) if answer else route.abort()
        else:
            route.continue_()

    page.route("**/v1/chat/completions", once)


def test_a_busy_server_is_asked_again(page: Page, saying: Callable[..., Any]) -> None:
    fails_once(page, status=429, headers={"Retry-After": "1"}, json={"error": {"message": "64 requests wait"}})
    with saying("Here I am"):
        page.get_by_label("Your turn", exact=True).fill("Hello")
        page.keyboard.press("Enter")
        expect(page.locator("#notice")).to_contain_text("The server is busy at the moment. Retrying in")
        expect(page.locator("article.theirs .text")).to_have_text("Here I am")
    expect(page.locator("#notice")).to_be_empty()


def test_a_countdown_is_read_out_once(page: Page) -> None:
    fails_once(page, status=429, headers={"Retry-After": "30"}, json={"error": {"message": "64 requests wait"}})
    page.get_by_label("Your turn", exact=True).fill("Hello")
    page.keyboard.press("Enter")
    expect(page.locator("#notice")).to_contain_text("Retrying in 30 s.")
    heard = page.locator("#notice").aria_snapshot()
    expect(page.locator("#notice")).to_contain_text("Retrying in 28 s.")
    assert "Retrying in 30 s." in heard
    assert page.locator("#notice").aria_snapshot() == heard


def test_a_countdown_waits_for_an_edit(page: Page, saying: Callable[..., Any]) -> None:
    fails_once(page, status=429, headers={"Retry-After": "2"}, json={"error": {"message": "64 requests wait"}})
    with saying("Here I am"):
        page.get_by_label("Your turn", exact=True).fill("Hello")
        page.keyboard.press("Enter")
        page.locator("article.mine").get_by_role("button", name="Edit").click()
        page.get_by_label("Edit the turn").fill("Good morning")
        page.wait_for_timeout(3500)
        expect(page.get_by_label("Edit the turn")).to_have_value("Good morning")
        page.get_by_role("button", name="Send as a branch").click()
        expect(page.locator("article.theirs .text")).to_have_text("Here I am")
    expect_turns(page, ["Good morning", "Here I am"])


def test_a_server_that_is_away_loses_nothing(page: Page, saying: Callable[..., Any]) -> None:
    fails_once(page)
    with saying("Back again"):
        page.get_by_label("Your turn", exact=True).fill("Are you there?")
        page.keyboard.press("Enter")
        expect(page.locator("#notice")).to_contain_text("Your text is kept.")
        expect_turns(page, ["Are you there?"])
        page.get_by_role("button", name="Try again").click()
        expect(page.locator("article.theirs .text")).to_have_text("Back again")
    expect_turns(page, ["Are you there?", "Back again"])


def test_a_stream_that_breaks_keeps_what_came(page: Page, saying: Callable[..., Any]) -> None:
    chunk = {"choices": [{"index": 0, "delta": {"content": "Half a resp"}, "finish_reason": None}]}
    body = f": ping\n\ndata: {json.dumps(chunk)}\n\n"
    fails_once(page, status=200, content_type="text/event-stream", body=body)
    with saying("A whole response"):
        page.get_by_label("Your turn", exact=True).fill("Hello")
        page.keyboard.press("Enter")
        expect(page.locator("#notice")).to_contain_text("connection was lost")
        expect(page.locator("article.theirs")).to_contain_text("incomplete")
        expect_turns(page, ["Hello", "Half a resp"])
        page.locator("#notice").get_by_role("button", name="Regenerate").click()
        expect(page.locator("article.theirs .text")).to_have_text("A whole response")
    expect(page.get_by_text("2 / 2")).to_be_visible()


def test_what_is_too_long_is_told(page: Page) -> None:
    page.get_by_label("Your turn", exact=True).fill("word " * 600)
    page.keyboard.press("Enter")
    expect(page.locator("#notice")).to_contain_text("too long for the model")
    expect(page.get_by_role("button", name="Get a response")).to_be_visible()


def test_leaving_the_page_ends_the_work(page: Page, server: Serving, saying: Callable[..., Any]) -> None:
    with saying("word " * 100, seconds=0.2):
        page.get_by_label("Your turn", exact=True).fill("Hello")
        page.keyboard.press("Enter")
        expect(page.locator("article.theirs .text")).to_contain_text("word")
        page.goto("about:blank")
        assert wait_until(lambda: server.is_idle("chitchat")) < 10  # the whole takes 20 seconds


@pytest.mark.skipif("AXE_CORE" not in os.environ, reason="AXE_CORE must name axe.min.js of the npm package axe-core")
@pytest.mark.parametrize("colours", ["light", "dark"])
@pytest.mark.parametrize("width", [1200, 390])
def test_axe_finds_nothing(page: Page, saying: Callable[..., Any], colours: str, width: int) -> None:
    axe = Path(os.environ["AXE_CORE"]).read_text(encoding="utf-8")
    page.emulate_media(color_scheme=colours)  # type: ignore[arg-type]
    page.set_viewport_size({"width": width, "height": 800})

    def look(where: str) -> None:
        page.evaluate(axe)
        found = page.evaluate("axe.run().then(found => found.violations)")
        assert not found, f"{where}: {json.dumps(found, indent=1)[:3000]}"

    look("empty")
    with saying("Hi", "Hey", "Hello"):
        talk(page, "Hello")
        page.get_by_role("button", name="Regenerate").click()
        expect(page.get_by_text("2 / 2")).to_be_visible()
    look("branches")
    page.get_by_role("button", name="Inspect").click()
    page.locator(".token").first.wait_for()
    look("inspector")
    page.locator("#inspector").get_by_role("button", name="Close").click()
    page.get_by_role("button", name="Settings").click()
    look("settings")
    page.keyboard.press("Escape")
    page.get_by_role("button", name="Compare").click()
    look("compare")
    page.get_by_role("dialog").get_by_role("button", name="Start").click()
    with saying("A"), saying("B", name="other"):
        page.get_by_label("Your turn", exact=True).fill("Which?")
        page.keyboard.press("Enter")
        page.get_by_role("button", name="Neither").wait_for()
    look("votes")
    page.get_by_role("button", name="Neither").click()
    page.get_by_role("button", name="Stop comparing").wait_for()
    look("notice")
