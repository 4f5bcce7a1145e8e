"""Which forward pass a model gets."""

import logging
from typing import Any

import pytest
import torch
from scripted import enliven
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedModel

from convmodel.generation.engine import forward as forward_module
from convmodel.generation.engine.forward import ForwardChoice, HFForward
from convmodel.generation.engine.kv_cache import KVCache
from convmodel.generation.engine.lean import LeanForward, NewTokens
from convmodel.hf_model.caching import cache_argument


@pytest.fixture
def llama() -> PreTrainedModel:
    torch.manual_seed(0)
    shape = {"vocab_size": 50, "hidden_size": 16, "intermediate_size": 32, "max_position_embeddings": 64}
    config = LlamaConfig(**shape, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2)
    return enliven(LlamaForCausalLM(config).eval(), 4.0)


def test_a_known_model_gets_the_lean_pass_in_any_precision(llama: PreTrainedModel) -> None:
    for dtype in (torch.float32, torch.bfloat16):
        assert isinstance(ForwardChoice(llama.to(dtype)).forward(0), LeanForward)


def test_an_unknown_model_gets_its_own_and_the_log_says_why(
    llama: PreTrainedModel, caplog: pytest.LogCaptureFixture
) -> None:
    llama.__class__ = type("Other", (LlamaForCausalLM,), {})
    with caplog.at_level(logging.DEBUG, logger="convmodel"):
        assert isinstance(ForwardChoice(llama).forward(0), HFForward)
    assert "Other is not one of the known classes" in caplog.text


def test_a_model_that_computes_something_else_gets_its_own_and_a_warning(
    llama: PreTrainedModel, caplog: pytest.LogCaptureFixture
) -> None:
    choice = ForwardChoice(llama)
    attention = llama.model.layers[1].self_attn
    original = attention.forward
    attention.forward = lambda **options: (original(**options)[0] * 1.01, None)
    assert isinstance(choice.forward(0), HFForward)
    assert "the lean one computes other logits" in caplog.text

    caplog.clear()
    assert isinstance(choice.forward(0), HFForward)
    assert not caplog.text  # the trial is not repeated


def test_the_trial_is_repeated_when_modules_were_replaced(
    llama: PreTrainedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    trials = []
    monkeypatch.setattr(forward_module, "_compute_the_same", lambda *_: trials.append(1) or True)
    choice = ForwardChoice(llama)
    assert choice.forward(0) is choice.forward(0)
    assert choice.forward(1) is not choice.forward(0)  # made again for other weights
    assert len(trials) == 1
    llama.set_submodule("model.layers.0.mlp.up_proj", torch.nn.Linear(16, 32, bias=False))
    choice.forward(0)
    assert len(trials) == 2


def test_a_hook_that_is_added_is_called(llama: PreTrainedModel) -> None:
    choice = ForwardChoice(llama)
    assert isinstance(choice.forward(0), LeanForward)
    handle = llama.model.layers[0].register_forward_hook(lambda *_: None)
    assert isinstance(choice.forward(0), HFForward)
    handle.remove()
    assert isinstance(choice.forward(0), LeanForward)


@torch.inference_mode()
def test_the_cache_is_given_by_either_of_its_names(llama: PreTrainedModel) -> None:
    """transformers 5.24 renames the argument."""
    own, original = cache_argument(llama), llama.forward
    assert own is not None
    ids = torch.arange(1, 9)[None]
    expected = llama(input_ids=ids).logits[:, -1]

    def after_a_cache() -> torch.Tensor:
        forward, cache = HFForward(llama), KVCache(2)
        for begin, end in ((0, 6), (6, 8)):
            logits = forward([NewTokens(ids[:, begin:end], None, torch.arange(begin, end)[None], cache)])
        return logits

    def old(past_key_values: KVCache, **arguments: Any) -> Any:
        return original(**{own: past_key_values}, **arguments)

    def new(cache: KVCache, **arguments: Any) -> Any:
        return original(**{own: cache}, **arguments)

    for renamed in (old, new):
        llama.forward = renamed
        torch.testing.assert_close(after_a_cache(), expected)
