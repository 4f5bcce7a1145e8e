"""What the view "Train" shows in each state of the data and of a training: after a reload, on a phone, to readers."""

import json
import os
from pathlib import Path
from typing import Any

import pytest
from page_acts import wait_for
from page_training import drop, person, press, view
from page_training_states import AT_JOB, AT_START, CHECKS, EVIL, job, preparation, show
from playwright.sync_api import Page, Route, expect

pytestmark = [pytest.mark.loopback, pytest.mark.slow]

DATA = {
    "importing": ["The files are being read …"],
    "needs_speaker": ["Who should the model be?", "could not be read: 3 rows", "media: 31 messages", "5,704 messages"],
    "checking": ["The data are being checked", "1,428 to learn from, 159 to find the best moment"],
    "ready": ["at most about 6 min", "672 MiB of memory of the 22 GiB that are free", "! warning: steps."],
    "failed": [f"chat.txt:7: {EVIL}", "tick “Leave out what cannot be read” below"],
}
JOBS = {
    "queued": ["It waits until the training before it has ended."],
    "validating_files": ["The data are being checked."],
    "running": ["It learns: step 100 of at most 537, at most about 3 min left.", "training: 3.01", "validation: 4.50"],
    "paused": ["It is paused after step 100 of at most 537."],
    "succeeded": ["Better: perplexity fell from 200.3 to 81.5."],
    "failed": ["The training failed: too little memory", "Train again as before"],
    "cancelled": ["It was cancelled after step 100 of at most 537"],
}
BUTTONS = {
    "queued": ["Pause", "Cancel"],
    "validating_files": ["Pause", "Cancel"],
    "running": ["Pause", "Cancel"],
    "paused": ["Continue", "Cancel"],
    "succeeded": ["Chat with it", "Compare it blind with chitchat", "Change the choices", "Delete the model"],
    "failed": ["Train again", "Change the choices"],
    "cancelled": ["Train again", "Change the choices"],
}


@pytest.mark.parametrize("status", DATA)
def test_data_are_shown_as_they_are_and_after_a_reload(page: Page, status: str) -> None:
    show(page, [preparation(status)], [])
    for _ in range(2):
        for text in DATA[status]:
            expect(view(page)).to_contain_text(text)
        expect(view(page).get_by_role("button", name="Start training")).to_have_count(int(status == "ready"))
        page.reload()
    assert page.evaluate("window.evil") is None


@pytest.mark.parametrize("status", JOBS)
def test_a_training_is_shown_as_it_is_and_after_a_reload(page: Page, status: str) -> None:
    show(page, [], [job(status)], AT_JOB)
    for _ in range(2):
        for text in JOBS[status]:
            expect(view(page)).to_contain_text(text)
        names = view(page).locator("#train-body .row button")
        expect(names).to_have_text(BUTTONS[status])
        page.reload()
    assert page.evaluate("window.evil") is None


def test_curve_table_and_samples_are_texts_too(page: Page) -> None:
    show(page, [], [job("running")])
    shown = view(page)
    drawing = "Loss: training 3.20 at step 5, 3.01 at step 100; validation 5.30 at step 0, 4.50 at step 100"
    expect(shown.get_by_role("img", name=drawing)).to_be_visible()
    shown.get_by_text("The validations as a table").click()
    expect(shown.get_by_role("row").nth(2)).to_have_text("50 (best)3.024.4081.5")
    expect(shown.locator(".sample blockquote")).to_have_text(f"user: Is all this for your father? {EVIL}")
    expect(shown.locator(".sample .side").nth(0)).to_contain_text("Said before (step 0)")
    expect(shown.locator(".sample .side").nth(0)).to_contain_text("Yes, I think so.")
    expect(shown.locator(".sample .side").nth(1)).to_contain_text("Says now (step 100)")
    expect(shown.locator(".sample .side").nth(2)).to_contain_text("The real reply")
    shown.get_by_text("All 3 validations").click()
    expect(shown.locator(".sample")).to_contain_text("Step 50: No, it is not.")


def test_of_a_finished_training_the_kept_model_is_shown(page: Page) -> None:
    show(page, [], [job("succeeded")], AT_JOB)
    expect(view(page).locator(".sample .side").nth(1)).to_contain_text("Says now (step 50)")  # of the best validation
    expect(view(page).locator(".sample .side").nth(1)).to_contain_text("No, it is not.")


def test_before_the_first_measurement_it_does_not_load_any_more(page: Page) -> None:
    faked = show(page, [], [job("running", step=0, total_steps=None, train=[], valid=[], samples=[])], AT_JOB)
    expect(view(page)).to_contain_text("The model and the data are being loaded.")
    faked.jobs = [job("running", step=0, train=[], valid=[], samples=[])]
    expect(view(page).locator("#train-body")).to_contain_text("The first steps are being trained.")


def test_data_of_an_unfinished_training_are_not_deleted(page: Page) -> None:
    faked = show(page, [preparation("ready")], [job("paused")], '{"name": "data", "id": "prep-1"}')
    press(page, "Delete these data")
    page.locator("#ask-dialog").get_by_role("button", name="Delete").click()
    expect(view(page).get_by_role("alert")).to_contain_text("A training that has not ended needs these data")
    assert not faked.sent
    person(page, "Guest 2").check()
    faked.preparations = [preparation("ready", me="Guest 2")]
    press(page, "Apply the choices")
    expect(view(page).get_by_role("heading", level=2)).to_contain_text("Guest 2")
    assert [method for method, _, _ in faked.sent] == ["POST"]  # the data before stay


def test_what_changes_is_announced(page: Page) -> None:
    faked = show(page, [], [job("running")])
    status = view(page).get_by_role("status")
    expect(view(page).get_by_role("button", name="Pause")).to_be_visible()
    later = job("running")
    faked.jobs = [later | {"valid": [*later["valid"], [150, 4.25, 70.1]]}]
    expect(status).to_have_text("Validation at step 150: loss 4.25.")
    faked.jobs = [job("succeeded")]
    expect(status).to_have_text("Will: Better: perplexity fell from 200.3 to 81.5.")


@pytest.mark.parametrize(
    ("preparations", "jobs", "text"),
    [
        ([preparation("needs_speaker")], [], "The files were read. Choose who the model should be."),
        ([preparation("ready")], [], "The data are ready: the training can start."),
        ([], [job("succeeded")], "Better: perplexity fell from 200.3 to 81.5."),
    ],
)
def test_what_was_done_before_it_is_shown_first_is_announced(
    page: Page, preparations: list[dict[str, Any]], jobs: list[dict[str, Any]], text: str
) -> None:
    show(page, preparations, jobs, AT_JOB if jobs else '{"name": "data", "id": "prep-1"}')
    expect(view(page).get_by_role("status")).to_contain_text(text)


def test_typing_is_not_disturbed_while_something_happens(page: Page) -> None:
    faked = show(page, [preparation("needs_speaker")], [])
    person(page, "Guest 2").check()
    view(page).get_by_label("Mask personal data").check()
    faked.preparations = [preparation("checking", me=None)]
    press(page, "Continue")
    expect(view(page)).to_contain_text("The data are being checked")
    view(page).get_by_text("More choices").click()
    view(page).get_by_label("Mask personal data").check()
    faked.preparations = [preparation("ready", me=None)]
    expect(view(page)).to_contain_text("! warning: steps.")
    expect(view(page).get_by_label("Mask personal data")).to_be_checked()
    expect(view(page).get_by_role("button", name="Start training")).to_be_hidden()  # of other choices than those
    [(_, path, body), *_] = faked.sent
    assert path == "train/preparations"
    assert body == {"files": ["file-1"], "model": "chitchat", "me": "Guest 2", "merge_others": False, "redact": True,
                    "on_error": "fail"}  # fmt: skip


def test_files_that_are_dropped_on_a_training_are_for_another_one(page: Page) -> None:
    faked = show(page, [preparation("needs_speaker")], [job("running")])
    expect(view(page).get_by_role("button", name="Pause")).to_be_visible()
    drop(page, "Ann: Hello")
    expect(view(page).get_by_role("button", name="Continue")).to_be_visible()
    assert [path for _, path, _ in faked.sent] == ["v1/files", "train/preparations"]  # and none is deleted


def test_rare_speakers_and_groups_can_be_chosen(page: Page) -> None:
    faked = show(page, [preparation("needs_speaker")], [])
    shown = view(page)
    expect(shown.get_by_role("radio")).to_have_count(12)
    expect(shown).to_contain_text("3 more people have fewer turns, too few to learn from.")
    shown.get_by_label("Or another of the 8 people").select_option("Guest 17")
    shown.get_by_label("Treat all other people as one").check()
    press(page, "Continue")
    wait_for(page, lambda: faked.sent)
    [(_, _, body), *_] = faked.sent
    assert (body["me"], body["merge_others"]) == ("Guest 17", True)


def test_a_rare_speaker_stays_chosen_until_another_is(page: Page) -> None:
    faked = show(page, [preparation("ready", me="Guest 17")], [])
    shown = view(page)
    expect(shown.get_by_label("Or another of the 8 people")).to_have_value("Guest 17")
    shown.get_by_text("More choices").click()
    shown.get_by_label("Mask personal data").check()
    with page.expect_response(lambda response: response.request.method == "GET" and "/train/prep" in response.url):
        press(page, "Apply the choices")  # which is done once the view reads the new data
    wait_for(page, lambda: len(faked.sent) == 2)
    person(page, "Guest 3").check()
    expect(shown.get_by_label("Or another of the 8 people")).to_have_value("")
    press(page, "Apply the choices")
    wait_for(page, lambda: len(faked.sent) == 4)
    assert [body["me"] for method, _, body in faked.sent if method == "POST"] == ["Guest 17", "Guest 3"]


def test_choices_must_be_applied_before_the_start(page: Page) -> None:
    faked = show(page, [preparation("ready")], [])
    start = view(page).get_by_role("button", name="Start training")
    note = view(page).get_by_text("Apply the choices, so that the data are prepared again")
    expect(start).to_be_visible()
    expect(note).to_be_hidden()
    person(page, "Guest 2").check()
    expect(note).to_be_visible()
    expect(start).to_be_hidden()
    person(page, "Guest 1").check()  # whom the data were prepared for
    expect(start).to_be_visible()
    expect(note).to_be_hidden()
    assert not faked.sent


@pytest.mark.parametrize(
    ("me", "file", "name"),
    [
        ("Çağla Özgür", "chat.txt", "Cagla-Ozgur"),
        ("はなこ", "[LINE] はなこ.txt", "LINE"),
        (None, "チャット.txt", "my-model"),
    ],
)
def test_every_new_model_has_a_name_to_begin_with(page: Page, me: str | None, file: str, name: str) -> None:
    show(page, [preparation("ready", me=me, filenames=[file])], [])
    expect(view(page).get_by_label("Name of the new model")).to_have_value(name)


def test_how_to_train_is_sent_as_it_was_chosen(page: Page) -> None:
    faked = show(page, [preparation("ready")], [])
    shown = view(page)
    shown.get_by_text("How to train").click()
    expect(shown.get_by_label("How it learns")).to_have_value("20")  # since the model is small
    shown.get_by_label("How it learns").select_option("auto")
    shown.get_by_label("How long").select_option("3")
    shown.get_by_label("Batch size").select_option("8")
    expect(shown.get_by_label("Name of the new model")).to_have_value("Guest-1")
    shown.get_by_label("Name of the new model").fill("will.2")
    faked.jobs = [job("queued")]
    press(page, "Start training")
    expect(shown).to_contain_text("It waits until the training before it has ended.")
    assert faked.sent == [("POST", "v1/fine_tuning/jobs", {
        "model": "chitchat", "training_file": "file-2", "validation_file": "file-3", "suffix": "will.2",
        "hyperparameters": {"n_epochs": 3, "learning_rate_multiplier": "auto", "batch_size": 8},
    })]  # fmt: skip


def test_a_pointless_training_is_not_offered(page: Page) -> None:
    show(page, [preparation("ready", blocking="supervised: no turn of assistant; give more data")], [])
    alert = view(page).get_by_role("alert")
    expect(alert).to_contain_text("pointless. supervised: no turn of assistant; give more data")
    expect(view(page)).to_contain_text("Choose another person above")
    expect(view(page).get_by_role("button", name="Start training")).to_have_count(0)


def test_options_of_the_terminal_are_translated(page: Page) -> None:
    error = {"code": "import_failed", "message": "give --on-error skip, --columns or --me"}
    show(page, [preparation("failed", error=error)], [])
    expect(view(page)).to_contain_text("Instead of --on-error: tick “Leave out what cannot be read” below.")
    expect(view(page)).to_contain_text("Instead of --me: choose below who the model should be.")
    expect(view(page)).to_contain_text("This page does not have --columns")


def test_a_file_of_no_known_form_has_no_part_to_leave_out(page: Page) -> None:
    error = {"code": "import_failed", "message": "photo.jpeg is not a known chat export: it is empty, or not text"}
    show(page, [preparation("failed", error=error)], [])
    expect(view(page).get_by_role("alert")).to_contain_text("photo.jpeg is not a known chat export")
    expect(view(page)).to_contain_text("or use other files")
    expect(view(page)).not_to_contain_text("If only a part cannot be read")


def test_what_is_gone_leads_to_the_start(page: Page) -> None:
    gone = {"error": {"message": "there is no preparation prep-1", "code": "preparation_not_found"}}
    show(page, [preparation("ready")], [])
    expect(view(page).get_by_role("button", name="Start training")).to_be_visible()
    page.route("**/train/preparations/prep-1", lambda route: route.fulfill(status=404, json=gone))
    page.reload()
    expect(view(page).get_by_role("alert")).to_have_text("there is no preparation prep-1")
    expect(view(page).get_by_role("button", name="Choose files")).to_be_visible()


def test_what_failed_is_still_told_once_the_server_answers_again(page: Page) -> None:
    show(page, [], [job("running")], AT_START)
    alert = view(page).get_by_role("alert")
    expect(view(page).get_by_role("button", name="Choose files")).to_be_visible()
    page.route("**/train/*", lambda route: route.abort())
    page.route("**/v1/files", lambda route: route.abort())
    expect(alert).to_contain_text("The server does not answer")
    drop(page, "Ann: Hello")
    expect(alert).to_contain_text("dropped.txt was not sent completely")
    with page.expect_request_finished(lambda request: request.url.endswith("/train/jobs?limit=100")):
        page.unroute("**/train/*")
    with page.expect_request_finished(lambda request: request.url.endswith("/train/jobs?limit=100")):
        pass  # the answer before is shown now
    expect(alert).to_contain_text("dropped.txt was not sent completely")


@pytest.mark.parametrize("width", [390, 320])
def test_it_fits_a_phone(page: Page, width: int) -> None:
    page.set_viewport_size({"width": width, "height": 740})
    states = [
        ([], [], ""),
        ([preparation("ready")], [job("running"), job("succeeded")], AT_START),
        ([preparation("failed")], [], ""),
        ([preparation("ready", checks=CHECKS)], [], ""),
        ([], [job("succeeded")], AT_JOB),
    ]
    for preparations, jobs, place in states:
        page.evaluate("sessionStorage.removeItem('convmodel.train')")
        show(page, preparations, jobs, place)
        expect(view(page).locator("h3, .drop").first).to_be_visible()
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        assert view(page).evaluate("each => each.scrollWidth <= each.clientWidth")


@pytest.mark.skipif("AXE_CORE" not in os.environ, reason="AXE_CORE must name axe.min.js of the npm package axe-core")
@pytest.mark.parametrize("colours", ["light", "dark"])
@pytest.mark.parametrize("width", [1200, 390])
def test_axe_finds_nothing(page: Page, colours: str, width: int) -> None:
    axe = Path(os.environ["AXE_CORE"]).read_text(encoding="utf-8")
    page.emulate_media(color_scheme=colours)  # type: ignore[arg-type]
    page.set_viewport_size({"width": width, "height": 800})
    states = [([preparation("ready")], [job(status) for status in JOBS], AT_START)]
    states += [([preparation(status)], [], "") for status in DATA]
    states += [([], [job(status)], AT_JOB) for status in JOBS]
    for preparations, jobs, place in states:
        page.evaluate("sessionStorage.removeItem('convmodel.train')")
        show(page, preparations, jobs, place)
        expect(view(page).locator("h3, progress, .row button").first).to_be_visible()
        view(page).locator("details").evaluate_all("all => all.forEach(each => { each.open = true; })")
        page.evaluate(axe)
        found = page.evaluate("axe.run().then(found => found.violations)")
        assert not found, json.dumps(found, indent=1)[:3000]


def test_an_upload_that_ends_beside_other_data_leaves_these_alone(page: Page) -> None:
    faked = show(page, [preparation("ready")], [], AT_START)
    held: list[Route] = []
    page.route("**/v1/files", lambda route: held.append(route))
    drop(page, "Ann: Hello")
    wait_for(page, lambda: held)
    view(page).locator(".entries button").first.click()
    expect(view(page).get_by_role("heading", level=2)).to_contain_text("Guest 1")
    held[0].fallback()
    wait_for(page, lambda: len(faked.sent) > 1)
    page.wait_for_load_state("networkidle")
    assert [path for _, path, _ in faked.sent] == ["v1/files", "train/preparations"]  # and none is deleted
