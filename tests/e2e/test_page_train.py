"""The view "Train": from a chat export to a model that is chatted with, mistakes, and leaving it in between."""

import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from page_training import PATIENCE, Training, choose, drop, open_view, person, prepare, press, rows, view
from playwright.sync_api import Browser, Page, Route, expect
from serving import Serving, wait_until

from convmodel.server.settings import TrainingLimits

pytestmark = [pytest.mark.loopback, pytest.mark.slow]


@pytest.fixture
def training(tmp_path: Path, browser: Browser) -> Training:
    expect.set_options(timeout=PATIENCE)
    return Training(tmp_path, browser)


def data_of(served: Serving, path: str) -> list[dict[str, Any]]:
    listed: list[dict[str, Any]] = served.get(path).json["data"]
    return listed


def test_without_permission_there_is_no_button(page: Page) -> None:
    expect(page.get_by_role("button", name="Compare")).to_be_visible()
    expect(page.get_by_role("button", name="Train", exact=True)).to_be_hidden()


def check_the_way_to_a_model(page: Page, served: Serving, training: Training) -> None:
    """Goes from an export to a model, chats with it, and compares it."""
    shown = view(page)
    choose(page, training.export)
    expect(shown).to_contain_text("96 messages")
    expect(shown).to_contain_text("whatsapp")
    expect(shown).to_contain_text("48 conversations")
    press(page, "Continue")  # the browser asks for a choice first
    assert person(page, "Ann").evaluate("each => each.validity.valueMissing")
    person(page, "Bob").check()
    press(page, "Continue")
    expect(shown.get_by_role("heading", name="Train on WhatsApp Chat with Bob.txt, Bob")).to_be_visible()
    expect(shown.get_by_text("The training takes")).to_be_visible()
    expect(shown.get_by_label("Name of the new model")).to_have_value("Bob")
    shown.get_by_text("How to train").click()
    shown.get_by_label("How long").select_option("1")
    press(page, "Start training")
    expect(shown.get_by_role("heading", name="Train Bob")).to_be_visible()
    expect(shown.get_by_role("img", name="Loss: ")).to_be_visible()
    expect(shown.locator(".verdict")).to_be_visible()
    [job] = data_of(served, "/v1/fine_tuning/jobs")
    assert job["hyperparameters"]["n_epochs"] == 1
    assert job["validation_file"]
    expect(shown.locator(".verdict")).to_have_text(served.get(f"/train/jobs/{job['id']}").json["verdict"])

    press(page, "Chat with it")
    expect(shown).to_be_hidden()
    expect(page.get_by_role("heading", name="Chat with Bob")).to_be_visible()
    expect(page.get_by_label("The model that responds")).to_have_value(job["fine_tuned_model"])
    page.get_by_label("Your turn", exact=True).fill("Hello")
    page.keyboard.press("Enter")
    expect(page.get_by_role("button", name="Regenerate")).to_be_visible()

    open_view(page)
    press(page, "Bob", exact=True)
    press(page, "Compare it blind with chitchat")
    expect(shown).to_be_hidden()
    page.get_by_label("Your turn", exact=True).fill("And you?")
    page.keyboard.press("Enter")
    page.get_by_role("button", name="Neither").click()
    expect(page.locator("#notice")).to_contain_text("Bob")
    expect(page.get_by_role("button", name="Comparing", exact=True)).to_be_visible()


@pytest.mark.long
@pytest.mark.timeout(600)
def test_from_an_export_to_a_model(training: Training) -> None:
    with training.page(real=[sys.executable, "-m", "convmodel"]) as (page, served):
        check_the_way_to_a_model(page, served, training)


@pytest.mark.timeout(300)
def test_from_an_export_to_a_model_with_a_stand_in_for_the_training(training: Training) -> None:
    with training.page() as (page, served):
        check_the_way_to_a_model(page, served, training)
        open_view(page)
        press(page, "Bob", exact=True)
        press(page, "Change the choices")
        expect(view(page).get_by_role("heading", name="Train on WhatsApp Chat with Bob.txt, Bob")).to_be_visible()
        press(page, "All trainings and data")
        press(page, "Delete Bob", exact=True)
        page.locator("#ask-dialog").get_by_role("button", name="Delete").click()
        expect(view(page)).to_contain_text("its model was deleted")
        assert [model["id"] for model in data_of(served, "/v1/models")] == ["chitchat"]
        press(page, "Delete WhatsApp Chat with Bob.txt, Bob")
        page.locator("#ask-dialog").get_by_role("button", name="Delete").click()
        expect(view(page).get_by_role("heading", name="Prepared data")).to_be_hidden()
        assert data_of(served, "/train/preparations") == []
        assert {file["purpose"] for file in data_of(served, "/v1/files")} == {"fine-tune-results"}
        press(page, "Bob", exact=True)
        press(page, "Train again")
        expect(view(page).get_by_role("alert")).to_contain_text("The data of this training were deleted")
        press(page, "Change the choices")
        expect(view(page).get_by_role("alert")).to_contain_text("The data of this training were deleted")


@pytest.mark.long
@pytest.mark.timeout(300)
def test_a_training_is_paused_left_found_again_and_cancelled(training: Training) -> None:
    with training.page(steps=2000, pause=0.05) as (page, served):
        shown, body = view(page), view(page).locator("#train-body")
        prepare(page, training.export)
        press(page, "Start training")
        expect(body.get_by_text(re.compile("It learns: step [0-9]+ of at most 2000"))).to_be_visible()
        page.reload()
        expect(body.get_by_text(re.compile("It learns: step [0-9]+ of at most 2000"))).to_be_visible()
        press(page, "Pause")
        expect(body.get_by_text("It is paused after step")).to_be_visible()
        page.reload()
        expect(body.get_by_text("It is paused after step")).to_be_visible()
        press(page, "Close")

        other = page.context.new_page()  # another tab finds it
        other.set_default_timeout(PATIENCE)
        other.goto(served.url)
        open_view(other)
        expect(view(other).locator("#train-body").get_by_text("It is paused after step")).to_be_visible()
        press(other, "Continue")
        expect(view(other).locator("#train-body").get_by_text("It learns: step")).to_be_visible()
        open_view(page)
        expect(body.get_by_text("It learns: step")).to_be_visible()
        press(page, "Cancel")
        page.locator("#ask-dialog").get_by_role("button", name="Cancel the training").click()
        expect(body.get_by_text("It was cancelled")).to_be_visible()
        expect(view(other).locator("#train-body").get_by_text("It was cancelled")).to_be_visible()
        press(page, "Train again")
        expect(shown.get_by_role("button", name="Pause")).to_be_visible()
        assert [job["status"] for job in data_of(served, "/v1/fine_tuning/jobs")][1] == "cancelled"
        press(page, "Close")
        expect(shown).to_be_hidden()
        page.reload()
        expect(page.get_by_role("button", name="Train", exact=True)).to_be_visible()
        expect(shown).to_be_hidden()  # as it was left


@pytest.mark.long
@pytest.mark.timeout(300)
def test_mistakes_in_the_data_are_told_and_can_be_left_out(training: Training) -> None:
    talks = training.place / "talks.jsonl"
    talks.write_text(rows(), encoding="utf-8")
    with training.page(finding="fail") as (page, served):
        shown = view(page)
        choose(page, talks)
        expect(shown.get_by_role("alert")).to_have_text("talks.jsonl:41: turns must be a list of strings, not int")
        page.reload()
        expect(shown.get_by_role("alert")).to_have_text("talks.jsonl:41: turns must be a list of strings, not int")
        shown.get_by_label("Leave out what cannot be read").check()
        press(page, "Apply the choices")
        person(page, "Ann").check()
        expect(shown).to_contain_text("could not be read: 1 row")
        press(page, "Continue")
        pointless = "With these data a training would be pointless. steps: 3 steps are few; raise epochs"
        expect(shown.get_by_role("alert")).to_have_text(pointless)
        expect(shown).to_contain_text("✕ failed: steps. 3 steps are few")
        expect(shown).to_contain_text("What to do: raise epochs")
        expect(shown.get_by_role("button", name="Start training")).to_have_count(0)
        [preparation] = data_of(served, "/train/preparations")  # the others were dropped
        assert (preparation["me"], preparation["on_error"]) == ("Ann", "skip")

        choose(page, training.export, button="Add files")
        expect(
            shown.get_by_role("heading", name="Train on talks.jsonl, WhatsApp Chat with Bob.txt, Ann")
        ).to_be_visible()
        expect(shown.get_by_role("heading", name="Checks")).to_be_visible()
        person(page, "Bob").check()
        press(page, "Apply the choices")
        expect(
            shown.get_by_role("heading", name="Train on talks.jsonl, WhatsApp Chat with Bob.txt, Bob")
        ).to_be_visible()
        expect(shown.get_by_role("heading", name="Checks")).to_be_visible()
        [preparation] = data_of(served, "/train/preparations")
        assert preparation["me"] == "Bob"
        assert len(preparation["files"]) == 2


@pytest.mark.long
def test_what_goes_wrong_with_a_training_is_told(training: Training) -> None:
    with training.page(fail="error: the model does not fit in memory") as (page, _):
        shown = view(page)
        prepare(page, training.export)
        refusal = {
            "error": {"message": "there are 100 jobs, which is the limit: delete a model", "code": "too_many_jobs"}
        }
        page.route("**/v1/fine_tuning/jobs", lambda route: route.fulfill(status=429, json=refusal))
        press(page, "Start training")
        expect(shown.get_by_role("alert")).to_have_text("there are 100 jobs, which is the limit: delete a model")
        page.unroute("**/v1/fine_tuning/jobs")
        press(page, "Start training")
        expect(shown.get_by_role("alert")).to_contain_text("The training failed: ")
        expect(shown.get_by_role("alert")).to_contain_text("the model does not fit in memory")
        page.route("**/train/jobs/*", lambda route: route.abort())
        page.reload()
        expect(shown.get_by_role("alert")).to_contain_text("The server does not answer")
        page.unroute("**/train/jobs/*")
        expect(shown.get_by_role("button", name="Train again")).to_be_visible()  # by itself, after a while
        expect(shown.get_by_role("alert")).to_have_count(1)


def held(page: Page, path: str, isheld: Callable[[int], bool]) -> None:
    """Lets some requests wait for ever: those whose number, from 0, is so."""
    numbers = iter(range(100))

    def handle(route: Route) -> None:
        if not isheld(next(numbers)):
            route.continue_()

    page.route(path, handle)


def test_an_upload_that_fails_or_is_cancelled_leaves_nothing(training: Training) -> None:
    limits = TrainingLimits(file_bytes=100_000)
    large = training.place / "large.txt"
    large.write_text("x" * 200_000, encoding="utf-8")
    second = training.place / "second.txt"
    second.write_text("Ann: Hello", encoding="utf-8")
    with training.page(limits=limits) as (page, served):
        shown = view(page)
        choose(page, training.export, large)
        expect(shown.get_by_role("alert")).to_contain_text("100,000")
        expect(shown.get_by_role("button", name="Choose files")).to_be_enabled()
        assert data_of(served, "/v1/files") == []

        held(page, "**/v1/files", lambda number: number == 1)
        choose(page, training.export, second)
        expect(shown.get_by_text("Sending second.txt")).to_be_visible()
        assert len(data_of(served, "/v1/files")) == 1
        press(page, "Cancel the upload")
        expect(shown.get_by_role("button", name="Choose files")).to_be_enabled()
        expect(shown.get_by_role("alert")).to_have_count(0)
        wait_until(lambda: data_of(served, "/v1/files") == [])  # the first one is removed, too
        page.unroute("**/v1/files")
        refusal = {"error": {"message": "no room for more", "code": "storage_full"}}
        page.route("**/train/preparations", lambda route: route.fulfill(status=507, json=refusal))
        choose(page, training.export)
        expect(shown.get_by_role("alert")).to_have_text("no room for more")
        wait_until(lambda: data_of(served, "/v1/files") == [])
        page.unroute("**/train/preparations")

        held(page, "**/v1/files", lambda number: number == 1)
        choose(page, training.export, second)
        expect(shown.get_by_text("Sending second.txt")).to_be_visible()
        page.reload()
        expect(shown.get_by_role("alert")).to_contain_text("The page was left while files were being sent")
        wait_until(lambda: data_of(served, "/v1/files") == [])
        page.reload()
        expect(shown.get_by_role("button", name="Choose files")).to_be_enabled()
        expect(shown.get_by_role("alert")).to_have_count(0)


def test_files_are_dropped_anywhere_in_the_view(training: Training) -> None:
    text = training.export.read_text(encoding="utf-8")
    with training.page() as (page, _):
        drop(page, text)
        expect(view(page).get_by_role("heading", name="Train on dropped.txt")).to_be_visible()
        expect(person(page, "Ann")).to_be_visible()


def test_all_can_be_done_with_keys_and_is_announced(training: Training) -> None:
    with training.page() as (page, served):
        shown = view(page)
        page.on("filechooser", lambda chooser: chooser.set_files(str(training.export)))
        page.keyboard.press("Escape")
        expect(page.get_by_role("button", name="Train", exact=True)).to_be_focused()
        page.keyboard.press("Enter")
        shown.get_by_role("button", name="Choose files").focus()
        page.keyboard.press("Enter")
        expect(shown.get_by_role("status")).to_have_text("The files were read. Choose who the model should be.")
        expect(shown.get_by_role("heading", level=2)).to_be_focused()
        person(page, "Ann").focus()
        page.keyboard.press("Space")
        page.keyboard.press("ArrowDown")
        expect(person(page, "Bob")).to_be_checked()
        page.keyboard.press("Enter")
        expect(shown.get_by_role("status")).to_have_text("The data are ready: the training can start.")
        expect(shown.get_by_role("heading", level=2)).to_be_focused()
        shown.get_by_label("Name of the new model").fill("My Bob")
        page.keyboard.press("Enter")
        assert shown.get_by_label("Name of the new model").evaluate("each => each.validity.patternMismatch")
        shown.get_by_label("Name of the new model").fill("My-Bob")
        page.keyboard.press("Enter")
        expect(shown.get_by_role("status")).to_contain_text("My-Bob: ")
        chat = shown.get_by_role("button", name="Chat with it")
        expect(chat).to_be_visible()
        chat.focus()
        page.keyboard.press("Enter")
        expect(page.get_by_label("Your turn", exact=True)).to_be_focused()
        model = data_of(served, "/v1/models")[-1]["id"]
        assert model.startswith("ft:chitchat:My-Bob:")
        page.keyboard.type("Hello")
        page.keyboard.press("Enter")
        expect(page.get_by_role("button", name="Regenerate")).to_be_visible()
