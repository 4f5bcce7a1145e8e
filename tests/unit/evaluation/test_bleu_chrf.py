"""BLEU and chrF: those of sacrebleu, with our intervals."""

import sys

import pytest

from convmodel.errors import MissingExtraError
from convmodel.evaluation.bleu_chrf import overlap_metrics
from convmodel.evaluation.metric import Metric


def values(metrics: list[Metric]) -> dict[str, float]:
    return {metric.name: metric.value for metric in metrics}


def test_bleu_and_chrf_are_those_of_sacrebleu() -> None:
    from sacrebleu.metrics import BLEU, CHRF

    responses = ["the cat sat on the mat today", "there is a dog", ""]
    references = ["the cat sat on a mat", "there is a dog in the house", "yes"]

    metrics, signatures = overlap_metrics(responses, references)

    found = values(metrics)
    assert found["bleu"] == pytest.approx(BLEU().corpus_score(responses, [references]).score)
    assert found["chrf"] == pytest.approx(CHRF().corpus_score(responses, [references]).score)
    assert 20 < found["bleu"] < 80
    assert "tok:13a" in signatures["bleu"]
    assert signatures["chrf"].startswith("nrefs:1|case:mixed|eff:yes|nc:6|nw:0")
    assert metrics[0].estimate().low < found["bleu"] < metrics[0].estimate().high


def test_the_same_is_100_and_nothing_in_common_0() -> None:
    same = values(overlap_metrics(["今日はとても暑いですね"], ["今日はとても暑いですね"])[0])
    other = values(overlap_metrics(["aaa bbb"], ["xyz"])[0])

    assert same == pytest.approx({"bleu": 100, "chrf": 100})
    assert other == {"bleu": 0, "chrf": 0}


def test_without_sacrebleu_the_fix_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sacrebleu", None)
    with pytest.raises(MissingExtraError, match=r"^BLEU and chrF need sacrebleu \(the extra eval\): .*pip install "):
        overlap_metrics(["a"], ["a"])
