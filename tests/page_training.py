"""What tests of the view "Train" share: a server that trains, exports to drop, and pages with the view."""

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from fake_convmodel import command
from page_acts import opened, saved_chitchat
from playwright.sync_api import Browser, Locator, Page, expect
from scripted import drawing_once
from serving import Serving, serving

from convmodel import ConversationModel
from convmodel.server.fine_tuning.service import FineTuning
from convmodel.server.settings import TrainingLimits

PATIENCE = 60_000
"""Milliseconds that these tests wait for what must happen: there are processes to start, and other tests run too."""

SUBJECTS = ("the garden", "your brother", "the old car", "that film", "the new job", "the weather", "Berlin", "the cat")


def export(number: int = 48) -> str:
    """An export of WhatsApp: two people, and one conversation per day."""
    days = [(day, month) for month in (1, 2, 3) for day in range(1, 28)]
    talks = [
        f"{day:02}/{month:02}/2026, 18:0{minute} - {who}: {text}"
        for count, (day, month) in enumerate(days[:number])
        for minute, who, text in (
            (1, "Ann", f"Did you hear about {SUBJECTS[count % 8]} on day {day} of {month}?"),
            (3, "Bob", f"I heard it {count} times, and {SUBJECTS[count % 7]} too."),
        )
    ]
    return "\n".join(talks)


def rows(number: int = 40) -> str:
    """Lines of JSON, the last of which cannot be read."""
    turns = [[f"How was the day with number {n}?", f"It was fine, number {n}."] for n in range(number)]
    lines = [{"turns": talk, "speakers": ["Ann", "Bob"]} for talk in turns]
    return "\n".join(map(json.dumps, [*lines, {"turns": 3}]))


class Training:
    """A server that may train, and its page, which may be left and opened again."""

    def __init__(self, place: Path, browser: Browser) -> None:
        self.browser = browser
        self.place = place
        self.export = place / "WhatsApp Chat with Bob.txt"
        self.export.write_text(export(), encoding="utf-8")

    @contextmanager
    def page(
        self, *, limits: TrainingLimits | None = None, real: list[str] | None = None, **options: Any
    ) -> Iterator[tuple[Page, Serving]]:
        """Starts a server whose command takes such options, and opens its page with the view."""

        def load(source: str) -> ConversationModel:
            return drawing_once(ConversationModel.from_pretrained(source, device="cpu"))

        options = {"give": saved_chitchat(self.place)} | options
        sources = {"chitchat": "builtin:chitchat"}
        service = FineTuning(self.place / "tuned", sources, load, limits, command=real or command(**options))
        with (
            serving({"chitchat": load("builtin:chitchat")}, fine_tuning=service) as served,
            opened(self.browser, served.url, patience=PATIENCE) as page,
        ):
            open_view(page)
            yield page, served


def open_view(page: Page) -> None:
    page.get_by_role("button", name="Train", exact=True).click()
    expect(view(page)).to_be_visible()  # its code is loaded first: a key that is pressed before goes to the page


def view(page: Page) -> Locator:
    return page.locator("#train-dialog")


def press(page: Page, name: str, **options: Any) -> None:
    view(page).get_by_role("button", name=name, **options).click()


def choose(page: Page, *files: Path, button: str = "Choose files") -> None:
    """Chooses files as people do, with the browser's own dialog."""
    with page.expect_file_chooser() as choosing:
        press(page, button)
    choosing.value.set_files([str(file) for file in files])


TRANSFER = """text => {
    const transfer = new DataTransfer();
    transfer.items.add(new File([text], "dropped.txt"));
    return transfer;
}"""


def drop(page: Page, text: str) -> None:
    """Drops a file on the title of the view, far from the place that says so."""
    transfer = page.evaluate_handle(TRANSFER, text)
    title = view(page).get_by_role("heading", level=2)
    title.dispatch_event("dragover", {"dataTransfer": transfer})
    expect(page.locator("dialog.dropping")).to_be_visible()
    title.dispatch_event("drop", {"dataTransfer": transfer})
    expect(page.locator("dialog.dropping")).to_have_count(0)


def person(page: Page, name: str) -> Locator:
    """One of those whom the model may be."""
    return view(page).get_by_role("radio", name=re.compile(f"^{name} "))


def prepare(page: Page, file: Path, me: str = "Bob") -> None:
    """Goes from a file to data that are ready."""
    choose(page, file)
    person(page, me).check()
    press(page, "Continue")
    view(page).get_by_role("button", name="Start training").wait_for()
