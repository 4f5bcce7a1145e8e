"""What people do on the page, in the words of tests."""

import json
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from playwright.sync_api import Browser, Page, Route, expect
from scripted import Script, scripted
from serving import Serving, wait_until

from convmodel import ConversationModel

PATIENCE = 30_000
"""Milliseconds that a test waits for what must happen; much longer than it takes, since other tests run beside it."""
SLOWDOWN = float(os.environ.get("SLOWDOWN", "1"))
"""How many times slower the page's scripts run, to find tests that depend on timing: `SLOWDOWN=10 pytest tests/e2e`."""
STEP_SECONDS = float(os.environ.get("STEP_SECONDS", "0"))
"""How long a step of the model takes at least, to find tests that depend on its speed: `STEP_SECONDS=0.3 pytest`."""


def slow_down(page: Page) -> None:
    """Makes the scripts of a page as slow as `SLOWDOWN` says."""
    if SLOWDOWN > 1:
        page.context.new_cdp_session(page).send("Emulation.setCPUThrottlingRate", {"rate": SLOWDOWN})


@contextmanager
def opened(browser: Browser, url: str, *, patience: int = PATIENCE) -> Iterator[Page]:
    """Opens a server's page in a window of its own; its scripts must not fail inside the block."""
    context = browser.new_context(viewport={"width": 1200, "height": 900})
    page, errors = context.new_page(), []
    page.set_default_timeout(patience)
    slow_down(page)
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.goto(url)
    yield page
    context.close()
    assert not errors


def saved_chitchat(place: Path) -> Path:
    """The built-in model in a folder, which a model that was trained may be."""
    folder = place / "saved"
    if not folder.exists():
        ConversationModel.from_pretrained("builtin:chitchat").save_pretrained(folder)
    return folder


@contextmanager
def model_says(server: Serving, name: str, *replies: str, seconds: float = 0.0) -> Iterator[Script]:
    """Lets a model say some texts, one after the other; the block ends once it has.

    A text is complete on the page before the token that ends it is drawn: then the model itself would go on. And what
    was requested before, and left by the page, would take the first text.
    """
    wait_until(lambda: server.is_idle(name))
    server.engine(name).caches.clear()
    with scripted(server.model(name), *replies, seconds=max(seconds, STEP_SECONDS)) as script:
        yield script
        wait_until(lambda: server.is_idle(name))


def say(page: Page, text: str) -> None:
    """Says something, and does not wait for the response; the one before must be complete, not only its text."""
    page.get_by_label("Your turn", exact=True).fill(text)
    page.get_by_role("button", name="Send", exact=True).wait_for()
    page.keyboard.press("Enter")


def talk(page: Page, text: str) -> None:
    """Says something, and waits for the end of the response."""
    before = page.locator("article").count()
    say(page, text)
    page.wait_for_function(
        "before => document.querySelectorAll('article').length >= before + 2"
        " && !document.querySelector('#send').hidden",
        arg=before,
    )


def distinguish_names(page: Page) -> None:
    """Opens the page again, told by the server that its models distinguish speakers by name."""

    def answer(route: Route) -> None:
        response = route.fetch()
        models = response.json()
        for model in models["data"]:
            model["convmodel"]["names"] = True
        route.fulfill(response=response, json=models)

    page.route("**/v1/models", answer)
    page.reload()


def compare(page: Page) -> None:
    """Begins to compare the two models of the server."""
    page.get_by_role("button", name="Compare").click()
    page.get_by_role("dialog").get_by_role("button", name="Start").click()


def shown(page: Page) -> list[str]:
    """The turns that are shown at this moment, which may be in the middle of a change."""
    return page.locator("#talk article .text").all_text_contents()


def expect_turns(page: Page, texts: Sequence[str]) -> None:
    """Waits until these turns are shown, and no others."""
    turns = page.locator("#talk article .text")
    expect(turns).to_have_count(len(texts))
    expect(turns).to_have_text([*texts])


def stored(page: Page) -> list[dict[str, Any]]:
    """The conversations in the browser's storage."""
    items: dict[str, str] = page.evaluate("({ ...localStorage })")
    return [json.loads(text) for key, text in items.items() if key.startswith("convmodel.talk.")]


def wait_for(page: Page, is_so: Callable[[], Any]) -> None:
    """Waits for something outside of the page, which goes on meanwhile; not for ever: the test then says what lacks."""
    for _ in range(PATIENCE // 50):
        if is_so():
            return
        page.wait_for_timeout(50)
