"""Learning from judgements: the equalities of other training, each formula by hand, and the guard."""

import logging
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from convmodel import Conversation, ConversationModel
from convmodel.data.judgements.judgement import Judgement
from convmodel.data.judgements.windows import ExampleSet, encode_judgements
from convmodel.errors import ConfigError, ConversationError, StoppedError
from convmodel.hf_model.lora import has_adapters
from convmodel.layout.sequence import IGNORED, Window
from convmodel.training.objectives import guard as guard_module
from convmodel.training.objectives import reference as reference_module
from fine_tuning import TALKS, Recorder, Signalled, measured, weights

VALID = [["Good morning! Did you sleep well?", "Not really, the neighbours had a party."], ["Yes", "No", "Why?"]]
ANSWERED = [talk for talk in TALKS if len(talk) > 1]
PAIRS: list[dict[str, Any]] = [
    {"context": talk[:-1], "chosen": talk[-1], "rejected": other[-1], "weight": 1 + 0.5 * (number % 3)}
    for number, (talk, other) in enumerate(zip(ANSWERED, ANSWERED[1:] + ANSWERED[:1], strict=True))
]
MIXED: list[dict[str, Any]] = [
    {name: value for name, value in pair.items() if name != ("rejected", "chosen", "")[number % 3]}
    for number, pair in enumerate(PAIRS)
]
"""Liked ones, disliked ones and pairs, in turn."""

REPLAYED: list[dict[str, Any]] = [
    {"turns": talk, "weights": [0.5 * ((number + turn) % 4) for turn in range(len(talk))]}
    for number, talk in enumerate(TALKS[:9])
]
"""Eight conversations to replay, whose turns have the weights 0, 0.5, 1 and 1.5, and one without a target."""

FAMILIES = ["unigram_folder", "bytelevel_folder"]
OBJECTIVES: list[tuple[str, list[dict[str, Any]], dict[str, Any]]] = [
    ("kto", MIXED, {}),
    ("dpo", PAIRS, {"label_smoothing": 0.1, "sft_weight": 0.5}),
    ("orpo", PAIRS, {}),
]
PLAIN: dict[str, Any] = {"learning_rate": 1e-3, "max_grad_norm": 0, "logging_steps": 1, "max_regression": 100.0}

each_objective = pytest.mark.parametrize(
    ("objective", "data", "more"), OBJECTIVES, ids=[name for name, *_ in OBJECTIVES]
)
Load = Callable[..., ConversationModel]


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CONVMODEL_CACHE", str(tmp_path / "cache"))


def fit(load: Load, folder: str, data: list[dict[str, Any]], **options: Any) -> tuple[Any, Recorder, ConversationModel]:
    model, recorder = load(folder), Recorder()
    result = model.fit(data, VALID, callbacks=[recorder], **PLAIN | options)
    return result, recorder, model


def losses(result: Any) -> list[float]:
    return [log["loss"] for log in result.history if "loss" in log]


def require_same_gradients(one: Recorder, other: Recorder) -> None:
    for ours, theirs in zip(one.gradients, other.gradients, strict=True):
        for name, gradient in ours.items():
            torch.testing.assert_close(gradient, theirs[name], rtol=1e-3, atol=1e-5)


@pytest.mark.slow
@each_objective
@pytest.mark.parametrize("folder", FAMILIES)
def test_batch_5_by_1_equals_batch_1_by_5(
    load: Load, folder: str, objective: str, data: list[dict[str, Any]], more: dict[str, Any]
) -> None:
    options = {"objective": objective, "replay": REPLAYED, "epochs": 2} | more
    whole, first, _ = fit(load, folder, data, batch_size=5, **options)
    parts, second, _ = fit(load, folder, data, batch_size=1, gradient_accumulation_steps=5, **options)

    assert whole.steps == parts.steps == 4  # 5 judgements and 3, twice
    require_same_gradients(first, second)
    assert losses(whole) == pytest.approx(losses(parts), rel=1e-4)
    for name in ("reward_chosen", "log_prob_rejected"):
        ours, theirs = ([log[name] for log in result.history if name in log] for result in (whole, parts))
        assert ours == pytest.approx(theirs, rel=1e-3, abs=1e-5)


@each_objective
@pytest.mark.parametrize("folder", FAMILIES)
def test_packed_equals_one_by_one(
    load: Load, folder: str, objective: str, data: list[dict[str, Any]], more: dict[str, Any]
) -> None:
    options = {"objective": objective, "replay": REPLAYED, "max_steps": 2, "batch_size": 20} | more
    apart, first, _ = fit(load, folder, data, **options)
    packed, second, _ = fit(load, folder, data, packing=True, max_length=120, **options)

    require_same_gradients(first, second)  # one step holds all judgements, in either order
    assert losses(apart) == pytest.approx(losses(packed), rel=1e-4)


def log_prob(hf_model: Any, window: Window, types: bool) -> torch.Tensor:
    """The sum of ln p over a window's targets, by the usual forward pass."""
    inputs = {"input_ids": torch.tensor([window.input_ids])} | (
        {"token_type_ids": torch.tensor([window.types])} if types else {}
    )
    logits, labels = hf_model(**inputs).logits[0, :-1], torch.tensor(window.labels[1:])
    nats: torch.Tensor = F.cross_entropy(logits, labels, ignore_index=IGNORED, reduction="none")
    return -nats.sum()


def by_hand(
    model: Any, reference: Any, examples: ExampleSet, objective: str, types: bool, more: dict[str, Any]
) -> torch.Tensor:
    """The loss of one step over all judgements, one window after the other, written as in the papers."""
    ours = [log_prob(model, window, types) for window in examples.windows.windows]
    with torch.no_grad():
        before = [log_prob(reference, window, types) for window in examples.windows.windows]
        moved = [
            log_prob(model, w, types) - log_prob(reference, w, types) for w in examples.mismatched or ()
        ]  # fmt: skip
    ratios = [one - other for one, other in zip(ours, before, strict=True)]
    sizes = [window.supervised_tokens for window in examples.windows.windows]
    beta, total, weight = 0.1, torch.zeros(()), 0.0
    nats, tokens = torch.zeros(()), 0.0
    kl = max(0.0, float(sum(moved) / len(moved))) if moved else 0.0
    liked = sum(e.weight for e in examples.examples if e.chosen is not None)
    disliked = sum(e.weight for e in examples.examples if e.rejected is not None)
    for example in examples.examples:
        good, bad, w = example.chosen, example.rejected, example.weight
        if good is not None:
            nats, tokens = nats - w * ours[good], tokens + w * sizes[good]
        if objective == "kto":
            if good is not None:
                total = total + w * max(1, disliked / liked) * (1 - torch.sigmoid(beta * (ratios[good] - kl)))
            if bad is not None:
                total = total + w * max(1, liked / disliked) * (1 - torch.sigmoid(beta * (kl - ratios[bad])))
            weight += w * len(example.numbers)
            continue
        assert good is not None
        assert bad is not None
        weight += w
        if objective == "dpo":
            margin, noise = beta * (ratios[good] - ratios[bad]), more["label_smoothing"]
            loss = -(1 - noise) * torch.log(torch.sigmoid(margin)) - noise * torch.log(torch.sigmoid(-margin))
        else:
            p, q = torch.exp(ours[good] / sizes[good]), torch.exp(ours[bad] / sizes[bad])
            loss = -beta * torch.log(torch.sigmoid(torch.log(p / (1 - p)) - torch.log(q / (1 - q))))
        total = total + w * loss
    share = {"kto": 0.0, "dpo": more.get("sft_weight", 1.0), "orpo": 1.0}[objective]
    return total / weight + share * nats / tokens


@each_objective
@pytest.mark.parametrize("folder", FAMILIES)
def test_a_step_is_that_of_the_papers_formula(
    load: Load, folder: str, objective: str, data: list[dict[str, Any]], more: dict[str, Any]
) -> None:
    options = PLAIN | {"objective": objective, "batch_size": 16, "weight_decay": 0.0, "warmup_steps": 0} | more
    start, moved, model = load(folder), load(folder), load(folder)
    recorder = Recorder()
    moved.fit(data, VALID, max_steps=1, **options)  # in the first step, the model is its own reference
    result = model.fit(data, VALID, max_steps=2, callbacks=[recorder], **options)

    judgements = [Judgement.from_dict(line) for line in data]
    kto = objective == "kto"
    examples = encode_judgements(judgements, start.tokenizer, max_length=128, pairs_only=not kto, mismatched=kto)
    moved.hf_model.requires_grad_(True)
    types = start.tokenizer.layout.use_token_types
    loss = by_hand(moved.hf_model, start.hf_model, examples, objective, types, more)
    loss.backward()  # type: ignore[no-untyped-call]
    assert losses(result)[1] == pytest.approx(loss.item(), rel=1e-5)
    for name, gradient in recorder.gradients[1].items():
        expected = moved.hf_model.get_parameter(name).grad
        assert expected is not None
        torch.testing.assert_close(gradient, expected, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("scale", [1.0, 1e-3])  # that of all weights changes nothing
@pytest.mark.parametrize("folder", FAMILIES)
def test_replayed_turns_have_their_weights(load: Load, folder: str, scale: float) -> None:
    replay = [line | {"weights": [scale * weight for weight in line["weights"]]} for line in REPLAYED]
    options = PLAIN | {"objective": "dpo", "batch_size": 16, "max_steps": 1, "sft_weight": 0.0}
    start = load(folder)
    result = load(folder).fit(PAIRS, VALID, replay=replay, **options)

    windows = [window for line in REPLAYED for window in start.tokenizer.windows(Conversation(**line), max_length=128)]
    assert len(windows) == len(PAIRS)  # each judgement brings one
    nats, weight = 0.0, 0.0
    for window in windows:
        weights = window.weights or [float(label != IGNORED) for label in window.labels]
        for value in {*weights} - {0.0}:
            labels = [label if own == value else IGNORED for label, own in zip(window.labels, weights, strict=True)]
            targets, types = replace(window, labels=labels), start.tokenizer.layout.use_token_types
            nats -= value * log_prob(start.hf_model, targets, types).item()
            weight += value * targets.supervised_tokens
    assert losses(result)[0] == pytest.approx(math.log(2) + nats / weight, rel=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("folder", ["unigram_folder", "bytelevel_folder"])  # a GPT-2 and a Llama
@pytest.mark.parametrize("objective", ["kto", "dpo"])
def test_the_reference_of_adapters_is_the_model_without_them(load: Load, objective: str, folder: str) -> None:
    model = load(folder)
    options = PLAIN | {"objective": objective, "lora": True, "max_steps": 3, "learning_rate": 1e-2}
    first = model.fit(PAIRS, VALID, **options)
    second = model.fit(PAIRS, VALID, **options)  # goes on with the adapters

    rewards = [[log["reward_chosen"] for log in result.history if "loss" in log] for result in (first, second)]
    assert rewards[0][0] == pytest.approx(0, abs=1e-5)
    assert abs(rewards[1][0]) > 1e-3  # not the adapters' own log-probabilities


@pytest.mark.slow
def test_with_new_adapters_to_merge_the_reference_is_the_model_as_it_was(load: Load) -> None:
    model = load()
    options = PLAIN | {"objective": "kto", "lora": True, "max_steps": 3, "learning_rate": 1e-2}
    model.fit(PAIRS, VALID, **options)
    result = model.fit(PAIRS, VALID, **options, merge=True)

    rewards = [log["reward_chosen"] for log in result.history if "loss" in log]
    assert rewards[0] == pytest.approx(0, abs=1e-5)
    assert not has_adapters(model.hf_model)


@pytest.mark.slow
def test_the_reference_is_computed_once_for_a_model_and_its_data(load: Load, monkeypatch: pytest.MonkeyPatch) -> None:
    computed: list[int] = []
    compute = reference_module.Reference._computed

    def counted(self: Any) -> torch.Tensor:
        computed.append(len(self._windows))
        return compute(self)

    monkeypatch.setattr(reference_module.Reference, "_computed", counted)
    one, _, model = fit(load, "unigram_folder", PAIRS, objective="dpo", max_steps=2)
    other, _, _ = fit(load, "unigram_folder", PAIRS, objective="dpo", max_steps=2)
    assert computed == [2 * len(PAIRS)]
    assert losses(one) == losses(other)
    model.fit(PAIRS, VALID, objective="dpo", max_steps=1, **PLAIN)  # other weights
    fit(load, "unigram_folder", PAIRS[1:], objective="dpo", max_steps=1)  # other data
    assert computed == [2 * len(PAIRS)] * 2 + [2 * len(PAIRS) - 2]


def test_a_damaged_reference_is_computed_again(load: Load, tmp_path: Path) -> None:
    one, _, _ = fit(load, "unigram_folder", PAIRS, objective="dpo", max_steps=2)
    [file] = (tmp_path / "cache" / "reference").iterdir()
    file.write_bytes(file.read_bytes()[:50])
    other, _, _ = fit(load, "unigram_folder", PAIRS, objective="dpo", max_steps=2)

    assert losses(one) == losses(other)


@pytest.mark.slow
@each_objective
@pytest.mark.parametrize("step", [1, 3])
def test_resumed_equals_uninterrupted(
    load: Load, tmp_path: Path, objective: str, data: list[dict[str, Any]], more: dict[str, Any], step: int
) -> None:
    options = PLAIN | {"objective": objective, "replay": TALKS[:5], "dropout": 0.1, "epochs": 2, "batch_size": 4} | more
    options["logging_steps"] = 2
    whole, parts = load(), load()
    expected = whole.fit(data, VALID, output_dir=str(tmp_path / "whole"), **options)
    with pytest.raises(StoppedError):
        load().fit(data, VALID, output_dir=str(tmp_path / "parts"), callbacks=[Signalled(step)], **options)
    result = parts.fit(data, VALID, output_dir=str(tmp_path / "parts"), **options)

    assert losses(result) == losses(expected)
    for name, value in weights(whole).items():
        assert torch.equal(value, weights(parts)[name]), name
    assert measured(tmp_path / "whole") == measured(tmp_path / "parts")


def test_other_judgements_do_not_resume_a_run(load: Load, tmp_path: Path) -> None:
    options = PLAIN | {"objective": "kto", "max_steps": 4, "output_dir": str(tmp_path)}
    with pytest.raises(StoppedError):
        load().fit(MIXED, VALID, callbacks=[Signalled(1)], **options)
    turned = [*MIXED[:-1], MIXED[-1] | {"weight": 3}]
    with pytest.raises(ConfigError, match=r"judgements: \w+ there"):
        load().fit(turned, VALID, **options)


# The guard


@pytest.mark.parametrize("in_folder", [True, False])
def test_a_run_that_ruins_the_model_is_stopped_and_leaves_it_as_it_was(
    load: Load, tmp_path: Path, in_folder: bool, caplog: pytest.LogCaptureFixture
) -> None:
    model, before = load(), weights(load())
    folder = {"output_dir": str(tmp_path / "model")} if in_folder else {}
    steep: dict[str, Any] = {"learning_rate": 1.0, "warmup_steps": 0, "epochs": 20, "eval_steps": 1}
    result = model.fit(MIXED, VALID, objective="kto", **steep, **folder)

    assert result.guard.startswith("the validation perplexity rose from ")
    assert result.stopped_early
    assert result.best_step == 0
    assert "the model is what it was before the run" in caplog.text
    saved = [model] if not in_folder else [model, ConversationModel.from_pretrained(tmp_path / "model", device="cpu")]
    for each in saved:
        for name, value in weights(each).items():
            assert torch.equal(value, before[name]), name


@pytest.mark.parametrize("in_folder", [True, False])
def test_a_run_that_diverges_leaves_the_last_good_model(load: Load, tmp_path: Path, in_folder: bool) -> None:
    model, before = load(), weights(load())
    folder = {"output_dir": str(tmp_path / "model")} if in_folder else {}
    options: dict[str, Any] = {"epochs": 9, "learning_rate": 1e12, "warmup_steps": 0, "max_regression": 1e30}
    result = model.fit(PAIRS, VALID, objective="kto", **options, **folder)

    assert "nan" in result.guard or "not finite" in result.guard
    assert (result.best_step, result.stopped_early) == (0, True)
    for name, value in weights(model).items():
        assert torch.equal(value, before[name]), name


def test_the_last_good_model_is_kept(load: Load, monkeypatch: pytest.MonkeyPatch) -> None:
    check = guard_module.RegressionGuard.check
    kept: list[dict[str, torch.Tensor]] = []
    model = load()

    def stopping(self: Any, result: Any) -> bool:
        kept.append(weights(model))
        if len(kept) == 4:
            self.reason = "as told"
            return False
        return check(self, result)

    monkeypatch.setattr(guard_module.RegressionGuard, "check", stopping)
    result = model.fit(PAIRS, VALID, objective="dpo", epochs=20, eval_steps=2, **PLAIN)

    assert (result.guard, result.best_step, result.steps) == ("as told", 4, 6)
    for name, value in weights(model).items():
        assert torch.equal(value, kept[2][name]), name


@pytest.mark.slow
def test_a_resumed_run_compares_with_the_model_before_the_first_step(load: Load, tmp_path: Path) -> None:
    options = PLAIN | {"objective": "kto", "epochs": 3, "output_dir": str(tmp_path)}
    with pytest.raises(StoppedError):
        load().fit(MIXED, VALID, callbacks=[Signalled(3)], **options)
    result = load().fit(MIXED, VALID, **options)

    validations = [log["eval_perplexity"] for log in result.history if "eval_loss" in log]
    assert validations[0] == pytest.approx(load().evaluate(VALID).perplexity, rel=1e-5)
    assert next(log["step"] for log in result.history if "eval_loss" in log) == 0
    assert len(validations) == 1 + 3


# What is refused


def test_validation_data_is_needed(load: Load) -> None:
    with pytest.raises(ConfigError, match="objective kto needs validation data, conversations in which"):
        load().fit(MIXED, objective="kto")


def test_a_weight_of_what_is_not_replayed_is_refused(load: Load) -> None:
    with pytest.raises(ConfigError, match="replay_weight changes nothing without conversations to replay"):
        load().fit(MIXED, VALID, objective="kto", replay_weight=2.0)


def test_replay_is_for_judgements(load: Load) -> None:
    with pytest.raises(ConfigError, match="replay is for judgements: add the conversations to the training data"):
        load().fit(TALKS, VALID, replay=TALKS)


@pytest.mark.parametrize("objective", ["dpo", "orpo"])
def test_pairs_are_needed_where_the_objective_compares(load: Load, objective: str) -> None:
    thumbs = [line for line in MIXED if len({"chosen", "rejected"} & line.keys()) == 1]
    with pytest.raises(ConversationError, match="6 of 6 judgements have only one response; objective kto can learn"):
        load().fit(thumbs, VALID, objective=objective)


def test_single_responses_are_counted_where_the_objective_compares(
    load: Load, caplog: pytest.LogCaptureFixture
) -> None:
    result = load().fit(MIXED, VALID, objective="dpo", max_steps=1, **PLAIN)

    assert result.left_out == "6 of 8 judgements have only one response"
    assert result.left_out in caplog.text


def test_one_judgement_and_all_thumbs_one_way_train(load: Load, caplog: pytest.LogCaptureFixture) -> None:
    one = load().fit([{"context": ["Hello"], "rejected": "Go away."}], VALID, objective="kto", max_steps=2, **PLAIN)

    assert losses(one)[0] == pytest.approx(0.5, abs=1e-5)
    assert losses(one)[1] < losses(one)[0]
    assert "all judged responses are disliked" in caplog.text


def test_validation_is_on_the_targets_of_the_models_training(load: Load) -> None:
    model = load()
    model.tokenizer = model.tokenizer.with_layout(loss_on="responses")
    expected = model.evaluate(VALID)
    result = model.fit(MIXED, VALID, objective="kto", max_steps=1, **PLAIN)

    assert result.before is not None
    assert result.before.tokens == expected.tokens < model.evaluate(VALID, loss_on="all").tokens
    assert result.before.perplexity == pytest.approx(expected.perplexity, rel=1e-5)


@pytest.mark.slow
def test_conversations_that_can_be_read_once_are_kept(load: Load, tmp_path: Path) -> None:
    model, names = load(), {"loss_on": ("user", "assistant")}  # their speakers are looked for in the data
    model.tokenizer = model.tokenizer.with_layout(**names)
    options = PLAIN | {"objective": "kto", "max_steps": 1, "samples": 1}
    once = model.fit(MIXED, iter(VALID), replay=(talk for talk in TALKS), output_dir=str(tmp_path / "one"), **options)
    other = load()
    other.tokenizer = other.tokenizer.with_layout(**names)
    often = other.fit(MIXED, VALID, replay=TALKS, output_dir=str(tmp_path / "two"), **options)

    assert losses(once) == losses(often)
    assert once.before == often.before
    assert [log["eval_responses"] for log in once.history if "eval_responses" in log] == [2, 2]


def test_the_settings_of_a_conversation_model_stay(load: Load, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    model = load()
    model.fit(TALKS, objective="sft", loss_on="responses", max_steps=1)
    layout = model.tokenizer.layout
    model.fit(MIXED, VALID, objective="kto", max_steps=1, **PLAIN)

    assert model.tokenizer.layout == layout
