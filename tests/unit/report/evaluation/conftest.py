"""A small report of two models."""

from collections.abc import Callable

import numpy as np
import pytest

from convmodel import Conversation
from convmodel.evaluation.likelihood import EvaluationResult
from convmodel.evaluation.likelihood_metrics import LIKELIHOOD
from convmodel.evaluation.metric import Metric, Ratio
from convmodel.evaluation.response_metrics import Exchange
from convmodel.evaluation.turn_statistics import TurnStatistics, calibrate
from convmodel.evaluation.verbatim_copies import Copy
from convmodel.report.evaluation.evaluate import with_responses
from convmodel.report.evaluation.model_evaluation import ModelEvaluation, Settings
from convmodel.report.evaluation.results import EvaluationReport, make_report

EVIL = '<script>alert("$1")</script> | `x` *y*'
TALKS = [Conversation([f"Hello {index} {EVIL}", "Hi"]) for index in range(8)]

Evaluate = Callable[..., ModelEvaluation]


def measure(definition: Ratio[TurnStatistics], loss: float) -> Metric:
    turns = [
        TurnStatistics(1, "ann", 1, tokens=1, nats=nats, text_nats=nats * np.log(2), correct=0.25, closed=1, stop=0.5,
                       false_stop=0, ended_early=0)
        for nats in (loss + 0.1 * index for index in range(8))
    ]  # fmt: skip
    return definition.measure([[turn] for turn in turns])


@pytest.fixture(scope="session")
def evaluated() -> Evaluate:
    def evaluated(name: str, loss: float = 2.0) -> ModelEvaluation:
        metrics = [
            measure(definition, loss)
            for definition in LIKELIHOOD
            if definition.name in ("perplexity", "bits_per_byte", "token_accuracy")
        ]
        exchanges = [
            Exchange(number, Conversation([f"Hello {EVIL}"]), f"Hi {EVIL}", f"Well {number} {EVIL}")
            for number in range(1, 9)
        ]
        evaluation = ModelEvaluation(
            name,
            {"weights": f"gpt2 {name}"},
            metrics,
            EvaluationResult(loss, np.exp(loss), loss, 100, 100, 8, 8),
            speakers={"ann": metrics, "bob": metrics},
            depths={"1": metrics, "2+": metrics},
            calibration=calibrate(np.array([0.1] * 4 + [0.9] * 2), np.array([False] * 4 + [True] * 2)),
            losses=np.array([(loss + 0.1 * index, 1.0) for index in range(8)]),
            speed={"read": 100.0, "generated": 10.0},
        )
        return with_responses(evaluation, exchanges, [])

    return evaluated


@pytest.fixture
def report(evaluated: Evaluate) -> EvaluationReport:
    models = [evaluated("new <b>"), evaluated("old", 3.0)]
    models[0].copies[0] = Copy("part", f"Well {EVIL}", f"Training {EVIL}")
    return make_report(models, TALKS, Settings(seed=5), data={"name": "test.jsonl", "skipped": 0})
