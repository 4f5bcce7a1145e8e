"""What the buttons of a training do, and where they are."""

import shlex

import pytest
from page_training import press, view
from page_training_states import AT_JOB, job, show
from playwright.sync_api import Page, expect

pytestmark = [pytest.mark.loopback, pytest.mark.slow]


def test_cancel_stays_in_its_place_when_a_training_pauses(page: Page) -> None:
    faked = show(page, [], [job("running")], AT_JOB)
    cancel = view(page).get_by_role("button", name="Cancel", exact=True)
    expect(cancel).to_be_visible()
    before = cancel.bounding_box()
    faked.jobs = [job("paused")]
    press(page, "Pause")
    expect(view(page).get_by_role("button", name="Continue", exact=True)).to_be_visible()
    after = cancel.bounding_box()
    assert before is not None
    assert after is not None
    assert before["x"] == after["x"]


def test_a_training_is_kept_or_cancelled(page: Page) -> None:
    faked = show(page, [], [job("running")], AT_JOB)
    dialog = page.locator("#ask-dialog")
    press(page, "Cancel")
    expect(dialog.get_by_role("button")).to_have_text(["Keep training", "Cancel the training"])
    dialog.get_by_role("button", name="Keep training").click()
    expect(dialog).to_be_hidden()
    assert not faked.sent
    press(page, "Cancel")
    faked.jobs = [job("cancelled")]
    dialog.get_by_role("button", name="Cancel the training").click()
    expect(view(page)).to_contain_text("It was cancelled")
    assert [path for _, path, _ in faked.sent] == ["v1/fine_tuning/jobs/ftjob-1/cancel"]


def test_an_ended_training_says_where_its_model_is(page: Page) -> None:
    show(page, [], [job("succeeded")], AT_JOB)
    view(page).get_by_text("In the terminal").click()
    expect(view(page).locator("pre")).to_have_text(
        "convmodel chat --model tuned/jobs/ftjob-1/model\nconvmodel export tuned/jobs/ftjob-1/model -o bot.html"
    )
    press(page, "Delete the model")
    expect(page.locator("#ask-dialog")).to_contain_text("The model Will is deleted on the server.")


def test_a_shell_reads_the_folder_as_it_is_shown(page: Page) -> None:
    folder = """my $HOME "and" `id` it's/jobs/ftjob-1/model"""
    show(page, [], [job("succeeded", folder=folder)], AT_JOB)
    view(page).get_by_text("In the terminal").click()
    expect(view(page).locator("pre")).to_contain_text("convmodel chat")
    for line in view(page).locator("pre").inner_text().splitlines():
        assert folder in shlex.split(line)


def test_a_trained_model_has_the_name_that_was_given(page: Page) -> None:
    faked = show(page, [], [job("succeeded")], AT_JOB)
    base = faked.models["data"][0]
    faked.models["data"] = [{**base, "id": name} for name in ("chitchat", "ft:chitchat:Will:0123abcd")]
    press(page, "Chat with it")
    expect(page.get_by_role("heading", name="Chat with Will")).to_be_visible()
    shown = page.get_by_label("The model that responds").locator("option:checked")
    expect(shown).to_have_text("Will")
    expect(shown).to_have_attribute("title", "ft:chitchat:Will:0123abcd")
    faked.models["data"].append({**base, "id": "ft:chitchat:Will:0123abce"})
    page.reload()
    expect(shown).to_have_text("Will (0123abcd)")  # there is another one


def test_a_training_that_is_resumed_is_about_to_continue(page: Page) -> None:
    show(page, [], [job("queued", step=100, total_steps=537)], AT_JOB)
    expect(view(page)).to_contain_text("Waiting to resume from step 100 of at most 537.")
