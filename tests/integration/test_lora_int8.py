"""LoRA over int8 weights: a run is that of a float model with exactly these weights, and is saved and resumed alike."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from dequantized import take_values

from convmodel import ConversationModel
from convmodel.errors import ConfigError, ModelLoadError, StoppedError
from convmodel.files.hub import BASE_FILE
from convmodel.hf_model.int8_layers import Int8Linear
from convmodel.hf_model.int8_matrix import Int8Matrix
from convmodel.hf_model.lora import has_adapters
from convmodel.hf_model.quantization import is_quantized
from fine_tuning import TALKS, Recorder, Signalled, measured, weights

FAMILIES = ["unigram_folder", "bytelevel_folder", "smollm2_folder"]
"""A GPT-2, and two Llamas, whose separators have new rows."""

LORA: dict[str, Any] = {"lora": True, "learning_rate": 1e-2, "batch_size": 4, "logging_steps": 1}
VALID = [["Good morning! Did you sleep well?", "Not really, the neighbours had a party."], ["Yes", "No"]]

Load = Callable[..., ConversationModel]


@pytest.fixture
def load(request: pytest.FixtureRequest) -> Load:
    """Loads a fresh model, packed."""

    def load(folder: str | Path = "unigram_folder", **options: Any) -> ConversationModel:
        path = request.getfixturevalue(folder) if isinstance(folder, str) else folder
        return ConversationModel.from_pretrained(path, **{"device": "cpu", "quantize": "int8"} | options)

    return load


@pytest.fixture
def load_values(load: Load) -> Load:
    """Loads the float model with the values of the packed one."""

    def load_values(folder: str = "unigram_folder", **options: Any) -> ConversationModel:
        model = load(folder, quantize=None, **options)
        take_values(model.hf_model, load(folder, **options).hf_model)
        return model

    return load_values


class Trained(Recorder):
    """Copies the gradients of what is trained."""

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any) -> None:
        trained = {name: value for name, value in model.named_parameters() if value.requires_grad}
        self.gradients.append({name: value.grad.clone() for name, value in trained.items()})


def require_same_gradients(one: Trained, other: Trained, tolerance: float) -> None:
    """Requires that the differences are small, relative to the gradient of all that is trained."""
    assert len(one.gradients) == len(other.gradients) > 0
    for ours, theirs in zip(one.gradients, other.gradients, strict=True):
        assert ours.keys() == theirs.keys()
        difference, whole = (
            torch.cat([part.flatten() for part in parts]).norm()
            for parts in ([ours[name] - theirs[name] for name in ours], [*theirs.values()])
        )
        assert difference <= tolerance * whole


def losses(result: Any) -> list[float]:
    return [log["loss"] for log in result.history if "loss" in log]


def logits(model: ConversationModel) -> torch.Tensor:
    with torch.no_grad():
        found: torch.Tensor = model.hf_model(torch.tensor([[5, 9, 21, 7, 3, 5, 11]])).logits
    return found


# What is computed


@pytest.mark.parametrize("folder", FAMILIES)
@pytest.mark.parametrize(
    ("options", "tolerance"),
    [
        pytest.param({}, 2e-6, id="float32"),
        pytest.param({"gradient_checkpointing": True}, 2e-6, id="checkpointing", marks=pytest.mark.slow),
        pytest.param({"lora": {"lora_dropout": 1e-9}}, 2e-6, id="layers of transformers", marks=pytest.mark.slow),
        pytest.param({"precision": "bf16"}, 3e-2, id="bf16"),
    ],
)
def test_gradients_are_those_of_a_float_model_with_the_same_weights(
    load: Load, load_values: Load, folder: str, options: dict[str, Any], tolerance: float
) -> None:
    packed, plain = Trained(), Trained()
    more = {"max_steps": 2, "learning_rate": 1e-3, "max_grad_norm": 0} | options

    ours = load(folder).fit(TALKS, callbacks=[packed], **LORA | more)
    theirs = load_values(folder).fit(TALKS, callbacks=[plain], **LORA | more)

    require_same_gradients(packed, plain, tolerance)
    assert losses(ours) == pytest.approx(losses(theirs), rel=tolerance)


@pytest.mark.parametrize("folder", FAMILIES)
def test_so_they_are_without_the_extension(
    load: Load, load_values: Load, folder: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = []
    for native in (True, False):
        if not native:
            monkeypatch.setattr("convmodel.hf_model.kernels.native", None)
        recorder, model = Trained(), load(folder)
        model.fit(TALKS, callbacks=[recorder], **LORA | {"max_steps": 1})
        found.append(recorder)
    require_same_gradients(*found, 1e-6)


@pytest.mark.slow
def test_a_base_in_half_precision_trains(load: Load) -> None:
    model = load("bytelevel_folder", dtype="bfloat16")

    result = model.fit(TALKS, **LORA | {"epochs": 6, "learning_rate": 3e-2})

    assert losses(result)[-1] < losses(result)[0] - 0.05
    assert {value.dtype for name, value in model.hf_model.named_parameters() if "lora_" in name} == {torch.float32}


@pytest.mark.parametrize("folder", FAMILIES)
def test_packed_equals_one_by_one(load: Load, folder: str) -> None:
    found = []
    for options in ({"batch_size": 40}, {"batch_size": 40, "packing": True, "max_length": 64}):
        recorder = Trained()
        load(folder).fit(TALKS, callbacks=[recorder], **LORA | {"max_steps": 1, "max_length": 64} | options)
        found.append(recorder)
    require_same_gradients(*found, 1e-4)


@pytest.mark.parametrize("folder", FAMILIES)
def test_adapters_learn_and_the_integers_stay(load: Load, folder: str) -> None:
    model = load(folder)
    before = {name: layer.matrix.rows.clone() for name, layer in packed_layers(model).items()}

    result = model.fit(TALKS, **LORA | {"epochs": 6, "learning_rate": 3e-2})

    assert losses(result)[-1] < losses(result)[0] - 0.05
    after = packed_layers(model)
    assert all(torch.equal(rows, after[name].matrix.rows) for name, rows in before.items())
    assert not any(layer.exactness for layer in after.values())
    trained = [name for name, _ in model.hf_model.named_parameters() if "trainable_tokens" in name]
    assert len(trained) == (0 if folder == "unigram_folder" else 2)


def packed_layers(model: ConversationModel) -> dict[str, Int8Linear]:
    layers = ((name, module) for name, module in model.hf_model.named_modules() if isinstance(module, Int8Linear))
    return {name.replace(".base_layer", "").replace(".token_adapter", ""): layer for name, layer in layers}


# What is saved


@pytest.mark.slow
@pytest.mark.parametrize("folder", FAMILIES)
def test_adapters_come_back_over_packed_and_float_weights(load: Load, folder: str, tmp_path: Path) -> None:
    model = load(folder)
    result = model.fit(TALKS, VALID, output_dir=tmp_path / "trained", **LORA | {"max_steps": 6})
    model.save_pretrained(tmp_path / "again")

    for place in (tmp_path / "trained", tmp_path / "again"):
        assert not (place / "model.safetensors").exists()
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(Int8Matrix, "write", None)  # loading computes no matrix in float
            loaded = load(place)
        assert is_quantized(loaded.hf_model)
        assert has_adapters(loaded.hf_model)
        assert torch.equal(logits(loaded), logits(model))
        assert loaded.evaluate(VALID).loss == model.evaluate(VALID).loss
        assert loaded.evaluate(VALID).loss == pytest.approx(result.validation.loss, rel=1e-6)  # in other batches
        assert loaded.generate(["Hello"], max_new_tokens=8) == model.generate(["Hello"], max_new_tokens=8)
    plain = load(tmp_path / "trained", quantize=None)
    assert not is_quantized(plain.hf_model)
    assert (logits(plain) - logits(model)).norm() < 0.03 * logits(model).norm()
    plain.merge_adapters()
    plain.save_pretrained(tmp_path / "merged")
    assert torch.equal(logits(load(tmp_path / "merged", quantize=None)), logits(plain))


@pytest.mark.parametrize("quantize", ["int8", None])
def test_another_base_is_refused(load: Load, unigram_folder: Path, tmp_path: Path, quantize: str | None) -> None:
    shutil.copytree(unigram_folder, tmp_path / "base")
    load(tmp_path / "base").fit(TALKS, output_dir=tmp_path / "adapters", **LORA | {"max_steps": 1})
    other = load(tmp_path / "base", quantize=None)
    other.fit(TALKS, max_steps=2, learning_rate=1e-2)
    other.save_pretrained(tmp_path / "base")

    with pytest.raises(ModelLoadError, match=r"base is not the one that the adapters in .* were trained on"):
        load(tmp_path / "adapters", quantize=quantize)


def test_the_fingerprint_of_the_base_is_that_of_its_file(load: Load, tmp_path: Path) -> None:
    facts = []
    for quantize in ("int8", None):
        load(quantize=quantize).fit(TALKS, output_dir=tmp_path / str(quantize), **LORA | {"max_steps": 1})
        facts.append(json.loads((tmp_path / str(quantize) / BASE_FILE).read_text(encoding="utf-8")))
    assert [each.pop("quantize") for each in facts] == ["int8", None]
    assert facts[0] == facts[1]


@pytest.mark.slow
def test_training_continues_with_the_same_adapters(load: Load, tmp_path: Path) -> None:
    first = load().fit(TALKS, output_dir=tmp_path / "first", **LORA | {"epochs": 3})
    model = load(tmp_path / "first")

    second = model.fit(TALKS, output_dir=tmp_path / "second", **LORA | {"epochs": 3})

    assert losses(second)[0] < losses(first)[0] - 0.05
    assert torch.equal(logits(load(tmp_path / "second")), logits(model))


@pytest.mark.slow
@pytest.mark.parametrize("step", [2, 5])
@pytest.mark.parametrize("folder", ["unigram_folder", "smollm2_folder"])
def test_resumed_equals_uninterrupted(load: Load, tmp_path: Path, folder: str, step: int) -> None:
    options = LORA | {"epochs": 2, "dropout": 0.1}
    whole, parts = load(folder), load(folder)
    expected = whole.fit(TALKS, VALID, output_dir=str(tmp_path / "whole"), **options)
    with pytest.raises(StoppedError):
        load(folder).fit(TALKS, VALID, output_dir=str(tmp_path / "parts"), callbacks=[Signalled(step)], **options)

    result = parts.fit(TALKS, VALID, output_dir=str(tmp_path / "parts"), **options)

    assert losses(result) == losses(expected)
    for name, value in weights(whole).items():
        assert torch.equal(value, weights(parts)[name]), name
    assert measured(tmp_path / "whole") == measured(tmp_path / "parts")


def test_a_run_over_float_weights_does_not_resume_one_over_packed_ones(load: Load, tmp_path: Path) -> None:
    options = LORA | {"epochs": 2, "output_dir": str(tmp_path)}
    with pytest.raises(StoppedError):
        load().fit(TALKS, callbacks=[Signalled(2)], **options)

    with pytest.raises(ConfigError, match="first weights"):
        load(quantize=None).fit(TALKS, **options)


def test_a_run_that_fails_takes_its_adapters_off(load: Load) -> None:
    model = load("smollm2_folder")
    before = logits(model)

    class Broken(Trained):
        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            raise RuntimeError("no")

    with pytest.raises(RuntimeError, match="no"):
        model.fit(TALKS, callbacks=[Broken()], **LORA)

    assert not has_adapters(model.hf_model)
    assert torch.equal(logits(model), before)


# Judgements


@pytest.mark.slow
@pytest.mark.parametrize("objective", ["dpo", "kto"])
@pytest.mark.parametrize("folder", ["unigram_folder", "smollm2_folder"])
def test_the_reference_is_the_packed_model_without_adapters(
    load: Load, folder: str, objective: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CONVMODEL_CACHE", str(tmp_path / "cache"))
    answered = [talk for talk in TALKS if len(talk) > 1]
    pairs = [
        {"context": talk[:-1], "chosen": talk[-1], "rejected": other[-1]}
        for talk, other in zip(answered, answered[1:] + answered[:1], strict=True)
    ]
    options = {"objective": objective, "max_steps": 3, "max_regression": 100.0}
    model = load(folder)

    first = model.fit(pairs, VALID, **LORA | options)
    second = model.fit(pairs, VALID, **LORA | options)  # with the same adapters

    rewards = [[log["reward_chosen"] for log in result.history if "loss" in log] for result in (first, second)]
    assert rewards[0][0] == pytest.approx(0, abs=1e-5)
    assert rewards[1][0] == pytest.approx(rewards[0][-1], abs=2.0)
    assert abs(rewards[1][0]) > 1e-3


# What is refused


def test_merging_is_refused_with_what_to_do(load: Load, tmp_path: Path) -> None:
    model = load()
    with pytest.raises(ConfigError, match="leave merge out, load the trained adapters without quantize, and call"):
        model.fit(TALKS, output_dir=tmp_path, merge=True, **LORA)
    assert not has_adapters(model.hf_model)

    model.fit(TALKS, **LORA | {"max_steps": 1})
    with pytest.raises(ConfigError, match="a quantized model cannot be merged with adapters: load it without quantize"):
        model.merge_adapters()


def test_adapters_over_merged_ones_have_no_base_to_be_saved_for(load: Load, tmp_path: Path) -> None:
    load(quantize=None).fit(TALKS, output_dir=tmp_path / "float", **LORA | {"max_steps": 1})
    model = load(tmp_path / "float")
    assert not has_adapters(model.hf_model)

    with pytest.raises(ConfigError, match=r"it has merged adapters: load it without quantize, call merge_adapters"):
        model.fit(TALKS, output_dir=tmp_path / "more", **LORA)
    model.fit(TALKS, **LORA | {"max_steps": 1})


# The command


@pytest.mark.slow
def test_the_command_trains_and_names_the_next_one(
    run: Callable[..., int], capsys: pytest.CaptureFixture[str], unigram_folder: Path
) -> None:
    Path("talks.jsonl").write_text("\n".join(map(json.dumps, TALKS)), encoding="utf-8")
    settings = ("talks.jsonl", "--model", str(unigram_folder), "--lora", "--quantize", "int8", "--max-steps", "2")

    assert run("fit", *settings, "--output-dir", "adapters") == 0

    shown = " ".join(capsys.readouterr().err.split())
    assert "unigram in int8 on talks.jsonl" in shown
    assert "chat --model adapters --quantize int8" in shown
    assert run("evaluate", "adapters", "--data", "talks.jsonl", "--quantize", "int8", "--json") == 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--model", "model"), "int8 weights cannot be trained: give --lora too, or leave out --quantize"),
        (("--model", "model", "--lora", "--merge"), "--merge would add the adapters to rounded weights: leave it out"),
        (("--from-scratch", "tiny", "--lora"), "--quantize is for pretrained weights: leave it out"),
    ],
)
def test_flags_that_do_not_go_together(
    run: Callable[..., int], capsys: pytest.CaptureFixture[str], options: tuple[str, ...], message: str
) -> None:
    assert run("fit", "train.jsonl", "--output-dir", "new", "--quantize", "int8", *options) == 1
    assert message in " ".join(capsys.readouterr().err.split())
