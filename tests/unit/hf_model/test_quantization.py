"""Weights of 8 bits: close to those they were made from, exact whatever else is in a batch, and for inference only."""

import copy
import math
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
from architectures import save_tiny
from scripted import enliven
from torch import nn
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    GPTNeoXConfig,
    GPTNeoXForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
)
from transformers.pytorch_utils import Conv1D

from convmodel import ConversationModel
from convmodel.errors import ConfigError, LogitsError
from convmodel.generation.engine.forward import HFForward
from convmodel.generation.engine.kv_cache import KVCache
from convmodel.generation.engine.lean import LeanForward, NewTokens
from convmodel.hf_model.decoder import decoder_of
from convmodel.hf_model.int8_layers import Int8Embedding, Int8Linear
from convmodel.hf_model.quantization import count_parameters, is_quantized, quantize_weights

CONTEXT = ["Hello there", "How are you"]
FOLDERS = ("gpt2_folder", "bytelevel_folder", "unigram_folder", "smollm2_folder")

Load = Callable[..., ConversationModel]


@pytest.fixture(scope="module", params=FOLDERS)
def folder(request: pytest.FixtureRequest) -> Path:
    found: Path = request.getfixturevalue(request.param)
    return found


@pytest.fixture(scope="module", params=["compiled", "torch"])
def packed(request: pytest.FixtureRequest, folder: Path) -> Iterator[ConversationModel]:
    """A model with the compiled products, and one with torch's, which installations without a compiler have."""
    with pytest.MonkeyPatch.context() as patch:
        if request.param == "torch":
            patch.setattr("convmodel.hf_model.kernels.native", None)
        yield ConversationModel.from_pretrained(folder, device="cpu", quantize="int8")


# A model


@pytest.mark.long
def test_logits_are_close(folder: Path, packed: ConversationModel) -> None:
    whole = ConversationModel.from_pretrained(folder, device="cpu")
    inputs = {name: torch.tensor([values]) for name, values in whole.tokenizer(CONTEXT * 4).items()}
    with torch.no_grad():
        expected, found = (model.hf_model(**inputs).logits for model in (whole, packed))
    assert (found - expected).norm() / expected.norm() < 0.02


def test_no_float_weights_are_left(packed: ConversationModel) -> None:
    assert is_quantized(packed.hf_model)
    kept = {id(module) for module in packed.hf_model.modules() if isinstance(module, nn.Linear | Conv1D)}
    assert not kept
    assert packed.hf_model.dtype == torch.float32
    largest = max(weight.numel() for weight in packed.hf_model.parameters())
    assert largest <= 1024 * 64  # positions, norms and biases, but no matrix of the vocabulary
    assert not isinstance(packed.hf_model.get_input_embeddings(), nn.Embedding)


@pytest.mark.long
def test_greedy_is_the_same_every_time_alone_and_among_others(packed: ConversationModel) -> None:
    hf_model = copy.copy(packed)
    alone = [hf_model.generate([text, *CONTEXT], max_new_tokens=12).responses[0] for text in ("A", "Yes", "No no")]
    packed.engine.caches.clear()
    streams = [packed.stream([text, *CONTEXT], max_new_tokens=12) for text in ("A", "Yes", "No no")]
    texts = [""] * 3
    for _ in range(20):
        for number, stream in enumerate(streams):
            chunk = next(stream, None)
            texts[number] += chunk.text if chunk else ""
    assert texts == alone


def test_the_lean_pass_is_that_of_transformers() -> None:
    torch.manual_seed(0)
    hf_model = GPT2LMHeadModel(GPT2Config(vocab_size=50, n_embd=16, n_layer=2, n_head=2, n_positions=32))
    quantize_weights(enliven(hf_model.eval()), "int8")
    ids, positions = torch.arange(10)[None], torch.arange(10)[None]
    passes = LeanForward(decoder_of(hf_model)), HFForward(hf_model)
    with torch.no_grad():
        lean, usual = (each([NewTokens(ids, ids % 2, positions, KVCache(2))]) for each in passes)
    torch.testing.assert_close(lean, usual, atol=1e-4, rtol=1e-4)


def test_layers_with_the_same_input_share_the_scales_of_columns() -> None:
    torch.manual_seed(0)
    shape = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    hf_model: Any = LlamaForCausalLM(LlamaConfig(**shape, vocab_size=60, tie_word_embeddings=True)).eval()
    quantize_weights(hf_model, "int8")
    for layer in decoder_of(hf_model).layers:
        for group in (layer.query_key_value, layer.up):
            assert len({module.columns.data_ptr() for module in group}) == 1
        assert layer.down.columns.data_ptr() != layer.up[0].columns.data_ptr()
    assert hf_model.lm_head.columns is hf_model.model.embed_tokens.columns
    assert hf_model.lm_head.rows is hf_model.model.embed_tokens.rows


@pytest.mark.parametrize("name", ["self_attn.q_proj", "self_attn.v_proj", "mlp.gate_proj"])
def test_a_matrix_may_be_that_of_another_layer(name: str) -> None:
    torch.manual_seed(0)
    shape = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    hf_model: Any = LlamaForCausalLM(LlamaConfig(**shape, vocab_size=60)).eval()
    first, second = (hf_model.get_submodule(f"model.layers.{number}.{name}") for number in (0, 1))
    second.weight = first.weight
    expected = logits_of(hf_model)
    quantize_weights(hf_model, "int8")
    packed = [hf_model.get_submodule(f"model.layers.{number}.{name}") for number in (0, 1)]
    assert packed[0].rows is packed[1].rows
    assert (logits_of(hf_model) - expected).norm() / expected.norm() < 0.02


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("kind", ["gpt2", "llama"])
def test_tied_and_untied_heads(kind: str, tied: bool) -> None:
    torch.manual_seed(0)
    shape: dict[str, Any] = {"vocab_size": 60, "tie_word_embeddings": tied}
    hf_model: Any = (
        GPT2LMHeadModel(GPT2Config(n_embd=16, n_layer=1, n_head=2, n_positions=32, **shape))
        if kind == "gpt2"
        else LlamaForCausalLM(
            LlamaConfig(hidden_size=16, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2, **shape)
        )
    )
    ids = torch.tensor([[5, 6, 7]])
    with torch.no_grad():
        expected = hf_model.eval()(ids).logits
        quantize_weights(hf_model, "int8")
        found = hf_model(ids).logits
    assert (found - expected).norm() / expected.norm() < 0.02
    assert isinstance(hf_model.lm_head, Int8Linear)


@pytest.mark.long
def test_it_is_measured_like_any_other(packed: ConversationModel, folder: Path) -> None:
    whole = ConversationModel.from_pretrained(folder, device="cpu")
    talks = [["Hello", "Hi, how are you?", "Good, thanks!"], ["Bye", "See you"]]
    assert packed.evaluate(talks).loss == pytest.approx(whole.evaluate(talks).loss, rel=0.01)
    assert packed.score(CONTEXT, ["Fine"]) == pytest.approx(whole.score(CONTEXT, ["Fine"]), rel=0.02)


# What cannot be done


def test_it_can_neither_be_saved_nor_trained(packed: ConversationModel, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="a quantized model cannot be saved: load it without quantize"):
        packed.save_pretrained(tmp_path / "model")
    with pytest.raises(ConfigError, match=r"only adapters over them: pass lora=True .*, or load it without quantize"):
        packed.fit([CONTEXT], max_steps=1, output_dir=str(tmp_path / "model"))
    assert list(tmp_path.iterdir()) == []


def test_its_parameters_are_those_of_the_whole_model(packed: ConversationModel, folder: Path) -> None:
    whole = ConversationModel.from_pretrained(folder, device="cpu")
    assert count_parameters(packed.hf_model) == count_parameters(whole.hf_model) == whole.hf_model.num_parameters()
    assert repr(packed) == repr(whole)


def test_another_way_is_refused_before_weights_are_loaded() -> None:
    with pytest.raises(ConfigError, match="quantize is 'int3': it must be int8"):
        ConversationModel.from_pretrained("owner/no-such-model", quantize="int3")


def test_it_is_for_cpus() -> None:
    with torch.device("meta"):
        hf_model = GPT2LMHeadModel(GPT2Config(n_embd=8, n_layer=1, n_head=1))
    with pytest.raises(ConfigError, match="is for CPUs, but the model is on meta"):
        quantize_weights(hf_model, "int8")


def test_adapters_are_merged_first(unigram_folder: Path, tmp_path: Path) -> None:
    model = ConversationModel.from_pretrained(unigram_folder, device="cpu")
    model.fit([CONTEXT], max_steps=3, learning_rate=1e-2, lora=True, output_dir=str(tmp_path / "lora"))
    expected = model.evaluate([CONTEXT]).loss
    packed = ConversationModel.from_pretrained(tmp_path / "lora", device="cpu", quantize="int8")
    assert packed.evaluate([CONTEXT]).loss == pytest.approx(expected, rel=0.01)


# Architectures


def logits_of(hf_model: Any) -> torch.Tensor:
    with torch.no_grad():
        logits: torch.Tensor = hf_model(torch.tensor([[5, 6, 7, 9, 12]]), use_cache=False).logits
    return logits.float()


def loss_of(model: ConversationModel) -> float:
    try:
        return model.evaluate([CONTEXT]).loss
    except LogitsError:  # Mamba's states overflow in float16
        return math.nan


def require_packed_like_whole(folder: Path, dtype: str, bound: float = 0.05) -> None:
    whole, packed = (
        ConversationModel.from_pretrained(folder, device="cpu", dtype=dtype, quantize=quantize)
        for quantize in (None, "int8")
    )
    assert packed.hf_model.dtype == getattr(torch, dtype)
    expected, found = logits_of(whole.hf_model), logits_of(packed.hf_model)
    assert (found - expected).norm() / expected.norm() < bound
    loss = loss_of(packed)
    assert loss == pytest.approx(loss_of(whole), rel=0.02, nan_ok=dtype == "float16")
    with pytest.raises(LogitsError) if math.isnan(loss) else nullcontext():
        assert packed.generate(["Hello"], max_new_tokens=3).response_tokens


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
@pytest.mark.parametrize("name", ["gpt2", "mamba", "mixtral", "olmo"])
def test_every_architecture_and_dtype_works(make_once: Callable[..., Path], name: str, dtype: str) -> None:
    """GPT-2 has norms that take one dtype, Mamba reads weights, experts stay as they are, OLMo has nothing else."""
    require_packed_like_whole(make_once(f"tiny-{name}", lambda folder: save_tiny(folder, name)), dtype)


@pytest.mark.parametrize("name", ["rwkv", "jamba", "llama4_text", "gptj"])
@pytest.mark.slow
def test_other_architectures_work(make_once: Callable[..., Path], name: str) -> None:
    folder = make_once(f"tiny-{name}", lambda folder: save_tiny(folder, name))
    # RWKV squares activations: 7 bits of them make its logits 7 % wrong, in float32 too. In Jamba one of five tokens
    # takes another expert, of two whose scores differ by 0.004.
    require_packed_like_whole(folder, "bfloat16", 0.1 if name in ("rwkv", "jamba") else 0.05)


def test_an_embedding_that_scales_is_packed_and_kept_once(make_once: Callable[..., Path]) -> None:
    folder = make_once("tiny-gemma2", lambda folder: save_tiny(folder, "gemma2"))
    whole = ConversationModel.from_pretrained(folder, device="cpu")
    packed = ConversationModel.from_pretrained(folder, device="cpu", quantize="int8")
    assert isinstance(packed.hf_model.get_input_embeddings(), Int8Embedding)
    assert max(weight.numel() for weight in packed.hf_model.parameters()) == 32  # norms
    expected, found = logits_of(whole.hf_model), logits_of(packed.hf_model)
    assert (found - expected).norm() / expected.norm() < 0.02


def test_a_weight_that_is_read_stays_and_so_does_one_tied_to_it(make_once: Callable[..., Path]) -> None:
    folder = make_once("tiny-mamba", lambda folder: save_tiny(folder, "mamba"))
    hf_model: Any = ConversationModel.from_pretrained(folder, device="cpu", quantize="int8").hf_model
    assert hf_model.lm_head.weight is hf_model.get_input_embeddings().weight
    assert isinstance(hf_model.backbone.layers[0].mixer.in_proj, Int8Linear)


def test_little_packed_is_reported(make_once: Callable[..., Path], caplog: pytest.LogCaptureFixture) -> None:
    folder = make_once("tiny-mixtral", lambda folder: save_tiny(folder, "mixtral"))
    caplog.set_level("INFO")
    ConversationModel.from_pretrained(folder, device="cpu", quantize="int8", dtype="bfloat16")
    assert "activations stay bfloat16" in caplog.text
    assert "mlp.experts.gate_up_proj (4 x 128 x 32), stay as they are and take the same memory" in caplog.text


def test_a_model_that_cannot_generate_is_refused_unchanged() -> None:
    shape = {"vocab_size": 60, "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1}
    hf_model: Any = GPTNeoXForCausalLM(GPTNeoXConfig(**shape, num_attention_heads=2))
    hf_model.gpt_neox.final_layer_norm = nn.LayerNorm(5)
    with pytest.raises(ConfigError, match=r"begins with a trial response, which failed \(RuntimeError: .*leave it out"):
        quantize_weights(hf_model, "int8")
    assert not is_quantized(hf_model)
    assert type(hf_model.get_output_embeddings()) is nn.Linear
