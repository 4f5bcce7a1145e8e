"""Reports: what a newcomer reads, and that nothing of the user's becomes part of the page."""

import json
import math
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from convmodel import Conversation
from convmodel.errors import SaveError
from convmodel.evaluation.likelihood import EvaluationResult
from convmodel.evaluation.metric import Estimate, ratio
from convmodel.evaluation.response_metrics import Exchange
from convmodel.evaluation.verbatim_copies import Copy
from convmodel.report.evaluation.evaluate import Evaluated, Settings, with_responses
from convmodel.report.evaluation.explanations import GROUPS, groups, shown, summary, title
from convmodel.report.evaluation.files import write_report
from convmodel.report.evaluation.html_report import EXTREMES, report_page
from convmodel.report.evaluation.markdown_report import update_model_card
from convmodel.report.evaluation.plots import speed_plot
from convmodel.report.evaluation.results import ReportCard, make_card

EVIL = '<script>alert("$1")</script> | `x` *y*'
TALKS = [Conversation([f"Hello {index} {EVIL}", "Hi"]) for index in range(8)]


def evaluated(name: str, loss: float = 2.0) -> Evaluated:
    one, lost = [1] * 8, [loss + 0.1 * index for index in range(8)]
    figures = [
        ratio("perplexity", "perplexity", lost, one, better="lower", transform=np.exp),
        ratio("bits_per_byte", "bits a byte", lost, one, better="lower"),
        ratio("token_accuracy", "token accuracy", [0.25] * 8, one, better="higher", percent=True),
    ]
    exchanges = [Exchange(n, Conversation([f"Hello {EVIL}"]), f"Hi {EVIL}", f"Well {n} {EVIL}") for n in range(1, 9)]
    found = Evaluated(
        name,
        {"weights": f"gpt2 {name}"},
        figures,
        EvaluationResult(loss, np.exp(loss), loss, 100, 100, 8, 8),
        speakers={"ann": figures, "bob": figures},
        depths={"1": figures, "2+": figures},
        stops=np.array([[4.0, 0.4, 0.0], [2.0, 1.8, 2.0]]),
        losses=np.array([(nats, 1.0) for nats in lost]),
        speed={"read": 100.0, "generated": 10.0},
    )
    return with_responses(found, exchanges, [])


@pytest.fixture
def card() -> ReportCard:
    models = [evaluated("new <b>"), evaluated("old", 3.0)]
    models[0].copies[0] = Copy("part", f"Well {EVIL}", f"Training {EVIL}")
    return make_card(models, TALKS, Settings(seed=5), data={"name": "test.jsonl", "skipped": 0})


def test_every_figure_of_an_evaluation_is_explained() -> None:
    explained = {name for group in GROUPS.values() for name in group}

    measured = {figure.name for figure in evaluated("A").figures}

    assert measured - explained == set()


def test_figures_stand_in_groups_and_models_only_where_they_have_any() -> None:
    likelihood = Evaluated("B", figures=[ratio("token_accuracy", "token accuracy", [0.5], [1], percent=True)])

    found = groups([evaluated("A"), likelihood], seed=0)

    assert found[0].names == ["A", "B"]
    assert found[0].rows[2][2][1] == ("50.0 %", "")
    assert found[0].rows[0][2][1] == ("", "")
    assert [group.names for group in found[1:]] == [["A"], ["A"]]


def test_the_summary_is_sentences_of_numbers() -> None:
    said = " ".join(summary(evaluated("A")))

    assert f"as if {np.exp(2.35):.2f} tokens were equally likely" in said
    assert "0% of its responses did not end by themselves, 0% were empty" in said


def test_the_heading_names_the_models(card: ReportCard) -> None:
    assert title(card.models) == "new <b> beside old"
    assert title(card.models[1:]) == "How good is old?"
    assert "new &lt;b&gt; beside old" in report_page(card).partition("<p>")[0]


def test_what_was_not_measured_is_no_percentage() -> None:
    assert shown(Estimate(math.nan, math.nan, math.nan, 0), percent=True) == "none"


def test_the_page_needs_nothing_else_and_escapes_what_users_wrote(card: ReportCard) -> None:
    page = report_page(card)

    assert "<script" not in page
    assert "new <b>" not in page
    assert "new &lt;b&gt;" in page
    assert not re.search(r'(src|href)="(?!#)', page)
    assert "prefers-color-scheme: dark" in page
    assert 'name="viewport"' in page
    assert page.count("<svg") == 4
    for number in range(1, 9):
        assert f"Well {number} " in page


def test_the_page_is_well_formed(card: ReportCard) -> None:
    open_tags: list[str] = []

    class Checker(HTMLParser):
        def handle_starttag(self, tag: str, attrs: object) -> None:
            if tag not in ("meta", "br", "wbr", "path", "use"):
                open_tags.append(tag)

        def handle_endtag(self, tag: str) -> None:
            if tag not in ("path", "use"):
                assert open_tags.pop() == tag

    Checker().feed(report_page(card))

    assert open_tags == []


def test_the_best_and_the_worst_conversations_are_shown(card: ReportCard) -> None:
    best, worst = report_page(card).split("Predicted worst")

    assert re.findall(r"conversation (\d), perplexity", best) == ["1", "2", "3"]
    assert re.findall(r"conversation (\d), perplexity", worst) == ["8", "7", "6"]
    assert EXTREMES == 3


def test_the_verdict_stands_at_the_top(card: ReportCard) -> None:
    top = report_page(card).split("<svg")[0]

    assert "old against new &lt;b&gt;: worse on: perplexity, bits a byte" in top


def test_markdown_keeps_text_in_its_cells(card: ReportCard, tmp_path: Path) -> None:
    write_report(tmp_path / "report.md", card)

    text = (tmp_path / "report.md").read_text(encoding="utf-8")
    tables = [line for line in text.splitlines() if line.startswith("|")]
    assert "<script" not in text
    assert all(re.sub(r"\\.", "", line).count("|") in (3, 5) for line in tables)
    assert re.search(
        r"^\| perplexity \| 10\.49 \([\d.]+ to [\d.]+\) \| 28\.50 \([\d.]+ to [\d.]+\) \| among", text, re.MULTILINE
    )


def test_json_is_all_of_it(card: ReportCard, tmp_path: Path) -> None:
    write_report(tmp_path / "report.json", card)

    assert json.loads((tmp_path / "report.json").read_text(encoding="utf-8")) == json.loads(json.dumps(card.to_dict()))


def test_a_model_card_has_one_section_the_newest(card: ReportCard, tmp_path: Path) -> None:
    path = tmp_path / "README.md"
    path.write_text("# A model\n\nMine.\n", encoding="utf-8")

    update_model_card(tmp_path, card)
    once = path.read_text(encoding="utf-8")
    update_model_card(tmp_path, card)

    assert path.read_text(encoding="utf-8") == once
    assert once.startswith("# A model\n\nMine.\n\n<!-- convmodel evaluate: begin -->\n\n## Evaluation")
    assert card.data["sha256"] in once


def test_a_folder_without_a_card_is_told(card: ReportCard, tmp_path: Path) -> None:
    with pytest.raises(SaveError, match=r"README\.md is no file"):
        update_model_card(tmp_path, card)


def test_models_are_told_apart_beside_bars() -> None:
    models = [
        replace(evaluated(name), speed={"read": 10.0}) for name in ("builtin:chitchat", "runs/of/a-model-with-a-name")
    ]
    drawn = speed_plot(models)
    assert "chitchat reads" in drawn
    assert "…ith-a-name reads" in drawn
