"""Packing: windows in one row train as they do alone, in loss and in gradients, and each exactly once."""

from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from convmodel import Conversation, ConversationModel
from convmodel.data.windows.collate import pack, pad
from convmodel.data.windows.encoding import encode_windows
from convmodel.errors import ConfigError
from convmodel.layout.sequence import IGNORED, Window
from convmodel.training.fit_data import require_packable
from convmodel.training.step.loss import supervised_loss
from fine_tuning import TALKS, Recorder, fed, weights


def test_a_packed_row_by_hand() -> None:
    one = Window([5, 7, 8, 5], [0, 0, 0, 1], [IGNORED, 7, 8, 5])
    other = Window([5, 9], [1, 1], [IGNORED, 9])

    batch = pack([[one, other], [other]], use_token_types=True)

    assert {name: tensor.tolist() for name, tensor in batch.items()} == {
        "input_ids": [[5, 7, 8, 5, 5, 9], [5, 9, 5, 5, 5, 5]],
        "token_type_ids": [[0, 0, 0, 1, 1, 1], [1, 1, 0, 0, 0, 0]],
        "labels": [[-100, 7, 8, 5, -100, 9], [-100, 9, -100, -100, -100, -100]],
        "position_ids": [[0, 1, 2, 3, 0, 1], [0, 1, 0, 0, 0, 0]],
    }


def test_the_first_token_of_a_window_is_never_a_target() -> None:
    batch = pack([[Window([5, 7], [0, 0], [5, 7])] * 3], use_token_types=False)

    assert batch["labels"].tolist() == [[-100, 7] * 3]


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("folder", ["unigram_folder", "bytelevel_folder", "smollm2_folder"])
def test_packed_equals_unpacked_in_loss_and_gradients(
    folder: str, attention: str, request: pytest.FixtureRequest
) -> None:
    path = request.getfixturevalue(folder)
    model = ConversationModel.from_pretrained(path, device="cpu", attn_implementation=attention)
    tokenizer, hf_model = model.tokenizer, model.hf_model
    data = encode_windows(map(Conversation.of, TALKS), tokenizer, max_length=48, loss_on="all")
    types, windows = tokenizer.layout.use_token_types, list(data.windows)
    rows = [windows[:1], windows[1:4], windows[4:]]

    def gradients(batches: list[dict[str, torch.Tensor]]) -> tuple[float, dict[str, torch.Tensor]]:
        hf_model.zero_grad()
        total = 0.0
        for batch in batches:
            labels = batch.pop("labels")
            loss = supervised_loss(hf_model(**batch, use_cache=False).logits, labels, data.tokens)
            loss.backward()
            total += loss.item()
        return total, {name: p.grad.clone() for name, p in hf_model.named_parameters() if p.grad is not None}

    alone = gradients([pad([window], 0, use_token_types=types) for window in windows])
    packed = gradients([pack(rows, use_token_types=types)])

    assert packed[0] == pytest.approx(alone[0], rel=1e-6)
    assert packed[1].keys() == alone[1].keys()
    for name, gradient in alone[1].items():
        torch.testing.assert_close(packed[1][name], gradient, atol=1e-6, rtol=1e-4, msg=name)


@pytest.mark.parametrize("folder", ["unigram_folder", "bytelevel_folder"])
def test_an_update_over_packed_rows_is_that_over_padded_windows(load: Callable[..., Any], folder: str) -> None:
    gradients = []
    for packing in (False, True):
        model, recorder = load(folder), Recorder()
        model.fit(TALKS, max_steps=1, batch_size=2 * len(TALKS), packing=packing, max_length=64, callbacks=[recorder])
        [found] = recorder.gradients
        gradients.append(found)

    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], gradient, atol=1e-6, rtol=1e-4, msg=name)


def test_every_window_is_learned_once_an_epoch_and_rows_differ_between_epochs(load: Callable[..., Any]) -> None:
    model = load()
    stop = model.tokenizer.sep_token_id
    expected = encode_windows(map(Conversation.of, TALKS), model.tokenizer, max_length=64, loss_on="all")

    with fed(model) as batches:
        result = model.fit(TALKS, epochs=3, batch_size=1, packing=True, max_length=64)

    per_epoch, rest = divmod(len(batches), 3)
    assert rest == 0
    assert result.steps == len(batches)
    epochs = [batches[start : start + per_epoch] for start in range(0, len(batches), per_epoch)]
    wanted = Counter(index for window in expected.windows for index in window.input_ids)
    for epoch in epochs:
        learned = Counter(index for batch in epoch for row in batch for index in row)
        assert {index: learned[index] for index in wanted if index != stop} == {
            index: count for index, count in wanted.items() if index != stop
        }
    assert epochs[0] != epochs[1]


def test_packing_hardly_pads(load: Callable[..., Any]) -> None:
    model = load()
    talks = [[" ".join(["mountains"] * (1 + i % 20))] for i in range(200)]

    with fed(model) as batches:
        model.fit(talks, epochs=1, batch_size=4, packing=True, max_length=64)

    slots = sum(len(row) for batch in batches for row in batch)
    windows = encode_windows(map(Conversation.of, talks), model.tokenizer, max_length=64, loss_on="all")
    assert windows.lengths.sum() > 0.95 * slots


def test_the_same_seed_packs_and_trains_the_same(load: Callable[..., Any]) -> None:
    found = []
    for _ in range(2):
        model = load()
        model.fit(TALKS, epochs=2, batch_size=2, packing=True, max_length=64, seed=7)
        found.append(weights(model))

    assert all(torch.equal(value, found[1][name]) for name, value in found[0].items())


def test_a_model_whose_windows_would_see_each_other_is_refused(load: Callable[..., Any]) -> None:
    model = load()
    embed = model.hf_model.get_input_embeddings()

    class Leaky(nn.Module):
        """Mixes each position with the one before, as a model with convolutions or a recurrent state does."""

        def forward(self, ids: torch.Tensor) -> torch.Tensor:
            embedded = embed(ids)
            return embedded + embedded.roll(1, dims=1)

    model.hf_model.set_input_embeddings(Leaky())
    with pytest.raises(ConfigError, match="packing does not work with gpt2: windows in one row would see each other"):
        require_packable(model.hf_model, model.tokenizer)


@pytest.mark.parametrize("folder", ["unigram_folder", "bytelevel_folder"])
def test_a_model_in_half_precision_is_packed_too(folder: str, request: pytest.FixtureRequest) -> None:
    model = ConversationModel.from_pretrained(request.getfixturevalue(folder), device="cpu", dtype="bfloat16")

    assert model.fit(TALKS, max_steps=1, packing=True, max_length=64).steps == 1


def test_attention_that_keeps_windows_apart_in_one_row_only_is_refused(load: Callable[..., Any]) -> None:
    """Some kernels recognise packing only in batches of one row."""
    model = load()
    forward = model.hf_model.forward

    def blind(input_ids: torch.Tensor, position_ids: Any = None, **inputs: Any) -> Any:
        kept = position_ids if len(input_ids) == 1 else None
        return forward(input_ids=input_ids, position_ids=kept, **inputs)

    model.hf_model.forward = blind
    with pytest.raises(ConfigError, match="windows in one row would see each other"):
        require_packable(model.hf_model, model.tokenizer)
