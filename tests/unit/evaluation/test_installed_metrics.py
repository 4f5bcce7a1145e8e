"""Metrics of installed packages: measured as the built-in ones are, and each fault names its package."""

import math
import re
from collections.abc import Callable
from pathlib import Path

import pytest
from plugin_packages import install

from convmodel import Conversation, ConversationModel, ConversationReader, Exchange, ResponseMetric, TurnMetric
from convmodel.evaluation.installed_metrics import BUILT_IN, has_installed, measure_installed, unusable_metrics
from convmodel.report.evaluation.evaluate import evaluate_model
from convmodel.report.evaluation.markdown_report import report_markdown
from convmodel.report.evaluation.model_evaluation import Settings
from convmodel.report.evaluation.results import make_report, nearest_context

METRICS = """
from convmodel import ResponseMetric, TurnMetric

characters = ResponseMetric(label="characters", explanation="characters of a response", better="higher",
    numerator=lambda exchange: len(exchange.response))
surprise = TurnMetric(label="nats per byte", explanation="how surprising a byte is", better="lower",
    numerator=lambda turn: turn.text_nats, denominator=lambda turn: turn.text_bytes)
function = len
wrong = ResponseMetric(label="x", explanation="x", numerator=lambda exchange: exchange.answer)
text = ResponseMetric(label="x", explanation="x", numerator=lambda exchange: "many")
infinite = ResponseMetric(label="x", explanation="x", numerator=lambda exchange: float("inf"))
wrong_turns = TurnMetric(label="x", explanation="x", numerator=lambda turn: turn.loss)
"""
TALKS = [
    Conversation(["Hello", "How are you", "Good thank you"]),
    Conversation(["One", "Two", "Three", "Four"]),
    Conversation(["When does the next train leave?", "At 10"]),
]
EXCHANGES = [[Exchange(number, TALKS[0], "Hi", "Hi " * number)] for number in (1, 2, 3)]

Add = Callable[..., str]


@pytest.fixture
def add(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Add:
    """Installs metrics under their names in the module, and returns the package's name."""
    folder = tmp_path / "packages"
    folder.mkdir()
    monkeypatch.syspath_prepend(folder)

    def add(*names: str, code: str = METRICS, **renamed: str) -> str:
        package = f"metrics-{len(list(folder.iterdir()))}-{tmp_path.name}"
        module = package.replace("-", "_")
        points = {name: f"{module}:{place}" for name, place in (dict(zip(names, names, strict=True)) | renamed).items()}
        install(folder, package, {"convmodel.metrics": points}, code=code)
        return package

    return add


@pytest.fixture(scope="module")
def model(unigram_folder: Path) -> ConversationModel:
    return ConversationModel.from_pretrained(unigram_folder, device="cpu")


def test_a_metric_has_its_entry_points_name_and_an_interval(add: Add) -> None:
    package = add(response_length="characters")

    measured = measure_installed(ResponseMetric, EXCHANGES)

    [metric] = measured.metrics
    estimate = metric.estimate()
    assert (metric.name, metric.definition.label, metric.definition.better) == (
        "response_length",
        "characters",
        "higher",
    )
    assert estimate.value == 6
    assert 3 <= estimate.low < 6 < estimate.high <= 9
    assert (measured.origins, measured.notes) == ({"response_length": f"{package} 1.0"}, [])
    assert has_installed(ResponseMetric)
    assert not has_installed(TurnMetric)
    assert measure_installed(TurnMetric, []).metrics == []


def test_an_evaluation_has_them_beside_its_own(add: Add, model: ConversationModel) -> None:
    package = add("characters", "surprise")
    settings = Settings(responses=3, generation={"max_new_tokens": 4})

    evaluation = evaluate_model(model, "A", TALKS, settings)
    report = make_report(
        [evaluation], TALKS, settings, data={"name": "t", "skipped": 0}, nearest=nearest_context(evaluation, TALKS)
    )

    values = {metric.name: metric.value for metric in evaluation.metrics}
    assert values["characters"] == sum(len(exchange.response) for exchange in evaluation.exchanges) / 3
    assert values["surprise"] == pytest.approx(values["bits_per_byte"] * math.log(2))
    content = report.to_dict()
    assert {"characters", "surprise"} <= content["models"][0]["metrics"].keys()
    assert content["models"][0]["signatures"]["surprise"] == f"{package} 1.0"
    assert "characters" in content["comparisons"][0]["differences"]
    text = report_markdown(report)
    assert "| nats per byte |" in text
    assert "| characters |" in text
    assert package in text.replace("\\", "")


def test_model_evaluate_has_those_of_turns(add: Add, model: ConversationModel) -> None:
    without = model.evaluate(TALKS)
    add("characters", "surprise")

    result = model.evaluate(TALKS)

    assert result.metrics == {"surprise": pytest.approx(result.bits_per_byte * math.log(2))}
    assert without.metrics == {}
    assert "metrics" not in without.to_dict()
    fields = {name: value for name, value in result.to_dict().items() if name != "metrics"}
    assert fields == pytest.approx(without.to_dict())


def test_model_evaluate_counts_what_it_skips_with_them_too(add: Add, model: ConversationModel, tmp_path: Path) -> None:
    add("surprise")
    data = tmp_path / "talks.jsonl"
    data.write_text('["Hello", "Hi"]\n{"turns": 3}\n')

    assert model.evaluate(ConversationReader(data, on_error="skip")).skipped == 1


def test_no_metric_of_an_evaluation_is_missing_in_the_reserved_names(model: ConversationModel) -> None:
    settings = Settings(distractors=2, responses=3, self_chats=1, generation={"max_new_tokens": 4})

    evaluation = evaluate_model(model, "A", TALKS, settings, training=TALKS)

    assert {metric.name for metric in evaluation.metrics} <= {definition.name for definition in BUILT_IN}


@pytest.mark.parametrize(
    ("name", "fault"),
    [
        ("function", r"is a builtin_function_or_method \(metrics_.*:function\), instead of a ResponseMetric or"),
        ("missing", "cannot be imported from metrics_"),
        ("bleu", "is not used, since convmodel itself has the name bleu"),
        ("loops", "is not used, since convmodel itself has the name loops"),
    ],
)
def test_one_that_cannot_be_used_is_left_out_with_a_note(
    add: Add, model: ConversationModel, caplog: pytest.LogCaptureFixture, name: str, fault: str
) -> None:
    package = add("characters", **{name: name})

    [note] = unusable_metrics()
    evaluation = evaluate_model(model, "A", TALKS, Settings(responses=3, generation={"max_new_tokens": 4}))

    assert note.startswith(f"the metric {name} of the package {package} 1.0 ")
    assert f": upgrade or uninstall {package}; its interface is described in docs/extend-metrics.md" in note
    assert re.search(fault, note)
    assert evaluation.notes == [note]
    assert caplog.messages == [note]
    assert "characters" in {metric.name for metric in evaluation.metrics}


def test_a_declaration_with_a_fault_names_its_package(add: Add) -> None:
    declaration = "x = ResponseMetric(label='', explanation='x', numerator=len)"
    package = add("x", code=f"from convmodel import ResponseMetric\n{declaration}")

    [note] = unusable_metrics()

    assert f"the package {package} 1.0 cannot be imported" in note
    assert "the label of a metric is ''" in note


@pytest.mark.parametrize(
    ("name", "fault"),
    [
        ("wrong", "failed (AttributeError: 'Exchange' object has no attribute 'answer')"),
        ("text", "failed (ValueError: could not convert string to float: 'many')"),
        ("infinite", "failed (ValueError: inf is not a finite number)"),
        ("wrong_turns", "failed (AttributeError: 'TurnStatistics' object has no attribute 'loss')"),
    ],
)
def test_one_that_fails_is_left_out_with_a_note(
    add: Add, model: ConversationModel, caplog: pytest.LogCaptureFixture, name: str, fault: str
) -> None:
    package = add("characters", name)

    evaluation = evaluate_model(model, "A", TALKS, Settings(responses=3, generation={"max_new_tokens": 4}))

    [note] = evaluation.notes
    assert note.startswith(f"the metric {name} of the package {package} 1.0 {fault}: upgrade or uninstall {package}")
    assert caplog.messages == [note]
    names = {metric.name for metric in evaluation.metrics}
    assert "characters" in names
    assert name not in names
