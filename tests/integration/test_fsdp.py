"""Two processes that each hold a part of every weight (FSDP2) are one process that holds all of them."""

import json
import os
from pathlib import Path
from typing import Any

import forking
import pytest
import torch
from safetensors.torch import load_file

from convmodel import ConversationModel
from fine_tuning import TALKS

VALID = [["Good morning! Did you sleep well?", "Not really, the neighbours had a party."], ["Yes", "No"]]

CLIPPED = {"gradient_checkpointing": True, "max_grad_norm": 0.5}

pytestmark = pytest.mark.timeout(300)
slow = pytest.mark.slow

SCRIPT = '''
"""Fits as `accelerate launch --use_fsdp` lets convmodel fit on GPUs; on CPUs accelerate does not shard by itself."""
import dataclasses, json, os, signal, sys
import torch
from accelerate.state import AcceleratorState, PartialState
from accelerate.utils import DistributedType
from torch.distributed.tensor import DTensor
from transformers import TrainerCallback
from convmodel import ConversationModel
from convmodel.errors import ConvModelError, StoppedError
from convmodel.training.sharding import exit_of_group

make = AcceleratorState.__init__

def shard(self, *args, fsdp_plugin=None, **options):
    make(self, *args, fsdp_plugin=fsdp_plugin, **options)
    if fsdp_plugin is not None:  # what it does where there are GPUs
        if self._mixed_precision != "no":
            fsdp_plugin.set_mixed_precision(self._mixed_precision)
        self.fsdp_plugin = fsdp_plugin
        self.distributed_type = PartialState._shared_state["distributed_type"] = DistributedType.FSDP

AcceleratorState.__init__ = shard
folder, options, stop = sys.argv[1], json.loads(sys.argv[2]), int(sys.argv[3])

class Watch(TrainerCallback):
    def on_pre_optimizer_step(self, args, state, control, model=None, **kwargs):
        parts = [parameter for parameter in model.parameters() if isinstance(parameter, DTensor)]
        assert len(parts) == (len(list(model.parameters())) if args.world_size > 1 else 0)
        assert all(part.to_local().numel() < part.numel() for part in parts)
        if state.global_step == stop - 1 and args.process_index == args.world_size - 1:
            os.kill(os.getpid(), signal.SIGTERM)

model = ConversationModel.from_pretrained(folder, device="cpu")
try:
    data = options.pop("train", "train.jsonl"), options.pop("valid", "valid.jsonl")
    result = model.fit(*data, callbacks=[Watch()], **options)
except (ConvModelError, StoppedError) as error:
    found = {"error": f"{type(error).__name__}: {error}"}
else:
    found = dataclasses.asdict(result)
    if result.validation:  # all processes together, as long as the model in hand is spread over them
        found["in_hand"] = model.evaluate("valid.jsonl").loss
if os.environ.get("RANK", "0") == "0":
    with open("found.json", "w") as file:
        json.dump(found, file)
if "error" not in found:
    exit_of_group()
os._exit(0)  # gloo's threads, which a mesh still holds, now and then abort a process that frees them at its exit
'''

LAUNCHED = {  # by accelerate launch --use_fsdp --fsdp_version 2
    "ACCELERATE_USE_FSDP": "true",
    "FSDP_VERSION": "2",
    "FSDP_AUTO_WRAP_POLICY": "TRANSFORMER_BASED_WRAP",
    "FSDP_RESHARD_AFTER_FORWARD": "true",
    "FSDP_CPU_RAM_EFFICIENT_LOADING": "true",
}


# Adam divides gradients by their size, so the rounding of the smallest ones becomes a part of the learning rate.
PACKED = {"packing": True, "max_length": 110, "learning_rate": 5e-4}


def fit(folder: Path, model: Path, processes: int, stop: int = 0, **options: Any) -> dict[str, Any]:
    """Trains in as many processes, sharded if they are two; returns what was done."""
    folder.mkdir(exist_ok=True)
    (folder / "script.py").write_text(SCRIPT, encoding="utf-8")
    for name, talks in (("train", TALKS), ("valid", VALID)):
        lines = [json.dumps(talk, ensure_ascii=False) for talk in talks]
        (folder / f"{name}.jsonl").write_text("\n".join(lines), encoding="utf-8")
    settings: dict[str, Any] = {"output_dir": "model", "epochs": 3, "learning_rate": 1e-3, "logging_steps": 2}
    settings |= {"precision": "fp32", "batch_size": 4 // processes} | options
    command = ["script.py", str(model), json.dumps(settings), str(stop)]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    if processes == 1:
        done = forking.run(command, cwd=folder, env=environment, timeout=250)
    else:
        done = forking.run_together(command, processes, cwd=folder, env=environment | LAUNCHED, timeout=250)
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads((folder / "found.json").read_text())
    return found


def assert_same_history(two: dict[str, Any], one: dict[str, Any], rel: float) -> None:
    assert two.keys() == one.keys(), two.get("error")
    assert (two["steps"], two["best_step"]) == (one["steps"], one["best_step"])
    for ours, theirs in zip(two["history"], one["history"], strict=True):
        assert ours.keys() == theirs.keys()
        for name in ours.keys() & {"loss", "grad_norm", "eval_loss", "learning_rate", "tokens"}:
            assert ours[name] == pytest.approx(theirs[name], rel=rel), name
    assert two["train_loss"] == pytest.approx(one["train_loss"], rel=rel)


@pytest.mark.slow
def test_sharded_weights_learn_the_same_from_judgements(tmp_path: Path, unigram_folder: Path) -> None:
    judged = [{"context": talk[:-1], "chosen": talk[-1], "rejected": "I do not know."} for talk in TALKS if talk[1:]]
    for line in judged[::3]:
        del line["rejected"]
    file = tmp_path / "judged.jsonl"
    file.write_text("\n".join(map(json.dumps, judged)), encoding="utf-8")
    options: dict[str, Any] = {"train": str(file), "objective": "kto", "replay": "train.jsonl", "max_regression": 1e3}
    one, two = (fit(tmp_path / str(count), unigram_folder, count, **options) for count in (1, 2))

    for log in one["history"]:  # the sharded model generates no responses
        log.pop("eval_ended", None)
        log.pop("eval_responses", None)
    assert_same_history(two, one, rel=1e-3)
    rewards = [[log["reward_rejected"] for log in found["history"] if "loss" in log] for found in (one, two)]
    assert rewards[0] == pytest.approx(rewards[1], rel=1e-2, abs=1e-5)


def assert_same_weights(two: Path, one: Path, tolerance: float) -> None:
    ours, theirs = (load_file(folder / "model" / "model.safetensors") for folder in (two, one))
    assert ours.keys() == theirs.keys()
    for name, weight in ours.items():
        assert (weight - theirs[name]).abs().max() <= tolerance, name


def assert_saved_and_in_hand(folder: Path, found: dict[str, Any]) -> None:
    """The best model is."""
    saved = ConversationModel.from_pretrained(folder / "model", device="cpu")
    for loss in (saved.evaluate(str(folder / "valid.jsonl")).loss, found["in_hand"]):
        assert loss == pytest.approx(found["validation"]["loss"], rel=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("family", "options"),
    [
        pytest.param("unigram_folder", {}, id="tied"),
        pytest.param("bytelevel_folder", {}, id="untied", marks=slow),
        pytest.param("unigram_folder", {"gradient_accumulation_steps": 2}, id="accumulated", marks=slow),
        pytest.param("unigram_folder", PACKED, id="packed", marks=slow),
        pytest.param("unigram_folder", CLIPPED, id="clipped", marks=slow),
    ],
)
def test_sharded_is_whole(tmp_path: Path, request: pytest.FixtureRequest, family: str, options: dict[str, Any]) -> None:
    model = request.getfixturevalue(family)
    one, two = fit(tmp_path / "one", model, 1, **options), fit(tmp_path / "two", model, 2, **options)

    assert_same_history(two, one, rel=1e-4)
    assert_same_weights(tmp_path / "two", tmp_path / "one", 2e-5)
    config = [json.loads((tmp_path / name / "model" / "config.json").read_text()) for name in ("one", "two")]
    assert config[0] == config[1]
    assert_saved_and_in_hand(tmp_path / "two", two)


@pytest.mark.slow
def test_the_best_model_is_kept_where_it_is_not_the_last(tmp_path: Path, unigram_folder: Path) -> None:
    rising = {"epochs": 2, "eval_steps": 1, "learning_rate": 0.2, "warmup_steps": 5}
    found = fit(tmp_path / "two", unigram_folder, 2, **rising)

    assert found["best_step"] < found["steps"]
    assert_saved_and_in_hand(tmp_path / "two", found)


@slow
def test_a_sharded_run_goes_on_as_if_it_had_not_stopped(tmp_path: Path, unigram_folder: Path) -> None:
    options = {"dropout": 0.1, "save_total_limit": 1}
    whole = fit(tmp_path / "whole", unigram_folder, 2, **options)

    stopped = fit(tmp_path / "halves", unigram_folder, 2, stop=5, **options)
    assert stopped["error"].startswith("StoppedError: SIGTERM stopped the run after step 5 of 9; its state is in")
    state = load_file(tmp_path / "halves" / "model" / "checkpoint-5" / "training_state.safetensors")
    weight = load_file(tmp_path / "halves" / "model" / "checkpoint-5" / "model.safetensors")["transformer.wte.weight"]
    assert state["/optimizer/state/transformer.wte.weight/exp_avg"].shape == weight.shape
    halves = fit(tmp_path / "halves", unigram_folder, 2, **options)

    assert_same_history(halves, whole, rel=0.0)
    assert_same_weights(tmp_path / "halves", tmp_path / "whole", 0.0)


@slow
def test_without_validation_the_last_weights_are_saved(tmp_path: Path, unigram_folder: Path) -> None:
    one, two = (fit(tmp_path / str(count), unigram_folder, count, valid=None, epochs=1) for count in (1, 2))

    assert_same_history(two, one, rel=1e-4)
    assert_same_weights(tmp_path / "2", tmp_path / "1", 1e-5)


@slow
def test_bf16_keeps_losses_in_float32(tmp_path: Path, unigram_folder: Path) -> None:
    one, two = (fit(tmp_path / str(count), unigram_folder, count, precision="bf16") for count in (1, 2))

    assert_same_history(two, one, rel=2e-2)
    losses = torch.tensor([log["loss"] for log in two["history"] if "loss" in log])
    assert not torch.equal(losses, losses.bfloat16().float())


@pytest.mark.slow
def test_divergence_is_said_by_all(tmp_path: Path, unigram_folder: Path) -> None:
    found = fit(tmp_path / "two", unigram_folder, 2, learning_rate=1e30, max_grad_norm=0.0)

    assert found["error"].startswith("DivergedError: the loss is nan in ")
    assert "training has diverged" in found["error"]


def test_what_cannot_be_sharded_is_refused_before_it_begins(tmp_path: Path, unigram_folder: Path) -> None:
    found = fit(tmp_path / "two", unigram_folder, 2, lora=True)

    assert found["error"].startswith("ConfigError: FSDP of a model with adapters is not supported")
    assert not list((tmp_path / "two" / "model").glob("*.safetensors"))
