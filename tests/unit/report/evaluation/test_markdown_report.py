"""The report as Markdown, and the section of a model card."""

import re
from pathlib import Path

import pytest

from convmodel.errors import SaveError
from convmodel.report.evaluation.markdown_report import report_markdown, update_model_card
from convmodel.report.evaluation.results import EvaluationReport


def test_markdown_keeps_text_in_its_cells(report: EvaluationReport) -> None:
    text = report_markdown(report)

    tables = [line for line in text.splitlines() if line.startswith("|")]
    assert "<script" not in text
    assert all(re.sub(r"\\.", "", line).count("|") in (3, 5) for line in tables)
    assert re.search(
        r"^\| perplexity \| 10\.49 \([\d.]+ to [\d.]+\) \| 28\.50 \([\d.]+ to [\d.]+\) \| as", text, re.MULTILINE
    )


def test_a_model_card_has_one_section_the_newest(report: EvaluationReport, tmp_path: Path) -> None:
    path = tmp_path / "README.md"
    path.write_text("# A model\n\nMine.\n", encoding="utf-8")

    update_model_card(tmp_path, report)
    once = path.read_text(encoding="utf-8")
    update_model_card(tmp_path, report)

    assert path.read_text(encoding="utf-8") == once
    assert once.startswith("# A model\n\nMine.\n\n<!-- convmodel evaluate: begin -->\n\n## Evaluation")
    assert report.data["sha256"] in once


def test_a_folder_without_a_card_is_refused(report: EvaluationReport, tmp_path: Path) -> None:
    with pytest.raises(SaveError, match=r"README\.md is not a file"):
        update_model_card(tmp_path, report)
