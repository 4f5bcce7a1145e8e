"""An evaluation report as a file.

Owns: which form belongs to which suffix.
"""

import json
from pathlib import Path

from convmodel.files.atomic import replace_text
from convmodel.report.evaluation.html_report import report_page
from convmodel.report.evaluation.markdown_report import report_markdown
from convmodel.report.evaluation.results import EvaluationReport


def _json(report: EvaluationReport) -> str:
    return json.dumps(report.to_dict(), ensure_ascii=False, indent=1) + "\n"


FORMS = {".html": report_page, ".md": report_markdown, ".json": _json}
"""The functions that write a report as text, by the file's suffix."""


def write_evaluation_report(path: Path, report: EvaluationReport) -> None:
    """Writes a report, atomically, in the format of its suffix: `.html`, `.md` or `.json`.

    Raises:
        MissingExtraError: If it has pictures and matplotlib is not installed.
        SaveError: If the file cannot be written.
    """
    replace_text(path, FORMS[path.suffix](report))
