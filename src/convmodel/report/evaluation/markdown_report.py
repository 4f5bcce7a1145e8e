"""The report as Markdown, and the section of a model card.

Owns: their text, and where in a card the section stands.
"""

import re
from collections.abc import Sequence
from pathlib import Path

from convmodel.errors import SaveError
from convmodel.files.atomic import replace_text
from convmodel.layout.token_view import visible_line
from convmodel.report.evaluation.explanations import sections, summaries, title
from convmodel.report.evaluation.results import EvaluationReport

_BEGIN, _END = "<!-- convmodel evaluate: begin -->", "<!-- convmodel evaluate: end -->"
_SECTION = re.compile(re.escape(_BEGIN) + ".*?" + re.escape(_END) + "\n?", re.DOTALL)


def report_markdown(report: EvaluationReport) -> str:
    """Writes a report as Markdown, without plots."""
    models = report.models[: report.own]
    verdicts = [comparison.verdict() for comparison in report.comparisons]
    parts = [
        f"# {_escape(title(models))}",
        *map(_escape, [*summaries(models), *filter(None, [report.targets()]), *verdicts]),
    ]
    for section in sections(report.models, report.settings.seed):
        rows = [
            [definition.label, *(cell.text for cell in cells), definition.explanation]
            for definition, cells in section.rows
        ]
        parts += [f"## {section.topic}", _table(["", *section.names, "explanation"], rows)]
    names, responses = report.responses()
    if responses:
        rows = [[context.turns[-1], *texts] for context, texts in responses]
        parts += ["## Responses", _table(["context", "reference", *names], rows)]
    return "\n\n".join([*parts, "## Reproducibility", _table(["", ""], report.facts())]) + "\n"


def card_section(report: EvaluationReport) -> str:
    """Writes the section of a model card about the first model of a report."""
    data = report.data
    about = f"On {data['conversations']:,} conversations (sha256 `{data['sha256']}`), with 95 % confidence intervals."
    rows = [
        (definition.label, cells[0].text)
        for section in sections(report.models[:1], report.settings.seed)
        for definition, cells in section.rows
    ]
    verdicts = [comparison.verdict() for comparison in report.comparisons if comparison.second == report.models[0].name]
    return "\n\n".join([_BEGIN, "## Evaluation", about, _table(["metric", "value"], rows), *verdicts, _END]) + "\n"


def update_model_card(folder: Path, report: EvaluationReport) -> None:
    """Puts the section into a folder's README.md, in the place of an earlier one or at its end.

    Raises:
        SaveError: If there is no README.md, or it cannot be written.
    """
    path = folder / "README.md"
    if not path.is_file():
        raise SaveError(f"{path} is not a file: a model card is updated only in a folder that has one")
    text, section = path.read_text(encoding="utf-8"), card_section(report)
    updated, count = _SECTION.subn(lambda _: section, text, count=1)
    replace_text(path, updated if count else text.rstrip("\n") + "\n\n" + section)


def _table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [[_escape(cell) for cell in row] for row in (columns, *rows)]
    lines.insert(1, ["---"] * len(columns))
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _escape(text: str) -> str:
    """Keeps a text on one line and in its cell, and what users wrote from becoming Markdown or HTML."""
    line = visible_line(text).replace("&", "&amp;").replace("<", "&lt;")
    return re.sub(r"([\\|`*_\[\]])", r"\\\1", line)
