"""Settings, the inspector, comparing, feedback; colours, phones, keys."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from page_acts import compare, distinguish_names, expect_turns, say, shown, stored, talk, wait_for
from playwright.sync_api import Page, Route, expect
from serving import Serving

from convmodel.data.reading.reader import ConversationReader
from convmodel.evaluation.votes import read_votes

pytestmark = [pytest.mark.loopback, pytest.mark.slow]


def sent(page: Page, path: str = "/v1/chat/completions") -> list[dict[str, Any]]:
    """Collects what the page asks the server from now on."""
    found: list[dict[str, Any]] = []
    page.on("request", lambda each: found.append(each.post_data_json) if each.url.endswith(path) else None)
    return found


def test_settings_are_sent_and_kept(page: Page, saying: Callable[..., Any]) -> None:
    distinguish_names(page)
    asked = sent(page)
    page.get_by_role("button", name="Settings").click()
    page.get_by_label("Temperature").fill("0.3")
    page.get_by_label("Top-p").fill("0.5")
    page.get_by_label("Maximum response length").fill("17")
    page.get_by_label("Seed").fill("42")
    page.get_by_label("My name").fill("Ann")
    page.get_by_label("Model's name").fill("Bob")
    page.get_by_role("button", name="Done").click()
    with saying("Hi"):
        talk(page, "Hello")
    page.reload()
    with saying("Again"):
        talk(page, "Well?")

    given = {"temperature": 0.3, "top_p": 0.5, "max_completion_tokens": 17, "seed": 42, "reply_as": "Bob"}
    for request in asked:
        assert given.items() <= request.items()
    assert asked[1]["messages"] == [
        {"role": "user", "content": "Hello", "name": "Ann"},
        {"role": "assistant", "content": "Hi", "name": "Bob"},
        {"role": "user", "content": "Well?", "name": "Ann"},
    ]
    expect(page.locator("article h2")).to_have_text(["Ann", "Bob", "Ann", "Bob"])
    page.get_by_role("button", name="Settings").click()
    expect(page.get_by_label("System message")).to_have_count(0)  # the model was trained without
    page.get_by_role("button", name="Reset to defaults").click()
    expect(page.get_by_label("Temperature")).to_have_value("0.8")
    expect(page.get_by_label("My name")).to_have_value("user")


def test_the_inspector_shows_the_tokens_of_the_prompt(page: Page, server: Serving, saying: Callable[..., Any]) -> None:
    page.get_by_role("button", name="Inspect").click()
    panel = page.get_by_role("complementary", name="What the model sees")
    expect(panel).to_contain_text("Say something first")
    with saying("Hi", "Fine"):
        talk(page, "Hello")
        talk(page, "How are <sep> you?")

    tokenizer = server.registry.get("chitchat").model.tokenizer
    ids = tokenizer(["Hello", "Hi", "How are <sep> you?"])["input_ids"]
    expect(panel.locator(".token small")).to_have_text([str(index) for index in ids])
    expect(panel.locator(".separator")).to_have_count(4)  # the one that was typed is text
    expect(panel.locator("h3")).to_have_text(["1. user", "2. assistant", "3. user", "assistant responds …"])
    expect(panel).to_contain_text(f"{len(ids)} tokens of at most 384")
    panel.get_by_role("button", name="Close").click()
    expect(panel).to_be_hidden()


def test_what_fell_out_is_told(page: Page, saying: Callable[..., Any], tmp_path: Path) -> None:
    said = [{"role": ("user", "assistant")[n % 2], "content": f"turn {n} " * 20} for n in range(20)]
    file = tmp_path / "long.jsonl"
    file.write_text(json.dumps({"messages": said}) + "\n")
    page.get_by_label("A JSONL file of conversations").set_input_files(file)
    with saying("Fine"):
        talk(page, "And now?")
    expect(page.locator("article.theirs").last).to_contain_text("oldest turns no longer fit")
    page.get_by_role("button", name="Inspect").click()
    expect(page.locator("#inspector")).to_contain_text("of 21 no longer fit and were left out")
    expect(page.locator("#inspector h3").first).not_to_contain_text("1. user")


def test_two_models_are_compared_blind(page: Page, server: Serving, place: Path, saying: Callable[..., Any]) -> None:
    before = len([*read_votes(place / "votes.jsonl")])
    page.get_by_role("button", name="Compare").click()
    dialog = page.get_by_role("dialog")
    dialog.get_by_label("Model").last.select_option("chitchat")
    dialog.get_by_role("button", name="Start").click()
    expect(dialog).to_contain_text("Choose two different models or settings.")
    dialog.get_by_label("Model").last.select_option("other")
    dialog.get_by_role("button", name="Start").click()
    with saying("I am chitchat"), saying("I am other", name="other"):
        page.get_by_label("Your turn", exact=True).fill("Who are you?")
        page.keyboard.press("Enter")
        page.keyboard.type("And the")
        expect(page.get_by_role("button", name="Left is better")).to_be_visible()
    page.keyboard.type(" next turn")  # the buttons do not take the focus while somebody writes
    page.keyboard.press("Enter")
    expect(page.get_by_label("Your turn", exact=True)).to_have_value("And the next turn")
    expect(page.locator("#said")).to_contain_text("not complete yet")
    sides = page.locator(".side .text").all_text_contents()
    assert sorted(sides) == ["I am chitchat", "I am other"]
    assert "temperature" not in page.locator("#comparing").inner_text()

    better = ("Left", "Right")[sides.index("I am other")]
    for _ in range(3):
        page.keyboard.press("Shift+Tab")
        if page.get_by_role("button", name=f"{better} is better").evaluate("each => each === document.activeElement"):
            break
    page.keyboard.press("Enter")
    expect(page.locator("#notice")).to_contain_text("95 % confidence interval")
    expect_turns(page, ["Who are you?", "I am other"])
    expect(page.locator("article.theirs")).to_contain_text("other · temperature 0.8 · top-p 0.95")
    expect(page.get_by_text("/ 2")).to_be_visible()
    vote = [*read_votes(place / "votes.jsonl")][before]
    assert vote.context.turns == ("Who are you?",)
    assert dict(zip(vote.models, vote.responses, strict=True)) == {
        "chitchat · temperature 0.8 · top-p 0.95": "I am chitchat",
        "other · temperature 0.8 · top-p 0.95": "I am other",
    }
    assert vote.winner == "other · temperature 0.8 · top-p 0.95"


def test_feedback_becomes_training_data(page: Page, place: Path, saying: Callable[..., Any]) -> None:
    file = place / "feedback.jsonl"
    file.unlink(missing_ok=True)
    with saying("Hi", "Go away"):
        talk(page, "Hello")
        page.get_by_role("button", name="Good response").click()
        expect(page.get_by_role("button", name="Good response")).to_have_attribute("aria-pressed", "true")
        talk(page, "How are you?")
    page.get_by_role("button", name="It should have said …").last.click()
    page.get_by_role("textbox", name="It should have said …").fill("Fine, thanks!")
    page.keyboard.press("Enter")
    expect(page.locator("article.theirs").last).to_contain_text("your correction")
    assert shown(page)[-1] == "Fine, thanks!"

    good, better = ConversationReader(file)
    assert (good.turns, good.turn_weights) == (("Hello", "Hi"), (0, 1))
    assert better.turns == ("Hello", "Hi", "How are you?", "Fine, thanks!")
    assert better.turn_weights == (0, 0, 0, 1)


def test_without_a_file_there_are_no_thumbs(page: Page, saying: Callable[..., Any]) -> None:
    def off(route: Any) -> None:
        found = route.fetch().json()
        for each in found["data"]:
            each["convmodel"]["feedback"] = False
        route.fulfill(json=found)

    page.route("**/v1/models", off)
    page.reload()
    with saying("Hi"):
        talk(page, "Hello")
    expect(page.get_by_role("button", name="Good response")).to_have_count(0)
    page.get_by_role("button", name="Settings").click()
    expect(page.get_by_role("dialog")).to_contain_text("--feedback FILE")


def test_colours_follow_the_system_or_the_setting(page: Page) -> None:
    def paper() -> str:
        return str(page.evaluate("getComputedStyle(document.body).backgroundColor"))

    page.emulate_media(color_scheme="light")
    light = paper()
    page.emulate_media(color_scheme="dark")
    dark = paper()
    assert light != dark
    page.get_by_role("button", name="Settings").click()
    page.get_by_label("Colours").select_option("light")
    assert paper() == light
    page.reload()
    assert paper() == light


@pytest.mark.parametrize("width", [390, 320])
def test_it_fits_a_phone(page: Page, saying: Callable[..., Any], width: int) -> None:
    page.set_viewport_size({"width": width, "height": 740})
    with saying("A response that is longer than the screen is wide, averylongwordwithoutanyspaces" + "x" * 80):
        talk(page, "Hello")
    for name in ("Inspect", "Settings"):
        page.get_by_role("button", name=name).click()
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        page.keyboard.press("Escape")
        if name == "Inspect":
            page.get_by_role("button", name="Close", exact=True).click()
    expect(page.get_by_role("button", name="New conversation")).to_be_hidden()
    page.get_by_role("button", name="Show conversations").click()
    page.get_by_role("button", name="New conversation").click()
    expect(page.get_by_label("Your turn", exact=True)).to_be_focused()
    expect(page.get_by_role("button", name="New conversation")).to_be_hidden()


def test_all_can_be_done_with_keys(page: Page, saying: Callable[..., Any]) -> None:
    expect(page.get_by_label("Your turn", exact=True)).to_be_focused()
    with saying("First", "Second"):
        page.keyboard.type("Two")
        page.keyboard.press("Shift+Enter")
        page.keyboard.type("lines")
        page.keyboard.press("Enter")
        expect(page.locator("article.theirs .text")).to_have_text("First")
        expect(page.get_by_role("button", name="Regenerate")).to_be_enabled()
        page.keyboard.press("Alt+r")
        expect(page.locator("article.theirs .text")).to_have_text("Second")
    assert shown(page)[0] == "Two\nlines"
    page.keyboard.press("Alt+i")
    expect(page.locator("#inspector h2")).to_be_focused()
    page.keyboard.press("Alt+i")
    expect(page.get_by_role("button", name="Inspect")).to_be_focused()
    page.keyboard.press("Alt+,")
    expect(page.get_by_role("dialog")).to_be_visible()
    page.keyboard.press("Escape")
    page.keyboard.press("Alt+/")
    expect(page.get_by_label("Search conversations")).to_be_focused()
    page.keyboard.press("Alt+n")
    expect(page.get_by_label("Your turn", exact=True)).to_be_focused()
    expect_turns(page, [])
    reached = set()
    for _ in range(30):
        page.keyboard.press("Tab")
        reached.add(page.evaluate("document.activeElement.id || document.activeElement.textContent"))
    assert {
        "new",
        "search",
        "import",
        "export-all",
        "compare",
        "inspect",
        "settings",
        "talk",
        "draft",
        "send",
    } <= reached


def test_the_model_that_responds_is_always_visible(page: Page, saying: Callable[..., Any]) -> None:
    choice = page.get_by_label("The model that responds")
    expect(choice).to_have_value("chitchat")
    with saying("I am chitchat", "And Bob"), saying("I am other", name="other"):
        talk(page, "Hello")
        choice.select_option("other")
        talk(page, "And you?")
        expect(page.locator("article h2")).to_have_text(["You", "chitchat", "You", "other"])
        page.get_by_role("button", name="Settings").click()
        page.get_by_role("dialog").get_by_label("Model", exact=True).select_option("chitchat")
        page.get_by_label("Model's name").fill("Bob")
        page.get_by_role("button", name="Done").click()
        expect(choice).to_have_value("chitchat")
        talk(page, "And now?")
    expect(page.locator("article h2").last).to_have_text("Bob")
    expect(page.locator("article.theirs").last).to_contain_text("chitchat · ")
    page.reload()
    expect(page.locator("article h2")).to_have_text(["You", "chitchat", "You", "other", "You", "Bob"])
    expect(choice).to_be_visible()
    compare(page)
    expect(page.locator("#model")).to_have_text("chitchat, other")


def test_a_model_that_the_server_no_longer_has_is_reported(page: Page, saying: Callable[..., Any]) -> None:
    page.evaluate("localStorage.setItem('convmodel.settings', JSON.stringify({ model: 'other' }))")
    page.reload()
    expect(page.get_by_label("The model that responds")).to_have_value("other")

    def gone(route: Route) -> None:
        error = {"message": "there is no model other, only chitchat", "code": "model_not_found"}
        route.fulfill(status=404, json={"error": error})

    page.route("**/v1/chat/completions", gone)
    page.route("**/v1/models", lambda route: route.fulfill(json={"data": [{"id": "chitchat", "convmodel": {}}]}))
    say(page, "Hello")
    expect(page.locator("#notice")).to_contain_text("there is no model other, only chitchat")
    page.unroute("**/v1/chat/completions")
    with saying("Hi"):
        page.get_by_role("button", name="Try again").click()
        expect(page.locator("article h2")).to_have_text(["You", "chitchat"])
    expect(page.locator("#model")).to_have_text("chitchat")


def test_titles_have_room(page: Page, saying: Callable[..., Any]) -> None:
    title = "A title of rather many words here"
    with saying("Hi"):
        talk(page, title)
    assert page.locator("#list .name").get_attribute("title") == title
    line = page.locator("#list .name span")
    assert line.evaluate("each => each.scrollHeight <= each.clientHeight")  # in two lines
    page.set_viewport_size({"width": 390, "height": 844})
    assert page.locator("#title").evaluate("each => each.clientWidth") > 350
    expect(page.locator("#title")).to_have_attribute("title", title)
    assert page.evaluate("document.documentElement.scrollWidth") <= 390


@pytest.mark.parametrize("what", ["stop", "failure", "vote"])
def test_what_goes_wrong_while_comparing_loses_no_response(page: Page, saying: Callable[..., Any], what: str) -> None:
    def fail_other(route: Route) -> None:
        if route.request.post_data_json["model"] == "other":
            expect(page.locator("#comparing")).to_contain_text("one two")
            route.fulfill(status=500, json={"error": {"message": "It broke"}})
        else:
            route.continue_()

    compare(page)
    if what == "failure":
        page.route("**/v1/chat/completions", fail_other)
    if what == "vote":
        page.route("**/votes", lambda route: route.fulfill(status=507, json={"error": {"message": "No room"}}))
    seconds = 0.5 if what == "failure" else 0.05  # which comes while the other still responds
    with saying("one two three four " * 5, seconds=seconds), saying("I am other", name="other"):
        say(page, "Who are you?")
        if what != "failure":
            page.get_by_role("button", name="Neither").wait_for()
        if what == "stop":
            page.keyboard.press("Escape")
        if what == "vote":
            page.get_by_role("button", name="Left is better").click()
            expect(page.locator("#notice")).to_contain_text("The vote was not saved: No room")
        if what == "failure":
            expect(page.locator("#notice")).to_contain_text("It broke")
        expect(page.get_by_role("button", name="Send")).to_be_visible()
    if what == "failure":
        expect(page.locator("article.theirs .text")).to_contain_text("one two")
    else:
        expect(page.get_by_text("/ 2")).to_be_visible()
    expect(page.locator("#comparing")).to_be_empty()


def test_reading_above_is_not_disturbed_by_a_response(page: Page, saying: Callable[..., Any]) -> None:
    with saying("Hi", "one two three four five " * 8, seconds=0.02):
        talk(page, "A line\n" * 60)
        say(page, "Count")
        expect(page.locator("article.theirs .text").last).to_contain_text("two")
        page.evaluate("talk.scrollTop = 100")
        expect(page.get_by_role("button", name="Send")).to_be_visible(timeout=30_000)
    assert page.evaluate("talk.scrollTop") == 100


def test_keys_keep_their_place_when_a_turn_changes(page: Page, saying: Callable[..., Any]) -> None:
    with saying("First", "Second", "Third"):
        talk(page, "Hello")
        for number in ("2 / 2", "3 / 3"):
            page.get_by_role("button", name="Regenerate").click()
            expect(page.get_by_text(number)).to_be_visible()
    page.get_by_role("button", name="Previous branch").focus()
    page.keyboard.press("Enter")
    expect_turns(page, ["Hello", "Second"])
    expect(page.get_by_role("button", name="Previous branch")).to_be_focused()
    page.keyboard.press("Enter")
    expect_turns(page, ["Hello", "First"])
    page.get_by_role("button", name="Good response").focus()
    page.keyboard.press("Enter")
    expect(page.get_by_role("button", name="Good response")).to_have_attribute("aria-pressed", "true")
    expect(page.get_by_role("button", name="Good response")).to_be_focused()


def test_a_vote_is_for_what_responded_whatever_is_chosen_meanwhile(
    page: Page, place: Path, saying: Callable[..., Any]
) -> None:
    compare(page)
    with saying("I am chitchat"), saying("I am other", name="other"):
        say(page, "Who are you?")
        page.get_by_role("button", name="Neither").wait_for()
    before = len([*read_votes(place / "votes.jsonl")])
    page.get_by_role("button", name="Comparing", exact=True).click()
    dialog = page.get_by_role("dialog")
    dialog.get_by_label("Temperature").first.fill("1.6")
    page.keyboard.press("Escape")
    left = page.locator(".side .text").first.text_content()
    page.get_by_role("button", name="Left is better").click()
    expect(page.locator("#notice")).to_contain_text("95 % confidence interval")
    vote = [*read_votes(place / "votes.jsonl")][before]
    assert dict(zip(vote.models, vote.responses, strict=True)) == {
        f"{name} · temperature 0.8 · top-p 0.95": f"I am {name}" for name in ("chitchat", "other")
    }
    assert vote.winner == f"{str(left).removeprefix('I am ')} · temperature 0.8 · top-p 0.95"
    page.get_by_role("button", name="Comparing", exact=True).click()
    expect(dialog.get_by_label("Temperature").first).to_have_value("0.8")  # Escape changes nothing


def test_nobody_is_asked_for_a_vote_after_the_comparison(page: Page, saying: Callable[..., Any]) -> None:
    compare(page)
    with saying("I am chitchat"), saying("I am other", name="other"):
        say(page, "Who are you?")
        page.get_by_role("button", name="Neither").wait_for()
    page.get_by_role("button", name="Comparing", exact=True).click()
    page.get_by_role("dialog").get_by_role("button", name="Stop comparing").click()
    expect(page.locator("#comparing")).to_be_empty()
    expect(page.get_by_text("/ 2")).to_be_visible()  # both responses stay
    with saying("Fine"):
        say(page, "How are you?")
        expect(page.locator("article.theirs .text").last).to_have_text("Fine")


@pytest.mark.parametrize("what", ["rating", "correction"])
def test_a_judgement_is_kept_with_its_conversation(page: Page, saying: Callable[..., Any], what: str) -> None:
    with saying("Hi"):
        talk(page, "Hello")
    held: list[Route] = []
    page.route("**/feedback", lambda route: held.append(route))
    if what == "rating":
        page.get_by_role("button", name="Good response").click()
    else:
        page.get_by_role("button", name="It should have said …").click()
        page.locator("#ask-dialog textarea").fill("Good morning")
        page.locator("#ask-dialog").get_by_role("button", name="Save").click()
    wait_for(page, lambda: held)
    page.get_by_role("button", name="New conversation").first.click()
    held[0].continue_()
    expect(page.locator("#said")).to_contain_text("Saved")
    [kept] = stored(page)
    page.reload()
    expect(page.locator("#list li")).to_have_count(1)
    page.locator("#list li button").first.click()
    if what == "rating":
        expect(page.get_by_role("button", name="Good response")).to_have_attribute("aria-pressed", "true")
    else:
        expect(page.get_by_text("2 / 2")).to_be_visible()
    assert len(kept["turns"]) == (2 if what == "rating" else 3)
