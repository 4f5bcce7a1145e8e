"""The page: what a newcomer reads, and that nothing of the user's becomes part of the page."""

import re
from dataclasses import replace

import numpy as np
import pytest
from html_page import Page

from convmodel.evaluation.metric import Metric
from convmodel.report.evaluation.explanations import title
from convmodel.report.evaluation.html_report import EXTREMES, report_page
from convmodel.report.evaluation.results import EvaluationReport


def test_the_heading_names_the_models(report: EvaluationReport) -> None:
    assert title(report.models) == "new <b> compared with old"
    assert title(report.models[1:]) == "Evaluation of old"
    assert "new &lt;b&gt; compared with old" in report_page(report).partition("<p>")[0]


def test_the_page_needs_nothing_else_and_escapes_what_users_wrote(report: EvaluationReport) -> None:
    page = report_page(report)

    assert "<script" not in page
    assert "new <b>" not in page
    assert "new &lt;b&gt;" in page
    assert not re.search(r'(src|href)="(?!#)', page)
    assert "prefers-color-scheme: dark" in page
    assert 'name="viewport"' in page
    assert page.count("<svg") == 4
    for number in range(1, 9):
        assert f"Well {number} " in page


def test_the_best_and_the_worst_conversations_are_shown(report: EvaluationReport) -> None:
    best, worst = report_page(report).split("Worst predicted conversations")

    assert re.findall(r"conversation (\d), perplexity", best) == ["1", "2", "3"]
    assert re.findall(r"conversation (\d), perplexity", worst) == ["8", "7", "6"]
    assert EXTREMES == 3


def test_the_verdict_stands_at_the_top(report: EvaluationReport) -> None:
    top = report_page(report).split("<svg")[0]

    assert "old compared with new &lt;b&gt;: worse on: perplexity, bits per byte" in top


def test_the_table_of_speakers_draws_no_resamples(report: EvaluationReport, monkeypatch: pytest.MonkeyPatch) -> None:
    accuracy = next(metric for metric in report.models[0].metrics if metric.name == "token_accuracy")
    nothing = replace(accuracy, rows=np.zeros_like(accuracy.rows))
    report.models[0].speakers.update(ann=[replace(accuracy)], bob=[nothing])
    resampled: list[Metric] = []
    estimate = Metric.estimate
    monkeypatch.setattr(Metric, "estimate", lambda self, seed: (resampled.append(self), estimate(self, seed))[1])

    page = report_page(report)

    assert "<tr><th>ann</th><td>25.0 %</td></tr>" in page
    assert "<tr><th>bob</th><td>none</td></tr>" in page
    assert resampled
    assert not any(metric is each for metric in resampled for each in (report.models[0].speakers["ann"][0], nothing))


def test_the_page_is_well_formed(report: EvaluationReport) -> None:
    page = Page(report_page(report))

    assert (page.elements["svg"], page.elements["script"]) == (4, 0)
    assert all(place.startswith("#") for place in page.referred)
