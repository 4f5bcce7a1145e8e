"""The commands of a job, and what they leave behind."""

import json
from dataclasses import replace
from pathlib import Path

from convmodel.server.fine_tuning import commands
from convmodel.server.fine_tuning.commands import Data
from convmodel.server.fine_tuning.job_store import JobRecord, JobSpec
from convmodel.training.resume.run_folder import RunFolder

SPEC = JobSpec("tiny", "tiny", "/tiny", "file-1", "supervised", {"n_epochs": 3, "batch_size": 4}, 42)


def test_both_commands_get_the_same_settings(tmp_path: Path) -> None:
    data = Data(Path("/a.jsonl"), Path("/b.jsonl"))
    check = commands.check_command(["convmodel"], SPEC, data)
    assert check[:6] == ["convmodel", "doctor", "/tiny", "/a.jsonl", "--valid", "/b.jsonl"]
    assert check[6:] == [
        "--loss-on", "assistant", "--epochs", "3", "--batch-size", "4", "--no-estimate", "--json"
    ]  # fmt: skip
    assert "--no-estimate" not in commands.check_command(["convmodel"], SPEC, data, estimate=True)
    fit = commands.fit_command(["convmodel"], JobRecord("ftjob-1", 0, SPEC), data, tmp_path)
    assert fit[:5] == ["convmodel", "fit", "/a.jsonl", "--valid", "/b.jsonl"]
    settings = dict(zip(fit[5:-1:2], fit[6::2], strict=True))
    assert (settings["--model"], settings["--output-dir"]) == ("/tiny", str(tmp_path))
    assert (settings["--seed"], settings["--save-minutes"]) == ("42", str(commands.SAVE_MINUTES))
    assert settings["--samples"] == str(commands.SAMPLES)
    alone = commands.Data(data.train, None)
    assert "--samples" not in commands.fit_command(["convmodel"], JobRecord("ftjob-1", 0, SPEC), alone, tmp_path)
    preferences = JobRecord("ftjob-1", 0, replace(SPEC, method="dpo", hyperparameters={"beta": 0.1}))
    assert "--samples" not in commands.fit_command(["convmodel"], preferences, data, tmp_path)


def test_findings_are_read_once_they_are_whole(tmp_path: Path) -> None:
    path = tmp_path / "check.json"
    assert commands.read_findings(path) is None
    for text in ("", '{"checks": [', "[]", '{"checks": 3}'):
        path.write_text(text)
        assert commands.read_findings(path) is None
    checks = [
        {"name": "steps", "status": "fail", "finding": "too few", "fix": "raise epochs"},
        {"name": "duplicates", "status": "fail", "finding": "many", "fix": ""},
        {"name": "cut", "status": "pass", "finding": "none", "fix": ""},
    ]
    path.write_text(json.dumps({"checks": checks}))
    findings = commands.read_findings(path)
    assert findings == checks
    assert commands.blocking(findings) == "steps: too few; raise epochs"
    assert commands.blocking(findings[1:]) == ""
    assert [commands.describe_finding(check)[1] for check in checks] == ["error", "error", "info"]


def test_a_run_is_trained_at_its_end_and_not_before(tmp_path: Path) -> None:
    assert not commands.is_trained(tmp_path)
    run = RunFolder(tmp_path, {})
    run.begin(None)
    (tmp_path / "model.safetensors").write_bytes(b"")  # the best one so far
    assert not commands.is_trained(tmp_path)
    run.finish()
    run.close()
    assert commands.is_trained(tmp_path)
    (tmp_path / "run.json").write_text("{")
    assert not commands.is_trained(tmp_path)
