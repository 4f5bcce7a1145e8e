"""The weights of a page are those of the int8 model, in an order that JavaScript can read."""

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

from convmodel.errors import ConfigError
from convmodel.export.html_weights import PackedArrays, pack_arrays, require_computable, shape_of
from convmodel.hf_model.decoder import decoder_of
from convmodel.hf_model.quantization import quantize_weights

TYPES: dict[str, tuple[torch.dtype, int]] = {
    "Int8Array": (torch.int8, 1),
    "Float32Array": (torch.float32, 4),
    "Uint32Array": (torch.uint32, 4),
    "Int16Array": (torch.int16, 2),
    "Uint16Array": (torch.uint16, 2),
}


def tiny(**options: Any) -> GPT2LMHeadModel:
    torch.manual_seed(0)
    sizes = {"vocab_size": 51, "n_positions": 7, "n_embd": 12, "n_head": 2, "n_layer": 2} | options
    return GPT2LMHeadModel(GPT2Config(**sizes))


def tiny_llama(**options: Any) -> LlamaForCausalLM:
    torch.manual_seed(0)
    sizes = {"vocab_size": 51, "hidden_size": 12, "intermediate_size": 18, "num_hidden_layers": 2}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2}
    model = LlamaForCausalLM(LlamaConfig(**sizes | heads | options))
    for name, weight in model.named_parameters():
        if "norm" in name or "bias" in name:  # which are all alike in a new model
            torch.nn.init.normal_(weight)
    return model


def unpacked(packed: PackedArrays) -> dict[str, torch.Tensor]:
    """Reads the arrays as the page does, each at a multiple of its numbers' size."""
    arrays, place = {}, 0
    for name, kind, length in packed.arrays:
        dtype, size = TYPES[kind]
        assert place % (4 if kind == "Int8Array" else size) == 0
        end = place + length * size
        arrays[name] = torch.frombuffer(bytearray(packed.content[place:end]), dtype=dtype)
        place = end
    assert place == len(packed.content)
    return arrays


@pytest.mark.parametrize(
    "make",
    [
        partial(tiny),
        partial(tiny, tie_word_embeddings=False),
        partial(tiny, n_embd=10, n_inner=13),
        partial(tiny_llama),
        partial(tiny_llama, tie_word_embeddings=True, num_key_value_heads=4),
        partial(tiny_llama, head_dim=6, hidden_size=20, attention_bias=True, mlp_bias=True),
        # Of matrices with so many rows, the scales of columns come from some, counted from each one's first.
        partial(tiny_llama, head_dim=520, intermediate_size=2060),
    ],
)
def test_integers_and_scales_are_those_of_the_int8_model(make: Callable[[], Any]) -> None:
    model = make()
    arrays = unpacked(pack_arrays(model, [1, 2, 3, 4]))
    is_tied = model.lm_head.weight is model.get_input_embeddings().weight
    quantize_weights(model, "int8")
    decoder = decoder_of(model)
    parts: dict[str, tuple[Any, ...]] = {"embedding": (decoder.embedding,)} | (
        {} if is_tied else {"head": (model.lm_head,)}
    )
    for number, layer in enumerate(decoder.layers):
        parts |= {f"layers.{number}.{name}": getattr(layer, name) for name in ("query_key_value", "up")}
        parts |= {f"layers.{number}.{name}": (getattr(layer, name),) for name in ("attention_output", "down")}
    assert {name for name in arrays if f"{name}.columns" in arrays} == parts.keys()
    for name, modules in parts.items():
        integers = torch.cat([module.rows for module in modules])
        width = integers.shape[1]
        rows = arrays[name].view(len(integers), -1)
        assert torch.equal(rows[:, :width], integers)
        assert not rows[:, width:].any()
        assert rows.shape[1] % 4 == 0
        assert torch.equal(arrays[f"{name}.scales"], torch.cat([module.scales.flatten() for module in modules]))
        assert all(torch.equal(arrays[f"{name}.columns"], module.columns) for module in modules)
        biases = [module.bias for module in modules if getattr(module, "bias", None) is not None]
        assert (f"{name}.bias" in arrays) == bool(biases)
        assert not biases or torch.equal(arrays[f"{name}.bias"], torch.cat(biases))
    assert torch.equal(arrays["layers.1.mlp_norm.weight"], decoder.layers[1].mlp_norm.module.weight)
    assert ("layers.1.mlp_norm.bias" in arrays) == ("positions" in arrays) == ("frequencies" not in arrays)
    assert arrays["merges"].tolist() == [1, 2, 3, 4]


def test_positions_are_more_exact_than_in_float16() -> None:
    model = tiny(n_positions=64, n_embd=64)
    arrays = unpacked(pack_arrays(model, [1, 2]))
    exact = model.transformer.wpe.weight.detach()
    packed = arrays["positions"].view(64, 64).float() * arrays["positions.scales"][:, None]
    halves = (exact.half().float() - exact).square().mean()
    assert (packed - exact).square().mean() < halves / 4


def test_ids_of_a_large_vocabulary_fit() -> None:
    assert unpacked(pack_arrays(tiny(), [70_000, 1]))["merges"].tolist() == [70_000, 1]


def test_sizes_are_those_of_the_config() -> None:
    sizes = {"layers": 2, "width": 12, "heads": 2, "keyHeads": 2, "headSize": 6, "isGated": False, "epsilon": 1e-5}
    assert shape_of(tiny()) == sizes
    changes = {"heads": 4, "headSize": 3, "isGated": True, "epsilon": 1e-6}
    assert shape_of(tiny_llama()) == sizes | changes
    require_computable(tiny())
    require_computable(tiny_llama())


def test_frequencies_are_those_of_the_model() -> None:
    model = tiny_llama(head_dim=8, rope_parameters={"rope_type": "default", "rope_theta": 100.0})
    frequencies = unpacked(pack_arrays(model, [1, 2]))["frequencies"]
    assert torch.allclose(frequencies, torch.tensor([1.0, 100**-0.25, 0.1, 100**-0.75]))


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"hidden_act": "gelu"}, "hidden_act is 'gelu', but a page computes 'silu' only: export another"),
        ({"rope_parameters": {"rope_type": "linear", "factor": 2.0}}, "rope_type is 'linear', but .* 'default' only"),
        ({"rope_parameters": {"rope_type": "dynamic", "factor": 2.0}}, "rope_type is 'dynamic'"),
    ],
)
def test_another_llama_is_refused(changes: dict[str, Any], problem: str) -> None:
    with pytest.raises(ConfigError, match=problem):
        require_computable(tiny_llama(**changes))


def test_a_model_with_hooks_is_refused() -> None:
    model = tiny_llama()
    model.model.norm.register_forward_hook(lambda *_: None)
    with pytest.raises(ConfigError, match=r"cannot compute this LlamaForCausalLM, since model\.norm is not the module"):
        require_computable(model)
