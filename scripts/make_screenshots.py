"""Takes the pictures in `docs/images`: the chat page of a real server with the built-in model.

    python scripts/make_screenshots.py                   # all of them
    python scripts/make_screenshots.py --only chat       # page-chat, page-inspect, page-compare and page-phone
    python scripts/make_screenshots.py --only improve    # page-improve
    python scripts/make_screenshots.py --only train      # page-train

Needs Chromium and Playwright. `page-improve` and `page-train` show the views "Improve" and "Train" after training runs
of a few minutes; nothing else should run then. "Train" uses the sample export of `convmodel demo`. The responses are
not chosen by hand: `--seed` sets the seed of all of them.
"""

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.resources import as_file, files
from itertools import islice
from pathlib import Path

from PIL import Image
from playwright.sync_api import Browser, Page, sync_playwright

from convmodel.cli.demo import EXPORT, ME
from convmodel.data.reading.reader import ConversationReader
from convmodel.files.hub import sample_file

ROOT = Path(__file__).parents[1]
sys.path.append(str(ROOT / "tests"))
from page_acts import talk  # noqa: E402

FOLDER = ROOT / "docs/images"
PORT = 18234
TRIES = 50
SHORT = 6  # turns of a conversation that fits into the picture beside the rest
TURNS = ("Hello! How are you?", "What do you study?", "Do you have any pets?")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=11, help="the seed of the responses")
    parser.add_argument("--only", choices=["chat", "improve", "train"], help="take these pictures only")
    arguments = parser.parse_args()
    FOLDER.mkdir(exist_ok=True)
    if arguments.only in (None, "chat"):
        with served("chitchat=builtin:chitchat", "other=builtin:chitchat") as browser:
            take(browser, arguments.seed)
    if arguments.only in (None, "improve"):
        with tempfile.TemporaryDirectory() as place:
            feedback = Path(place, "feedback.jsonl")
            feedback.write_text("".join(f"{json.dumps(line)}\n" for line in judgements()), encoding="utf-8")
            training = ["--feedback", str(feedback), "--allow-training", str(Path(place, "better"))]
            with served("chitchat=builtin:chitchat", *training) as browser:
                take_improve(browser, arguments.seed)
    if arguments.only in (None, "train"):
        with (
            tempfile.TemporaryDirectory() as place,
            served("chitchat=builtin:chitchat", "--train", place) as browser,
        ):
            take_train(browser, arguments.seed)


@contextmanager
def served(*arguments: str) -> Iterator[Browser]:
    """Starts a server, and a browser to look at it."""
    command = [sys.executable, "-m", "convmodel", "serve", *arguments, "--port", str(PORT)]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as server:
        try:
            wait()
            with sync_playwright() as playwright:
                browser = playwright.chromium.launch(
                    executable_path=shutil.which("chromium") or shutil.which("google-chrome"), args=["--no-sandbox"]
                )
                yield browser
        finally:
            server.terminate()


def judgements() -> list[dict[str, object]]:
    """Corrections: what somebody said in the sample is better than "I don't know."."""
    conversations = islice(ConversationReader(sample_file("train")), 24)
    return [
        {"context": one.turns[:1], "chosen": one.turns[1], "rejected": "I don't know.", "kind": "edit"}
        for one in conversations
    ]


def wait() -> None:
    for _ in range(1200):
        try:
            urllib.request.urlopen(f"http://127.0.0.1:{PORT}/ready")
            return
        except OSError:
            time.sleep(0.1)
    raise TimeoutError("the server has not started")


def take(browser: Browser, seed: int) -> None:
    page = open_page(browser, seed, 1120, 700)
    for text in TURNS:
        talk(page, text)
    page.get_by_role("button", name="Regenerate").last.click()
    page.get_by_text("2 / 2").wait_for()
    save(page, "page-chat")
    page.get_by_role("button", name="Inspect").click()
    page.locator(".token").first.wait_for()
    save(page, "page-inspect")
    page.locator("#inspector").get_by_role("button", name="Close").click()
    page.get_by_role("button", name="Compare").click()
    page.get_by_role("dialog").get_by_label("Temperature").last.fill("1.3")
    page.get_by_role("button", name="Start").click()
    page.get_by_label("Your turn", exact=True).fill("Do you like music?")
    page.keyboard.press("Enter")
    page.get_by_role("button", name="Neither").wait_for()
    save(page, "page-compare")
    phone = open_page(browser, seed, 390, 720, color_scheme="dark")
    for text in TURNS[:2]:
        talk(phone, text)
    save(phone, "page-phone")


def take_improve(browser: Browser, seed: int) -> None:
    page = open_page(browser, seed, 1120, 1000)
    page.get_by_role("button", name="Improve", exact=True).click()
    view = page.get_by_role("dialog", name="Improve")
    view.get_by_role("button", name="Start improving").click()
    view.get_by_role("button", name="Show two responses").click(timeout=1_200_000)
    for _ in range(TRIES):
        view.get_by_role("button", name="Neither").wait_for()
        responses = view.locator(".side p").all_inner_texts()
        if len(set(responses)) > 1 and view.locator("blockquote p").count() <= SHORT:
            break
        view.get_by_role("button", name="Skip").click()
    else:
        raise LookupError(f"none of {TRIES} pairs of responses differs and follows at most {SHORT} turns")
    save(page, "page-improve")


def take_train(browser: Browser, seed: int) -> None:
    page = open_page(browser, seed, 1120, 1080)
    page.set_default_timeout(1_200_000)
    page.get_by_role("button", name="Train", exact=True).click()
    view = page.get_by_role("dialog", name="Train")
    with page.expect_file_chooser() as choosing:
        view.get_by_role("button", name="Choose files").click()
    with as_file(files("convmodel") / "assets" / "stage" / EXPORT) as export:
        choosing.value.set_files(export)
        view.get_by_role("radio", name=f"{ME} ").check()
    view.get_by_role("button", name="Continue").click()
    view.get_by_text("How to train").click()
    view.get_by_label("How long").select_option("2")
    view.get_by_role("button", name="Start training").click()
    view.locator(".verdict").wait_for()
    save(page, "page-train", colours=128)


def open_page(browser: Browser, seed: int, width: int, height: int, **options: str) -> Page:
    page = browser.new_context(viewport={"width": width, "height": height}, **options).new_page()  # type: ignore[arg-type]
    page.goto(f"http://127.0.0.1:{PORT}")
    page.evaluate("kept => localStorage.setItem('convmodel.settings', kept)", json.dumps({"seed": str(seed)}))
    page.reload()
    page.get_by_role("heading", name="Chat with").wait_for()
    return page


def save(page: Page, name: str, colours: int = 64) -> None:
    """Saves a picture with few colours, which a page of text has."""
    page.mouse.move(0, 0)
    page.wait_for_timeout(300)
    path = FOLDER / f"{name}.png"
    page.screenshot(path=path)
    Image.open(path).convert("RGB").quantize(colours).save(path, optimize=True)


if __name__ == "__main__":
    main()
