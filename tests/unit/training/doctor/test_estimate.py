"""The estimate: sums that can be checked by hand, measurements that leave nothing behind."""

from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, GPT2Config, GPT2LMHeadModel

from convmodel import Conversation, ConversationModel, ConversationTokenizer
from convmodel.data.windows.encoding import WindowSet, encode_windows
from convmodel.training.doctor import estimate as module
from convmodel.training.doctor.estimate import Estimate, available_bytes, check_memory, estimate
from convmodel.training.doctor.run_plan import RunPlan

PLAN = RunPlan(10, 1, 2, 2, 2.0, 64, "all")
GIB = 1 << 30


@pytest.fixture
def model(gpt2_folder: Path) -> Any:
    return AutoModelForCausalLM.from_pretrained(gpt2_folder)


@pytest.fixture
def train(gpt2_tokenizer: ConversationTokenizer) -> WindowSet:
    talks = [Conversation(["Hi", "Hello " * (1 + 5 * number)]) for number in range(6)]
    return encode_windows(talks, gpt2_tokenizer, max_length=64, loss_on="all")


def test_steps_and_tokens_are_those_of_the_run(
    model: Any, gpt2_tokenizer: ConversationTokenizer, train: WindowSet
) -> None:
    found = estimate(model, gpt2_tokenizer, train, PLAN)

    assert found.steps == 10
    assert found.tokens == 5 * train.lengths.sum()  # 4 windows an update: 2 updates an epoch
    assert found.tokens < found.padded_tokens < 5 * 6 * train.lengths.max()
    assert 0 < found.seconds < 600


def test_packed_rows_hold_the_same_tokens_in_fewer_updates_and_less_padding(
    model: Any, gpt2_tokenizer: ConversationTokenizer, train: WindowSet
) -> None:
    packed = replace(PLAN, packing=True, steps=2)  # 96 tokens in 2 rows of 64, an update an epoch

    found = estimate(model, gpt2_tokenizer, train, packed)

    assert found.tokens == 2 * train.lengths.sum()
    assert found.padded_tokens <= 2 * 2 * 64
    assert found.seconds > 0


def test_windows_of_one_length_need_no_padding(model: Any, gpt2_tokenizer: ConversationTokenizer) -> None:
    talks = [Conversation(["Hi", "Hello"])] * 5
    train = encode_windows(talks, gpt2_tokenizer, max_length=64, loss_on="all")

    found = estimate(model, gpt2_tokenizer, train, replace(PLAN, steps=2))

    assert found.tokens == found.padded_tokens == 25


def test_memory_is_four_numbers_a_weight_and_the_activations(
    model: Any, gpt2_tokenizer: ConversationTokenizer, train: WindowSet
) -> None:
    whole = estimate(model, gpt2_tokenizer, train, PLAN)
    weights = sum(parameter.numel() for parameter in model.parameters())
    for parameter in model.transformer.wte.parameters():
        parameter.requires_grad_(False)
    frozen = estimate(model, gpt2_tokenizer, train, PLAN)

    largest = model.transformer.wte.weight.numel()
    assert whole.memory_bytes == 16 * weights + whole.activation_bytes
    saved = whole.memory_bytes - whole.activation_bytes - (frozen.memory_bytes - frozen.activation_bytes)
    assert saved == 12 * largest
    # The head's gradient, which is made beside the loss.
    assert whole.activation_bytes - frozen.activation_bytes == pytest.approx(4 * largest, rel=0.01)


def test_activations_grow_with_the_batch_and_hold_the_logits_at_least(
    model: Any, gpt2_tokenizer: ConversationTokenizer, train: WindowSet
) -> None:
    one = estimate(model, gpt2_tokenizer, train, replace(PLAN, batch_size=1))
    four = estimate(model, gpt2_tokenizer, train, replace(PLAN, batch_size=4))

    once = 4 * model.transformer.wte.weight.numel()  # the head's gradient does not grow with the batch
    assert four.activation_bytes - once == 4 * (one.activation_bytes - once)
    logits = 4 * int(train.lengths.max()) * 50257
    assert 3 * logits < one.activation_bytes - once < 4 * logits


def test_of_many_logits_only_a_chunk_is_there_at_once(
    model: Any, gpt2_tokenizer: ConversationTokenizer, train: WindowSet
) -> None:
    one, many, more = (
        estimate(model, gpt2_tokenizer, train, replace(PLAN, batch_size=size)).activation_bytes for size in (1, 40, 41)
    )

    logits = 4 * int(train.lengths.max()) * 50257
    assert more - many < logits / 10 < one


@pytest.mark.slow
@pytest.mark.parametrize("checkpointing", [True, False])
def test_the_precision_and_the_checkpointing_are_those_of_the_run(
    gpt2_tokenizer: ConversationTokenizer, train: WindowSet, checkpointing: bool
) -> None:
    config = GPT2Config(vocab_size=50257, n_positions=64, n_embd=64, n_layer=6, n_head=2)
    with torch.random.fork_rng():
        hf_model = GPT2LMHeadModel(config)
    plan = replace(PLAN, batch_size=64, gradient_checkpointing=checkpointing)

    exact, rounded = (
        estimate(hf_model, gpt2_tokenizer, train, replace(plan, precision=precision)).activation_bytes
        for precision in ("fp32", "bf16")
    )

    assert (rounded == exact) is checkpointing  # hidden states are float32 in both, and they are all that is kept
    if checkpointing:
        kept = estimate(hf_model, gpt2_tokenizer, train, replace(plan, gradient_checkpointing=False)).activation_bytes
        assert exact < kept - 64 * 40 * 64 * 4 * 6  # at least one hidden state a layer less


def test_what_is_counted_is_what_autograd_keeps(gpt2_tokenizer: ConversationTokenizer) -> None:
    """Twice the layers keep twice as much of them."""
    sizes = []
    for layers in (1, 2, 3):
        config = GPT2Config(vocab_size=50257, n_positions=64, n_embd=32, n_layer=layers, n_head=2)
        with torch.random.fork_rng():
            hf_model = GPT2LMHeadModel(config)
        [window] = gpt2_tokenizer.windows(["Hi", "Hello " * 40], max_length=64)
        batch = module._batch(hf_model, gpt2_tokenizer, [[window]], packed=False)
        with module.prepared(hf_model):
            loss = partial(hf_model, **batch, total_weight=1.0)
            sizes.append(module.activation_bytes(hf_model, loss, batch["input_ids"].numel()))

    assert sizes[2] - sizes[1] == sizes[1] - sizes[0] > 4 * len(window.input_ids) * 32


def test_the_model_is_left_as_it_was_found(model: Any, gpt2_tokenizer: ConversationTokenizer, train: WindowSet) -> None:
    model.train()
    model.transformer.h[0].eval()
    modes = [part.training for part in model.modules()]
    weights = [parameter.detach().clone() for parameter in model.parameters()]
    gradient = torch.ones_like(model.transformer.ln_f.weight)
    model.transformer.ln_f.weight.grad = gradient
    state = torch.random.get_rng_state()

    with torch.no_grad():  # it measures training whatever the caller does
        estimate(model, gpt2_tokenizer, train, PLAN)

    assert [part.training for part in model.modules()] == modes
    assert all(torch.equal(now, then) for now, then in zip(model.parameters(), weights, strict=True))
    assert model.transformer.ln_f.weight.grad is gradient
    assert torch.equal(gradient, torch.ones_like(gradient))
    assert sum(parameter.grad is not None for parameter in model.parameters()) == 1
    assert torch.equal(torch.random.get_rng_state(), state)


def test_the_model_is_left_as_it_was_found_after_an_error_too(
    model: Any, gpt2_tokenizer: ConversationTokenizer, train: WindowSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*arguments: Any) -> float:
        raise MemoryError

    model.train()
    monkeypatch.setattr(module, "seconds_per_step", refuse)

    with pytest.raises(MemoryError):
        estimate(model, gpt2_tokenizer, train, PLAN)

    assert model.training
    assert all(parameter.grad is None for parameter in model.parameters())


def test_a_model_without_token_types_is_measured_too(bytelevel_folder: Path) -> None:
    llama = ConversationModel.from_pretrained(bytelevel_folder)
    windows = encode_windows([Conversation(["Hi", "Hello"])], llama.tokenizer, max_length=64, loss_on="all")

    found = estimate(llama.hf_model, llama.tokenizer, windows, replace(PLAN, steps=1))

    assert found.tokens == windows.lengths[0]
    assert found.activation_bytes > 0


def test_batches_are_timed_one_window_at_a_time_where_memory_lacks(
    model: Any, gpt2_tokenizer: ConversationTokenizer, train: WindowSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes = []
    whole = module._batch

    def watched(hf_model: Any, tokenizer: Any, rows: Any, **options: Any) -> Any:
        sizes.append(len(rows))
        return whole(hf_model, tokenizer, rows, **options)

    monkeypatch.setattr(module, "_batch", watched)
    estimate(model, gpt2_tokenizer, train, PLAN)
    monkeypatch.setattr(module, "available_bytes", lambda hf_model: 1000)
    found = estimate(model, gpt2_tokenizer, train, PLAN)

    assert sizes == [1, 2, 2, 2, 1, 1, 1, 1]
    assert check_memory(found).status == "warn"


def test_time_grows_with_the_run(
    model: Any, gpt2_tokenizer: ConversationTokenizer, train: WindowSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_seconds_per_token", lambda *arguments, **options: 0.5)
    monkeypatch.setattr(module, "seconds_per_step", lambda hf_model: 0.1)

    found = estimate(model, gpt2_tokenizer, train, PLAN)

    assert found.seconds == pytest.approx(0.5 * found.padded_tokens + 10 * 0.1)


def test_long_middle_and_short_windows_are_timed(train: WindowSet) -> None:
    rows = [(int(index),) for index in np.argsort(-train.lengths)]

    batches = module._representative(train, rows, 2)

    assert [[len(window.input_ids) for [window] in batch] for batch in batches] == [[26, 21], [16, 11], [11, 6]]
    assert [len(batch) for batch in module._representative(train, rows, 100)] == [6]


def test_a_slow_model_is_timed_once(
    model: Any, gpt2_tokenizer: ConversationTokenizer, train: WindowSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    timed = []

    def slow(hf_model: Any, work: Any) -> float:
        timed.append(work)
        return 100.0

    monkeypatch.setattr(module, "timed", slow)
    estimate(model, gpt2_tokenizer, train, PLAN)

    assert len(timed) == 2  # a batch and an update


@pytest.mark.parametrize(
    ("available", "status", "said"),
    [
        (8 * GIB, "pass", "about 6.0 GiB are needed, 2.0 GiB of it for activations; 8.0 GiB are available"),
        (4 * GIB, "warn", "4.0 GiB are available"),
        (None, "pass", "the available memory is unknown"),
    ],
)
def test_too_little_memory_is_a_warning(available: int | None, status: str, said: str) -> None:
    check = check_memory(Estimate(1, 1, 1, 1.0, 6 * GIB, 2 * GIB, available))

    assert check.status == status
    assert said in check.finding


def test_less_memory_than_is_counted_is_said() -> None:
    needs = Estimate(1, 1, 1, 1.0, 6 * GIB, 2 * GIB, 8 * GIB)

    assert "AdamW" not in check_memory(needs).finding
    assert "counted for AdamW on all weights; lora and adafactor take less" in check_memory(needs, smaller=True).finding


def test_memory_is_read_from_the_system(model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    weights = 4 * sum(parameter.numel() for parameter in model.parameters())
    monkeypatch.setattr(Path, "read_text", lambda *_, **__: "MemTotal: 9 kB\nMemAvailable:    2048 kB\n")
    assert available_bytes(model) == 2048 * 1024 + weights

    monkeypatch.setattr(Path, "read_text", lambda *_, **__: "")
    monkeypatch.setattr(module.os, "sysconf", {"SC_PHYS_PAGES": 10, "SC_PAGE_SIZE": 4096}.__getitem__)
    assert available_bytes(model) == 40960

    monkeypatch.delattr(module.os, "sysconf")
    assert available_bytes(model) is None


def test_an_apple_gpu_has_its_part_of_the_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.mps, "recommended_max_memory", lambda: 1000)
    monkeypatch.setattr(torch.mps, "current_allocated_memory", lambda: 300)
    model: Any = SimpleNamespace(device=torch.device("mps"), parameters=lambda: [torch.zeros(10)])
    assert available_bytes(model) == 1000 - 300 + 40


def test_memory_that_torch_keeps_is_available_on_an_nvidia_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """The driver counts it as used, as after a model was unloaded."""
    device = torch.device("cuda:1")
    monkeypatch.setattr(torch.cuda, "mem_get_info", {device: (1000, 9000)}.__getitem__)
    monkeypatch.setattr(torch.cuda, "memory_reserved", {device: 5000}.__getitem__)
    monkeypatch.setattr(torch.cuda, "memory_allocated", {device: 3000}.__getitem__)
    model: Any = SimpleNamespace(device=device, parameters=lambda: [torch.zeros(10)])
    assert available_bytes(model) == 1000 + (5000 - 3000) + 40


def test_the_largest_model_has_as_many_parameters_as_memory_has_room_for() -> None:
    costs = Estimate(1, 1, 1, 1.0, 0, 10 * GIB, 100 * GIB, parameters=2 * GIB, weight_bytes=4 * GIB)
    sizes = costs.largest_models()
    assert sizes == {
        "all weights": int(100 * GIB / (16 + 5)),  # weights, gradients and two moments in float32; activations
        "lora": int(100 * GIB / (2 + 5)),
        "lora and quantize int8": int(100 * GIB / (1 + 5)),
    }
    assert Estimate(1, 1, 1, 1.0, 0, 10 * GIB, None, parameters=2 * GIB).largest_models() == {}
