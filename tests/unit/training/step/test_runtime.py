"""The machine: precisions, threads and memory are chosen for the time of a run, and a model comes back as it was."""

import platform
from pathlib import Path

import pytest
import torch
from torch import nn
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM, OPTConfig, OPTForCausalLM

from convmodel.errors import ConfigError
from convmodel.training.step import runtime as machine
from convmodel.training.step.patches import checkpointing, compiled, dropout_of, fused_activations
from convmodel.training.step.runtime import choose_precision, computes_bf16, training_runtime

CPU = torch.device("cpu")
IDS = torch.arange(24).reshape(2, 12)


@pytest.fixture
def gpt2() -> GPT2LMHeadModel:
    torch.manual_seed(0)
    return GPT2LMHeadModel(GPT2Config(vocab_size=61, n_embd=16, n_layer=2, n_head=2, n_positions=32))


@pytest.mark.parametrize(("able", "chosen"), [(True, "bf16"), (False, "fp32")])
def test_auto_is_bf16_where_the_processor_has_units_for_it(
    able: bool, chosen: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"amx_bf16": able, "avx512_bf16": False, "avx2": True})

    assert choose_precision("auto", CPU) == chosen
    assert choose_precision("fp32", CPU) == "fp32"
    assert choose_precision("bf16", CPU) == "bf16"  # slow without units, but right


def test_a_torch_that_cannot_tell_computes_in_fp32(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(torch.cpu, "get_capabilities")

    assert not computes_bf16(CPU)


@pytest.mark.skipif(not Path("/proc/cpuinfo").exists(), reason="only Linux lists the flags")
def test_what_torch_says_of_the_processor_is_what_the_kernel_says() -> None:
    flags = Path("/proc/cpuinfo").read_text(encoding="utf-8")

    assert computes_bf16(CPU) == ("amx_bf16" in flags or "avx512_bf16" in flags)


def test_fp16_needs_a_gpu() -> None:
    with pytest.raises(ConfigError, match="fp16, which needs a GPU: use bf16, fp32 or auto"):
        choose_precision("fp16", CPU)


def test_threads_are_those_of_the_cores_that_may_be_used_and_come_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS")
    monkeypatch.setattr(machine.os, "sched_getaffinity", lambda pid: {0, 1, 2}, raising=False)
    monkeypatch.setattr(machine.sys, "platform", "linux")
    before = torch.get_num_threads()
    torch.set_num_threads(5)
    try:
        with training_runtime(CPU):
            assert torch.get_num_threads() == 3
        assert torch.get_num_threads() == 5
        monkeypatch.setenv("OMP_NUM_THREADS", "5")
        with training_runtime(CPU):
            assert torch.get_num_threads() == 5  # the user's word
    finally:
        torch.set_num_threads(before)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc is told to keep memory")
def test_memory_is_kept_inside_and_given_back_afterwards() -> None:
    def resident() -> int:
        return int(Path("/proc/self/statm").read_text(encoding="utf-8").split()[1]) * 4096

    size = 400 << 20
    with training_runtime(CPU):
        torch.ones(size // 4)
        kept = resident()
        torch.ones(size // 8)
        assert resident() - kept < size // 8  # the same memory again
    assert kept - resident() > size // 2


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc is told to keep memory")
@pytest.mark.parametrize(
    "name", ["MALLOC_MMAP_MAX_", "MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_", "GLIBC_TUNABLES", "LD_PRELOAD"]
)
def test_memory_is_left_to_a_user_who_has_decided(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[bool] = []
    monkeypatch.setattr(machine, "_keep_freed_memory", lambda keep: told.append(keep) or True)
    for each in machine._MEMORY_VARIABLES:
        monkeypatch.delenv(each, raising=False)

    with training_runtime(CPU):
        pass
    assert told == [True, False]
    monkeypatch.setenv(name, "1")
    with training_runtime(CPU):
        pass
    assert told == [True, False]


def test_gpt2s_activation_becomes_one_operation_and_comes_back(gpt2: GPT2LMHeadModel) -> None:
    before = [block.mlp.act for block in gpt2.transformer.h]
    gpt2.eval()
    plain = gpt2(IDS).logits

    with fused_activations(gpt2):
        assert all(isinstance(block.mlp.act, nn.GELU) for block in gpt2.transformer.h)
        fused = gpt2(IDS).logits

    torch.testing.assert_close(fused, plain, rtol=1e-5, atol=1e-6)
    assert [block.mlp.act for block in gpt2.transformer.h] == before


@pytest.mark.parametrize("rate", [0.0, 0.5])
def test_dropout_is_that_of_the_run_inside(gpt2: GPT2LMHeadModel, rate: float) -> None:
    config = LlamaConfig(vocab_size=61, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=8)
    llama = LlamaForCausalLM(config)
    attention = llama.model.layers[0].self_attn
    assert attention.attention_dropout == 0.0

    with dropout_of(gpt2, rate), dropout_of(llama, rate):
        rates = {name: layer.p for name, layer in gpt2.named_modules() if isinstance(layer, nn.Dropout)}
        assert {name.rpartition(".")[2]: value for name, value in rates.items()} == {
            "drop": rate,
            "resid_dropout": rate,
            "dropout": rate,
            "attn_dropout": 0.0,
        }
        assert attention.attention_dropout == 0.0

    assert {layer.p for layer in gpt2.modules() if isinstance(layer, nn.Dropout)} == {0.1}
    assert attention.attention_dropout == 0.0


def test_rates_that_modules_keep_themselves_are_set_too() -> None:
    torch.manual_seed(0)
    small = {"hidden_size": 16, "ffn_dim": 16, "word_embed_proj_dim": 16}
    config = OPTConfig(vocab_size=61, num_hidden_layers=1, num_attention_heads=2, **small, attention_dropout=0.2)
    opt = OPTForCausalLM(config).train()
    layer = opt.model.decoder.layers[0]
    assert (layer.dropout, layer.self_attn.dropout) == (0.1, 0.2)

    with dropout_of(opt, 0.3):
        assert (layer.dropout, layer.self_attn.dropout) == (0.3, 0.0)
    with dropout_of(opt, 0.0):
        assert torch.equal(opt(IDS).logits, opt(IDS).logits)
    assert not torch.equal(opt(IDS).logits, opt(IDS).logits)
    assert (layer.dropout, layer.self_attn.dropout) == (0.1, 0.2)


def test_loras_own_dropout_is_left_to_its_setting() -> None:
    model = nn.ModuleDict({"lora_dropout": nn.Dropout(0.3), "dropout": nn.Dropout(0.1)})

    with dropout_of(model, 0.5):
        assert (model["lora_dropout"].p, model["dropout"].p) == (0.3, 0.5)


def test_checkpointed_gradients_are_the_same(gpt2: GPT2LMHeadModel) -> None:
    def gradients() -> list[torch.Tensor]:
        gpt2.zero_grad()
        gpt2(IDS, labels=IDS, use_cache=False).loss.backward()
        return [parameter.grad.clone() for parameter in gpt2.parameters()]

    with dropout_of(gpt2.train(), 0.0):
        plain = gradients()
        with checkpointing(gpt2, True):
            assert gpt2.transformer.gradient_checkpointing
            again = gradients()

    assert not gpt2.transformer.gradient_checkpointing
    for one, other in zip(plain, again, strict=True):
        torch.testing.assert_close(one, other)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # torch's own, at its import of the compiler
def test_a_model_is_compiled_inside_only(gpt2: GPT2LMHeadModel) -> None:
    with compiled(gpt2.transformer, True):
        assert gpt2.transformer._compiled_call_impl is not None
    assert gpt2.transformer._compiled_call_impl is None


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_what_the_caller_compiled_stays_compiled(gpt2: GPT2LMHeadModel) -> None:
    gpt2.compile()
    own = gpt2._compiled_call_impl

    with compiled(gpt2, True):
        assert gpt2._compiled_call_impl is not own
    assert gpt2._compiled_call_impl is own
