"""What the page says in passing: where things are stored, what was saved, titles, and the rule for a name."""

from collections.abc import Callable
from typing import Any

import pytest
from page_acts import talk
from playwright.sync_api import Page, expect

pytestmark = [pytest.mark.loopback, pytest.mark.slow]


def test_a_rating_is_shown_as_saved(page: Page, saying: Callable[..., Any]) -> None:
    with saying("Hi"):
        talk(page, "Hello")
    expect(page.locator("article.theirs .tools")).not_to_contain_text("Saved")
    page.get_by_role("button", name="Good response").click()
    expect(page.locator("article.theirs .tools")).to_contain_text("Saved")
    expect(page.locator("#said")).to_have_text("Saved. Thank you.")
