"""Responses during a fit: the fit is the same without them, and they are those of the model at that step."""

import gc
import json
import os
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import forking
import numpy as np
import pytest
import torch
from chat_templates import save_chat_model
from killing import Command, kill_again_and_again, make_data, require_same
from transformers import TrainerCallback

from convmodel import Conversation, ConversationModel
from convmodel.errors import ConfigError, StoppedError
from convmodel.generation.engine.kv_cache import KVCache
from convmodel.training.fit_result import FitResult
from convmodel.training.samples_file import SAMPLES_FILE, read_samples
from fine_tuning import TALKS, Signalled, measured, weights

VALID = [
    ["Good morning! Did you sleep well?", "Not really, the neighbours had a party."],
    ["Yes", "No"],
    ["Can I ask you something?", "Of course", "How many people live there?", "I do not know"],
]

PLAIN: dict[str, Any] = {"epochs": 2, "batch_size": 2, "eval_steps": 3, "logging_steps": 2}  # 6 updates an epoch
PACKED = PLAIN | {"batch_size": 1, "packing": True, "max_length": 64}
SHORT = PLAIN | {"batch_size": 3, "gradient_accumulation_steps": 3, "eval_steps": 1}
LORA = PLAIN | {"lora": True, "learning_rate": 1e-2}
MERGED = LORA | {"merge": True}
AUTO: dict[str, Any] = {"learning_rate": 2e-3, "logging_steps": 5}  # 11 updates an epoch, in cycles

Load = Callable[..., ConversationModel]


def fit(load: Load, folder: Path, *callbacks: TrainerCallback, **options: Any) -> tuple[FitResult, Any]:
    model = load(options.pop("base", "unigram_folder"))
    options = {"learning_rate": 1e-3, "dropout": 0.1, "output_dir": str(folder)} | options
    result = model.fit(TALKS, VALID, callbacks=callbacks, **options)
    return result, weights(model)


def facts(result: FitResult) -> list[dict[str, float]]:
    timed = ("_runtime", "per_second", "runtime")
    return [{name: log[name] for name in log if not name.endswith(timed)} for log in result.history]


class Generators(TrainerCallback):
    """Notes the states of all global random generators, as the run's own steps find them."""

    def __init__(self) -> None:
        self.states: list[Any] = []

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        numpy = [part.tolist() if isinstance(part, np.ndarray) else part for part in np.random.get_state()]
        self.states.append((random.getstate(), numpy, torch.get_rng_state().tolist()))


@pytest.mark.slow
@pytest.mark.parametrize(
    "options",
    [
        pytest.param(PLAIN, id="dropout"),
        pytest.param(PLAIN | {"base": "bytelevel_folder"}, id="Llama"),
        pytest.param(PACKED, id="packed"),
        pytest.param(SHORT, id="accumulation", marks=pytest.mark.slow),
        pytest.param(LORA, id="LoRA"),
        pytest.param(MERGED, id="merged LoRA"),
        pytest.param(LORA | {"base": "bytelevel_folder"}, id="LoRA of a Llama", marks=pytest.mark.slow),
        pytest.param(PLAIN | {"precision": "bf16"}, id="bf16"),
        pytest.param(PLAIN | {"gradient_checkpointing": True}, id="gradient checkpointing"),
        pytest.param(
            PLAIN | {"gradient_checkpointing": True, "base": "bytelevel_folder"},
            id="Llama, checkpointing",
            marks=pytest.mark.slow,
        ),
        pytest.param(AUTO, id="cycles"),
    ],
)
def test_training_is_the_same_bit_for_bit(load: Load, tmp_path: Path, options: dict[str, Any]) -> None:
    of_both: list[Any] = []
    for folder, count in (("without", 0), ("with", 2)):
        generators = Generators()
        result, trained = fit(load, tmp_path / folder, generators, **options, samples=count)
        of_both.append((result, trained, generators.states))

    (one, plain, states), (other, sampled, other_states) = of_both
    assert facts(one) == facts(other)
    assert states == other_states
    assert all(torch.equal(value, sampled[name]) for name, value in plain.items())
    assert measured(tmp_path / "without") == measured(tmp_path / "with")

    validated = [log["step"] for log in other.history if "eval_loss" in log]
    steps = [record["step"] for record in read_samples(tmp_path / "with")]
    assert steps == sorted([*dict.fromkeys([0, *validated])] * 2)
    assert len(set(steps)) > 2
    assert not (tmp_path / "without" / SAMPLES_FILE).exists()


class Watch(TrainerCallback):
    """Notes modes, threads and gradients right before and after the responses of a validation."""

    def __init__(self) -> None:
        self.before: Any = None
        self.compared = 0

    def note(self, model: Any) -> Any:
        modes = [module.training for module in model.modules()]
        gradients = [None if value.grad is None else value.grad.clone() for value in model.parameters()]
        return modes, torch.get_num_threads(), vars(model).get("forward"), gradients

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, model: Any = None, **kwargs: Any) -> None:
        if "eval_loss" in logs:
            torch.set_num_threads(2)
            for number, value in enumerate(model.parameters()):
                value.grad = torch.full_like(value, number)
            self.before = self.note(model)

    def on_evaluate(self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any) -> None:
        modes, threads, forward, gradients = self.note(model)
        assert (modes, threads, forward) == self.before[:3]
        assert any(modes)
        assert all(torch.equal(value, before) for value, before in zip(gradients, self.before[3], strict=True))
        model.zero_grad()
        torch.set_num_threads(1)
        self.compared += 1


def test_modes_gradients_and_threads_stay(load: Load, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fewer(*args: Any, **options: Any) -> Any:
        torch.set_num_threads(1)  # as the engine does while other programs compute
        return respond(*args, **options)

    from convmodel.training import samples

    respond = samples.respond_to_many
    monkeypatch.setattr(samples, "respond_to_many", fewer)
    watch, threads = Watch(), torch.get_num_threads()
    try:
        fit(load, tmp_path, watch, **PLAIN, samples=1)
    finally:
        torch.set_num_threads(threads)

    assert watch.compared == 4


@pytest.mark.slow
def test_the_memory_of_the_responses_is_freed(load: Load, tmp_path: Path) -> None:
    def caches() -> list[KVCache]:
        return [each for each in gc.get_objects() if isinstance(each, KVCache)]

    gc.collect()
    others = caches()  # of models that other tests still have; kept here, so that no new one gets the id of one
    known = {id(each) for each in others}

    class Count(TrainerCallback):
        def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            assert not [each for each in caches() if id(each) not in known]

    fit(load, tmp_path, Count(), **PLAIN, samples=3)


@pytest.mark.slow
@pytest.mark.parametrize(
    "options",
    [
        pytest.param(PLAIN | {"precision": "bf16"}, id="bf16"),
        pytest.param(LORA | {"base": "bytelevel_folder"}, id="LoRA"),
    ],
)
def test_responses_are_those_of_the_model_at_that_step(load: Load, tmp_path: Path, options: dict[str, Any]) -> None:
    fit(load, tmp_path, **options | {"save_steps": 6, "learning_rate": 1e-2, "seed": 3}, samples=3)

    records = read_samples(tmp_path)
    for step in (6, 12):
        model = ConversationModel.from_pretrained(tmp_path / f"checkpoint-{step}", device="cpu")
        ours = [record for record in records if record["step"] == step]
        assert len(ours) == 3
        for number, record in enumerate(ours):
            *before, last = Conversation.from_messages(record["context"]).turns
            assert model.session(before, seed=3 + number).respond(last) == record["response"]
    assert len({record["response"] for record in records}) > 3  # training changes them
    assert [record["expected"] for record in ours] == [talk[-1] for talk in VALID]


@pytest.mark.long
@pytest.mark.parametrize(
    ("options", "step"),
    [
        pytest.param(PLAIN, 1, id="before the first validation", marks=pytest.mark.slow),
        pytest.param(PLAIN, 5, id="between two validations"),
        pytest.param(PLAIN, 6, id="at a validation"),
        pytest.param(PLAIN, 12, id="last update", marks=pytest.mark.slow),
        pytest.param(AUTO, 33, id="end of a cycle"),
        pytest.param(MERGED, 7, id="LoRA"),
    ],
)
def test_a_resumed_fit_has_the_lines_of_an_uninterrupted_one(
    load: Load, tmp_path: Path, options: dict[str, Any], step: int
) -> None:
    _, expected = fit(load, tmp_path / "whole", **options, samples=2)

    with pytest.raises(StoppedError):
        fit(load, tmp_path / "parts", Signalled(step), **options, samples=2)
    path = tmp_path / "parts" / SAMPLES_FILE
    lines = path.read_bytes().splitlines(keepends=True)
    later = [json.dumps(json.loads(line) | {"step": step + 1}).encode() + b"\n" for line in lines[:2]]
    path.write_bytes(b"".join([*lines, *later, lines[0][:40]]))  # killed after a later validation
    _, found = fit(load, tmp_path / "parts", **options, samples=2)

    assert all(torch.equal(value, found[name]) for name, value in expected.items())
    assert path.read_bytes() == (tmp_path / "whole" / SAMPLES_FILE).read_bytes()


@pytest.mark.long
def test_a_killed_command_ends_with_the_lines_of_an_undisturbed_one(tmp_path: Path, unigram_folder: Path) -> None:
    make_data(tmp_path)
    options = "--max-steps 18 --batch-size 2 --eval-steps 2 --samples 2"
    whole, killed = (Command(tmp_path, unigram_folder, tmp_path / name, options) for name in ("whole", "killed"))
    undisturbed = whole.finish(), whole

    kill_again_and_again(killed, 4, seed=3)

    assert 0 < killed.checkpoint() < 18
    require_same(killed.finish(), killed, undisturbed)
    lines = [(each.output / SAMPLES_FILE).read_bytes() for each in (whole, killed)]
    assert lines[0] == lines[1]
    assert len(read_samples(whole.output)) == 20


def test_another_number_of_samples_resumes_the_run(load: Load, tmp_path: Path) -> None:
    with pytest.raises(StoppedError):
        fit(load, tmp_path, Signalled(4), **PLAIN, samples=1)

    fit(load, tmp_path, **PLAIN, samples=2)

    records = read_samples(tmp_path)
    assert [record["step"] for record in records] == [0, 3, 6, 6, 9, 9, 12, 12]
    assert records[0]["context"] in [record["context"] for record in records[2:4]]


@pytest.mark.slow
def test_a_run_on_judgements_has_samples_of_its_validation_data(load: Load, tmp_path: Path) -> None:
    judged = [{"context": talk[:-1], "chosen": talk[-1], "rejected": "I see."} for talk in TALKS if len(talk) > 1]
    options: dict[str, Any] = {"objective": "dpo", "max_steps": 4, "eval_steps": 2, "max_regression": 99.0}
    trained = []
    for count in (0, 2):
        model = load()
        model.fit(judged, VALID, output_dir=tmp_path / str(count), samples=count, **options)
        trained.append(weights(model))

    assert all(torch.equal(value, trained[1][name]) for name, value in trained[0].items())
    assert [record["step"] for record in read_samples(tmp_path / "2")] == [0, 0, 2, 2, 4, 4]


def test_a_model_with_a_chat_template_responds_in_it(tmp_path: Path) -> None:
    save_chat_model(tmp_path / "base", "chatml")
    model = ConversationModel.from_pretrained(tmp_path / "base", device="cpu")
    base = model.tokenizer.layout.template

    model.fit(TALKS[:2] * 3, VALID, epochs=1, save_steps=3, batch_size=2, samples=3, output_dir=tmp_path / "out")

    ours = read_samples(tmp_path / "out")[-3:]
    saved = ConversationModel.from_pretrained(tmp_path / "out/checkpoint-3", device="cpu")
    assert saved.tokenizer.layout.template == base is not None
    for number, record in enumerate(ours):
        *before, last = Conversation.from_messages(record["context"]).turns
        assert saved.session(before, seed=42 + number).respond(last) == record["response"]


def test_a_context_longer_than_the_model_is_cut(load: Load, tmp_path: Path) -> None:
    long = [turn for number in range(200) for turn in (f"How are you, number {number}?", "Fine, and you?")]

    load().fit(TALKS, [long, ["Hello " * 900, "Hi"]], max_steps=1, samples=2, output_dir=tmp_path)

    records = read_samples(tmp_path)
    assert [len(record["context"]) for record in records] == [399, 1, 399, 1]  # the file has all of it
    assert all(record["response"] for record in records)


def test_the_time_of_responses_is_not_training_time(
    load: Load, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a clock that stands still but for the responses, the speed of training does not change with them."""
    from convmodel.training import progress, samples, trainer

    class Clock:
        now = 0.0

        def perf_counter(self) -> float:
            return self.now

        monotonic = time = perf_counter

    clock, respond = Clock(), samples.respond_to_many

    def slow(*args: Any, **options: Any) -> Any:
        clock.now += 1000.0
        return respond(*args, **options)

    for module in (progress, trainer):
        monkeypatch.setattr(module, "time", clock)
    monkeypatch.setattr(samples, "respond_to_many", slow)

    result, _ = fit(load, tmp_path, **PLAIN | {"logging_steps": 1}, samples=1)

    assert clock.now == 5000.0
    speeds = [log["tokens_per_second"] for log in result.history if "tokens_per_second" in log]
    assert len(speeds) == 12
    assert min(speeds) > 1e9  # tokens per nearly no time
    assert {log["eval_runtime"] for log in result.history if "eval_runtime" in log} == {0.0}


@pytest.mark.slow
def test_two_processes_write_each_response_once(tmp_path: Path, unigram_folder: Path) -> None:
    make_data(tmp_path)
    options = [
        "--valid",
        "valid.jsonl",
        "--max-steps",
        "4",
        "--eval-steps",
        "2",
        "--precision",
        "fp32",
        "--samples",
        "2",
        "--json",
    ]
    line = ["-m", "convmodel", "fit", "train.jsonl", "--model", str(unigram_folder), *options]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    for name, count, batch in (("one", 1, "2"), ("two", 2, "1")):
        command = [*line, "--output-dir", name, "--batch-size", batch]
        how: Any = {"cwd": tmp_path, "env": environment, "timeout": 250}
        done = forking.run_together(command, count, **how) if count > 1 else forking.run(command, **how)
        assert done.returncode == 0, done.stderr

    one, two = (read_samples(tmp_path / name) for name in ("one", "two"))
    assert [record["step"] for record in two] == [0, 0, 2, 2, 4, 4]
    assert [(record["step"], record["context"]) for record in one] == [(r["step"], r["context"]) for r in two]
    assert one[:2] == two[:2]


def test_what_samples_need_is_said_before_any_work(load: Load, tmp_path: Path) -> None:
    model = load()
    with pytest.raises(ConfigError, match=r"samples are responses to contexts of validation data: pass valid too, or"):
        model.fit(TALKS, samples=1, output_dir=tmp_path)
    with pytest.raises(ConfigError, match=r"samples needs a folder to write samples\.jsonl in: give output_dir too"):
        model.fit(TALKS, VALID, samples=1)
    with pytest.raises(ConfigError, match="samples is -1: it must be at least 0"):
        model.fit(TALKS, VALID, samples=-1, output_dir=tmp_path)
    with pytest.raises(ConfigError, match=r"samples reads the validation data a second time, and .*: give valid as"):
        model.fit(TALKS, (talk for talk in VALID), samples=1, output_dir=tmp_path)
    assert not [*tmp_path.glob("*.safetensors")]


Run = Callable[..., int]


@pytest.mark.long
def test_the_command_shows_them_unless_json_is_requested(
    run: Run, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "convmodel")
    line = ["fit", "train.jsonl", "--valid", "valid.jsonl", "-m", "gpt2", "--max-steps", "1", "--samples", "1"]

    for folder, more in (("shown", []), ("json", ["--json"])):
        caplog.clear()
        assert run(*line, "--output-dir", folder, *more) == 0
        shown = [message for message in caplog.messages if "responses to validation data" in message]
        assert len(shown) == (0 if more else 2)
    assert json.loads(capfd.readouterr().out.splitlines()[-1])["config"]["samples"] == 1
    assert read_samples("shown") == read_samples("json")
    assert [record["step"] for record in read_samples("json")] == [0, 1]
