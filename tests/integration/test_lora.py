"""LoRA: only adapters learn, they are saved alone and come back, and merged they are a plain model."""

import itertools
import json
import shutil
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, TrainerCallback

from convmodel import ConversationModel, FitConfig
from convmodel.errors import ConfigError, MissingExtraError, ModelLoadError, StoppedError
from convmodel.evaluation.likelihood import EvaluationResult
from convmodel.hf_model.lora import has_adapters
from convmodel.training import validation
from convmodel.training.resume.run_folder import RunFolder
from fine_tuning import TALKS, Recorder, Signalled, weights

Load = Callable[..., ConversationModel]
FAMILIES = ["unigram_folder", "bytelevel_folder", "smollm2_folder"]
"""A GPT-2; a Llama; and one more, whose separator has a new row."""

LORA: dict[str, Any] = {"lora": True, "learning_rate": 3e-2, "batch_size": 4, "epochs": 6, "logging_steps": 1}


def logits(model: ConversationModel | Any) -> torch.Tensor:
    hf_model = getattr(model, "hf_model", model)
    with torch.no_grad():
        return hf_model(input_ids=torch.tensor([[5, 9, 21, 7, 3, 5, 11]])).logits


def losses(result: Any) -> list[float]:
    return [log["loss"] for log in result.history if "loss" in log]


@pytest.mark.parametrize("folder", FAMILIES)
def test_adapters_learn_and_the_weights_beside_them_stay(load: Load, folder: str) -> None:
    model = load(folder)
    before = weights(model)

    result = model.fit(TALKS, **LORA)

    assert losses(result)[-1] < losses(result)[0] - 0.05
    assert has_adapters(model.hf_model)
    after = {name.replace(".base_layer", ""): value for name, value in weights(model).items()}
    for name, value in before.items():
        found = after.get(name, after.get(name.replace(".weight", ".token_adapter.weight")))
        assert found is not None, name
        rows = model.tokenizer.sep_token_id if value.shape[0] == len(model.tokenizer) else len(value)
        assert torch.equal(found[:rows], value[:rows]), name  # all, or all but a new separator's


@pytest.mark.parametrize("folder", FAMILIES)
def test_saved_adapters_are_small_and_come_back_with_their_base(load: Load, folder: str, tmp_path: Path) -> None:
    model = load(folder)
    whole = model.hf_model.num_parameters() * 4

    model.fit(TALKS, TALKS[:2], output_dir=tmp_path, **LORA)
    model.save_pretrained(tmp_path / "again")
    loaded = ConversationModel.from_pretrained(tmp_path / "again", device="cpu")
    loaded.save_pretrained(tmp_path / "third")

    for place in (tmp_path, tmp_path / "again", tmp_path / "third"):
        assert {"adapter_config.json", "adapter_model.safetensors", "convmodel_config.json"} <= {
            path.name for path in place.iterdir()
        }
        assert not (place / "model.safetensors").exists()
        assert (place / "adapter_model.safetensors").stat().st_size < whole
        assert torch.equal(logits(ConversationModel.from_pretrained(place, device="cpu")), logits(model))
    assert loaded.generate(["Hello"], max_new_tokens=8) == model.generate(["Hello"], max_new_tokens=8)
    assert loaded.evaluate(TALKS).loss == pytest.approx(model.evaluate(TALKS).loss, rel=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("folder", FAMILIES)
def test_merged_they_are_a_plain_model(load: Load, folder: str, tmp_path: Path) -> None:
    apart, merged = load(folder), load(folder)

    apart.fit(TALKS, TALKS[:2], **LORA)
    merged.fit(TALKS, TALKS[:2], output_dir=tmp_path, merge=True, **LORA)

    assert not has_adapters(merged.hf_model)
    assert {type(part) for part in merged.hf_model.modules()} == {
        type(part) for part in load(folder).hf_model.modules()
    }
    assert not [*tmp_path.glob("adapter_*")]
    plain = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert not hasattr(plain, "peft_config")
    torch.testing.assert_close(logits(merged), logits(apart), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(logits(plain), logits(apart), rtol=1e-4, atol=1e-4)
    assert torch.equal(logits(plain), logits(merged))
    head, embedding = merged.hf_model.get_output_embeddings(), merged.hf_model.get_input_embeddings()
    assert (head.weight is embedding.weight) == merged.hf_model.config.tie_word_embeddings
    apart.merge_adapters()
    torch.testing.assert_close(logits(apart), logits(merged), rtol=1e-4, atol=1e-4)


@pytest.mark.slow
def test_of_the_embedding_only_a_new_separators_row_is_learned(load: Load) -> None:
    model = load("smollm2_folder")
    model.hf_model.config.tie_word_embeddings = True
    model.hf_model.tie_weights()
    assert model.hf_model.lm_head.weight is model.hf_model.model.embed_tokens.weight
    row, rows = model.tokenizer.sep_token_id, model.hf_model.get_input_embeddings().weight.clone()

    model.fit(TALKS, merge=True, **LORA)

    changed = (model.hf_model.get_input_embeddings().weight != rows).any(dim=1).nonzero().flatten().tolist()
    assert changed == [row]
    assert model.hf_model.get_output_embeddings().weight is model.hf_model.get_input_embeddings().weight
    again = weights(model)
    model.fit(TALKS, merge=True, **LORA)  # it is no new row any more
    assert torch.equal(weights(model)["model.embed_tokens.weight"], again["model.embed_tokens.weight"])


def test_a_new_row_of_an_untied_head_is_learned_too(load: Load) -> None:
    model = load("smollm2_folder")
    hf_model = model.hf_model
    assert hf_model.lm_head.weight is not hf_model.get_input_embeddings().weight
    before = [layer.weight.clone() for layer in (hf_model.get_input_embeddings(), hf_model.lm_head)]

    model.fit(TALKS, merge=True, **LORA)

    for was, layer in zip(before, (hf_model.get_input_embeddings(), hf_model.lm_head), strict=True):
        assert (layer.weight != was).any(dim=1).nonzero().flatten().tolist() == [model.tokenizer.sep_token_id]


@pytest.mark.parametrize("folder", FAMILIES)
def test_the_gradient_of_an_update_is_that_of_the_whole_logits(
    load: Load, folder: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = []
    for whole in (False, True):
        model, recorder = load(folder), _Trained()
        if whole:
            monkeypatch.setattr("convmodel.training.step.forward.Head.of", lambda hf_model: None)
        model.fit(TALKS, lora=True, max_steps=2, batch_size=11, learning_rate=1e-2, callbacks=[recorder])
        found.append(recorder.gradients)

    for ours, theirs in zip(*found, strict=True):
        assert ours.keys() == theirs.keys()
        for name, gradient in ours.items():
            torch.testing.assert_close(gradient, theirs[name], rtol=1e-3, atol=1e-6)


class _Trained(Recorder):
    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any) -> None:
        trained = {name: value for name, value in model.named_parameters() if value.requires_grad}
        self.gradients.append({name: value.grad.clone() for name, value in trained.items()})


def test_half_precision_weights_stay_and_what_is_learned_is_float32(bytelevel_folder: Path) -> None:
    model = ConversationModel.from_pretrained(bytelevel_folder, device="cpu", dtype="bfloat16")

    result = model.fit(TALKS, **LORA)

    kinds = {value.dtype for name, value in model.hf_model.named_parameters() if "lora_" in name}
    assert kinds == {torch.float32}
    assert model.hf_model.get_input_embeddings().weight.dtype == torch.bfloat16
    assert losses(result)[-1] < losses(result)[0] - 0.05


@pytest.mark.slow
def test_learning_goes_on_with_the_same_adapters(load: Load, tmp_path: Path) -> None:
    model = load()
    first = model.fit(TALKS, output_dir=tmp_path, **LORA)
    loaded = ConversationModel.from_pretrained(tmp_path, device="cpu")

    second = loaded.fit(TALKS, **LORA)

    assert losses(second)[0] < losses(first)[0] - 0.05
    names = [name for name, _ in loaded.hf_model.named_parameters() if "lora_A" in name]
    assert len(names) == len(set(names)) == 2 * 4  # one a linear layer


def test_all_weights_are_trained_after_a_merge_where_lora_is_off(load: Load, tmp_path: Path) -> None:
    model = load()
    model.fit(TALKS, **LORA)
    before = logits(model)

    model.fit(TALKS, max_steps=1, learning_rate=1e-9, output_dir=tmp_path)

    assert not has_adapters(model.hf_model)
    torch.testing.assert_close(logits(model), before, rtol=1e-3, atol=1e-4)
    assert (tmp_path / "model.safetensors").exists()


def test_a_run_that_fails_takes_its_adapters_off(load: Load) -> None:
    model = load()
    before, found = weights(model), logits(model)

    class Broken(Recorder):
        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            raise RuntimeError("no")

        def on_pre_optimizer_step(self, *args: Any, **kwargs: Any) -> None:
            pass

    with pytest.raises(RuntimeError, match="no"):
        model.fit(TALKS, callbacks=[Broken()], **LORA)

    assert not has_adapters(model.hf_model)
    assert all(torch.equal(value, before[name]) for name, value in weights(model).items())
    assert torch.equal(logits(model), found)
    assert all(parameter.requires_grad for parameter in model.hf_model.parameters())


@pytest.mark.slow
def test_a_stopped_run_of_further_training_leaves_adapters_that_can_be_saved(load: Load, tmp_path: Path) -> None:
    model = load()
    model.fit(TALKS, **LORA | {"epochs": 1})
    before = logits(model)

    with pytest.raises(StoppedError):
        model.fit(TALKS, callbacks=[Signalled(2, signal.SIGINT)], **LORA)
    assert not torch.equal(logits(model), before)
    model.save_pretrained(tmp_path / "stopped")
    loaded = ConversationModel.from_pretrained(tmp_path / "stopped", device="cpu")

    torch.testing.assert_close(logits(loaded), logits(model))
    model.fit(TALKS, output_dir=tmp_path / "again", **LORA | {"epochs": 1})


@pytest.mark.parametrize("options", [{}, {"objective": "kto", "lora": True, "merge": True}])
def test_a_run_that_merges_adapters_and_fails_leaves_a_model_of_no_folder(
    load: Load, tmp_path: Path, options: dict[str, Any]
) -> None:
    class Broken(TrainerCallback):
        def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            raise RuntimeError("no")

    model = load()
    model.fit(TALKS, **LORA | {"epochs": 1})
    data = [{"context": ["Hi"], "chosen": "Hello"}] if options else TALKS
    with pytest.raises(RuntimeError, match="no"):
        model.fit(data, TALKS[:2], callbacks=[Broken()], epochs=1, **options)

    assert not has_adapters(model.hf_model)
    with pytest.raises(ConfigError, match="their base model is nowhere"):  # the merged weights are in no folder
        model.fit(TALKS, lora=True, max_steps=1, output_dir=tmp_path)


def test_options_are_pefts(load: Load) -> None:
    model = load()

    model.fit(TALKS, max_steps=1, lora={"r": 2, "target_modules": ["c_proj"]})

    config = model.hf_model.peft_config["default"]
    assert (config.r, config.lora_alpha, config.fan_in_fan_out) == (2, 32, True)
    adapted = {name.split(".lora_A")[0] for name, _ in model.hf_model.named_parameters() if ".lora_A" in name}
    assert all(name.endswith("c_proj") for name in adapted)


def test_a_peft_config_is_as_good_as_its_options() -> None:
    config = FitConfig(lora=peft.LoraConfig(r=4, target_modules=["c_attn", "c_fc"]))  # type: ignore[arg-type]

    assert config.lora == {"r": 4, "lora_alpha": 8, "target_modules": ["c_attn", "c_fc"]}
    assert FitConfig(lora=peft.LoraConfig()).lora == {"r": 8, "lora_alpha": 8}  # peft's, as whoever made it expects
    assert json.loads(json.dumps(config.to_dict()))["lora"] == config.lora


def test_a_table_without_options_means_adapters_too(load: Load) -> None:
    model = load()

    model.fit(TALKS, max_steps=1, lora={})

    assert model.hf_model.peft_config["default"].r == 16


def test_a_table_in_a_file_is_as_good(tmp_path: Path) -> None:
    (tmp_path / "fit.toml").write_text("learning_rate = 2e-4\n[lora]\nr = 8\n", encoding="utf-8")

    assert FitConfig.read_toml(tmp_path / "fit.toml") == {"learning_rate": 2e-4, "lora": {"r": 8}}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"lora": {"rank": 4}}, "lora has no option rank; there are .*, r, "),
        ({"lora": {"r": 0}}, "lora's r is 0: it must be a number of at least 1"),
        ({"lora": {"r": "16"}}, "lora's r is '16': it must be a number"),
        ({"lora": {"lora_alpha": -3}}, "lora's lora_alpha is -3"),
        ({"lora": {"base_model_name_or_path": "x"}}, "lora has no option base_model_name_or_path"),
        ({"lora": {"target_modules": ["nothing_like_it"]}}, "lora does not fit this model: .*nothing_like_it"),
        ({"merge": True}, "merge adds trained adapters to the weights: it needs lora"),
        ({"lora": "yes"}, "lora is 'yes'"),
    ],
)
def test_what_lora_cannot_be(load: Load, options: dict[str, Any], message: str) -> None:
    model = load()

    with pytest.raises(ConfigError, match=message):
        model.fit(TALKS, max_steps=1, **options)

    assert not has_adapters(model.hf_model)
    assert all(parameter.requires_grad for parameter in model.hf_model.parameters())


def test_adapters_of_a_model_that_is_nowhere_are_refused_before_the_work(load: Load, tmp_path: Path) -> None:
    model = load()
    model.fit(TALKS, max_steps=1)  # the weights in hand are those of no folder any more

    with pytest.raises(ConfigError, match="their base model is nowhere: save it and load it first, or give merge=True"):
        model.fit(TALKS, lora=True, max_steps=1, output_dir=tmp_path)
    model.fit(TALKS, lora=True, max_steps=1, output_dir=tmp_path, merge=True)

    assert (tmp_path / "model.safetensors").exists()


def test_adapters_whose_base_is_gone_say_so(load: Load, unigram_folder: Path, tmp_path: Path) -> None:
    shutil.copytree(unigram_folder, tmp_path / "base")
    model = ConversationModel.from_pretrained(tmp_path / "base", device="cpu")
    model.fit(TALKS, max_steps=1, lora=True, output_dir=tmp_path / "adapters")
    shutil.rmtree(tmp_path / "base")

    with pytest.raises(ModelLoadError, match="base"):
        ConversationModel.from_pretrained(tmp_path / "adapters", device="cpu")


def test_without_peft_the_cure_is_named(load: Load, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = load()
    model.fit(TALKS, max_steps=1, lora=True, output_dir=tmp_path)
    monkeypatch.setattr("convmodel.hf_model.lora.importlib.util.find_spec", lambda name: None)

    with pytest.raises(MissingExtraError, match=r"LoRA adapters need peft \(the extra train\): .*pip install "):
        ConversationModel.from_pretrained(tmp_path, device="cpu")


def test_the_folder_of_the_base_is_no_place_for_its_adapters(unigram_folder: Path, tmp_path: Path) -> None:
    shutil.copytree(unigram_folder, tmp_path / "base")
    model = ConversationModel.from_pretrained(tmp_path / "base", device="cpu")
    files = {path.name: path.read_bytes() for path in (tmp_path / "base").iterdir()}

    for merge in (False, True):
        with pytest.raises(ConfigError, match="base holds the base of these adapters: give another folder"):
            model.fit(TALKS, max_steps=1, lora=True, merge=merge, output_dir=tmp_path / "other/../base")
    model.fit(TALKS, max_steps=1, lora=True)
    with pytest.raises(ConfigError, match="base holds the base of these adapters: give another folder"):
        model.save_pretrained(tmp_path / "base")

    assert {path.name: path.read_bytes() for path in (tmp_path / "base").iterdir()} == files


def test_a_base_that_has_changed_is_refused(unigram_folder: Path, tmp_path: Path) -> None:
    shutil.copytree(unigram_folder, tmp_path / "base")
    model = ConversationModel.from_pretrained(tmp_path / "base", device="cpu")
    model.fit(TALKS, max_steps=1, lora=True, output_dir=tmp_path / "adapters")
    other = ConversationModel.from_pretrained(tmp_path / "base", device="cpu")
    other.fit(TALKS, max_steps=2, learning_rate=1e-2)
    other.save_pretrained(tmp_path / "base")

    with pytest.raises(ModelLoadError, match=r"base is not the one that the adapters in .* were trained on"):
        ConversationModel.from_pretrained(tmp_path / "adapters", device="cpu")


def test_a_base_is_found_from_another_folder(
    unigram_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(unigram_folder, tmp_path / "base")
    monkeypatch.chdir(tmp_path)
    model = ConversationModel.from_pretrained("base", device="cpu")
    monkeypatch.chdir("/")

    model.fit(TALKS, max_steps=1, lora=True, output_dir=tmp_path / "adapters")

    assert torch.equal(logits(ConversationModel.from_pretrained(tmp_path / "adapters", device="cpu")), logits(model))


def test_files_that_are_not_whole_are_refused(load: Load, tmp_path: Path) -> None:
    load().fit(TALKS, max_steps=1, lora=True, output_dir=tmp_path)
    saved = load_file(tmp_path / "adapter_model.safetensors")
    saved.pop(next(name for name in saved if "lora_A" in name))
    save_file(saved, tmp_path / "adapter_model.safetensors")

    with pytest.raises(ModelLoadError, match="does not have the weights that its configuration describes"):
        ConversationModel.from_pretrained(tmp_path, device="cpu")


@pytest.mark.parametrize("options", [{"use_dora": True}, {"use_rslora": True}, {"lora_dropout": 0.3}])
def test_variants_come_back_too(load: Load, tmp_path: Path, options: dict[str, Any]) -> None:
    model = load()
    model.fit(TALKS, **LORA | {"lora": options, "output_dir": tmp_path, "epochs": 1})

    assert torch.equal(logits(ConversationModel.from_pretrained(tmp_path, device="cpu")), logits(model))


def test_adapters_dropout_is_their_own_setting(load: Load) -> None:
    model, rates = load(), set()

    class Watch(_Trained):
        def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any) -> None:
            rates.update(layer.p for name, layer in model.named_modules() if "lora_dropout.default" in name)

    model.fit(TALKS, max_steps=1, lora={"lora_dropout": 0.3}, callbacks=[Watch()])

    assert rates == {0.3}


def test_other_options_than_the_adapters_have_are_refused(load: Load) -> None:
    model = load()
    model.fit(TALKS, max_steps=1, lora=True)

    with pytest.raises(ConfigError, match="lora's r is 2, but the model's adapters have 16: merge them first"):
        model.fit(TALKS, max_steps=1, lora={"r": 2})


def test_adapters_in_the_place_of_a_plain_model_leave_nothing_of_it(load: Load, tmp_path: Path) -> None:
    load().fit(TALKS, max_steps=1, output_dir=tmp_path)
    model = load()

    model.fit(TALKS, max_steps=1, lora=True, output_dir=tmp_path)

    assert not (tmp_path / "config.json").exists()
    assert not (tmp_path / "model.safetensors").exists()
    assert torch.equal(logits(AutoModelForCausalLM.from_pretrained(tmp_path)), logits(model))


@pytest.mark.slow
def test_merged_into_half_precision_nothing_is_lost(bytelevel_folder: Path) -> None:
    apart, merged = (ConversationModel.from_pretrained(bytelevel_folder, device="cpu", dtype="bfloat16") for _ in "ab")
    apart.fit(TALKS, **LORA)

    merged.fit(TALKS, merge=True, **LORA)

    apart.hf_model.float()
    assert merged.hf_model.dtype == torch.float32
    rows = slice(merged.tokenizer.sep_token_id)  # the separator's is in half precision, beside adapters
    torch.testing.assert_close(logits(merged)[..., rows], logits(apart)[..., rows], rtol=1e-4, atol=1e-4)


def test_what_was_frozen_before_a_run_is_frozen_after_it_and_nothing_else(load: Load) -> None:
    model = load()
    model.hf_model.transformer.wpe.weight.requires_grad_(False)

    for options in ({"lora": True}, {"lora": True, "merge": True}, {}):
        model.fit(TALKS, max_steps=1, **options)
        frozen = [name for name, value in model.hf_model.named_parameters() if not value.requires_grad]
        assert frozen == ["transformer.wpe.weight"]


@pytest.mark.slow
def test_a_run_killed_after_the_merge_goes_on(load: Load, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    options = LORA | {"epochs": 3, "merge": True, "save_steps": 2}
    measure, worse = validation.evaluate_windows, itertools.count()

    def worsening(*arguments: Any, **settings: Any) -> EvaluationResult:
        result = measure(*arguments, **settings)
        return replace(result, loss=result.loss + next(worse))

    monkeypatch.setattr(validation, "evaluate_windows", worsening)  # so that the first is the best, not the last
    whole = load()
    done = whole.fit(TALKS, TALKS[:4], output_dir=tmp_path / "whole", **options)
    assert done.best_step < done.steps
    worse = itertools.count()

    def kill(run: RunFolder) -> None:
        raise RuntimeError("killed")

    with monkeypatch.context() as patched:
        patched.setattr(RunFolder, "finish", kill)
        with pytest.raises(RuntimeError, match="killed"):
            load().fit(TALKS, TALKS[:4], output_dir=tmp_path / "killed", **options)
    model = load()
    model.fit(TALKS, TALKS[:4], output_dir=tmp_path / "killed", **options)

    assert torch.equal(logits(model), logits(whole))
    for folder in ("whole", "killed"):
        assert (tmp_path / folder / "model.safetensors").exists()
        assert not [*(tmp_path / folder).glob("*adapter*")]
