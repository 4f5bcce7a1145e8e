"""Takes the pictures of docs/serving.md: the page of a real server with the built-in model.

    python scripts/make_screenshots.py [--seed 11]

Needs chromium and Playwright. What the model says is what it says; the seed chooses it.
"""

import argparse
import json
import shutil
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

from PIL import Image
from playwright.sync_api import Browser, Page, sync_playwright

ROOT = Path(__file__).parents[1]
sys.path.append(str(ROOT / "tests"))
from page_acts import talk  # noqa: E402

FOLDER = ROOT / "docs/images"
PORT = 18234
TURNS = ("Hello! How are you?", "What do you study?", "Do you have any pets?")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=11)
    seed = parser.parse_args().seed
    FOLDER.mkdir(exist_ok=True)
    models = ["chitchat=builtin:chitchat", "other=builtin:chitchat"]
    command = [sys.executable, "-m", "convmodel", "serve", *models, "--port", str(PORT)]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as server:
        try:
            wait()
            with sync_playwright() as playwright:
                browser = playwright.chromium.launch(
                    executable_path=shutil.which("chromium") or shutil.which("google-chrome"), args=["--no-sandbox"]
                )
                take(browser, seed)
        finally:
            server.terminate()


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


def open_page(browser: Browser, seed: int, width: int, height: int, **options: str) -> Page:
    page = browser.new_context(viewport={"width": width, "height": height}, **options).new_page()  # type: ignore[arg-type]
    page.goto(f"http://127.0.0.1:{PORT}")
    page.evaluate("kept => localStorage.setItem('convmodel.settings', kept)", json.dumps({"seed": str(seed)}))
    page.reload()
    page.get_by_role("heading", name="Chat with").wait_for()
    return page


def save(page: Page, name: str) -> None:
    """Saves a picture with few colours, which a page of text has."""
    page.mouse.move(0, 0)
    page.wait_for_timeout(300)
    path = FOLDER / f"{name}.png"
    page.screenshot(path=path)
    Image.open(path).convert("RGB").quantize(64).save(path, optimize=True)


if __name__ == "__main__":
    main()
