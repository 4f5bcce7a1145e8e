"""The weights of a page are those of the int8 model, in an order that JavaScript can read."""

from typing import Any

import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel

from convmodel.export.html_weights import PackedArrays, pack_arrays, require_computable, shape_of
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


@pytest.mark.parametrize("options", [{}, {"tie_word_embeddings": False}, {"n_embd": 10, "n_inner": 13}])
def test_integers_and_scales_are_those_of_the_int8_model(options: dict[str, Any]) -> None:
    model: Any = tiny(**options)
    arrays = unpacked(pack_arrays(model, [1, 2, 3, 4]))
    quantize_weights(model, "int8")
    heads = ["lm_head"] if options.get("tie_word_embeddings") is False else []
    assert ("lm_head" in arrays) == bool(heads)
    for name, module in [*model.transformer.named_modules(), *((name, model.lm_head) for name in heads)]:
        if hasattr(module, "rows"):
            rows = arrays[name].view(len(module.rows), -1)
            width = module.rows.shape[1]
            assert torch.equal(rows[:, :width], module.rows)
            assert not rows[:, width:].any()
            assert rows.shape[1] % 4 == 0
            assert torch.equal(arrays[f"{name}.scales"], module.scales.flatten())
            assert torch.equal(arrays[f"{name}.columns"], module.columns)
            if getattr(module, "bias", None) is not None:
                assert torch.equal(arrays[f"{name}.bias"], module.bias)
    assert torch.equal(arrays["h.1.ln_2.weight"], model.transformer.h[1].ln_2.weight)
    assert arrays["merges"].tolist() == [1, 2, 3, 4]


def test_positions_are_more_exact_than_in_float16() -> None:
    model = tiny(n_positions=64, n_embd=64)
    arrays = unpacked(pack_arrays(model, [1, 2]))
    positions = model.transformer.wpe.weight.detach()
    packed = arrays["wpe"].view(64, 64).float() * arrays["wpe.scales"][:, None]
    halves = (positions.half().float() - positions).square().mean()
    assert (packed - positions).square().mean() < halves / 4


def test_ids_of_a_large_vocabulary_fit() -> None:
    assert unpacked(pack_arrays(tiny(), [70_000, 1]))["merges"].tolist() == [70_000, 1]


def test_sizes_are_those_of_the_config() -> None:
    expected = {"layers": 2, "heads": 2, "width": 12, "positions": 7, "epsilon": 1e-5}
    assert shape_of(tiny()) == expected
    require_computable(tiny())
