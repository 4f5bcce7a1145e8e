"""Two processes that train together, by the real command, are one with batches twice as large."""

import json
import os
from pathlib import Path
from typing import Any

import forking
import pytest

from fine_tuning import TALKS

VALID = [["Good morning! Did you sleep well?", "Not really, the neighbours had a party."], ["Yes", "No"]]

TORCHRUN = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node"]

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]


def fit(
    folder: Path, model: Path, processes: int, *options: str, by_torchrun: bool = False, data: str = "train.jsonl"
) -> tuple[dict[str, Any], str]:
    """Trains in as many processes; returns what was done, and what was said."""
    folder.mkdir()
    for name, talks in (("train", TALKS), ("valid", VALID)):
        lines = [json.dumps(talk, ensure_ascii=False) for talk in talks]
        (folder / f"{name}.jsonl").write_text("\n".join(lines), encoding="utf-8")
    command = ["-m", "convmodel", "fit", data]
    command += ["--valid", "valid.jsonl", "--model", str(model), "--output-dir", "model", "--json", "--epochs", "3"]
    command += ["--learning-rate", "1e-3", "--logging-steps", "2", "--precision", "fp32", *options]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    how: dict[str, Any] = {"cwd": folder, "env": environment, "timeout": 250}
    if by_torchrun:
        done = forking.run([*TORCHRUN, str(processes), *command], fresh=True, **how)
    elif processes > 1:
        done = forking.run_together(command, processes, **how)
    else:
        done = forking.run(command, **how)
    assert done.returncode == 0, done.stderr
    result: dict[str, Any] = json.loads(done.stdout)  # one process speaks for all
    return result, done.stderr


@pytest.mark.parametrize(
    ("batch", "by_torchrun", "options"),
    [
        pytest.param(2, True, [], id="padded"),
        pytest.param(2, False, ["--packing", "--max-length", "110"], id="packed"),
        pytest.param(1, False, ["--gradient-accumulation-steps", "2"], id="accumulated"),
    ],
)
def test_two_processes_equal_one(
    tmp_path: Path, unigram_folder: Path, batch: int, by_torchrun: bool, options: list[str]
) -> None:
    one, _ = fit(tmp_path / "one", unigram_folder, 1, *options, "--batch-size", str(2 * batch))
    options = [*options, "--batch-size", str(batch)]
    two, said = fit(tmp_path / "two", unigram_folder, 2, *options, by_torchrun=by_torchrun)

    # An epoch's 11 windows make two updates of 4 and one of 3, in which the second process has less to do.
    for name in ("steps", "windows", "best_step"):
        assert one[name] == two[name]
    assert one["steps"] >= 3
    assert one["steps"] % 2  # so that `train_loss` has an update that no log has
    for ours, theirs in zip(two["history"], one["history"], strict=True):
        assert ours.keys() == theirs.keys()
        for name in ours.keys() & {"loss", "grad_norm", "eval_loss", "learning_rate"}:
            assert ours[name] == pytest.approx(theirs[name], rel=1e-4), name
        assert ours.get("tokens") == theirs.get("tokens")  # no window twice, none left out
    assert two["train_loss"] == pytest.approx(one["train_loss"], rel=1e-4)
    assert two["validation"]["loss"] == pytest.approx(one["validation"]["loss"], rel=1e-4)
    assert said.count("fine-tuning") == 1


def test_two_processes_end_a_run_of_auto_after_the_same_step(tmp_path: Path, unigram_folder: Path) -> None:
    options = ["--epochs", "auto", "--early-stopping-patience", "1", "--learning-rate", "3"]  # ever worse
    one, _ = fit(tmp_path / "one", unigram_folder, 1, *options, "--batch-size", "2")
    two, said = fit(tmp_path / "two", unigram_folder, 2, *options, "--batch-size", "1")

    for result in (one, two):
        assert (result["steps"], result["best_step"], result["stopped_early"]) == (6, 0, True)
        assert result["validation"] == result["before"]
    assert two["before"]["loss"] == pytest.approx(one["before"]["loss"], rel=1e-4)
    assert said.count("at most 18 steps, 54 or 126 if validation still") == 1


@pytest.mark.parametrize("objective", ["kto", "dpo"])
def test_two_processes_learn_the_same_from_judgements(tmp_path: Path, unigram_folder: Path, objective: str) -> None:
    judged = [{"context": talk[:-1], "chosen": talk[-1], "rejected": "I do not know."} for talk in TALKS if talk[1:]]
    if objective == "kto":
        judged = [line | {"rejected": None} if number % 3 else line for number, line in enumerate(judged)]
    (tmp_path / "judged.jsonl").write_text("\n".join(map(json.dumps, judged)), encoding="utf-8")
    replayed = [
        {"turns": talk, "weights": [(number + turn) % 3 for turn in range(len(talk))]}
        for number, talk in enumerate(TALKS)
    ]
    (tmp_path / "replayed.jsonl").write_text("\n".join(map(json.dumps, replayed)), encoding="utf-8")
    data, replay = (str(tmp_path / f"{name}.jsonl") for name in ("judged", "replayed"))
    options = ["--objective", objective, "--replay", replay, "--max-regression", "1000"]
    one, _ = fit(tmp_path / "one", unigram_folder, 1, *options, "--batch-size", "6", data=data)
    two, said = fit(tmp_path / "two", unigram_folder, 2, *options, "--batch-size", "3", data=data)

    # An epoch's 8 judgements make an update of 6 and one of 2.
    assert one["steps"] == two["steps"] == 6
    names = {"loss", "grad_norm", "eval_loss", "reward_chosen", "reward_margin", "log_prob_chosen", "kl", "eval_ended"}
    for ours, theirs in zip(two["history"], one["history"], strict=True):
        assert ours.keys() == theirs.keys()
        for name in ours.keys() & names:
            assert ours[name] == pytest.approx(theirs[name], rel=1e-3, abs=1e-5), name
        assert ours.get("tokens") == theirs.get("tokens")
    assert said.count("fine-tuning") == 1


OTHERS = """
import dataclasses, json, os, sys
from convmodel import ConversationModel
from convmodel.training import validation

rank, measure, losses = int(os.environ["RANK"]), validation.evaluate_windows, iter([4.0, 3.0, 2.0, 1.0])

def differing(*args, **options):
    result = measure(*args, **options)
    return dataclasses.replace(result, loss=5.0 - next(losses)) if rank else result  # ever worse

validation.evaluate_windows = differing
model = ConversationModel.from_pretrained(sys.argv[1], device="cpu")
talks = [["Hello", "Hi there"], ["Yes", "No"]]
found = model.fit(talks, talks, epochs=3, batch_size=1, learning_rate=1e-3, precision="fp32")
with open(f"found-{rank}.json", "w") as file:
    json.dump({"best_step": found.best_step, "before": found.before.loss, "loss": found.validation.loss}, file)
"""


def test_all_processes_decide_by_the_first_ones_validation(tmp_path: Path, unigram_folder: Path) -> None:
    (tmp_path / "others.py").write_text(OTHERS, encoding="utf-8")
    environment = os.environ | {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}

    command = ["others.py", str(unigram_folder)]
    done = forking.run_together(command, 2, cwd=tmp_path, env=environment, timeout=250)

    assert done.returncode == 0, done.stderr
    first, second = (json.loads((tmp_path / f"found-{rank}.json").read_text()) for rank in (0, 1))
    assert first == second
    assert first["best_step"] == 3


SHARES = """
import json, os, sys
from convmodel import ConversationModel
from convmodel.evaluation import likelihood

measure, measured = likelihood.measure_targets, []

def counted(hf_model, tokenizer, windows, **options):
    measured.append(len(windows))
    return measure(hf_model, tokenizer, windows, **options)

likelihood.measure_targets = counted
model = ConversationModel.from_pretrained(sys.argv[1], device="cpu")
talks = [["Hello", "Hi there"], ["Yes", "No"]]
result = model.fit(talks, "valid.jsonl", max_steps=1, batch_size=2, precision="fp32")
with open(f"measured-{os.environ.get('RANK', 0)}.json", "w") as file:
    json.dump([measured, result.before.to_dict(), result.validation.to_dict()], file)
"""


@pytest.mark.parametrize("processes", [2, 4])
def test_processes_share_the_validation(tmp_path: Path, unigram_folder: Path, processes: int) -> None:
    (tmp_path / "shares.py").write_text(SHARES, encoding="utf-8")
    (tmp_path / "valid.jsonl").write_text("\n".join(map(json.dumps, TALKS)), encoding="utf-8")
    environment = os.environ | {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    how: dict[str, Any] = {"cwd": tmp_path, "env": environment, "timeout": 250}

    def read(rank: int) -> Any:
        return json.loads((tmp_path / f"measured-{rank}.json").read_text(encoding="utf-8"))

    command = ["shares.py", str(unigram_folder)]
    done = forking.run(command, **how)
    assert done.returncode == 0, done.stderr
    [all_batches, before, _] = read(0)
    done = forking.run_together(command, processes, **how)
    assert done.returncode == 0, done.stderr
    shares = [read(rank) for rank in range(processes)]

    once = all_batches[: len(all_batches) // 2]  # measured before and after the only step
    assert len(once) == 6  # so that of four processes, two have less to do
    for rank, [batches, first, last] in enumerate(shares):
        assert batches == once[rank::processes] * 2
        assert first == before  # to the last bit
        assert last == shares[0][2]


@pytest.mark.long
def test_a_process_that_fails_says_why_and_ends_all(tmp_path: Path, unigram_folder: Path) -> None:
    with pytest.raises(AssertionError, match=r"convmodel: max_length is 4096, but the model has 128 positions"):
        fit(tmp_path / "two", unigram_folder, 2, "--max-length", "4096", by_torchrun=True)
