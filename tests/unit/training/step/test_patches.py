"""A model is changed for the time of a run, and comes back as it was."""

import pytest
import torch
from architectures import SETTINGS
from torch import nn
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    OPTConfig,
    OPTForCausalLM,
)

from convmodel.training.step.patches import checkpointing, compiled, dropout_of, fused_activations, without_noise

IDS = torch.arange(24).reshape(2, 12)


@pytest.fixture
def gpt2() -> GPT2LMHeadModel:
    torch.manual_seed(0)
    return GPT2LMHeadModel(GPT2Config(vocab_size=61, n_embd=16, n_layer=2, n_head=2, n_positions=32))


def test_gpt2s_activation_becomes_one_operation_and_comes_back(gpt2: GPT2LMHeadModel) -> None:
    before = [block.mlp.act for block in gpt2.transformer.h]
    gpt2.eval()
    plain = gpt2(IDS).logits

    with fused_activations(gpt2):
        assert all(isinstance(block.mlp.act, nn.GELU) for block in gpt2.transformer.h)
        fused = gpt2(IDS).logits

    torch.testing.assert_close(fused, plain, rtol=1e-5, atol=1e-6)
    assert [block.mlp.act for block in gpt2.transformer.h] == before


def test_dropout_is_said_to_change_nothing_where_there_is_none(
    gpt2: GPT2LMHeadModel, caplog: pytest.LogCaptureFixture
) -> None:
    config = LlamaConfig(vocab_size=61, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=8)
    llama = LlamaForCausalLM(config)
    with dropout_of(gpt2, 0.5), dropout_of(llama, 0.0):
        assert not caplog.records
    with dropout_of(llama, 0.5):
        [record] = caplog.records
    assert record.message.startswith("dropout changes nothing: this model has only attention dropout")


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


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # torch's own, at its import of the compiler
def test_a_model_is_compiled_inside_only(gpt2: GPT2LMHeadModel) -> None:
    with compiled(gpt2.transformer, True):
        assert gpt2.transformer._compiled_call_impl is not None
    assert gpt2.transformer._compiled_call_impl is None


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_what_the_caller_compiled_stays_compiled(gpt2: GPT2LMHeadModel) -> None:
    gpt2.compile()
    own = gpt2._compiled_call_impl

    with compiled(gpt2, True):
        assert gpt2._compiled_call_impl is not own
    assert gpt2._compiled_call_impl is own


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("phimoe", {"router_jitter_noise": 0.1, "input_jitter_noise": 0.1}),
        ("mixtral", {"router_jitter_noise": 0.3}),
        ("bart", {"decoder_layerdrop": 0.9}),
    ],
)
def test_nothing_else_is_random_in_training(name: str, settings: dict[str, float]) -> None:
    torch.manual_seed(0)
    chosen = SETTINGS[name] | {"vocab_size": 61, "pad_token_id": 0} | settings
    hf_model = AutoModelForCausalLM.from_config(AutoConfig.for_model(name, **chosen))
    state = [dict(vars(module)) for module in hf_model.modules()]

    with dropout_of(hf_model, 0.0), without_noise(hf_model):
        hf_model.train()
        logits = [hf_model(IDS, use_cache=False).logits for _ in range(4)]
        expected = hf_model.eval()(IDS, use_cache=False).logits
        hf_model.train()

    assert all(torch.equal(each, expected) for each in logits)
    assert all(module.training for module in hf_model.modules())
    assert [{**vars(module)}.keys() for module in hf_model.modules()] == [each.keys() for each in state]
    assert any(not torch.equal(hf_model(IDS, use_cache=False).logits, expected) for _ in range(4))
