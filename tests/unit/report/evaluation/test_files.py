"""Reports as files."""

import json
from pathlib import Path

import pytest

from convmodel.report.evaluation.files import write_evaluation_report
from convmodel.report.evaluation.results import EvaluationReport


@pytest.mark.parametrize(("suffix", "begin"), [(".html", "<!DOCTYPE html>"), (".md", "# new"), (".json", "{")])
def test_the_suffix_chooses_the_form(report: EvaluationReport, tmp_path: Path, suffix: str, begin: str) -> None:
    write_evaluation_report(tmp_path / f"report{suffix}", report)

    assert (tmp_path / f"report{suffix}").read_text(encoding="utf-8").startswith(begin)


def test_json_is_all_of_it(report: EvaluationReport, tmp_path: Path) -> None:
    write_evaluation_report(tmp_path / "report.json", report)

    text = (tmp_path / "report.json").read_text(encoding="utf-8")
    assert json.loads(text) == json.loads(json.dumps(report.to_dict()))
    calibration = json.loads(text)["models"][0]["calibration"]
    assert calibration.keys() == {"targets", "probability", "ends"}
    assert calibration["targets"] == [0, 4, 0, 0, 0, 0, 0, 0, 0, 2]
