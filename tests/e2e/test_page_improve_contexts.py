"""The conversations of the blind comparison in the view "Improve", whoever spoke last in them."""

import json
from pathlib import Path
from typing import Any

import pytest
from page_acts import distinguish_names, model_says
from page_improving import Loop, dialog, train
from playwright.sync_api import Browser, Page, Route, expect

pytestmark = [pytest.mark.loopback, pytest.mark.slow]


@pytest.fixture
def loop(tmp_path: Path, browser: Browser) -> Loop:
    return Loop(tmp_path, browser)


def hold_out(loop: Loop, page: Page, *speakers: list[str]) -> None:
    """Writes conversations of these speakers as those to compare on; their turns are numbered."""
    lines = [{"turns": [f"Turn {n}" for n in range(len(each))], "speakers": each, "pinned": 0} for each in speakers]
    file = loop.feedback.parent / "better/chitchat-1/held-out.jsonl"
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    page.reload()


def test_every_conversation_is_responded_to_whoever_spoke_last(loop: Loop) -> None:
    speakers = [["user", "assistant", "user"], ["Ann", "Bob"], ["user", "assistant", "assistant"]]
    with loop.page() as (page, served):
        train(page)
        hold_out(loop, page, *speakers)
        view = dialog(page)
        with model_says(served, "chitchat", "A", "C", "E", "G"), model_says(served, "chitchat-1", "B", "D", "F", "H"):
            view.get_by_role("button", name="Show two responses").click()
            for number, each in enumerate(speakers):
                last = f"user: Turn {len(each) - 2}"
                expect(view.locator("blockquote p").last).to_have_text(last)
                expect(view.get_by_role("button", name="Neither")).to_be_visible()
                view.get_by_role("button", name="Left is better").click()
                expect(view).to_contain_text(f"{4 - number} more vote")
            expect(view.get_by_role("button", name="Neither")).to_be_visible()
        expect(view.get_by_role("alert")).to_have_count(0)


def test_of_a_long_conversation_the_end_is_in_view_beside_the_responses(loop: Loop) -> None:
    with loop.page() as (page, served):
        train(page)
        hold_out(loop, page, ["user", "assistant"] * 30)
        view = dialog(page)
        text = "It is as long as a response of a hundred tokens may be. " * 8
        with model_says(served, "chitchat", text), model_says(served, "chitchat-1", text):
            view.get_by_role("button", name="Show two responses").click()
            expect(view.get_by_role("button", name="Neither")).to_be_visible()
        for place in (view.locator("blockquote p").last, view.get_by_role("button", name="Neither")):
            expect(place).to_be_in_viewport()


def test_what_a_model_does_not_respond_to_is_left_out(loop: Loop) -> None:
    with loop.page() as (page, served):
        train(page)
        hold_out(loop, page, ["user", "assistant"], ["user", "assistant", "user"])
        view, refusal = dialog(page), {"error": {"message": "Not this one"}}

        def refuse(route: Route) -> None:
            body: Any = route.request.post_data_json
            if len(body["messages"]) == 1:
                route.fulfill(status=400, json=refusal)
            else:
                route.continue_()

        page.route("**/v1/chat/completions", refuse)
        with model_says(served, "chitchat", "A"), model_says(served, "chitchat-1", "B"):
            view.get_by_role("button", name="Show two responses").click()
            expect(view.get_by_role("button", name="Neither")).to_be_visible()
        expect(view.locator("blockquote")).to_contain_text("Turn 1")
        expect(view).to_contain_text("1 conversation was left out: Not this one")
        page.route("**/v1/chat/completions", lambda route: route.fulfill(status=400, json=refusal))
        view.get_by_role("button", name="Skip").click()
        expect(view.get_by_role("alert")).to_have_text("Not this one")  # none is left
        page.unroute_all()
        with model_says(served, "chitchat", "A"), model_says(served, "chitchat-1", "B"):
            view.get_by_role("button", name="Try again").click()
            expect(view.get_by_role("button", name="Neither")).to_be_visible()


def test_both_versions_get_the_same_request(loop: Loop) -> None:
    with loop.page() as (page, _):
        train(page)
        distinguish_names(page)
        held = [{"context": [{"role": "Ann", "content": "Hi"}], "responder": "Bob"}]

        def answer(route: Route) -> None:
            state = route.fetch().json()
            state["candidate"]["contexts"] = held
            route.fulfill(json=state)

        page.route("**/improve", answer)
        waiting: list[Route] = []

        def refuse_both(route: Route) -> None:
            waiting.append(route)
            if len(waiting) == 2:  # the first refusal ends the other request
                for each in waiting:
                    each.fulfill(status=400, json={"error": {"message": "Not this one"}})

        page.route("**/v1/chat/completions", refuse_both)
        page.reload()
        dialog(page).get_by_role("button", name="Show two responses").click()
        expect(dialog(page).get_by_role("alert")).to_be_visible()
        bodies: list[Any] = [each.request.post_data_json for each in waiting]
        first, second = sorted(bodies, key=lambda body: body["model"])
        assert first["reply_as"] == "Bob"
        assert first["messages"] == [{"role": "user", "content": "Hi", "name": "Ann"}]
        assert first | {"model": "chitchat-1"} == second
