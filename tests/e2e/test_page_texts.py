"""What the page says in passing: where things are stored, what was saved, titles, and the rule for a name."""

from collections.abc import Callable
from dataclasses import asdict
from typing import Any

import pytest
from page_acts import talk
from page_training import view
from page_training_states import SUMMARY, preparation, show
from playwright.sync_api import Page, expect

from convmodel import Conversation, ConversationModel
from convmodel.data.importing.carry_over import CarryOver
from convmodel.data.importing.splitting import Split, too_small
from convmodel.data.reading.rows import Row
from convmodel.data.windows.encoding import encode_windows
from convmodel.errors import install_command
from convmodel.training.doctor.checks import check_text

pytestmark = [pytest.mark.loopback, pytest.mark.slow]


def set_fact(page: Page, name: str, value: Any) -> None:
    """Opens the page again, told by the server that this is so for its models."""
    models = page.request.get(f"{page.url}v1/models").json()
    for each in models["data"]:
        each["convmodel"][name] = value
    page.route("**/v1/models", lambda route: route.fulfill(json=models))
    with page.expect_response("**/v1/models"):
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


def messages(language: str) -> tuple[list[str], dict[str, Any]]:
    """The notes and the check of today that name an option or a command."""
    carried = CarryOver()
    carried.edit(Row("my--file.jsonl:1", {"context": ["Hi"], "chosen": "Yes", "rejected": "No"}))
    few = [Conversation(["Hi", "Yes"])]
    near = f"near-duplicates were not looked for, only exact ones: {install_command('train')}"
    tokenizer = ConversationModel.from_pretrained("builtin:chitchat").tokenizer
    windows = encode_windows([Conversation([language, language])], tokenizer, max_length=64, loss_on="all").windows
    small = too_small(Split(few, few, [], "at random"))
    return [*carried.notes(), near, *filter(None, [small])], asdict(check_text(windows, tokenizer))


def test_notes_and_checks_name_no_options_of_the_terminal(page: Page) -> None:
    notes, check = messages("안녕하세요, 오늘 어떠세요?")
    assert "--" in check["fix"]
    assert sum("--objective" in note or "pip install" in note for note in notes) == 2
    show(page, [preparation("ready", summary=SUMMARY | {"notes": notes}, checks=[check])], [])
    view(page).get_by_text("Notes of the import").click()
    shown = view(page).locator("details", has_text="Notes of the import").locator("li")
    expect(shown).to_have_text([
        "judgements in 1 row (first: my--file.jsonl:1): only good responses are kept, as turns to imitate",
        "near-duplicates were not looked for, only exact ones",
        "valid has 1 conversation: you can train, but comparing models needs at least 20; import more conversations",
    ])  # fmt: skip
    expect(view(page).locator("li.warn p")).to_have_text(
        "What to do: choose a model whose vocabulary covers the language"
    )


@pytest.mark.parametrize(
    ("fix", "shown"),
    [
        ("lower batch_size, or raise --max-length to 2,048", "lower batch_size"),
        ("import more, or raise --split: valid has 5", "import more: valid has 5"),
        ("cut them; `convmodel fit --objective dpo`, or kto, learns from both; or not", "cut them; or not"),
        ("Split the data. Raise --max-length. Then import again.", "Split the data. Then import again."),
        ("raise --max-length to 2,048", "raise --max-length to 2,048"),  # rather than nothing
        ("raise max_length, or split long turns", "raise max_length, or split long turns"),
    ],
)
def test_clauses_and_alternatives_that_need_a_terminal_are_left_out(page: Page, fix: str, shown: str) -> None:
    check = {"name": "cut", "status": "warn", "finding": "5 tokens are cut", "fix": fix}
    show(page, [preparation("ready", checks=[check])], [])
    expect(view(page).locator("li.warn p")).to_have_text(f"What to do: {shown}")
