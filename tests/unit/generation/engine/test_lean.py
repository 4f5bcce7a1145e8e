"""The lean forward pass: equal to transformers' for every family whose parts are known."""

from typing import Any

import pytest
import torch
from random_decoders import FAMILIES, VOCABULARY, make
from scripted import enliven
from transformers import AutoConfig, GPT2LMHeadModel

from convmodel.generation.engine.forward import Forward, HFForward
from convmodel.generation.engine.kv_cache import KVCache
from convmodel.generation.engine.lean import LeanForward, NewTokens
from convmodel.hf_model.decoder import decoder_of
from convmodel.hf_model.quantization import quantize_weights

STEPS = ((0, 12), (12, 13), (13, 21), (21, 22), (22, 23))


@torch.inference_mode()
def logits(forward: Forward, *, types: bool = False) -> torch.Tensor:
    """Of a prompt and what follows it, and of two such sequences of unequal length in a batch."""
    rows, caches = [], []
    ids = torch.randint(VOCABULARY, (2, 40), generator=torch.Generator().manual_seed(1))
    for row, steps in zip(ids, (STEPS, STEPS[:2]), strict=True):
        cache = KVCache(forward.layers)
        for begin, end in steps:
            new = row[None, begin:end]
            rows.append(forward([NewTokens(new, new % 2 if types else None, torch.arange(begin, end)[None], cache)]))
        caches.append((cache, [0]))
    batch = KVCache.merge(caches)
    for step in range(2):
        new, positions = ids[:, 30 + step, None], torch.tensor([[23 + step], [13 + step]])
        parts = [NewTokens(new, new % 2 if types else None, positions, batch)]
        if not step:  # with a prompt in the same pass
            prompt = ids[:1, 3:10]
            parts.append(
                NewTokens(prompt, prompt % 2 if types else None, torch.arange(7)[None], KVCache(forward.layers))
            )
        rows.append(forward(parts))
    return torch.cat(rows)


@pytest.mark.parametrize("compiled", [True, False])
@pytest.mark.parametrize("name", FAMILIES)
def test_logits_are_those_of_transformers(name: str, compiled: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if not compiled:
        monkeypatch.setattr("convmodel.hf_model.kernels.native", None)
    for seed in range(10):
        hf_model = make(name, seed)
        found, expected = (logits(each) for each in (LeanForward(decoder_of(hf_model)), HFForward(hf_model)))
        torch.testing.assert_close(found, expected, atol=2e-4, rtol=0)
        assert expected.std() > 0.1


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("types", [True, False])
@pytest.mark.parametrize("settings", [{}, {"activation_function": "relu"}, {"scale_attn_by_inverse_layer_idx": True}])
def test_logits_of_gpt2_are_those_of_transformers(attention: str, types: bool, settings: dict[str, Any]) -> None:
    torch.manual_seed(0)
    shape = {"vocab_size": VOCABULARY, "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 256}
    config = AutoConfig.for_model("gpt2", **shape, bos_token_id=1, eos_token_id=2, **settings)
    hf_model = enliven(GPT2LMHeadModel(config).eval(), 8.0)
    hf_model.set_attn_implementation(attention)
    passes = LeanForward(decoder_of(hf_model)), HFForward(hf_model)
    found, expected = (logits(each, types=types) for each in passes)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)
    assert expected.std() > 0.1


def gpt2(seed: int) -> GPT2LMHeadModel:
    torch.manual_seed(seed)
    shape = {"vocab_size": VOCABULARY, "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 256}
    return enliven(GPT2LMHeadModel(AutoConfig.for_model("gpt2", **shape, bos_token_id=1, eos_token_id=2)).eval(), 8.0)


@pytest.mark.parametrize("missing", [None, "kernels", "training_kernels"])
@pytest.mark.parametrize("quantize", [False, True])
@pytest.mark.parametrize("name", [*FAMILIES, "gpt2"])
def test_logits_after_a_long_prompt_are_those_of_transformers(
    name: str, quantize: bool, missing: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a long prompt, torch computes the products, and compiled kernels the rest of a layer."""
    if missing:
        monkeypatch.setattr(f"convmodel.hf_model.{missing}.native", None)
    hf_model = gpt2(0) if name == "gpt2" else make(name, 0)
    if quantize:
        quantize_weights(hf_model, "int8")
    ids = torch.randint(VOCABULARY, (2, 200), generator=torch.Generator().manual_seed(1))
    rows = []
    for forward in (LeanForward(decoder_of(hf_model)), HFForward(hf_model)):
        first, second = KVCache(forward.layers), KVCache(forward.layers)
        positions = torch.arange(200)[None]
        with torch.inference_mode():
            parts = [
                NewTokens(ids[:1, :150], None, positions[:, :150], first),
                NewTokens(ids[1:, :40], None, positions[:, :40], second),
            ]
            logits = [forward(parts), forward([NewTokens(ids[:1, 150:190], None, positions[:, 150:190], first)])]
            logits.append(forward([NewTokens(ids[:1, 190:191], None, positions[:, 190:191], first)]))
            rows.append(logits)
    for found, expected in zip(*rows, strict=True):
        # Activations in int8 have about 15 bits, and a last bit may round one to the next integer.
        tolerance = 1e-3 * expected.abs().max().item() if quantize else 2e-4
        torch.testing.assert_close(found, expected, atol=tolerance, rtol=0)
        assert expected.std() > 0.1
