"""What a fit can be told: precision, memory for time, optimizers, dropout, weights of turns."""

import copy
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from convmodel import Conversation, ConversationModel
from convmodel.errors import ConfigError
from convmodel.training.metrics_reader import read_metrics
from fine_tuning import TALKS, Recorder, weights

FAMILIES = ["unigram_folder", "bytelevel_folder"]
"""A GPT-2, and a Llama, which takes no token types."""

Load = Callable[..., ConversationModel]


def gradients(model: ConversationModel, talks: Any = TALKS, **options: Any) -> dict[str, torch.Tensor]:
    """The gradients of one update over all conversations."""
    recorder = Recorder()
    model.fit(talks, **{"max_steps": 1, "batch_size": 16, "max_grad_norm": 0} | options, callbacks=[recorder])
    [found] = recorder.gradients
    return found


def assert_same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor], **tolerance: float) -> None:
    assert one.keys() == other.keys()
    for name, value in one.items():
        torch.testing.assert_close(value, other[name], **tolerance)


# How windows are laid out into batches does not matter


@pytest.mark.parametrize("folder", FAMILIES)
@pytest.mark.parametrize(
    "options",
    [
        {"batch_size": 1, "gradient_accumulation_steps": 11},
        {"batch_size": 5, "gradient_accumulation_steps": 3},
        {"packing": True, "max_length": 128},
        {"packing": True, "max_length": 110, "batch_size": 2, "gradient_accumulation_steps": 9},
    ],
)
def test_loss_and_gradient_do_not_depend_on_the_batches_an_update_is_made_of(
    load: Load, folder: str, options: dict[str, Any]
) -> None:
    reference, other = load(folder), load(folder)

    assert_same(gradients(reference), gradients(other, **options), rtol=1e-3, atol=1e-6)


# Precision


@pytest.mark.parametrize("folder", FAMILIES)
def test_bf16_rounds_products_and_keeps_weights_and_gradients_in_float32(load: Load, folder: str) -> None:
    exact, rounded = load(folder), load(folder)

    fp32, bf16 = gradients(exact, precision="fp32"), gradients(rounded, precision="bf16")

    assert {value.dtype for value in weights(rounded).values()} == {torch.float32}
    assert {value.dtype for value in bf16.values()} == {torch.float32}
    for name, gradient in fp32.items():
        difference = (bf16[name] - gradient).norm() / gradient.norm()
        assert 0 < difference < 0.05, name


def test_training_in_bf16_learns_what_training_in_fp32_does(load: Load) -> None:
    losses = {}
    for precision in ("fp32", "bf16"):
        model = load()
        result = model.fit(TALKS, epochs=8, batch_size=4, learning_rate=3e-3, logging_steps=1, precision=precision)
        losses[precision] = [log["loss"] for log in result.history if "loss" in log]

    assert losses["fp32"][-1] < losses["fp32"][0] - 1
    assert losses["bf16"] == pytest.approx(losses["fp32"], rel=0.02)
    assert losses["bf16"] != losses["fp32"]


def test_validation_is_in_the_weights_precision_whatever_training_is_in(load: Load) -> None:
    model = load()

    result = model.fit(TALKS, TALKS[:3], max_steps=2, batch_size=4, learning_rate=1e-3, precision="bf16")

    assert result.validation is not None
    # Measured in bfloat16 it would be off by about 1e-3; float32 rounds otherwise in batches of another size.
    assert model.evaluate(TALKS[:3]).loss == pytest.approx(result.validation.loss, rel=1e-7)


def test_fp16_without_a_gpu_is_refused(load: Load) -> None:
    with pytest.raises(ConfigError, match="precision is fp16, which needs a GPU"):
        load().fit(TALKS, precision="fp16", max_steps=1)


# Memory for time


@pytest.mark.parametrize("folder", FAMILIES)
def test_checkpointed_activations_change_nothing(load: Load, folder: str) -> None:
    plain, checkpointed = load(folder), load(folder)

    assert_same(gradients(plain), gradients(checkpointed, gradient_checkpointing=True), rtol=1e-5, atol=1e-7)


def test_adafactor_learns_and_keeps_less(load: Load) -> None:
    kept = {}

    class Counter(Recorder):
        def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            states = kwargs["optimizer"].state_dict()["state"].values()
            kept[optim] = sum(each.numel() for state in states for each in state.values() if torch.is_tensor(each))

    results = {}
    for optim in ("adamw", "adafactor"):
        model = load()
        fit = {"epochs": 4, "batch_size": 4, "learning_rate": 3e-3, "logging_steps": 1}
        results[optim] = model.fit(TALKS, optim=optim, callbacks=[Counter()], **fit)

    losses = [log["loss"] for log in results["adafactor"].history if "loss" in log]
    assert losses[-1] < losses[0] - 0.5
    assert kept["adafactor"] < 0.2 * kept["adamw"]


@pytest.mark.long
@pytest.mark.timeout(600)
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # torch's own, at its import of the compiler
def test_a_compiled_model_learns_the_same_and_is_not_compiled_afterwards(load: Load) -> None:
    plain, compiled = load(), load()

    found = gradients(compiled, packing=True, torch_compile=True)
    assert_same(gradients(plain, packing=True), found, rtol=1e-3, atol=1e-6)
    assert compiled.hf_model.base_model._compiled_call_impl is None


# Dropout


@pytest.mark.parametrize("rate", [0.0, 0.5])
def test_dropout_is_a_setting_of_the_run_and_not_of_the_model(load: Load, rate: float) -> None:
    model = load()
    seen = set()

    class Watch(Recorder):
        def on_step_end(self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any) -> None:
            layers = {name: layer for name, layer in model.named_modules() if isinstance(layer, nn.Dropout)}
            seen.update(layer.p for name, layer in layers.items() if "attn_dropout" not in name)

    model.fit(TALKS, max_steps=1, dropout=rate, callbacks=[Watch()])

    assert seen == {rate}
    assert {layer.p for layer in model.hf_model.modules() if isinstance(layer, nn.Dropout)} == {0.1}


# Weights of turns


def weighted(number: int, talk: list[str], kind: str) -> Conversation:
    """A conversation whose turns weigh something, each something else."""
    amounts = {
        "masks": [float((number + turn) % 3 > 0) for turn in range(len(talk))],
        "real": [0.25 + (number + turn) % 3 for turn in range(len(talk))],
    }
    return Conversation(talk, weights=amounts[kind])


@pytest.mark.parametrize("packing", [False, True])
@pytest.mark.parametrize("folder", FAMILIES)
@pytest.mark.parametrize("kind", ["masks", "real"])
def test_a_turn_counts_with_its_weight(load: Load, folder: str, kind: str, packing: bool) -> None:
    talks = [weighted(number, talk, kind) for number, talk in enumerate(TALKS)]
    model = load(folder)
    reference = copy.deepcopy(model.hf_model)

    found = gradients(model, talks, packing=packing, batch_size=4, gradient_accumulation_steps=9)

    total, weight = torch.zeros(()), 0.0
    for talk in talks:
        encoding = model.tokenizer(replace(talk, weights=None))
        ids = torch.tensor([encoding["input_ids"]])
        inputs = {name: torch.tensor([values]) for name, values in encoding.items()}
        nats = -reference(**inputs).logits[0, :-1].log_softmax(-1).gather(1, ids[0, 1:, None])[:, 0]
        begin = len(model.tokenizer.layout.control_ids) - 1
        for turn, own in zip(talk.turns, talk.turn_weights, strict=True):
            end = begin + len(model.tokenizer.encode(turn)) + 1  # with the separator that closes it
            total = total + own * nats[begin:end].sum()
            weight += own * (end - begin)
            begin = end
        assert begin == len(nats)
    (total / weight).backward()
    for name, parameter in reference.named_parameters():
        torch.testing.assert_close(found[name], parameter.grad, rtol=1e-3, atol=1e-6)


# What cannot go on


def test_a_loss_that_is_no_number_names_the_conversation_and_leaves_the_weights(load: Load) -> None:
    model = load()
    [odd] = [i for i in model.tokenizer.encode("映画") if i not in model.tokenizer.encode("Hello")][-1:]
    with torch.no_grad():
        model.hf_model.transformer.wte.weight[odd] = math.inf
    # Nothing but that token's own loss is touched: it is neither context nor a competitor elsewhere.
    model.hf_model.lm_head.weight = nn.Parameter(model.hf_model.lm_head.weight.detach().nan_to_num(posinf=0.0))
    talks = [Conversation(["Hello", "Good morning!"], id=f"talks.jsonl:{n}") for n in range(1, 4)]
    talks.insert(1, Conversation(["映画", "Yes"], id="talks.jsonl:17"))
    before = weights(model)

    with pytest.raises(ConfigError, match=r"^the loss is nan in talks\.jsonl:17 at step 1, before any weight has"):
        model.fit(talks, batch_size=4)

    assert all(torch.equal(value, before[name]) for name, value in weights(model).items())


@pytest.mark.parametrize("max_grad_norm", [1.0, 0.0])
def test_a_gradient_that_is_not_finite_is_said_to_be_and_does_not_stay(load: Load, max_grad_norm: float) -> None:
    model = load()
    model.hf_model.transformer.ln_f.weight.register_hook(lambda gradient: gradient * math.inf)
    before = weights(model)

    with pytest.raises(ConfigError, match=r"^the gradient is not finite in conversation \d+.* at step 1, before any"):
        model.fit(TALKS, max_steps=1, max_grad_norm=max_grad_norm)

    assert all(torch.equal(value, before[name]) for name, value in weights(model).items())
    assert all(parameter.grad is None for parameter in model.hf_model.parameters())


def test_validations_know_how_much_was_learned_before_them(load: Load, tmp_path: Path) -> None:
    load().fit(TALKS, TALKS[:2], max_steps=2, eval_steps=1, logging_steps=1, output_dir=str(tmp_path))

    found = read_metrics(tmp_path)

    assert [point["tokens"] for point in found.validations] == [point["tokens"] for point in found.train]


def test_a_short_run_reports_a_loss(load: Load) -> None:
    def reported(**options: Any) -> list[float]:
        result = load().fit(TALKS, batch_size=4, **options)
        return [log["step"] for log in result.history if "loss" in log]

    assert reported(max_steps=3) == [1, 2, 3]
    assert reported(max_steps=3, logging_steps=2) == [2]


def test_the_model_computes_as_ever_after_a_fit_and_after_one_that_failed(load: Load) -> None:
    model = load()
    own = type(model.hf_model).forward

    model.fit(TALKS, max_steps=1, precision="bf16")
    assert model.hf_model.forward.__func__ is own
    assert "_original_forward" not in model.hf_model.__dict__

    class Broken(Recorder):
        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            raise RuntimeError("no")

    with pytest.raises(RuntimeError, match="no"):
        model.fit(TALKS, max_steps=1, precision="bf16", callbacks=[Broken()])
    assert model.hf_model.forward.__func__ is own
    assert not model.hf_model.training
