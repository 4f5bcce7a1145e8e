"""The view "Improve" of a server that may train, for tests of it."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from fake_improve import command
from page_acts import opened, saved_chitchat
from playwright.sync_api import Browser, Locator, Page, expect
from scripted import drawing_once
from serving import Serving, serving

from convmodel import ConversationModel
from convmodel.server.serving.improvement import Improver


class Loop:
    """A server that may train, and its page, which may be left and opened again."""

    def __init__(self, place: Path, browser: Browser) -> None:
        self.browser = browser
        self.votes = place / "votes.jsonl"
        self.feedback = place / "feedback.jsonl"
        self._place = place
        self.write(10, 10)

    def write(self, good: int, bad: int) -> None:
        """Writes so many judgements."""
        line = {"context": [{"role": "user", "content": "Hello"}], "responder": "assistant", "kind": "thumb"}
        lines = [line | {"chosen": f"Good {n}"} for n in range(good)] + [
            line | {"rejected": f"Bad {n}"} for n in range(bad)
        ]
        self.feedback.write_text("".join(json.dumps(each) + "\n" for each in lines))

    @contextmanager
    def page(self, *, wait: bool = True, **options: Any) -> Iterator[tuple[Page, Serving]]:
        """Starts a server whose command takes such options, and opens its page with the view."""

        def load(source: str) -> ConversationModel:
            return drawing_once(ConversationModel.from_pretrained(source, device="cpu"))

        sources, judged = {"chitchat": "builtin:chitchat"}, [self.feedback, self.votes]
        options = {"give": saved_chitchat(self._place)} | options
        improver = Improver(self._place / "better", sources, load, judged, command(**options))
        models = {"chitchat": load(improver.source("chitchat"))}
        with (
            serving(models, improver=improver, feedback=self.feedback, votes=self.votes) as served,
            opened(self.browser, served.url) as page,
        ):
            page.get_by_role("button", name="Improve", exact=True).click()
            if wait:
                expect(dialog(page).get_by_role("heading", name="Judgements")).to_be_visible()
            yield page, served


def dialog(page: Page) -> Locator:
    return page.get_by_role("dialog", name="Improve")


def train(page: Page) -> None:
    dialog(page).get_by_role("button", name="Start improving").click()
    expect(dialog(page).get_by_role("button", name="Show two responses")).to_be_visible()
