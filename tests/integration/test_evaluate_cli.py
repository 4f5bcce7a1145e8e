"""`convmodel evaluate` as a user meets it."""

import errno
import json
import math
import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from threading import Thread

import pytest
from safetensors.torch import load_file, save_file

from convmodel.data.reading.reader import ConversationReader
from convmodel.errors import SaveError
from convmodel.report.evaluation.results import data_fingerprint

Run = Callable[..., int]


def test_metrics_with_intervals(run: Run, capfd: pytest.CaptureFixture[str]) -> None:
    assert run("evaluate", "model", "--data", "test.jsonl") == 0

    out, _ = capfd.readouterr()
    assert "bits per byte" in out
    assert " to " in out


@pytest.mark.slow
def test_two_models_are_compared_and_json_has_it_all(run: Run, capfd: pytest.CaptureFixture[str]) -> None:
    arguments = ("evaluate", "model", "gpt2", "--data", "test.jsonl", "--train", "train.jsonl", "--responses", "3")

    assert run(*arguments, "--distractors", "2", "--max-new-tokens", "3", "--greedy", "--json") == 0

    found = json.loads(capfd.readouterr().out)
    assert [each["name"] for each in found["models"]] == ["model", "gpt2", "the nearest training context"]
    assert [(each["first"], each["second"]) for each in found["comparisons"]] == [
        ("model", "gpt2"),
        ("the nearest training context", "model"),
        ("the nearest training context", "gpt2"),
    ]
    assert found["comparisons"][0]["verdict"].startswith("gpt2 compared with model: ")
    assert {"bleu", "hits_at_1", "copied"} <= found["models"][0]["metrics"].keys()


@pytest.mark.slow
def test_greedy_takes_the_likeliest_tokens_of_a_model_that_samples_by_default(
    run: Run, capfd: pytest.CaptureFixture[str]
) -> None:
    few = ("--responses", "3", "--self-chats", "1", "--max-new-tokens", "4", "--greedy", "--json")
    shutil.copytree("model", "sampling")
    config = json.loads(Path("sampling/generation_config.json").read_text(encoding="utf-8"))
    config |= {"do_sample": True, "temperature": 5.0, "top_k": 0}
    Path("sampling/generation_config.json").write_text(json.dumps(config), encoding="utf-8")
    exchanges = []
    for model in ("model", "sampling"):
        assert run("evaluate", model, "--data", "test.jsonl", *few) == 0
        out, err = capfd.readouterr()
        exchanges.append(json.loads(out)["models"][0]["exchanges"])
        assert "seed changes nothing" not in err

    assert exchanges[0] == exchanges[1]


@pytest.mark.slow
def test_training_data_that_can_be_read_once_is_searched_as_a_file_is(
    run: Run, capfd: pytest.CaptureFixture[str]
) -> None:
    arguments = ["evaluate", "model", "--data", "test.jsonl", "--responses", "3", "--max-new-tokens", "3", "--greedy"]
    os.mkfifo("pipe")
    writer = Thread(target=lambda: Path("pipe").write_bytes(Path("train.jsonl").read_bytes()), daemon=True)
    writer.start()
    found = []
    for source in ("pipe", "train.jsonl"):
        assert run(*arguments, "--train", source, "--json") == 0
        found.append(json.loads(capfd.readouterr().out)["models"])
    writer.join()

    assert [each["metrics"] for each in found[0]] == [each["metrics"] for each in found[1]]


@pytest.mark.slow
def test_few_conversations_tell_no_difference(run: Run, capfd: pytest.CaptureFixture[str]) -> None:
    assert run("evaluate", "model", "--base", "model", "--data", "test.jsonl") == 0

    assert "model compared with model: too few conversations to tell." in capfd.readouterr().out


@pytest.mark.slow
def test_reports_have_the_model_before_fine_tuning_beside(run: Run, capfd: pytest.CaptureFixture[str]) -> None:
    assert run("fit", "train.jsonl", "-m", "gpt2", "--output-dir", "new", "--max-steps", "1") == 0
    few = ("--responses", "2", "--distractors", "1", "--self-chats", "1", "--max-new-tokens", "2")
    reports = ("--report", "report.html", "--report", "report.md", "--report", "report.json", "--card")

    assert run("evaluate", "new", "--data", "test.jsonl", "--train", "train.jsonl", *few, *reports) == 0

    base = str(Path("gpt2").resolve())
    found = json.loads(Path("report.json").read_text(encoding="utf-8"))
    training = data_fingerprint(ConversationReader("train.jsonl"))
    assert (found["data"]["training"], found["data"]["training_sha256"]) == ("train.jsonl", training)
    assert training in Path("report.html").read_text(encoding="utf-8")
    assert [each["name"] for each in found["models"]] == ["new", base, "the nearest training context"]
    assert (found["comparisons"][0]["first"], found["comparisons"][0]["second"]) == (base, "new")
    assert "Evaluation of new" in Path("report.html").read_text(encoding="utf-8")
    assert "# Evaluation of new" in Path("report.md").read_text(encoding="utf-8")
    card = Path("new/README.md").read_text(encoding="utf-8")
    assert f"| Fine-tuned from | `{base}` |" in card
    assert "## Evaluation" in card


@pytest.mark.slow
def test_a_base_whose_logits_are_not_numbers_is_left_out_and_a_model_is_refused(
    run: Run, capfd: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree("gpt2", "base")
    assert run("fit", "train.jsonl", "-m", "base", "--output-dir", "new", "--max-steps", "1") == 0
    weights = load_file("base/model.safetensors")
    weights["transformer.ln_f.weight"][0] = math.nan
    save_file(weights, "base/model.safetensors", {"format": "pt"})
    few = ("--responses", "0", "--distractors", "0", "--self-chats", "0", "--report", "report.json")
    capfd.readouterr()

    assert run("evaluate", "new", "--data", "test.jsonl", *few) == 0
    err = " ".join(capfd.readouterr().err.split())
    assert "not compared with the base model: the model's logits are not numbers in " in err
    assert [each["name"] for each in json.loads(Path("report.json").read_text(encoding="utf-8"))["models"]] == ["new"]

    assert run("evaluate", "base", "--data", "test.jsonl") == 1
    err = capfd.readouterr().err
    assert "its weights are damaged or too large" in " ".join(err.split())
    assert "probably a bug" not in err


@pytest.mark.slow
def test_a_base_is_measured_on_the_targets_of_the_model(run: Run, capfd: pytest.CaptureFixture[str]) -> None:
    fit = ("fit", "train.jsonl", "-m", "gpt2", "--output-dir", "new", "--max-steps", "1", "--loss-on", "responses")
    assert run(*fit, "--max-length", "32") == 0
    capfd.readouterr()

    assert run("evaluate", "new", "--base", "gpt2", "--data", "test.jsonl") == 0

    out = " ".join(capfd.readouterr().out.split())
    assert "All models are measured on the same targets: loss_on=responses, in windows of at most 32 tokens." in out
    tokens = out.split("supervised tokens ")[1].split()
    assert tokens[0] == tokens[1]


@pytest.mark.slow
def test_a_report_on_one_conversation(run: Run, capfd: pytest.CaptureFixture[str]) -> None:
    line = Path("test.jsonl").read_text(encoding="utf-8").splitlines()[0]
    Path("one.jsonl").write_text(line + "\n", encoding="utf-8")
    few = ("--responses", "2", "--self-chats", "1", "--max-new-tokens", "2", "--base", "gpt2")

    assert run("evaluate", "model", "--data", "one.jsonl", *few, "--report", "r.html", "--report", "r.md") == 0

    out = " ".join(capfd.readouterr().out.split())
    assert "model: next turns were not ranked: ranking next turns needs at least two conversations" in out
    assert "too few conversations to tell" in out
    assert "no difference" not in out + Path("r.html").read_text(encoding="utf-8")


@pytest.mark.slow
def test_a_base_that_is_gone_is_told(run: Run, capfd: pytest.CaptureFixture[str]) -> None:
    Path("model/README.md").write_text("# Mine\n\n| Fine-tuned from | `/nowhere/at-all` |\n", encoding="utf-8")

    assert run("evaluate", "model", "--data", "test.jsonl", "--report", "report.json", "--responses", "0",
               "--distractors", "0", "--self-chats", "0") == 0  # fmt: skip

    assert "not compared with the base model" in " ".join(capfd.readouterr().err.split())


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        ("evaluate model --data test.jsonl --report report.pdf", "must end with .html, .md or .json"),
        ("evaluate model --data test.jsonl --report nowhere/report.html", "a folder that exists"),
        ("evaluate model --data test.jsonl --train train.jsonl --responses 0", "leave out one of them"),
        ("evaluate nowhere --data test.jsonl --card", "finds no README.md in nowhere"),
        ("evaluate model --data test.jsonl --train nowhere.jsonl", "no file nowhere.jsonl"),
        ("evaluate model --data test.jsonl --base nowhere-at-all", "nowhere-at-all"),
    ],
)
def test_mistakes_are_told(run: Run, capfd: pytest.CaptureFixture[str], arguments: str, word: str) -> None:
    assert run(*arguments.split()) == 1
    assert word in " ".join(capfd.readouterr().err.split())
    assert not Path("report.pdf").exists()


@pytest.mark.slow
def test_evaluate_gives_json_to_machines(run: Run, capfd: pytest.CaptureFixture[str]) -> None:
    run("evaluate", "model", "--data", "test.jsonl", "--json")

    result = json.loads(capfd.readouterr().out)

    assert result["conversations"] == 4
    assert result["perplexity"] > 1


@pytest.mark.parametrize(
    ("package", "options"),
    [
        ("sacrebleu", ["--responses", "1"]),
        ("sacrebleu", ["--report", "r.json"]),
        ("bm25s", ["--train", "train.jsonl"]),
        ("matplotlib", ["--report", "r.html", "--responses", "0"]),
    ],
)
def test_a_missing_package_is_reported_before_anything_is_measured(
    run: Run,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    package: str,
    options: list[str],
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    monkeypatch.setattr("convmodel.cli.evaluate.load_model", lambda *_, **__: pytest.fail("a model was loaded"))

    assert run("evaluate", "model", "--data", "test.jsonl", *options) == 1

    err = " ".join(capfd.readouterr().err.split())
    assert package in err
    assert "(the extra eval): " in err


@pytest.mark.slow
@pytest.mark.parametrize("package", ["sacrebleu", "bm25s", "matplotlib"])
def test_a_package_that_the_options_do_not_need_may_be_missing(
    run: Run, monkeypatch: pytest.MonkeyPatch, package: str
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    arguments = {
        "sacrebleu": ["--report", "r.html", "--responses", "0"],
        "bm25s": ["--responses", "1"],
        "matplotlib": ["--report", "r.md", "--report", "r.json", "--responses", "1"],
    }[package]
    few = ["--max-new-tokens", "2", "--self-chats", "0", "--distractors", "0"]

    assert run("evaluate", "model", "--data", "test.jsonl", *arguments, *few) == 0


@pytest.mark.slow
def test_results_are_printed_before_files_that_cannot_be_written(
    run: Run, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def full(path: Path, text: str) -> None:
        raise SaveError(f"{path} cannot be written: No space left on device")

    monkeypatch.setattr("convmodel.report.evaluation.files.replace_text", full)
    none = ["--responses", "0", "--distractors", "0", "--self-chats", "0"]

    assert run("evaluate", "model", "--data", "test.jsonl", "--report", "r.json", *none) == 1

    out, err = capfd.readouterr()
    assert "bits per byte" in out
    assert "r.json cannot be written: No space left on device" in err


@pytest.mark.slow
def test_a_report_is_written_even_if_nobody_reads_what_is_printed(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def closed(*_: object) -> None:
        raise BrokenPipeError(errno.EPIPE, "Broken pipe")

    monkeypatch.setattr("convmodel.cli.evaluate.print_table", closed)
    none = ["--responses", "0", "--distractors", "0", "--self-chats", "0"]

    assert run("evaluate", "model", "--data", "test.jsonl", "--report", "r.json", *none) == 1

    assert Path("r.json").exists()
