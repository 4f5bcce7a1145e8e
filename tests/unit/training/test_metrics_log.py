"""metrics.jsonl: what a fit writes, what is cut off when it resumes, and what reading it says of a bad line."""

import json
import logging
import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from convmodel import ConversationModel
from convmodel.errors import ConfigError, SaveError
from convmodel.training.metrics_log import MetricsFile
from convmodel.training.metrics_reader import METRICS_FILE, Metrics, read_metrics, read_runs

BEGIN = {"config": {"learning_rate": 5e-5}, "windows": 11, "steps": 40, "precision": "fp32"}
TRAIN = {"loss": 2.0, "perplexity": math.exp(2.0), "learning_rate": 1e-4, "grad_norm": 0.5, "tokens": 700}
VALID = {"eval_loss": 1.5, "eval_perplexity": math.exp(1.5), "eval_bits_per_byte": 0.7, "eval_runtime": 3.0}


def state(step: int = 0, *, first: bool = True) -> Any:
    return SimpleNamespace(global_step=step, max_steps=40, is_world_process_zero=first)


def begin(file: MetricsFile, at: int = 0) -> MetricsFile:
    file.on_train_begin(None, state(at), None)
    return file


def log(file: MetricsFile, step: int, logs: dict[str, Any]) -> None:
    file.on_log(None, state(step), None, logs=logs)


def lines(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / METRICS_FILE).read_text(encoding="utf-8").splitlines()]


def without_times(folder: Path) -> list[dict[str, Any]]:
    return [{name: value for name, value in line.items() if name not in ("seconds", "time")} for line in lines(folder)]


def write(path: Path, *records: dict[str, Any] | str) -> Path:
    texts = [record if isinstance(record, str) else json.dumps(record) for record in records]
    path.write_text("".join(text + "\n" for text in texts), encoding="utf-8")
    return path


def test_each_measurement_is_a_line(tmp_path: Path) -> None:
    file = begin(MetricsFile(tmp_path / "new" / "model", BEGIN))
    log(file, 10, TRAIN | {"epoch": 0.5, "tokens_per_second": 350.5, "unknown": 1})
    log(file, 10, VALID | {"epoch": 0.5})
    log(file, 10, {"train_loss": 2.2, "train_runtime": 9.0})  # `Trainer`'s last words

    first, train, valid = lines(tmp_path / "new" / "model")
    assert first == {"event": "begin", **BEGIN}
    assert list(train) == ["step", "epoch", *TRAIN, "tokens_per_second", "seconds", "time"]
    assert {name: train[name] for name in TRAIN} == TRAIN
    assert train["step"] == 10
    assert train["time"].endswith("+00:00")
    assert list(valid) == ["step", "epoch", "eval_loss", "eval_perplexity", "eval_bits_per_byte", "seconds", "time"]
    assert 0 <= train["seconds"] <= valid["seconds"] < 10


def test_numbers_are_plain_and_what_is_not_finite_is_null(tmp_path: Path) -> None:
    file = begin(MetricsFile(tmp_path, BEGIN))
    log(file, 1, {"loss": torch.tensor(0.5), "perplexity": math.inf, "grad_norm": math.nan, "tokens": 3})

    point = json.loads((tmp_path / METRICS_FILE).read_text().splitlines()[1], parse_constant=pytest.fail)
    assert (point["loss"], point["perplexity"], point["grad_norm"]) == (0.5, None, None)
    assert type(point["tokens"]) is int


def test_every_line_is_there_as_soon_as_it_is_measured(tmp_path: Path) -> None:
    file = begin(MetricsFile(tmp_path, BEGIN))
    for step in (10, 20):
        log(file, step, TRAIN)
        assert lines(tmp_path)[-1]["step"] == step  # the fit may be killed now


def test_only_the_first_process_writes(tmp_path: Path) -> None:
    file = MetricsFile(tmp_path, BEGIN)
    file.on_train_begin(None, state(first=False), None)
    file.on_log(None, state(10, first=False), None, logs=TRAIN)

    assert not [*tmp_path.iterdir()]


def test_a_new_fit_replaces_the_file(tmp_path: Path) -> None:
    write(tmp_path / METRICS_FILE, {"event": "begin"}, {"step": 10, "loss": 9.0})
    begin(MetricsFile(tmp_path, BEGIN))

    assert lines(tmp_path) == [{"event": "begin", **BEGIN}]


@pytest.mark.parametrize("explicitly", [True, False])
def test_a_killed_and_resumed_fit_has_the_lines_of_an_uninterrupted_one(tmp_path: Path, explicitly: bool) -> None:
    def work(file: MetricsFile, first: int, last: int) -> None:
        for step in range(first, last + 1, 10):
            log(file, step, TRAIN | {"loss": 4 - step / 20, "epoch": step / 10})
            if step % 20 == 0:
                log(file, step, VALID | {"eval_loss": 4 - step / 30})

    work(begin(MetricsFile(tmp_path / "whole", BEGIN)), 10, 60)
    work(begin(MetricsFile(tmp_path / "killed", BEGIN)), 10, 40)
    with (tmp_path / "killed" / METRICS_FILE).open("a") as file:
        file.write('{"step": 50, "loss": 1.')  # killed in the middle of a line, after the checkpoint of update 20
    resumed = MetricsFile(tmp_path / "killed", BEGIN)
    if explicitly:
        resumed.continue_from(20)
        assert [line.get("step", 0) for line in lines(tmp_path / "killed")] == [0, 10, 20, 20]
    begin(resumed, 0 if explicitly else 20)
    work(resumed, 30, 60)

    assert without_times(tmp_path / "killed") == without_times(tmp_path / "whole")
    assert [path.name for path in (tmp_path / "killed").iterdir()] == [METRICS_FILE]


def test_a_measurement_that_the_file_has_is_not_written_again(tmp_path: Path) -> None:
    file = begin(MetricsFile(tmp_path, BEGIN))
    log(file, 10, TRAIN)
    log(file, 10, VALID)
    resumed = begin(MetricsFile(tmp_path, BEGIN), 10)
    log(resumed, 10, VALID)  # the end of an epoch whose validation was before the checkpoint
    log(resumed, 20, VALID)

    assert [(line["step"], "loss" in line) for line in lines(tmp_path)[1:]] == [(10, True), (10, False), (20, False)]


def test_a_whole_last_line_without_its_end_is_kept_and_ended(tmp_path: Path) -> None:
    (tmp_path / METRICS_FILE).write_text('{"event": "begin"}\n{"step": 10, "loss": 1.5}')
    log(begin(MetricsFile(tmp_path, BEGIN), 10), 20, TRAIN)

    assert [line.get("step") for line in lines(tmp_path)] == [None, 10, 20]


def test_the_seconds_of_a_resumed_fit_go_on(tmp_path: Path) -> None:
    points = [{"step": 10, "loss": 2.0, "seconds": 500.0}, {"step": 20, "loss": 1.0, "seconds": 900.0}]
    write(tmp_path / METRICS_FILE, {"event": "begin"}, *points)
    log(begin(MetricsFile(tmp_path, BEGIN), 10), 20, TRAIN)

    assert 500 <= lines(tmp_path)[-1]["seconds"] < 510


def test_a_resumed_fit_whose_file_is_gone_begins_one(tmp_path: Path) -> None:
    log(begin(MetricsFile(tmp_path, BEGIN), 10), 20, TRAIN)

    assert [line.get("event") for line in lines(tmp_path)] == ["begin", None]


def test_a_broken_line_does_not_stop_a_resumed_fit(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    write(tmp_path / METRICS_FILE, {"event": "begin"}, "\0\0\0", {"step": 10, "loss": 2.0})
    with caplog.at_level(logging.WARNING):
        begin(MetricsFile(tmp_path, BEGIN), 10)

    assert [line.get("step") for line in lines(tmp_path)] == [None, 10]
    assert f"{METRICS_FILE}:2: " in caplog.text
    assert "the line is left out" in caplog.text


def test_a_file_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / METRICS_FILE).mkdir()
    with pytest.raises(SaveError, match=r"cannot be written"):
        begin(MetricsFile(tmp_path, BEGIN))
    with pytest.raises(SaveError, match=r"metrics\.jsonl cannot be written: Is a directory; make room and resume"):
        log(MetricsFile(tmp_path, BEGIN), 10, TRAIN)


def test_trainer_writes_through_it(bytelevel_folder: Path, tmp_path: Path) -> None:
    model = ConversationModel.from_pretrained(bytelevel_folder, device="cpu")
    talks = [["Hello", "Hi"], ["Yes", "No", "Why?"]]
    own = MetricsFile(tmp_path, BEGIN)
    result = model.fit(talks, talks, max_steps=4, batch_size=1, logging_steps=2, eval_steps=4, callbacks=[own])

    found = read_metrics(tmp_path)
    logged = [entry for entry in result.history if "loss" in entry]
    assert [(p["step"], p["loss"], p["learning_rate"]) for p in found.train] == [
        (entry["step"], entry["loss"], entry["learning_rate"]) for entry in logged
    ]
    assert [point["step"] for point in found.validations] == [4]
    assert found.best is not None
    assert result.validation is not None
    assert found.best["eval_perplexity"] == result.validation.perplexity
    assert found.begin["config"] == BEGIN["config"]


def test_reading_gives_the_lines_by_kind(tmp_path: Path) -> None:
    (tmp_path / "small").mkdir()
    path = write(
        tmp_path / "small" / METRICS_FILE,
        {"event": "begin", "windows": 11},
        {"step": 10, "loss": 2.0},
        {"event": "of a later version"},
        '{"step": 10, "eval_loss": NaN}',
        {"step": 20, "eval_loss": 1.25},
    )
    path.write_text(path.read_text() + '{"step": 30, "lo')

    found = read_metrics(tmp_path / "small")
    assert found == read_metrics(path)
    assert found == Metrics(
        "small",
        [{"step": 10, "loss": 2.0}],
        [{"step": 10, "eval_loss": None}, {"step": 20, "eval_loss": 1.25}],
        {"event": "begin", "windows": 11},
    )
    assert found.best == {"step": 20, "eval_loss": 1.25}
    assert read_metrics(write(tmp_path / "other.jsonl")).name == "other"


@pytest.mark.parametrize(
    ("line", "wrong"),
    [
        ("[1]", "it is not a JSON object"),
        ("{", "Expecting property name"),
        ('{"loss": 1.0}', "step is None, which is not a number of steps"),
        ('{"step": true, "loss": 1.0}', "step is True"),
        ('{"step": -1, "loss": 1.0}', "step is -1"),
        ('{"step": 1}', "it has neither loss nor eval_loss"),
        ('{"step": 1, "loss": "low"}', "loss is 'low', which is not a number"),
        ('{"step": 1, "loss": 1.0, "tokens": [1]}', "tokens is"),
    ],
)
def test_a_bad_line_is_named(tmp_path: Path, line: str, wrong: str) -> None:
    path = write(tmp_path / "x.jsonl", {"step": 1, "loss": 1.0}, line)

    with pytest.raises(ConfigError) as error:
        read_metrics(path)
    assert str(error.value).startswith(f"{path}:2: {wrong}")
    assert str(error.value).endswith("correct or remove that line")


def test_missing_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"has no metrics\.jsonl: give a folder that `convmodel fit` wrote"):
        read_metrics(tmp_path)
    with pytest.raises(ConfigError, match=r"there is no file or folder .*gone"):
        read_metrics(tmp_path / "gone")


def test_fits_of_one_name_are_called_by_their_paths(tmp_path: Path) -> None:
    for name in ("a/model", "b/model", "c"):
        (tmp_path / name).mkdir(parents=True)
        write(tmp_path / name / METRICS_FILE, {"step": 1, "loss": 1.0})
    paths = [tmp_path / "a/model", tmp_path / "b/model", tmp_path / "c"]

    assert [run.name for run in read_runs(paths)] == [str(paths[0]), str(paths[1]), "c"]
    with pytest.raises(ConfigError, match="c is given twice"):
        read_runs([*paths, paths[2]])
