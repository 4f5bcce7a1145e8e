"""A browser, and a page of a real server whose model says what the test wants."""

import shutil
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from page_acts import PATIENCE, model_says, slow_down
from scripted import Script, drawing_once
from serving import Serving, serving

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


@pytest.fixture(scope="module")
def browser() -> "Iterator[Browser]":
    """Ended with each module: its loop runs as long as it does, and other tests have loops of their own."""
    if CHROMIUM is None:
        pytest.skip("there is no chromium here")
    from playwright.sync_api import expect, sync_playwright

    expect.set_options(timeout=PATIENCE)
    with sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield started
        started.close()


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the server keeps feedback and votes."""
    return tmp_path_factory.mktemp("page")


@pytest.fixture(scope="module")
def server(browser: "Browser", place: Path) -> Iterator[Serving]:
    """A server with the built-in model under two names; asks for the browser first, which may be missing."""
    from convmodel import ConversationModel

    model = drawing_once(ConversationModel.from_pretrained("builtin:chitchat"))
    files = {"feedback": place / "feedback.jsonl", "votes": place / "votes.jsonl"}
    with serving({"chitchat": model, "other": model}, **files) as served:
        yield served


@pytest.fixture
def page(browser: "Browser", server: Serving) -> "Iterator[Page]":
    """The page in a browser without a past; the test fails if a script of it does."""
    context = browser.new_context(viewport={"width": 1200, "height": 800})
    opened, errors = context.new_page(), []
    opened.set_default_timeout(PATIENCE)
    slow_down(opened)
    opened.on("pageerror", lambda error: errors.append(str(error)))
    opened.goto(server.url)
    opened.get_by_role("heading", name="Chat with chitchat").wait_for()
    yield opened
    context.close()
    assert not errors


@pytest.fixture
def saying(server: Serving) -> Callable[..., AbstractContextManager[Any]]:
    """Lets the model say some texts, one after the other; the block ends once it has."""

    def say(*replies: str, name: str = "chitchat", seconds: float = 0.0) -> AbstractContextManager[Script]:
        return model_says(server, name, *replies, seconds=seconds)

    return say
