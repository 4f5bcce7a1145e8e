"""The view "Improve": from ratings to a better model, with keys, after a reload, and when something goes wrong."""

import json
import os
from pathlib import Path

import pytest
from fake_improve import CONTEXTS, GUARD
from page_acts import model_says
from page_improving import Loop, dialog, train
from playwright.sync_api import Browser, Page, Route, expect

from convmodel.evaluation.votes import read_votes

pytestmark = [pytest.mark.loopback, pytest.mark.slow]


@pytest.fixture
def loop(tmp_path: Path, browser: Browser) -> Loop:
    return Loop(tmp_path, browser)


def test_without_permission_there_is_no_button(page: Page) -> None:
    expect(page.get_by_role("button", name="Compare")).to_be_visible()
    expect(page.get_by_role("button", name="Improve")).to_be_hidden()


def test_what_is_still_needed_is_told(loop: Loop) -> None:
    loop.write(12, 0)
    with loop.page() as (page, served):
        expect(dialog(page)).to_contain_text("12 judgements: 12 good.")
        expect(dialog(page)).to_contain_text("Still needed: 8 more judgements, of disliked responses among them.")
        expect(dialog(page).get_by_role("button", name="Start improving")).to_be_disabled()
        loop.write(12, 8)
        dialog(page).get_by_role("button", name="Close").click()
        page.get_by_role("button", name="Improve", exact=True).click()
        expect(dialog(page).get_by_role("button", name="Start improving")).to_be_enabled()
        loop.feedback.write_text("not JSON\n")
        page.reload()
        expect(dialog(page)).to_contain_text("feedback.jsonl:1")
        expect(dialog(page).get_by_role("button", name="Start improving")).to_be_disabled()
        assert served.get("/improve").json["job"] is None


def test_from_ratings_to_the_new_model_and_back(loop: Loop) -> None:
    with loop.page(guard=GUARD) as (page, served):
        train(page)
        view = dialog(page)
        expect(view).to_contain_text("20 trained on, 3 held out")
        expect(view).to_contain_text("20.0 before, 21.0 after step 3")
        expect(view.locator("p.problem")).to_have_text(f"Stopped early: {GUARD} The model after step 3 was kept.")
        view.get_by_text("Curves").click()
        expect(view.get_by_role("img", name="Loss")).to_have_attribute(
            "aria-label", "Loss: 3.00 at step 1, 2.33 at step 3"
        )
        name = "Validation perplexity: 20.0 at step 0, 21.0 at step 3; at most 22.0 is allowed"
        expect(view.get_by_role("img", name=name)).to_be_visible()
        use = view.get_by_role("button", name="Use the new model")
        expect(use).to_be_disabled()
        expect(view).to_contain_text("5 more votes are needed before it can be used.")

        old, new = [f"I am old {n}" for n in range(6)], [f"I am new {n}" for n in range(6)]
        with model_says(served, "chitchat", *old), model_says(served, "chitchat-1", *new):
            view.get_by_role("button", name="Show two responses").click()
            for number in range(5):
                expect(view.locator("blockquote")).to_contain_text(CONTEXTS[number % 3])
                expect(view.get_by_role("button", name="Neither")).to_be_visible()
                sides = view.locator(".side .text").all_text_contents()
                assert sorted(sides) == [f"I am new {number}", f"I am old {number}"]
                assert "chitchat-1" not in view.locator("#improve-pair").inner_text()
                better = ("Left", "Right")[sides.index(f"I am new {number}")]
                view.get_by_role("button", name=f"{better} is better" if number else "Neither").click()
                expect(view).to_contain_text(f"Votes: {number} for the new version (chitchat-1), 0 for the old one")
                expect(view.locator("p.quiet", has_text="Your vote was saved.")).to_be_visible()
            expect(view).to_contain_text("The new version won 100 % (95 % confidence interval: 51 % to 100 %)")
            expect(view).to_contain_text("The new version is better.")
            expect(use).to_be_enabled()
            expect(view.get_by_role("button", name="Neither")).to_be_visible()
        assert served.get("/improve").json["models"][0]["version"] == "chitchat"
        use.click()
        expect(view).to_contain_text("chitchat-1 is served as chitchat, in place of the model as it was at first.")
        expect(view.get_by_role("button", name="Show two responses")).to_be_hidden()
        assert served.get("/improve").json["models"][0]["version"] == "chitchat-1"
        view.get_by_role("button", name="Back to the old one").click()
        expect(view.get_by_role("button", name="Use the new model")).to_be_enabled()
        expect(view.get_by_role("button", name="Back to the old one")).to_be_hidden()
        assert served.get("/improve").json["models"][0]["version"] == "chitchat"
    votes = [*read_votes(loop.votes)]
    assert [vote.winner for vote in votes] == [None, *["chitchat-1"] * 4]
    assert [[*vote.responses] for vote in votes[1:]] == [[f"I am new {n}", f"I am old {n}"] for n in range(1, 5)]
    assert all(vote.comparison for vote in votes)


@pytest.mark.parametrize(("steps", "end"), [(None, ""), (0, " The model was kept as it was.")])
def test_a_report_that_kept_no_step_or_is_older(loop: Loop, steps: int | None, end: str) -> None:
    with loop.page(guard="The perplexity rose.") as (page, served):
        train(page)
        state = served.get("/improve").json
        del state["job"]["result"]["steps"]
        state["job"]["result"] |= {} if steps is None else {"steps": steps}
        page.route("**/improve", lambda route: route.fulfill(json=state))
        page.reload()
        expect(dialog(page).locator("p.problem")).to_have_text(f"Stopped early: The perplexity rose.{end}")
        expect(dialog(page)).to_contain_text("20.0 before, 21.0 after")
        expect(dialog(page)).not_to_contain_text("after step")


def test_a_running_job_survives_a_reload_and_is_resumed(loop: Loop) -> None:
    with loop.page(steps=400, pause=0.05) as (page, served):
        view = dialog(page)
        view.get_by_role("button", name="Start improving").click()
        expect(view.get_by_role("progressbar")).to_be_visible()
        expect(view).to_contain_text("of 400")
        page.reload()
        expect(view.get_by_role("progressbar")).to_be_visible()
        view.get_by_role("button", name="Cancel").click()
        expect(view).to_contain_text("Continue resumes it.")
        step = served.get("/improve").json["job"]["progress"]["step"]
        view.get_by_role("button", name="Continue").click()
        expect(view.get_by_role("button", name="Cancel")).to_be_visible()
        assert served.get("/improve").json["job"]["progress"]["step"] >= step
        page.keyboard.press("Escape")
        expect(view).to_be_hidden()
        page.reload()
        expect(page.get_by_role("button", name="Improve", exact=True)).to_be_visible()
        expect(view).to_be_hidden()  # as it was left


def test_what_goes_wrong_is_told(loop: Loop) -> None:
    with loop.page(fail="error: the model does not fit in memory") as (page, _):
        view = dialog(page)
        view.get_by_role("button", name="Start improving").click()
        expect(view.get_by_role("alert")).to_have_text("chitchat-1 failed: error: the model does not fit in memory")
        expect(view.get_by_role("button", name="Improve again")).to_be_enabled()
        refusal = {"error": {"message": "chitchat is being improved: wait", "code": "training_runs"}}
        page.route("**/improve", lambda route: route.fulfill(status=409, json=refusal))
        view.get_by_role("button", name="Improve again").click()
        expect(view.get_by_role("alert").first).to_have_text("chitchat is being improved: wait")
        page.unroute("**/improve")
        page.reload()
        expect(view.get_by_role("button", name="Improve again")).to_be_enabled()
        page.route("**/improve", lambda route: route.abort())
        page.reload()
        expect(view.get_by_role("alert")).to_contain_text("The server does not answer")
        page.unroute("**/improve")
        expect(view.get_by_role("button", name="Improve again")).to_be_enabled()  # by itself, after a while


def test_a_run_that_learned_nothing_offers_nothing(loop: Loop) -> None:
    with loop.page(guard=GUARD, kept=0) as (page, _):
        dialog(page).get_by_role("button", name="Start improving").click()
        expect(dialog(page)).to_contain_text("Nothing was learned: chitchat-1 is the model as it was.")
        expect(dialog(page)).to_contain_text(f"{GUARD} The model was kept as it was.")
        expect(dialog(page).get_by_role("button", name="Use the new model")).to_have_count(0)


def test_a_comparison_that_fails_can_be_tried_again(loop: Loop) -> None:
    with loop.page() as (page, served):
        train(page)
        view, fails = dialog(page), [True]

        def once(route: Route) -> None:
            if fails.pop():
                route.fulfill(status=500, json={"error": {"message": "It broke"}})
            else:
                route.continue_()

        page.route("**/v1/chat/completions", lambda route: once(route) if fails else route.continue_())
        view.get_by_role("button", name="Show two responses").click()
        expect(view.get_by_role("alert")).to_have_text("It broke")
        page.route("**/votes", lambda route: route.fulfill(status=507, json={"error": {"message": "No room"}}))
        with model_says(served, "chitchat", "A", "C"), model_says(served, "chitchat-1", "B", "D"):
            view.get_by_role("button", name="Try again").click()
            expect(view.locator("blockquote")).to_contain_text(CONTEXTS[1])  # another one: the first may fail again
            view.get_by_role("button", name="Left is better").click()
            expect(view.get_by_role("alert")).to_have_text("No room")
            page.unroute("**/votes")
            view.get_by_role("button", name="Try again").click()
            expect(view.locator("blockquote")).to_contain_text(CONTEXTS[2])
            view.get_by_role("button", name="Left is better").click()
            expect(view).to_contain_text("4 more votes are needed")


def test_a_comparison_can_be_skipped(loop: Loop) -> None:
    with loop.page() as (page, served):
        train(page)
        view = dialog(page)
        skip = view.get_by_role("button", name="Skip")
        with (
            model_says(served, "chitchat", "A" * 200, "C", "E", "G"),
            model_says(served, "chitchat-1", "B" * 200, "D", "F", "H"),
        ):
            view.get_by_role("button", name="Show two responses").click()
            expect(view.locator("blockquote")).to_contain_text(CONTEXTS[0])
            skip.click()  # while they respond, or after
            expect(view.locator("blockquote")).to_contain_text(CONTEXTS[1])
            expect(view.locator("blockquote")).to_be_focused()
            expect(view.get_by_role("button", name="Neither")).to_be_visible()
            skip.click()
            expect(view.locator("blockquote")).to_contain_text(CONTEXTS[2])
            view.get_by_role("button", name="Left is better").click()
            expect(view).to_contain_text("4 more votes are needed")
            expect(view.locator("blockquote")).to_contain_text(CONTEXTS[0])
        assert len([*read_votes(loop.votes)]) == 1


def test_texts_of_contexts_and_responses_are_text(loop: Loop) -> None:
    evil = "<img src=x onerror='window.evil=1'>"
    with loop.page() as (page, served):
        train(page)
        lines = json.dumps({"turns": [evil, "Yes"], "speakers": [evil, "Bob"], "pinned": 0}) + "\n"
        (loop.feedback.parent / "better/chitchat-1/held-out.jsonl").write_text(lines)
        page.reload()
        view = dialog(page)
        with model_says(served, "chitchat", evil), model_says(served, "chitchat-1", evil):
            view.get_by_role("button", name="Show two responses").click()
            expect(view.locator(".side .text").last).to_have_text(evil)
            expect(view.locator("blockquote")).to_have_text(f"user: {evil}")
        assert page.evaluate("window.evil") is None


def test_all_can_be_done_with_keys_and_is_announced(loop: Loop) -> None:
    with loop.page() as (page, served):
        view = dialog(page)
        page.keyboard.press("Escape")
        page.get_by_role("button", name="Improve", exact=True).focus()
        page.keyboard.press("Enter")
        view.get_by_role("button", name="Start improving").focus()
        page.keyboard.press("Enter")
        expect(view.get_by_role("status")).to_have_text("The new version is loaded. Compare it with the old one.")
        view.get_by_role("button", name="Show two responses").focus()
        with model_says(served, "chitchat", "A", "C"), model_says(served, "chitchat-1", "B", "D"):
            page.keyboard.press("Enter")
            expect(view.get_by_role("status")).to_have_text("Both have responded. Which is better?")
            expect(view.locator("blockquote")).to_be_focused()
            page.keyboard.press("Tab")
            expect(view.get_by_role("button", name="Left is better")).to_be_focused()
            page.keyboard.press("Enter")
            expect(view).to_contain_text("4 more votes are needed")
            expect(view.locator("blockquote")).to_be_focused()


@pytest.mark.parametrize("width", [390, 320])
def test_it_fits_a_phone(loop: Loop, width: int) -> None:
    with loop.page() as (page, served):
        page.set_viewport_size({"width": width, "height": 740})
        train(page)
        with model_says(served, "chitchat", "averylongword" * 20), model_says(served, "chitchat-1", "B"):
            dialog(page).get_by_role("button", name="Show two responses").click()
            expect(dialog(page).get_by_role("button", name="Neither")).to_be_visible()
        view = dialog(page)
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        assert view.evaluate("each => each.scrollWidth <= each.clientWidth")


@pytest.mark.skipif("AXE_CORE" not in os.environ, reason="AXE_CORE must name axe.min.js of the npm package axe-core")
@pytest.mark.parametrize("colours", ["light", "dark"])
@pytest.mark.parametrize("width", [1200, 390])
def test_axe_finds_nothing(loop: Loop, colours: str, width: int) -> None:
    axe = Path(os.environ["AXE_CORE"]).read_text(encoding="utf-8")

    def look(page: Page, where: str) -> None:
        page.evaluate(axe)
        found = page.evaluate("axe.run().then(found => found.violations)")
        assert not found, f"{where}: {json.dumps(found, indent=1)[:3000]}"

    with loop.page(pause=0.3, steps=8, guard=GUARD) as (page, served):
        page.emulate_media(color_scheme=colours)  # type: ignore[arg-type]
        page.set_viewport_size({"width": width, "height": 800})
        look(page, "start")
        dialog(page).get_by_role("button", name="Start improving").click()
        expect(dialog(page).get_by_role("img").first).to_be_visible()
        look(page, "running")
        dialog(page).get_by_role("button", name="Show two responses").click()
        expect(dialog(page).get_by_role("button", name="Neither")).to_be_visible()
        look(page, "comparing")
        for _ in range(5):
            served.post("/votes", context=["Hi"], models=["chitchat", "chitchat-1"], responses=["a", "b"],
                        winner="chitchat-1")  # fmt: skip
        served.post("/improve/use", model="chitchat", version="new")
        page.reload()
        expect(dialog(page).get_by_role("button", name="Back to the old one")).to_be_visible()
        look(page, "used")
