"""The report as Markdown, and the section of a model card that is made of it.

Owns: their text, and where in a card the section stands.
"""

import re
from pathlib import Path

from convmodel.errors import SaveError
from convmodel.layout.token_view import visible_line
from convmodel.report.evaluation.explanations import groups, summaries, title
from convmodel.report.evaluation.results import ReportCard, versions
from convmodel.report.html import write_text

_BEGIN, _END = "<!-- convmodel evaluate: begin -->", "<!-- convmodel evaluate: end -->"
_SECTION = re.compile(re.escape(_BEGIN) + ".*?" + re.escape(_END) + "\n?", re.DOTALL)


def report_markdown(card: ReportCard) -> str:
    """Writes a card as Markdown, without pictures."""
    parts = [
        f"# {_cell(title(card.models[: card.own]))}",
        *map(_cell, summaries(card.models[: card.own])),
    ]
    parts += [_cell(each.verdict()) for each in card.comparisons]
    for group in groups(card.models, card.settings.seed):
        lines = [[label, *map(_number, cells), meaning] for label, meaning, cells in group.rows]
        parts += [f"## {group.title}", _lines(["", *group.names, "what it is"], lines)]
    exchanges = [model for model in card.models if model.exchanges]
    if exchanges:
        said = [
            [exchange.context.turns[-1], exchange.reference, *(each.exchanges[index].response for each in exchanges)]
            for index, exchange in enumerate(exchanges[0].exchanges[:20])
        ]
        head = ["context", "really said", *(each.name for each in exchanges)]
        parts += ["## Responses", _lines(head, said)]
    return "\n\n".join([*parts, "## To repeat this", _identity(card)]) + "\n"


def card_section(card: ReportCard) -> str:
    """Writes the section of a model card about the first model of a report.

    Intervals hold 95 % of the resamples.
    """
    found = [row for group in groups(card.models[:1], card.settings.seed) for row in group.rows]
    about = (
        f"On {card.data['conversations']:,} conversations (sha256 of them: `{card.data['sha256']}`), intervals of 95 %."
    )
    table = _lines(["figure", "value"], [[label, _number(cells[0])] for label, _, cells in found])
    verdicts = [each.verdict() for each in card.comparisons if each.second == card.models[0].name]
    return "\n\n".join([_BEGIN, "## Evaluation", about, table, *verdicts, _END]) + "\n"


def update_model_card(folder: Path, card: ReportCard) -> None:
    """Puts the section into a folder's README.md, in the place of an earlier one or at its end.

    Raises:
        SaveError: If there is no README.md, or it cannot be written.
    """
    path = folder / "README.md"
    if not path.is_file():
        raise SaveError(f"{path} is no file: a model card is updated only in a folder that has one")
    text, section = path.read_text(encoding="utf-8"), card_section(card)
    updated, found = _SECTION.subn(lambda _: section, text, count=1)
    write_text(path, updated if found else text.rstrip("\n") + "\n\n" + section)


def _number(cell: tuple[str, str]) -> str:
    value, interval = cell
    return f"{value} ({interval})" if interval else value


def _lines(head: list[str], lines: list[list[str]]) -> str:
    rows_of_cells = [head, ["---"] * len(head), *lines]
    return "\n".join("| " + " | ".join(map(_cell, row)) + " |" for row in rows_of_cells)


def _cell(text: str) -> str:
    """Keeps a text in its cell, and what users wrote from becoming Markdown or HTML."""
    if text == "---":
        return text
    line = visible_line(text).replace("&", "&amp;").replace("<", "&lt;")
    return re.sub(r"([\\|`*_\[\]])", r"\\\1", line)


def _identity(card: ReportCard) -> str:
    facts = {"made at": card.made_at} | card.data | versions()
    for model in card.models:
        facts |= {f"{model.name}, {name}": value for name, value in (model.identity | model.signatures).items()}
    facts |= card.settings.to_dict()
    return _lines(["", ""], [[str(name), str(value)] for name, value in facts.items()])
