"""What the buttons of a training do, and where they are."""

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
