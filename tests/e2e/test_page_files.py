"""Import and Export: every file that convmodel writes is read, with branches and titles, and without doubles."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from page_acts import compare, distinguish_names, expect_turns, say, stored, talk
from playwright.sync_api import Page, expect

from convmodel.conversation import Conversation
from convmodel.data.reading.reader import ConversationReader
from convmodel.data.reading.writing import write_jsonl

pytestmark = [pytest.mark.loopback, pytest.mark.slow]


def import_file(page: Page, file: Path, notice: str) -> None:
    page.get_by_label("A JSONL file of conversations").set_input_files(file)
    expect(page.locator("#notice p")).to_have_text(notice)


def export_all(page: Page, file: Path) -> Path:
    with page.expect_download() as waiting:
        page.get_by_role("button", name="Export all").click()
    waiting.value.save_as(file)
    return file


def test_what_import_and_save_write_is_imported_and_exported_unchanged(page: Page, tmp_path: Path) -> None:
    """`convmodel import`, `/save` and `selfchat` write these lines."""
    day = {"id": "chat.txt:3", "started_at": "2024-01-31T21:41:00"}
    written = [
        Conversation(["Hello", "Hi\nthere “friend” 🦜"]),
        Conversation(["Hi", "Hey", "Hi", "All?", "Yes"], ["Ann", "Bob", "Ann", "Cem", "assistant"]),
        Conversation(["Be kind", "Be brief", "Hi", "Yes"], ["system", "persona", "user", "assistant"], pinned=2),
        Conversation(["Rules", "Hi"], ["Zoe", "Ann"], pinned=1, weights=[1, 0]),
        Conversation(["I", "am", "alone"], ["Ann"] * 3, weights=[0, 2, 0.5]),
        Conversation(["system is a name", "too"], ["system", "user"]),
    ]
    file = tmp_path / "train.jsonl"
    write_jsonl(file, written)
    with file.open("a") as more:
        more.write(json.dumps(day | {"turns": ["Dated", "Yes"], "speakers": ["user", "assistant"]}) + "\n")
    original = [*ConversationReader(file)]
    import_file(page, file, "7 conversations imported.")
    expect_turns(page, list(written[0].turns))
    import_file(page, file, "0 conversations imported, 7 here already.")
    assert page.locator("#list .name").count() == 7

    exported = [*ConversationReader(export_all(page, tmp_path / "out.jsonl"))]
    assert sorted(exported, key=repr) == sorted(original, key=repr)
    [dated] = [each for each in exported if each.id == "chat.txt:3"]
    assert dated.started_at == original[-1].started_at


def test_an_imported_conversation_continues_with_its_speakers(
    page: Page, saying: Callable[..., Any], tmp_path: Path
) -> None:
    file = tmp_path / "one.jsonl"
    write_jsonl(file, [Conversation(["Hi", "Hey"], ["Ann", "Bob"])])
    distinguish_names(page)
    import_file(page, file, "1 conversation imported.")
    bodies: list[Any] = []
    page.on("request", lambda each: bodies.append(each.post_data_json) if "completions" in each.url else None)
    with saying("Good"):
        talk(page, "And you?")
    expect(page.locator("article h2")).to_have_text(["Ann", "Bob", "Ann", "Bob"])
    assert bodies[0]["reply_as"] == "Bob"
    assert [each["name"] for each in bodies[0]["messages"]] == ["Ann", "Bob", "Ann"]
    import_file(page, file, "0 conversations imported, 1 here already.")  # it is the beginning of the one that went on


def test_branches_and_titles_survive_export_and_import(page: Page, saying: Callable[..., Any], tmp_path: Path) -> None:
    with saying("First", "Second", "Fine"):
        talk(page, "Hello")
        page.get_by_role("button", name="Regenerate").click()
        expect(page.get_by_text("2 / 2")).to_be_visible()
        talk(page, "How are you?")
    page.get_by_role("button", name="Good response").last.click()
    page.get_by_label("More of Hello").click()
    page.get_by_role("button", name="Rename").click()
    page.get_by_role("textbox", name="Rename this conversation").fill("Greetings")
    page.keyboard.press("Enter")
    before = stored(page)
    file = export_all(page, tmp_path / "all.jsonl")
    assert [each.turns for each in ConversationReader(file)] == [("Hello", "Second", "How are you?", "Fine")]
    import_file(page, file, "0 conversations imported, 1 here already.")
    assert stored(page) == before

    page.evaluate("localStorage.clear()")
    page.reload()
    import_file(page, file, "1 conversation imported.")
    expect(page.locator("#list .name")).to_have_text(["Greetings"])
    for turn in before[0]["turns"].values():
        turn.pop("version", None)  # another server's model may have written what is imported
    assert stored(page) == before
    expect_turns(page, ["Hello", "Second", "How are you?", "Fine"])
    expect(page.get_by_role("button", name="Good response").last).to_have_attribute("aria-pressed", "true")
    page.get_by_role("button", name="Previous branch").click()
    expect_turns(page, ["Hello", "First"])

    with saying("Great", "More"):  # an older export adds nothing, and takes nothing away
        talk(page, "Continue")
        import_file(page, file, "0 conversations imported, 1 here already.")
        assert len(stored(page)[0]["turns"]) == 7
        newer = export_all(page, tmp_path / "newer.jsonl")
    page.get_by_label("More of Greetings").click()
    page.locator("#list details[open]").get_by_role("button", name="Delete").click()
    page.locator("#ask-dialog").get_by_role("button", name="Delete").click()
    import_file(page, file, "1 conversation imported.")
    import_file(page, newer, "0 conversations imported, 1 updated.")
    assert len(stored(page)[0]["turns"]) == 7

    line = json.loads(file.read_text())  # a line that was corrected by hand
    line["turns"][3] = "Fine, thanks!"
    file.write_text(json.dumps(line) + "\n")
    import_file(page, file, "0 conversations imported, 1 updated.")
    expect(page.locator("#talk article .text")).to_have_text(["Hello", "Second", "How are you?", "Fine, thanks!"])


def test_a_side_of_a_comparison_needs_no_model(page: Page, tmp_path: Path) -> None:
    answer = {"speaker": "assistant", "role": "assistant", "text": "Hey", "whose": "the left one", "next": []}
    turns = {"a": {"speaker": "user", "text": "Hi", "next": ["b"]}, "b": answer}
    file = tmp_path / "sides.jsonl"
    file.write_text(json.dumps({"turns": ["Hi", "Hey"], "chat_page": {"id": "x", "top": ["a"], "turns": turns}}))
    import_file(page, file, "1 conversation imported.")
    expect_turns(page, ["Hi", "Hey"])
    expect(page.locator("article.theirs p.quiet")).to_have_text("the left one")


def test_other_files_are_read_or_named_with_their_line(page: Page, tmp_path: Path) -> None:
    """Feedback, old and new, is read; votes, responses, chat exports and damaged lines are counted with the reason."""
    said = [{"role": "Ann", "content": "Hi", "weight": 0}, {"role": "assistant", "content": "Hey", "weight": 1}]
    lines = [
        json.dumps({"messages": said, "model": "m", "rating": "up"}),
        "not JSON",
        json.dumps({"messages": []}),
        json.dumps({"messages": [{"role": "user"}]}),
        json.dumps(["A", " "]),
        json.dumps({"context": ["Hi"], "models": ["a", "b"], "responses": ["1", "2"], "winner": "a"}),
        "null",
        json.dumps(
            {"turns": ["A"], "chat_page": {"id": "x", "top": ["a"], "turns": {"a": {"text": "A", "next": ["a"]}}}}
        ),
        json.dumps(["A", "B"]),
        json.dumps(["A", "B"]),
        json.dumps({"context": ["Ho"], "responder": "assistant", "chosen": "Hey", "rejected": "Go", "kind": "edit"}),
        json.dumps({"context": [{"role": "user", "content": "Ho"}], "responder": "Zoë", "rejected": "Go"}),
    ]
    file = tmp_path / "mixed.jsonl"
    file.write_text("\ufeff" + "\r\n".join(lines))
    import_file(
        page,
        file,
        "4 conversations imported, 1 here already. 7 skipped (line 2: not valid JSON; line 3: no turns; "
        "line 4: turn 1 needs a speaker and a text; line 5: turn 2 is empty; line 6: neither turns nor messages; …).",
    )
    feedback = next(
        each for each in ConversationReader(export_all(page, tmp_path / "out.jsonl")) if each.turns[0] == "Hi"
    )
    assert feedback.turn_weights == (0, 1)

    whole = tmp_path / "whole.json"
    whole.write_text(json.dumps([{"messages": [{"role": "user", "content": "Whole"}]}, ["C", "D"]], indent=1))
    import_file(page, whole, "2 conversations imported.")
    chat = tmp_path / "chat.txt"
    chat.write_text("31/01/2024, 21:41 - Ann: Hi\n")
    fix = "`convmodel import` converts chat exports and other data to files that this page reads."
    import_file(page, chat, f"0 conversations imported. 1 skipped (line 1: not valid JSON). {fix}")


def test_what_does_not_fit_the_storage_is_counted(page: Page, tmp_path: Path) -> None:
    file = tmp_path / "large.jsonl"
    write_jsonl(file, [Conversation([f"{number} " + "x" * 900_000, "Yes"]) for number in range(8)])
    page.get_by_label("A JSONL file of conversations").set_input_files(file)
    expect(page.locator("#notice p")).to_contain_text("not imported, since the browser's storage is full")
    count = len(stored(page))
    assert 1 <= count < 8
    expect(page.locator("#notice p")).to_contain_text(f"{8 - count} not imported")
    page.reload()
    expect(page.locator("#list .name")).to_have_count(count)


def test_an_import_while_comparing_keeps_the_responses(page: Page, saying: Callable[..., Any], tmp_path: Path) -> None:
    file = tmp_path / "one.jsonl"
    write_jsonl(file, [Conversation(["A", "B"])])
    compare(page)
    with saying("One"), saying("Two", name="other"):
        say(page, "Hello")
        page.get_by_role("button", name="Neither").wait_for()
        import_file(page, file, "1 conversation imported.")
    expect_turns(page, ["A", "B"])
    expect(page.locator("#comparing")).to_be_empty()
    page.locator("#list .name", has_text="Hello").click()
    expect(page.get_by_text("/ 2")).to_be_visible()
