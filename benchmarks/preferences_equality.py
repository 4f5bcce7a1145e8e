"""convmodel's side of `preferences.py equality`: the same ids, models and settings as TRL's, and its own batches.

The policy is the model with small random changes, so that no ratio of probabilities is 1; the reference is the model.
KTO's estimate is made from the same pairs of contexts and others' responses on both sides: convmodel's.
"""

import json
import shutil
import subprocess
import tempfile
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from transformers import LlamaConfig, LlamaForCausalLM

from convmodel import ConversationModel, FitConfig
from convmodel.data.reading.reader import ConversationReader
from convmodel.layout.sequence import IGNORED, Window
from convmodel.training.objectives.choose import make_objective, readers
from convmodel.training.objectives.preference_data import PreferenceData
from convmodel.training.step.forward import prepared

HERE = Path(__file__).parent
TEST = HERE.parent / "src/convmodel/assets/sample/test.jsonl"
LIMIT = 1e-5
COUNT = 8
BETA = 0.1
NOISE = {"tiny": 0.3, "full": 0.03}  # of each matrix's standard deviation
LENGTH = 512
ALIKE: dict[str, Any] = {"precision": "fp32", "batch_size": COUNT, "max_length": LENGTH, "replay_weight": 0.0}

# TRL's "sigmoid" ignores label_smoothing; its "aot" of one pair is the smoothed formula.
CASES: dict[str, dict[str, Any]] = {
    "dpo": {"ours": {"sft_weight": 0.0}, "trl": {"loss_type": ["sigmoid"]}},
    "dpo smoothed": {
        "ours": {"sft_weight": 0.0, "label_smoothing": 0.1},
        "trl": {"loss_type": ["aot"], "label_smoothing": 0.1},
        "batch_size": 1,
    },
    "dpo sft": {"ours": {"sft_weight": 0.5}, "trl": {"loss_type": ["sigmoid", "sft"], "loss_weights": [1.0, 0.5]}},
    "kto": {"ours": {}, "trl": {}},
    "kto uneven": {"ours": {}, "trl": {"undesirable_weight": 5 / 3}, "liked": 5},
}
BATCHES: dict[str, dict[str, Any]] = {
    "8 batches of 1": {"batch_size": 1},
    "packed": {"packing": True, "batch_size": COUNT},
}


def compare(name: str, peers: str | None) -> int:
    """Prints the differences of all cases; returns 1 if one is too large. Without peers, only those of our batches."""
    if not Path(name).is_dir():
        raise SystemExit(f"there is no folder {name}: equality needs one with a Llama as --model")
    worst = 0.0
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        reference = folder / "reference"
        tiny(Path(name), folder / "tiny")
        for size, model in (("tiny", folder / "tiny"), ("full", Path(name))):
            shutil.rmtree(reference, ignore_errors=True)
            loaded = ConversationModel.from_pretrained(model, device="cpu")
            loaded.save_pretrained(reference)
            changed(loaded, folder / "policy", NOISE[size])
            print(
                f"{model.name}: differences relative to the largest gradient, the loss, and the largest ln p",
                flush=True,
            )
            ours = {case: computed(reference, folder / "policy", case) for case in CASES}
            if peers:
                trl(peers, folder, ours)
                for case, values in ours.items():
                    other = load_file(folder / "out" / f"{case}.safetensors")
                    worst = max(worst, report(f"{case}, convmodel and TRL", values, other))
            for case in CASES:
                for way, settings in BATCHES.items():
                    other = computed(reference, folder / "policy", case, settings)
                    worst = max(worst, report(f"{case}, a batch of {COUNT} and {way}", ours[case], other))
    print(f"largest difference {worst:.1e}, limit {LIMIT:g}")
    return int(worst > LIMIT)


def tiny(model: Path, folder: Path) -> None:
    """Saves a Llama of two layers with random weights and the tokenizer and layout of another one."""
    torch.manual_seed(0)
    shutil.copytree(model, folder, ignore=shutil.ignore_patterns("*.safetensors"))
    shape = json.loads((model / "config.json").read_text())
    small = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4}
    known = {key: shape[key] for key in ("vocab_size", "bos_token_id", "eos_token_id", "pad_token_id")}
    LlamaForCausalLM(LlamaConfig(**small, **known, num_key_value_heads=2)).save_pretrained(folder)


def changed(model: ConversationModel, folder: Path, noise: float) -> None:
    """Adds noise to a model's matrices, and saves it."""
    shutil.rmtree(folder, ignore_errors=True)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for value in model.hf_model.parameters():
            if value.dim() > 1:
                value += noise * value.std() * torch.randn(value.shape, generator=generator)
    model.save_pretrained(folder)


def judgements(kto: bool, liked: int = COUNT // 2) -> list[dict[str, Any]]:
    """Returns pairs of the next turn and another conversation's, or thumbs on one of both."""
    conversations = [each.turns for each in islice(ConversationReader(TEST), 2 * COUNT)]
    found = []
    for number in range(COUNT):
        turns, other = conversations[number], conversations[number + COUNT]
        length = 1 + 2 * (number % 3)
        messages = [{"role": ("user", "assistant")[i % 2], "content": text} for i, text in enumerate(turns[:length])]
        responses = {"chosen": turns[length], "rejected": other[length]}
        if kto:
            side = "chosen" if number < liked else "rejected"
            responses = {side: responses[side]}
        found.append({"context": messages, "responder": "assistant", "kind": "pair"} | responses)
    return found


def computed(reference: Path, policy: Path, case: str, settings: dict[str, Any] | None = None) -> dict[str, Any]:
    """Returns the loss of a step, its gradients, ln p of each response, and TRL's rows of the same ids."""
    objective_name = case.split()[0]
    config = FitConfig(objective=objective_name, beta=BETA, **ALIKE | CASES[case]["ours"] | (settings or {}))
    model = ConversationModel.from_pretrained(reference, device="cpu")
    hf_model, tokenizer = model.hf_model, model.tokenizer
    rows = judgements(objective_name == "kto", CASES[case].get("liked", COUNT // 2))
    data = PreferenceData.of(hf_model, tokenizer, readers(config, rows, None, None), config)
    objective = make_objective(hf_model, tokenizer, data, config)
    weights = ConversationModel.from_pretrained(policy, device="cpu").hf_model.state_dict()
    dataset = data.dataset(0)
    indices = [tuple(row) for row in data.order] if config.packing else [*range(COUNT)]
    taken = [dataset[index] for index in indices]
    batches = [
        data.collate(tokenizer, taken[start : start + config.batch_size])
        for start in range(0, len(taken), config.batch_size)
    ]
    with prepared(hf_model):
        objective.begin()
        hf_model.load_state_dict(weights)
        totals = objective.totals(batches)
        loss = torch.zeros(())
        for batch in batches:
            del batch["windows"], batch["tokens"]
            part = objective.loss(hf_model, batch, totals)
            part.backward()
            loss += part.detach()
        found = {"loss": loss, "log_probs": log_probs(hf_model, tokenizer, data)}
    found |= {f"gradient {name}": value.grad for name, value in hf_model.named_parameters()}
    return {"tensors": found, "examples": examples(data)}


def log_probs(hf_model: Any, tokenizer: Any, data: PreferenceData) -> torch.Tensor:
    """Returns ln p of each response under the policy, and beside it of the other: rejected, or another's."""
    from convmodel.training.objectives.reference import Reference

    others = data.examples.mismatched
    windows = data.train.windows if others is None else [*data.train.windows, *others]
    computed = Reference(hf_model, tokenizer, windows, None, precision="fp32", batch_size=COUNT)._computed().float()
    return computed.view(2, COUNT).T if others else computed.view(COUNT, 2)


def examples(data: PreferenceData) -> list[dict[str, Any]]:
    """Returns TRL's rows of the same ids."""
    windows, others, rows = data.train.windows, data.examples.mismatched, []
    for example in data.examples.examples:
        row: dict[str, Any] = {}
        if others is None:
            assert example.chosen is not None
            assert example.rejected is not None
            row["prompt_ids"], row["chosen_ids"] = split(windows[example.chosen])
            prompt, row["rejected_ids"] = split(windows[example.rejected])
            assert prompt == row["prompt_ids"]
        else:
            (number,) = example.numbers
            row["prompt_ids"], row["completion_ids"] = split(windows[number])
            prompt, row["KL_completion_ids"] = split(others[number])
            assert prompt == row["prompt_ids"]
            row["label"] = example.chosen is not None
        rows.append(row)
    return rows


def split(window: Window) -> tuple[list[int], list[int]]:
    """Returns the ids before and of the response, its end included."""
    labels = [*window.labels]
    first = next(place for place, label in enumerate(labels) if label != IGNORED)
    last = max(place for place, label in enumerate(labels) if label != IGNORED) + 1
    assert IGNORED not in labels[first:last], "targets are not in one piece"
    ids = [*window.input_ids]
    assert ids[first:last] == labels[first:last]
    return ids[:first], ids[first:last]


def trl(peers: str, folder: Path, ours: dict[str, dict[str, Any]]) -> None:
    """Computes all cases in TRL's environment."""
    (folder / "out").mkdir(exist_ok=True)
    cases = [
        {
            "name": name,
            "objective": name.split()[0],
            "settings": {"beta": BETA} | CASES[name]["trl"],
            "batch_size": CASES[name].get("batch_size", COUNT),
            "examples": values["examples"],
        }
        for name, values in ours.items()
    ]
    places = {name: str(folder / name) for name in ("policy", "reference", "out")}
    (folder / "job.json").write_text(json.dumps(places | {"cases": cases, "threads": torch.get_num_threads()}))
    done = subprocess.run([peers, str(HERE / "preferences_peers.py"), str(folder / "job.json")], capture_output=True)
    if done.returncode:
        raise SystemExit(done.stderr.decode()[-2000:])


def report(title: str, ours: dict[str, Any], other: dict[str, Any]) -> float:
    """Prints a row of differences, and returns the largest."""
    own, other = ours["tensors"], other.get("tensors", other)
    names = [name for name in own if name.startswith("gradient")]
    assert sorted(own) == sorted(other), sorted(set(own) ^ set(other))
    largest = max(float(own[name].abs().max()) for name in names)
    gradient = max(float((own[name] - other[name]).abs().max()) for name in names) / largest
    loss = abs(float(own["loss"] - other["loss"]) / float(own["loss"]))
    log_prob = float((own["log_probs"] - other["log_probs"]).abs().max() / own["log_probs"].abs().max())
    print(f"  {title:44} gradient {gradient:.1e}  loss {loss:.1e} ({float(own['loss']):.6f})  ln p {log_prob:.1e}")
    return max(gradient, loss, log_prob)
