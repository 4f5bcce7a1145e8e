"""`convmodel reward` as a user meets it."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

Run = Callable[..., int]


@pytest.fixture
def own_model(reader_folder: Path) -> Path:
    """A copy that may be written to; `model` is a link to one that all tests share."""
    return Path(shutil.copytree(reader_folder / "model", reader_folder / "own"))


@pytest.fixture
def feedback(reader_folder: Path) -> Path:
    """Thumbs on responses of a few words: those that end in a question are liked."""
    path = reader_folder / "feedback.jsonl"
    words = ["I see", "you like it", "hello", "we say so", "blue"]
    with path.open("w", encoding="utf-8") as file:
        for number in range(30):
            text = words[number % 5] + ("?" if number % 2 else ".")
            context = [{"role": "user", "content": f"{words[number // 5 % 5]} {number}"}]
            side = "chosen" if number % 2 else "rejected"
            file.write(json.dumps({"context": context, "responder": "assistant", side: text, "kind": "thumb"}) + "\n")
    return path


@pytest.mark.slow
def test_judgements_order_the_candidates(
    run: Run, own_model: Path, feedback: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert run("reward", str(own_model), "--feedback", str(feedback)) == 0
    out, err = capfd.readouterr()
    assert "AUC on responses that are new to it" in out
    assert "30 judgements (30 thumb): 15 liked only, 15 disliked only" in err
    assert (own_model / "reward_model.json").exists()

    def best(weight: float) -> list[float]:
        options = ["-o", "candidates=6", "-o", f"reward_weight={weight}"]
        command = ["generate", "Hello", "--temperature", "2", "--seed", "1", "--json", "--model", str(own_model)]
        assert run(*command, *options) == 0
        found: list[float] = json.loads(capfd.readouterr().out)["scores"]
        return found

    assert best(1) < best(0)  # ln p is negative


@pytest.mark.slow
def test_json_for_machines(run: Run, own_model: Path, feedback: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert run("reward", str(own_model), "--feedback", str(feedback), "--json") == 0
    facts = json.loads(capfd.readouterr().out)
    assert (facts["liked"], facts["disliked"]) == (15, 15)
    assert 0 <= facts["auc"] <= 1
    assert facts["auc_error"] > 0


def test_mistakes_are_told(run: Run, reader_folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    one_way = reader_folder / "liked.jsonl"
    one_way.write_text('{"prompt": "Hi", "completion": "Hello!", "label": true}\n', encoding="utf-8")
    for arguments, word in (
        (f"reward nowhere --feedback {one_way}", "nowhere is not a folder"),
        ("reward model --feedback nowhere.jsonl", "nowhere.jsonl"),
        (f"reward model --feedback {one_way}", "none is disliked"),
    ):
        assert run(*arguments.split()) == 1
        assert word in " ".join(capfd.readouterr().err.split())
