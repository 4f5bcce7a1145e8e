"""Models on a device without float64, as an Apple GPU is: a simulated one, in a process of its own."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.slow
TESTS = Path(__file__).parents[1]

SCRIPT = """
import json, sys, torch
import pretend_device

pretend_device.start()
pretend_device.train_there()
from transformers import Gemma2Config, GPT2Config
from convmodel import ConversationModel
from convmodel.hf_model import device_check
from convmodel.training import update_check

talks = [["Hi", "Hello there, how are you?", "Fine, and you?"], ["What is up?", "Not much."]] * 4
weighted = [{"turns": talk, "speakers": ["a", "b", "a"][: len(talk)], "weights": [1] * len(talk)} for talk in talks]
weighted[0]["weights"][1] = 0.5
pairs = [{"context": talk[:-1], "chosen": talk[-1], "rejected": "No."} for talk in talks]
tokenizer = ConversationModel.from_pretrained("builtin:chitchat", device="cpu").tokenizer
shape = {"n_embd": 16, "n_layer": 2, "n_head": 2, "n_positions": 512, "bos_token_id": 0, "eos_token_id": 0}
config = GPT2Config(**shape, vocab_size=len(tokenizer))
capped = Gemma2Config(
    vocab_size=len(tokenizer), hidden_size=16, intermediate_size=16, num_hidden_layers=2, num_attention_heads=2,
    num_key_value_heads=1, head_dim=8, sliding_window=6, attn_implementation="eager",
)
results = {}
for device in ("cpu", "pretend"):
    def model():
        return ConversationModel.from_config(config, tokenizer, device=device)

    one, result = model(), {}
    result["device"] = str(one.device)
    sampled = {"max_new_tokens": 6, "do_sample": True, "temperature": 0.7, "top_p": 0.9, "repetition_penalty": 1.1}
    result["greedy"] = one.generate(["Hi"], max_new_tokens=6).responses
    result["sampled"] = one.generate(["Hi"], seed=1, **sampled).responses
    result["beams"] = one.generate(["Hi"], max_new_tokens=4, num_beams=2).responses
    gemma = ConversationModel.from_config(capped, tokenizer, device=device)
    outputs = gemma.generate_batch([["Hi"], ["Hello there"]], max_new_tokens=6)
    result["gemma2"] = [output.responses for output in outputs]
    result["forward"] = type(gemma.engine.runner.forward).__name__
    result["evaluated"] = one.evaluate(talks).loss
    options = {"max_steps": 2, "batch_size": 4, "learning_rate": 1e-3, "seed": 0, "precision": "fp32"}
    for name, train, more in (
        ("sft", talks, {}),
        ("weighted", weighted, {}),
        ("packed", talks, {"packing": True, "max_length": 48}),
        ("dpo", pairs, {"objective": "dpo", "max_regression": 100.0}),
        ("kto", pairs, {"objective": "kto", "max_regression": 100.0}),
        ("orpo", pairs, {"objective": "orpo", "max_regression": 100.0}),
    ):
        trained = model()
        fitted = trained.fit(train, talks[:2], **options, **more)
        result[name] = [fitted.train_loss, trained.evaluate(talks).loss, str(trained.device)]
    results[device] = result

device_check.CHECKED_TYPES = update_check.CHECKED_TYPES = {"pretend"}
device_check.default_device = lambda: torch.device("pretend", 0)
for name, missing, factors in (
    ("right", set(), {}),
    ("wrong logits", set(), {"aten::addmm": 1.5}),
    ("missing operation", {"aten::native_layer_norm"}, {}),
    ("wrong gradients", set(), {"aten::native_layer_norm_backward": -1.0}),
):
    device_check._results.clear()
    pretend_device.MISSING, pretend_device.FACTORS = missing, factors
    checked = ConversationModel.from_config(config, tokenizer)
    placed = str(checked.device)
    checked.fit(talks, **options)
    hf_model = checked.hf_model
    tied = hf_model.lm_head.weight is hf_model.transformer.wte.weight
    differences = [comparison.difference for comparison in device_check._results.values()]
    results[name] = [placed, str(checked.device), tied, differences]
print(json.dumps(results))
"""


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join(filter(None, [str(TESTS), os.environ.get("PYTHONPATH")])),
        "CONVMODEL_CACHE": str(tmp_path_factory.mktemp("cache")),
    }
    environment.pop("CONVMODEL_DEVICE")  # which all tests set to the CPU
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT], capture_output=True, text=True, env=environment, timeout=580, check=False
    )
    assert done.returncode == 0, done.stderr[-4000:]
    loaded: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return loaded


@pytest.mark.long
@pytest.mark.timeout(600)
def test_a_device_without_float64_generates_what_the_cpu_does(results: dict[str, Any]) -> None:
    assert results["pretend"]["device"] == "pretend:0"
    assert results["pretend"]["forward"] == "LeanForward"
    for name in ("greedy", "sampled", "beams", "gemma2"):
        assert results["pretend"][name] == results["cpu"][name], name


@pytest.mark.long
def test_a_device_without_float64_evaluates_as_the_cpu_does(results: dict[str, Any]) -> None:
    assert results["pretend"]["evaluated"] == pytest.approx(results["cpu"]["evaluated"], rel=1e-5)


@pytest.mark.long
@pytest.mark.parametrize("name", ["sft", "weighted", "packed", "dpo", "kto", "orpo"])
def test_a_device_without_float64_trains_as_the_cpu_does(results: dict[str, Any], name: str) -> None:
    *values, device = results["pretend"][name]
    assert device == "pretend:0"
    assert values == pytest.approx(results["cpu"][name][:2], rel=1e-4)


@pytest.mark.parametrize(
    ("name", "placed", "trained", "checks"),
    [
        ("right", "pretend:0", "pretend:0", 2),
        ("wrong logits", "cpu", "cpu", 1),
        ("missing operation", "cpu", "cpu", 1),
        ("wrong gradients", "pretend:0", "cpu", 2),
    ],
)
def test_a_device_is_used_only_for_what_it_computes_as_the_cpu_does(
    results: dict[str, Any], name: str, placed: str, trained: str, checks: int
) -> None:
    *devices, is_tied, differences = results[name]
    assert devices == [placed, trained]
    assert is_tied
    assert len(differences) == checks
    assert (max(differences) < 1e-4) == (name == "right")
