"""Fine-tuning: what must be equal is equal, what is kept is the best, and the caller's world is left alone."""

import copy
import importlib.util
import logging
import os
import random
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from transformers import TrainerCallback

from convmodel import Conversation, ConversationModel, FitConfig
from convmodel.errors import ConfigError, ContextTooLongError, ConversationError, MissingExtraError, SaveError
from fine_tuning import TALKS, Recorder, fed, weights

VALID = [["Good morning! Did you sleep well?", "Not really, the neighbours had a party."], ["Yes", "No"]]

FAMILIES = ["unigram_folder", "bytelevel_folder"]
"""A GPT-2, and a Llama, which takes no token types."""


def equal(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(value, other[name]) for name, value in one.items())


def nats_by_hand(model: ConversationModel, talks: list[list[str]]) -> tuple[float, int]:
    """Sums -ln p over all tokens and closing separators of conversations, one by one, in float64."""
    hf_model = copy.deepcopy(model.hf_model).double().eval()
    total, count = 0.0, 0
    for talk in talks:
        encoding = model.tokenizer(talk)
        ids = encoding["input_ids"]
        with torch.no_grad():
            logits = hf_model(**{name: torch.tensor([values]) for name, values in encoding.items()}).logits[0]
        for position in range(len(model.tokenizer.layout.control_ids), len(ids)):
            total -= logits[position - 1].log_softmax(0)[ids[position]].item()
            count += 1
    return total, count


# Accumulation


@pytest.mark.parametrize("folder", FAMILIES)
def test_batch_8_by_1_equals_batch_1_by_8(load: Callable[..., ConversationModel], folder: str) -> None:
    one, other = load(folder), load(folder)
    first, second = Recorder(), Recorder()
    # Weight decay and Adam's normalisation would hide a wrong scale; the gradients show it.
    options = {"epochs": 3, "learning_rate": 1e-3, "max_grad_norm": 0, "logging_steps": 1}

    whole = one.fit(TALKS, batch_size=8, gradient_accumulation_steps=1, callbacks=[first], **options)
    parts = other.fit(TALKS, batch_size=1, gradient_accumulation_steps=8, callbacks=[second], **options)

    assert whole.steps == parts.steps == 6  # 8 windows and 3, three times
    for ours, theirs in zip(first.gradients, second.gradients, strict=True):
        for name, gradient in ours.items():
            torch.testing.assert_close(gradient, theirs[name], rtol=1e-3, atol=1e-5)
    assert [log["loss"] for log in whole.history if "loss" in log] == pytest.approx(
        [log["loss"] for log in parts.history if "loss" in log], rel=1e-4
    )
    for name, value in weights(one).items():
        torch.testing.assert_close(value, weights(other)[name], rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("folder", FAMILIES)
def test_an_updates_gradient_is_that_of_the_mean_over_its_supervised_tokens(
    load: Callable[..., ConversationModel], folder: str
) -> None:
    model = load(folder)
    reference = copy.deepcopy(model.hf_model)
    recorder = Recorder()

    model.fit(
        TALKS,
        max_steps=1,
        batch_size=3,
        gradient_accumulation_steps=4,
        max_grad_norm=0,
        callbacks=[recorder],
    )

    total, count = torch.zeros(()), 0
    first = 1 + (model.tokenizer.layout.bos_id is not None)  # after the first separator, which is no target
    for talk in TALKS:
        inputs = {name: torch.tensor([values]) for name, values in model.tokenizer(talk).items()}
        logs = reference(**inputs).logits[0, first - 1 : -1].log_softmax(-1)
        targets = inputs["input_ids"][0, first:]
        total = total - logs.gather(1, targets[:, None]).sum()
        count += len(targets)
    (total / count).backward()
    [gradients] = recorder.gradients
    for name, parameter in reference.named_parameters():
        torch.testing.assert_close(gradients[name], parameter.grad, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("folder", FAMILIES)
@pytest.mark.parametrize(("batch_size", "accumulation"), [(16, 1), (4, 3), (1, 11)])
def test_the_training_loss_is_nats_per_supervised_token(
    load: Callable[..., ConversationModel], folder: str, batch_size: int, accumulation: int
) -> None:
    model = load(folder)
    nats, tokens = nats_by_hand(model, TALKS)

    result = model.fit(
        TALKS, max_steps=1, batch_size=batch_size, gradient_accumulation_steps=accumulation, logging_steps=1
    )

    assert result.history[0]["loss"] == pytest.approx(nats / tokens, rel=1e-5)
    assert result.train_loss == pytest.approx(nats / tokens, rel=1e-5)


def test_the_training_loss_does_not_depend_on_what_the_models_forward_takes(
    load: Callable[..., ConversationModel],
) -> None:
    model = load()
    model.hf_model.accepts_loss_kwargs = False  # as transformers says of a model without **kwargs
    nats, tokens = nats_by_hand(model, TALKS)

    result = model.fit(TALKS, max_steps=1, batch_size=4, gradient_accumulation_steps=3, logging_steps=1)

    assert result.train_loss == pytest.approx(nats / tokens, rel=1e-5)


def test_only_supervised_turns_are_learned(load: Callable[..., ConversationModel]) -> None:
    model = load()
    recorder = Recorder()
    pairs = [talk for talk in TALKS if len(talk) == 2]
    alone = [model.score(talk[:1], talk[1:])[0] for talk in pairs]
    counts = [len(model.tokenizer.encode(talk[1])) + 1 for talk in pairs]

    result = model.fit(pairs, loss_on="responses", max_steps=1, batch_size=16, logging_steps=1, callbacks=[recorder])

    assert result.history[0]["loss"] == pytest.approx(-sum(alone) / sum(counts), rel=1e-5)


# Order, seeds and dropout


@pytest.mark.slow
def test_the_order_depends_on_the_seed_and_the_epoch_only(load: Callable[..., ConversationModel]) -> None:
    orders = []
    variations = ({}, {"valid": VALID}, {"batch_size": 1, "gradient_accumulation_steps": 4}, {"seed": 7})
    for state, options in enumerate(variations):
        model = load()
        torch.manual_seed(state)
        with fed(model) as batches:
            model.fit(TALKS, **{"epochs": 2, "batch_size": 4} | options)
        pad, stop = model.tokenizer.pad_token_id, model.tokenizer.sep_token_id
        windows = [tuple(i for i in row if i != pad) for batch in batches for row in batch]
        assert all(window[0] == stop for window in windows)
        orders.append((windows[:11], windows[11:]))

    [plain, validated, accumulated, other_seed] = orders
    assert plain == validated == accumulated
    assert plain[0] != plain[1]
    assert plain[0] != other_seed[0]
    assert all(sorted(epoch) == sorted(plain[0]) for order in orders for epoch in order)


def test_windows_of_similar_length_share_a_batch(load: Callable[..., ConversationModel]) -> None:
    model = load()
    talks = [["Yes"], ["No"], ["Oh"], ["So"]] * 8 + [[" ".join(["mountains"] * 12)]] * 32

    with fed(model) as batches:
        model.fit(talks, epochs=1, batch_size=8)

    padding = sum(row.count(model.tokenizer.pad_token_id) for batch in batches for row in batch)
    assert padding < 0.2 * sum(len(row) for batch in batches for row in batch)


def test_the_same_seed_gives_the_same_weights_whatever_the_callers_random_state(
    load: Callable[..., ConversationModel],
) -> None:
    runs = []
    for state in (1, 2):
        torch.manual_seed(state)
        random.seed(state)
        np.random.seed(state)
        model = load()
        model.fit(TALKS, VALID, epochs=2, batch_size=4, learning_rate=1e-3, seed=0, dropout=0.1)
        runs.append(weights(model))

    assert equal(*runs)


def test_a_second_run_of_a_model_computes_in_the_precision_of_the_first(load: Callable[..., ConversationModel]) -> None:
    losses = {}
    for precision in ("bf16", "fp32"):
        model = load()
        before = copy.deepcopy(model.hf_model.state_dict())
        losses[precision] = []
        for _ in range(2):
            model.hf_model.load_state_dict(before)
            result = model.fit(TALKS, max_steps=1, batch_size=4, precision=precision)
            losses[precision].append(result.history[0]["loss"])

    assert losses["bf16"][0] == losses["bf16"][1]
    assert losses["fp32"][0] == losses["fp32"][1]
    assert losses["bf16"][0] != losses["fp32"][0]


def test_seed_0_is_a_seed_like_any_other(load: Callable[..., ConversationModel]) -> None:
    zero, default, answer = load(), load(), load()

    zero.fit(TALKS, max_steps=2, batch_size=4, learning_rate=1e-3, seed=0)
    default.fit(TALKS, max_steps=2, batch_size=4, learning_rate=1e-3)
    answer.fit(TALKS, max_steps=2, batch_size=4, learning_rate=1e-3, seed=42)

    assert not equal(weights(zero), weights(default))
    assert equal(weights(default), weights(answer))


def test_dropout_is_on_in_training_and_off_in_validation_and_after(load: Callable[..., ConversationModel]) -> None:
    model = load()
    modes: list[tuple[bool, bool]] = []
    model.hf_model.transformer.drop.register_forward_hook(
        lambda module, args, output: modes.append((module.training, torch.equal(args[0], output)))
    )

    model.fit(TALKS, VALID, max_steps=2, batch_size=4, dropout=0.1)

    assert {"on" if training and not same else "off" for training, same in modes} == {"on", "off"}
    assert all(same is not training for training, same in modes)
    assert not any(module.training for module in model.hf_model.modules())


# What a run does to the caller's world


def test_a_run_leaves_the_global_random_states_alone(load: Callable[..., ConversationModel]) -> None:
    model = load()
    torch.manual_seed(1)
    random.seed(2)
    np.random.seed(3)
    before = torch.get_rng_state(), random.getstate(), np.random.get_state()

    model.fit(TALKS, VALID, max_steps=2, batch_size=4)

    assert torch.equal(torch.get_rng_state(), before[0])
    assert random.getstate() == before[1]
    assert all(np.array_equal(one, other) for one, other in zip(np.random.get_state(), before[2], strict=True))


@pytest.mark.parametrize("use_cache", [True, False])
def test_a_run_leaves_configs_logging_and_environment_alone(
    load: Callable[..., ConversationModel], use_cache: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = load()
    model.hf_model.config.use_cache = use_cache
    monkeypatch.setattr(transformers.logging.get_logger(), "level", logging.ERROR)
    before = (
        transformers.logging.get_verbosity(),
        logging.getLogger().handlers[:],
        dict(os.environ),
        torch.get_num_threads(),
        torch.is_grad_enabled(),
        model.hf_model.config.to_dict(),
        model.hf_model.generation_config.to_dict(),
    )

    model.fit(TALKS, VALID, max_steps=2, batch_size=4)

    assert before == (
        transformers.logging.get_verbosity(),
        logging.getLogger().handlers[:],
        dict(os.environ),
        torch.get_num_threads(),
        torch.is_grad_enabled(),
        model.hf_model.config.to_dict(),
        model.hf_model.generation_config.to_dict(),
    )
    assert all(parameter.grad is None for parameter in model.hf_model.parameters())


def test_a_run_without_a_folder_leaves_no_file_anywhere(
    load: Callable[..., ConversationModel], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = load()
    here, scratch = tmp_path / "here", tmp_path / "scratch"
    here.mkdir()
    scratch.mkdir()
    monkeypatch.chdir(here)
    monkeypatch.setattr(tempfile, "tempdir", str(scratch))

    model.fit(TALKS, VALID, max_steps=2, batch_size=4)

    assert list(here.iterdir()) == []
    assert list(scratch.iterdir()) == []


def test_a_run_that_fails_leaves_evaluation_mode_and_random_states_too(
    load: Callable[..., ConversationModel], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Interrupt(TrainerCallback):
        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            raise KeyboardInterrupt

    model = load()
    monkeypatch.chdir(tmp_path)
    before = torch.get_rng_state()

    with pytest.raises(KeyboardInterrupt):
        model.fit(TALKS, max_steps=3, batch_size=4, callbacks=[Interrupt()])

    assert torch.equal(torch.get_rng_state(), before)
    assert not model.hf_model.training
    assert list(tmp_path.iterdir()) == []


# Cadence


def test_a_run_of_three_updates_validates_and_saves(load: Callable[..., ConversationModel], tmp_path: Path) -> None:
    model = load()

    result = model.fit(TALKS, VALID, max_steps=3, batch_size=2, output_dir=str(tmp_path))

    assert result.steps == 3
    assert result.validation is not None
    assert result.validation.loss == pytest.approx(model.evaluate(VALID).loss)
    assert equal(weights(ConversationModel.from_pretrained(tmp_path, device="cpu")), weights(model))


def test_a_run_of_one_update_learns(load: Callable[..., ConversationModel]) -> None:
    model = load()
    before = weights(model)

    result = model.fit(TALKS, max_steps=1, batch_size=4)

    assert result.steps == 1
    assert not equal(weights(model), before)


def test_an_epoch_validates_once_by_default(load: Callable[..., ConversationModel]) -> None:
    recorder = Recorder()

    load().fit(TALKS, VALID, epochs=2, batch_size=4, callbacks=[recorder])

    assert [event for event in recorder.events if event.startswith("evaluate")] == ["evaluate 3", "evaluate 6"]


def test_part_of_an_epoch_is_a_run_too(load: Callable[..., ConversationModel]) -> None:
    recorder = Recorder()

    result = load().fit(TALKS, VALID, epochs=0.5, batch_size=1, callbacks=[recorder])

    assert (result.steps, result.epochs) == (6, pytest.approx(6 / 11))
    assert [event for event in recorder.events if event.startswith("evaluate")] == ["evaluate 6"]


def test_eval_steps_and_the_end_validate_whatever_is_logged(load: Callable[..., ConversationModel]) -> None:
    recorder = Recorder()

    load().fit(TALKS, VALID, max_steps=5, batch_size=4, eval_steps=2, logging_steps=100, callbacks=[recorder])

    assert [event for event in recorder.events if event.startswith("evaluate")] == [
        "evaluate 2",
        "evaluate 4",
        "evaluate 5",
    ]


def test_callbacks_see_the_whole_run(load: Callable[..., ConversationModel]) -> None:
    recorder = Recorder()

    load().fit(TALKS, VALID, max_steps=2, batch_size=4, callbacks=[recorder])

    assert recorder.events[:2] == ["begin", "step 1"]
    assert {"step 2", "evaluate 2", "end"} <= set(recorder.events)


def test_a_callback_may_stop_the_run(load: Callable[..., ConversationModel]) -> None:
    class Stop(TrainerCallback):
        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            control.should_training_stop = True

    result = load().fit(TALKS, VALID, epochs=2, batch_size=4, callbacks=[Stop()])

    assert result.steps == 1
    assert result.validation is not None
    assert not result.stopped_early


def test_save_steps_keep_copies_that_load(load: Callable[..., ConversationModel], tmp_path: Path) -> None:
    model = load()

    model.fit(TALKS, VALID, max_steps=5, batch_size=4, learning_rate=1e-3, save_steps=2, output_dir=str(tmp_path))

    assert sorted(path.name for path in tmp_path.glob("checkpoint-*")) == ["checkpoint-2", "checkpoint-4"]
    copies = [ConversationModel.from_pretrained(path, device="cpu") for path in sorted(tmp_path.glob("checkpoint-*"))]
    assert not equal(weights(copies[0]), weights(copies[1]))
    assert copies[0].tokenizer.layout == model.tokenizer.layout


def test_the_history_has_what_was_logged(load: Callable[..., ConversationModel]) -> None:
    result = load().fit(TALKS, VALID, max_steps=4, batch_size=4, logging_steps=2, eval_steps=4)

    assert [log["step"] for log in result.history if "loss" in log] == [2, 4]
    [validation] = [log for log in result.history if "eval_loss" in log]
    assert validation["eval_perplexity"] == pytest.approx(np.exp(validation["eval_loss"]))
    assert result.validation is not None
    assert validation["eval_loss"] == result.validation.loss


# The best model


CONTRARY = {"learning_rate": 3e-2, "warmup_steps": 0, "batch_size": 1, "eval_steps": 1, "weight_decay": 0.0}
"""Settings under which learning one sentence by heart makes another one ever less probable."""


@pytest.mark.parametrize("keeps", ["in memory", "in a folder"])
@pytest.mark.parametrize("folder", FAMILIES)
def test_early_stopping_ends_the_run_and_restores_the_best_weights(
    load: Callable[..., ConversationModel], tmp_path: Path, folder: str, keeps: str
) -> None:
    model = load(folder)
    output_dir = str(tmp_path / "model") if keeps == "in a folder" else None

    result = model.fit(
        [["Good morning!"]],
        VALID,
        max_steps=40,
        early_stopping_patience=2,
        output_dir=output_dir,
        **CONTRARY,
    )

    losses = [log["eval_loss"] for log in result.history if "eval_loss" in log]
    assert result.stopped_early
    assert result.steps == result.best_step + 2 < 40
    assert result.validation is not None
    assert result.validation.loss == min(losses) == losses[result.best_step - 1]
    assert model.evaluate(VALID).loss == pytest.approx(min(losses), rel=1e-6)
    if output_dir is not None:
        saved = ConversationModel.from_pretrained(output_dir, device="cpu")
        assert equal(weights(saved), weights(model))


def test_the_best_weights_come_back_though_the_run_goes_on(load: Callable[..., ConversationModel]) -> None:
    model = load()

    result = model.fit([["Good morning!"]], VALID, max_steps=12, **CONTRARY)

    losses = [log["eval_loss"] for log in result.history if "eval_loss" in log]
    assert (result.steps, len(losses), result.stopped_early) == (12, 12, False)
    assert losses[-1] > min(losses)
    assert model.evaluate(VALID).loss == pytest.approx(min(losses), rel=1e-6)


def test_patience_that_runs_out_with_the_run_did_not_end_it(load: Callable[..., ConversationModel]) -> None:
    options = CONTRARY | {"learning_rate": 0.1}

    result = load().fit([["Good morning!"]], VALID, max_steps=2, early_stopping_patience=1, **options)

    first, second = [log["eval_loss"] for log in result.history if "eval_loss" in log]
    assert first < second
    assert (result.steps, result.best_step, result.stopped_early) == (2, 1, False)


def test_without_validation_the_last_model_is_kept_and_saved(
    load: Callable[..., ConversationModel], tmp_path: Path
) -> None:
    model = load()
    before = weights(model)

    result = model.fit(TALKS, max_steps=3, batch_size=4, learning_rate=1e-3, output_dir=str(tmp_path))

    assert (result.validation, result.best_step, result.steps) == (None, 3, 3)
    assert not equal(weights(model), before)
    assert equal(weights(ConversationModel.from_pretrained(tmp_path, device="cpu")), weights(model))


def test_the_layout_travels_with_the_model(load: Callable[..., ConversationModel], tmp_path: Path) -> None:
    model = load()
    named = [Conversation(talk, ["Ann", "Bob"]) for talk in TALKS if len(talk) == 2]

    model.fit(named, max_steps=1, loss_on="Bob", max_length=48, output_dir=str(tmp_path))

    layout = ConversationModel.from_pretrained(tmp_path, device="cpu").tokenizer.layout
    assert (layout.loss_on, layout.max_length, layout.speakers) == ("Bob", 48, ("Ann", "Bob"))
    assert layout == model.tokenizer.layout


def test_speakers_travel_only_where_all_conversations_share_them(load: Callable[..., ConversationModel]) -> None:
    model = load()

    model.fit([Conversation(["Hi"], ["Ann"]), Conversation(["Hi"], ["Bob"])], max_steps=1)

    assert model.tokenizer.layout.speakers == ()


# Accounts


def test_every_conversation_without_a_supervised_turn_is_counted(
    load: Callable[..., ConversationModel], caplog: pytest.LogCaptureFixture
) -> None:
    alone = sum(len(talk) == 1 for talk in TALKS)

    with caplog.at_level(logging.WARNING, logger="convmodel"):
        result = load().fit(TALKS, [*VALID, ["Hi"]], loss_on="responses", max_steps=1)

    assert result.left_out == f"{alone} of 11 conversations have no supervised turn"
    assert result.windows == 11 - alone
    assert f"training data: {result.left_out}" in caplog.text
    assert "validation data: 1 of 3 conversations have no supervised turn" in caplog.text


@pytest.mark.parametrize("folder", FAMILIES)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_weights_become_float32(
    load: Callable[..., ConversationModel], folder: str, dtype: torch.dtype, tmp_path: Path
) -> None:
    model = load(folder)
    model.hf_model.to(dtype)

    result = model.fit(TALKS, VALID, max_steps=2, batch_size=4, output_dir=str(tmp_path))

    assert np.isfinite(result.train_loss)
    assert {parameter.dtype for parameter in model.hf_model.parameters()} == {torch.float32}
    assert ConversationModel.from_pretrained(tmp_path, device="cpu").hf_model.dtype == torch.float32


def test_a_run_reports_its_size(load: Callable[..., ConversationModel]) -> None:
    model = load()

    result = model.fit(TALKS, epochs=2, batch_size=4)

    assert (result.steps, result.epochs, result.windows, result.left_out) == (6, 2, 11, "")
    tokens = 2 * sum(len(model.tokenizer(talk)["input_ids"]) for talk in TALKS)
    assert result.tokens_per_second == pytest.approx(tokens / result.seconds)
    assert "history" not in repr(result)


# What is refused


def test_a_warm_up_as_long_as_the_run_is_refused(load: Callable[..., ConversationModel]) -> None:
    for warmup in (3, 4):
        with pytest.raises(ConfigError, match=f"warmup_steps is {warmup}, but the run has 3 steps"):
            load().fit(TALKS, max_steps=3, warmup_steps=warmup)


def test_the_rate_peaks_after_the_warm_up(load: Callable[..., ConversationModel]) -> None:
    result = load().fit(TALKS, max_steps=4, warmup_steps=2, logging_steps=1, learning_rate=1e-3)

    rates = [log["learning_rate"] for log in result.history if "learning_rate" in log]
    assert max(rates) == pytest.approx(1e-3)
    assert rates.index(max(rates)) == 2


@pytest.mark.parametrize("valid", [None, VALID], ids=["without validation", "with validation"])
@pytest.mark.parametrize("logging_steps", [1, 10])
def test_a_run_that_diverges_ends_in_an_error_and_saves_nothing_of_it(
    load: Callable[..., ConversationModel], tmp_path: Path, valid: Any, logging_steps: int
) -> None:
    model = load()

    with pytest.raises(ConfigError, match="training has diverged; lower learning_rate"):
        model.fit(
            TALKS,
            valid,
            max_steps=4,
            batch_size=4,
            learning_rate=1e30,
            logging_steps=logging_steps,
            output_dir=str(tmp_path),
        )

    assert not (tmp_path / "model.safetensors").exists()
    assert not model.hf_model.training


@pytest.mark.parametrize("valid", [None, TALKS], ids=["", "validated"])
def test_weights_that_are_no_numbers_are_an_error(load: Callable[..., ConversationModel], valid: Any) -> None:
    model = load()
    with torch.no_grad():
        model.hf_model.transformer.ln_f.weight[0] = float("inf")

    with pytest.raises(ConfigError, match=r"the loss is nan in conversation \d+, .* at step 1, before any weight"):
        model.fit(TALKS, valid, max_steps=1, batch_size=4)


def test_an_output_folder_that_cannot_be_written_is_refused_before_the_work(
    load: Callable[..., ConversationModel], tmp_path: Path
) -> None:
    model = load()
    before = weights(model)
    (tmp_path / "file").write_text("mine", encoding="utf-8")

    with pytest.raises(SaveError, match="file cannot be written"):
        model.fit(TALKS, max_steps=1, output_dir=str(tmp_path / "file"))

    assert equal(weights(model), before)
    assert (tmp_path / "file").read_text(encoding="utf-8") == "mine"


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"loss_on": "Bob"}, ConversationError, "none of 11 conversations has a turn that loss_on='Bob'"),
        ({"loss_on": ""}, ConfigError, "loss_on is ''"),
        ({"max_length": 4096}, ConfigError, "max_length is 4096, .* 128 positions"),
        ({"report_to": "carrier-pigeon"}, ConfigError, "carrier-pigeon"),
        ({"warmup_steps": 100}, ConfigError, "warmup_steps is 100"),
    ],
)
def test_what_is_refused_leaves_the_model_and_the_disk_as_they_were(
    load: Callable[..., ConversationModel], tmp_path: Path, options: dict[str, Any], error: type, message: str
) -> None:
    model = load()
    before = weights(model)

    with pytest.raises(error, match=message):
        model.fit(TALKS, output_dir=str(tmp_path / "model"), **options)

    assert equal(weights(model), before)
    assert list(tmp_path.iterdir()) == []


def test_pinned_turns_that_leave_no_room_name_their_conversation(load: Callable[..., ConversationModel]) -> None:
    talks = [["Hi"], Conversation(["A long persona. " * 99, "Hi"], ["persona", "user"], pinned=1, id="talk-7")]

    with pytest.raises(ContextTooLongError, match="conversation talk-7: the pinned turns take"):
        load().fit(talks, max_steps=1)


def test_without_accelerate_the_error_is_the_install_command(
    load: Callable[..., ConversationModel], monkeypatch: pytest.MonkeyPatch
) -> None:
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *rest: None if name == "accelerate" else find_spec(name, *rest)
    )

    with pytest.raises(MissingExtraError, match=r"training needs accelerate \(the extra train\): .*pip install "):
        load().fit(TALKS, max_steps=1)


@pytest.mark.parametrize("folder", FAMILIES)
def test_a_config_object_does_what_its_options_do(load: Callable[..., ConversationModel], folder: str) -> None:
    one, other = load(folder), load(folder)

    one.fit(TALKS, config=FitConfig(max_steps=2, batch_size=4, seed=3))
    other.fit(TALKS, max_steps=2, batch_size=4, seed=3)

    assert equal(weights(one), weights(other))


@pytest.mark.parametrize("options", [{"eval_steps": 1}, {"early_stopping_patience": 1}])
def test_settings_that_need_validation_data_are_refused_without(
    load: Callable[..., ConversationModel], options: dict[str, Any]
) -> None:
    with pytest.raises(ConfigError, match="need validation data"):
        load().fit(TALKS, max_steps=1, **options)
