"""What the page says in passing: where things are stored, what was saved, titles, and the rule for a name."""

from collections.abc import Callable
from typing import Any

import pytest
from page_acts import talk
from page_training import view
from page_training_states import SUMMARY, preparation, show
from playwright.sync_api import Page, Route, expect

pytestmark = [pytest.mark.loopback, pytest.mark.slow]


def set_fact(page: Page, name: str, value: Any) -> None:
    """Opens the page again, told by the server that this is so for its models."""

    def answer(route: Route) -> None:
        found = route.fetch().json()
        for each in found["data"]:
            each["convmodel"][name] = value
        route.fulfill(json=found)

    page.route("**/v1/models", answer)
    page.reload()


def test_it_says_where_conversations_are_stored(page: Page) -> None:
    stored = page.locator("#stored")
    expect(stored).to_contain_text("What you rate, correct, edit, regenerate or vote on is saved on the server, too")
    set_fact(page, "feedback", False)
    expect(stored).to_contain_text("Stored in this browser only")


def test_a_rating_is_shown_as_saved(page: Page, saying: Callable[..., Any]) -> None:
    with saying("Hi"):
        talk(page, "Hello")
    expect(page.locator("article.theirs .tools")).not_to_contain_text("Saved")
    page.get_by_role("button", name="Good response").click()
    expect(page.locator("article.theirs .tools")).to_contain_text("Saved")
    expect(page.locator("#said")).to_have_text("Saved. Thank you.")


def test_types_are_shown_of_a_model_that_has_them(page: Page, saying: Callable[..., Any]) -> None:
    with saying("Hi"):
        talk(page, "Hello")
    page.get_by_role("button", name="Inspect").click()
    legend = page.locator("#inspector .legend")
    expect(legend.locator("li")).to_have_text(["user", "assistant"])
    set_fact(page, "token_types", True)
    page.get_by_role("button", name="Inspect").click()
    expect(legend.locator("li")).to_have_text(["type 0 user", "type 1 assistant"])


def test_a_long_title_ends_with_a_whole_word(page: Page, saying: Callable[..., Any]) -> None:
    with saying("Hi"):
        talk(page, "Could you tell me what people usually do on a very long and rainy weekend?")
    expect(page.locator("#title")).to_have_text("Could you tell me what people usually do on a very long and…")
    chosen, search = page.locator("#list [aria-current=true]").bounding_box(), page.locator("#search").bounding_box()
    assert chosen is not None
    assert search is not None
    assert chosen["x"] == search["x"]


def test_a_name_that_is_not_accepted_is_explained(page: Page) -> None:
    faked = show(page, [preparation("ready")], [])
    name = view(page).get_by_label("Name of the new model")
    name.fill("Will and me")
    view(page).get_by_role("button", name="Start training").click()
    assert "no spaces" in name.evaluate("each => each.validationMessage")
    assert not faked.sent
    name.fill("Will")
    assert name.evaluate("each => each.validity.valid")


def test_notes_and_checks_name_no_options_of_the_terminal(page: Page) -> None:
    notes = [
        "valid has 5 conversations, of 20 or more that a comparison of models needs: import more, or raise --split"
    ]
    fix = "choose a model whose vocabulary covers the language, or extend a byte-level BPE: fit --grow-vocabulary"
    checks = [{"name": "vocabulary", "status": "warn", "finding": "many pieces", "fix": fix}]
    show(page, [preparation("ready", summary=SUMMARY | {"notes": notes}, checks=checks)], [])
    view(page).get_by_text("Notes of the import").click()
    expect(view(page)).to_contain_text("needs: import more")
    expect(view(page)).to_contain_text("What to do: choose a model whose vocabulary covers the language")
    expect(view(page)).not_to_contain_text("--")
