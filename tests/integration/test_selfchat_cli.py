"""`convmodel selfchat` as a user meets it."""

import json
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from convmodel.data.progress import console
from convmodel.data.reading.reader import read_conversations

Run = Callable[..., int]


@pytest.mark.slow
def test_it_prints_the_talk_and_tells_of_the_loop(run: Run, capfd: pytest.CaptureFixture[str]) -> None:
    assert run("selfchat", "model", "--greedy", "--turns", "40", "--output", "talks.jsonl") == 0
    out, err = capfd.readouterr()

    lines = out.splitlines()
    assert lines[:2] == ["user: Hello", "assistant: How are you"]
    assert f"({len(lines) - 1} turns" in err
    [talk] = read_conversations("talks.jsonl")
    assert [f"{name}: {turn}" for name, turn in zip(talk.turn_speakers, talk.turns, strict=True)] == lines


@pytest.mark.slow
def test_greedy_takes_the_likeliest_tokens_of_a_model_that_samples_by_default(
    run: Run, capfd: pytest.CaptureFixture[str]
) -> None:
    arguments = ("--greedy", "--turns", "6", "--seed", "1")
    assert run("selfchat", "model", *arguments) == 0
    expected = capfd.readouterr()
    shutil.copytree("model", "sampling")
    config = json.loads(Path("sampling/generation_config.json").read_text(encoding="utf-8"))
    config |= {"do_sample": True, "temperature": 5.0, "top_k": 0}
    Path("sampling/generation_config.json").write_text(json.dumps(config), encoding="utf-8")

    assert run("selfchat", "sampling", *arguments) == 0

    assert capfd.readouterr().out == expected.out
    assert "seed changes nothing" not in expected.err


@pytest.mark.slow
def test_each_conversation_of_a_file_opens_one(run: Run, capfd: pytest.CaptureFixture[str]) -> None:
    arguments = ["--data", "test.jsonl", "--limit", "3", "--turns", "3", "--seed", "1", "--max-new-tokens", "5"]
    assert run("selfchat", "model", "gpt2", "--speakers", "Ann, Bob", *arguments) == 0
    out, err = capfd.readouterr()

    talks = out.split("\n\n")
    first_turns = [conversation.turns[0] for conversation in read_conversations("test.jsonl")][:3]
    assert [talk.partition("\n")[0] for talk in talks] == [f"Ann: {turn}" for turn in first_turns]
    assert "of 3 conversations repeat themselves" in err


@pytest.mark.slow
def test_the_turn_that_is_waited_for_is_counted(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    counted: list[str] = []

    @contextmanager
    def status(text: str) -> Iterator[None]:
        counted.append(text)
        yield

    monkeypatch.setattr(console, "status", status)
    arguments = ["--max-new-tokens", "3", "--through-loops", "--turns", "2"]
    run("selfchat", "model", *arguments)
    run("selfchat", "model", "--data", "test.jsonl", "--limit", "2", *arguments)

    turns = [text for text in counted if "turn" in text]
    assert turns[:2] == ["turn 1 of 2 ...", "turn 2 of 2 ..."]
    assert "conversation 1 of 2, turn 1 of 2 ..." in turns
    assert turns[-1].startswith("conversation 2 of 2, turn ")


@pytest.mark.slow
def test_what_is_written_trains_a_model(run: Run, capfd: pytest.CaptureFixture[str]) -> None:
    for _ in range(2):  # the second is added
        assert run("selfchat", "model", "--turns", "3", "--seed", "1", "--output", "talks.jsonl") == 0
    assert len(Path("talks.jsonl").read_text().splitlines()) == 2
    assert json.loads(Path("talks.jsonl").read_text().splitlines()[0])["speakers"][:2] == ["user", "assistant"]
    assert run("fit", "talks.jsonl", "-m", "gpt2", "--output-dir", "new", "--max-steps", "1") == 0


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        ("model --speakers Ann", "two different names"),
        ("model --speakers Ann,Ann", "two different names"),
        ("model gpt2 model", "3 models for 2 speakers"),
        ("model --data nowhere.jsonl", "nowhere.jsonl"),
        ("model --output no/such/folder.jsonl --turns 1", "cannot be written"),
    ],
)
def test_mistakes_are_told(run: Run, capfd: pytest.CaptureFixture[str], arguments: str, word: str) -> None:
    assert run("selfchat", *arguments.split()) == 1
    assert word in " ".join(capfd.readouterr().err.split())


def test_the_layout_of_a_base_model_can_be_chosen(run: Run, capfd: pytest.CaptureFixture[str]) -> None:
    assert run("selfchat", "gpt2", "--layout", "template", "--turns", "1") == 1

    assert "has no chat template" in capfd.readouterr().err
