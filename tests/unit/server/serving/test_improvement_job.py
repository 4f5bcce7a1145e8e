"""What is read of the files of an improvement."""

import json
from pathlib import Path
from typing import Any

import pytest

from convmodel.evaluation.likelihood import EvaluationResult
from convmodel.server.serving import improvement_job
from convmodel.server.serving.improvement_job import (
    Progress,
    read_contexts,
)
from convmodel.training.improvement import read_record
from convmodel.training.objectives.guard import RegressionGuard


def validated(perplexity: float) -> EvaluationResult:
    return EvaluationResult(1.0, perplexity, 1.0, tokens=10, text_bytes=10, conversations=1, windows=1)


def test_progress_follows_the_metrics(tmp_path: Path) -> None:
    progress = Progress(tmp_path)
    assert progress.read()["steps"] is None
    path = tmp_path / "metrics.jsonl"
    begin = {"event": "begin", "steps": 40, "config": {"max_regression": 0.1}}
    lines = [begin, {"step": 0, "eval_loss": 3, "eval_perplexity": 20.0}, {"step": 10, "loss": 2.5, "seconds": 3.5}]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    shown = progress.read()
    assert (shown["step"], shown["steps"], shown["seconds"]) == (10, 40, 3.5)
    assert (shown["losses"], shown["perplexities"]) == ([(10, 2.5)], [(0, 20.0)])
    assert shown["allowed_perplexity"] == pytest.approx(22)
    assert progress.read() is shown  # not read again
    with path.open("a") as file:
        file.write('{"step": 20, "loss": 2.25, "seconds": 7}\n{"step": 30, "lo')
    assert progress.read()["step"] == 20


def test_a_perplexity_is_allowed_once_the_first_model_was_validated(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    begin = '{"event": "begin", "steps": 9, "config": {"max_regression": 0.05}}\n'
    path.write_text(begin + '{"step": 5, "eval_loss": 3, "eval_perplexity": 20}\n')
    assert Progress(tmp_path).read()["allowed_perplexity"] is None
    path.write_text(begin + '{"step": 0, "eval_loss": 3, "eval_perplexity": 20}\n')
    assert Progress(tmp_path).read()["allowed_perplexity"] == pytest.approx(21)
    path.write_text('{"step": 0, "eval_loss": 3, "eval_perplexity": 20}\n')
    assert Progress(tmp_path).read()["allowed_perplexity"] is None


def test_the_allowed_perplexity_follows_the_lowest_so_far_as_the_guard_does(tmp_path: Path) -> None:
    """Of a long curve, too, in which the lowest is between the points that are shown."""
    guard = RegressionGuard(0.05, ())
    perplexities = [20.0, 16.0, *[16.5] * 400]
    lines = [{"event": "begin", "steps": 500, "config": {"max_regression": 0.05}}]
    lines += [{"step": step, "eval_loss": 3, "eval_perplexity": value} for step, value in enumerate(perplexities)]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    for perplexity in perplexities:
        assert guard.check(validated(perplexity))

    shown = Progress(tmp_path).read()

    assert (1, 16.0) not in shown["perplexities"]
    assert shown["allowed_perplexity"] == pytest.approx(16.8)
    assert guard.check(validated(16.79))
    assert not guard.check(validated(16.81))


def test_metrics_that_are_damaged_are_reported(tmp_path: Path) -> None:
    (tmp_path / "metrics.jsonl").write_text('{"step": "x"}\n{}\n')
    assert "metrics.jsonl:1" in Progress(tmp_path).read()["problem"]


def test_a_long_curve_is_thinned_out_and_keeps_its_end(tmp_path: Path) -> None:
    lines = [json.dumps({"step": step, "loss": 1.0 if step % 2 else None}) + "\n" for step in range(1, 2000)]
    (tmp_path / "metrics.jsonl").write_text("".join(lines))
    losses = Progress(tmp_path).read()["losses"]
    assert 100 <= len(losses) <= 200
    assert losses[-1] == (1999, 1.0)


@pytest.mark.parametrize("content", [None, b"{", b"[1]", b"\xff", b"[" * 100_000])
def test_a_report_that_is_not_whole_is_none(tmp_path: Path, content: bytes | None) -> None:
    if content is not None:
        (tmp_path / "improvement.json").write_bytes(content)
    assert read_record(tmp_path) is None


def test_contexts_are_read_and_invalid_ones_left_out(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert read_contexts(tmp_path, takes_system=True, by_name=True) == []
    path = tmp_path / "held-out.jsonl"
    good = '{"turns": ["Be kind", "Hi", "Hello"], "speakers": ["system", "Ann", "Bob"], "pinned": 1}'
    bad = ["{", "[]", '{"turns": "Hi"}', '{"turns": ["Hi"], "speakers": ["Ann"], "pinned": 0}']
    path.write_text("\n".join([good, *bad, *[good] * 30]))
    context = [{"role": "system", "content": "Be kind"}, {"role": "Ann", "content": "Hi"}]
    found = read_contexts(tmp_path, takes_system=True, by_name=True)
    assert found[0] == {"context": context, "responder": "Bob"}
    assert 15 < len(found) <= 20
    path.write_text("a SECRET\n")
    assert read_contexts(tmp_path, takes_system=True, by_name=True) == []
    assert f"there are no conversations to compare the models on: {path}: ConversationError" in caplog.text
    assert "SECRET" not in caplog.text


def test_contexts_that_a_model_does_not_take_are_left_out_and_nothing_is_read_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, reads = tmp_path / "held-out.jsonl", []
    system = {"turns": ["Be kind", "Hi", "Hello"], "speakers": ["system", "user", "assistant"], "pinned": 1}
    plain = {"turns": ["Hi", "Hello"], "speakers": ["user", "assistant"], "pinned": 0}
    path.write_text("".join(json.dumps(line) + "\n" for line in (system, plain)))
    reader = improvement_job.ConversationReader

    def counted(source: Path, **options: Any) -> Any:
        reads.append(source)
        return reader(source, **options)

    monkeypatch.setattr(improvement_job, "ConversationReader", counted)
    assert len(read_contexts(tmp_path, takes_system=True, by_name=True)) == 2
    [context] = read_contexts(tmp_path, takes_system=False, by_name=True)
    assert context == {"context": [{"role": "user", "content": "Hi"}], "responder": "assistant"}
    assert len(reads) == 1
    path.write_text(json.dumps(plain) + "\n")
    assert len(read_contexts(tmp_path, takes_system=True, by_name=True)) == 1
    assert len(reads) == 2


def test_without_names_the_assistant_responds_to_the_user(tmp_path: Path) -> None:
    def line(*speakers: str, pinned: int = 0) -> dict[str, Any]:
        return {"turns": [str(number) for number in range(len(speakers))], "speakers": speakers, "pinned": pinned}

    lines = [
        line("user", "assistant", "user"),  # the user had the last word
        line("user", "assistant"),
        line("assistant", "user"),
        line("system", "Ann", "Bob", "Ann", pinned=1),
        line("user", "assistant", "assistant"),  # twice in a row
        line("Ann", "Bob", "Cem"),  # left out
        line("user", "assistant", "tool", "assistant"),
    ]
    (tmp_path / "held-out.jsonl").write_text("".join(json.dumps(each) + "\n" for each in lines))
    contexts = read_contexts(tmp_path, takes_system=True, by_name=False)
    assert {context["responder"] for context in contexts} == {"assistant"}
    assert [[message["role"] for message in context["context"]] for context in contexts] == [
        ["assistant", "user"],
        ["user"],
        ["user"],
        ["system", "assistant", "user"],
        ["assistant", "user"],
        ["user", "assistant", "user"],
    ]
    by_name = read_contexts(tmp_path, takes_system=True, by_name=True)
    assert [context["responder"] for context in by_name] == [each["speakers"][-1] for each in lines]
