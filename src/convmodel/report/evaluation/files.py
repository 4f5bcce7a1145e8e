"""A report as a file.

Owns: which form belongs to which name.
"""

import json
from pathlib import Path

from convmodel.report.evaluation.html_report import report_page
from convmodel.report.evaluation.markdown_report import report_markdown
from convmodel.report.evaluation.results import ReportCard
from convmodel.report.html import write_text


def _json(card: ReportCard) -> str:
    return json.dumps(card.to_dict(), ensure_ascii=False, indent=1) + "\n"


_FORMS = {".html": report_page, ".md": report_markdown, ".json": _json}


def write_report(path: Path, card: ReportCard) -> None:
    """Writes a report, whole or not at all, as its name says: `.html`, `.md` or `.json`.

    Raises:
        MissingExtraError: If it has pictures and matplotlib is not installed.
        SaveError: If the file cannot be written.
    """
    write_text(path, _FORMS[path.suffix](card))
