"""A model must not see the token that it predicts."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from architectures import byte_tokenizer, save_tiny
from transformers import AutoConfig, BertConfig, BertLMHeadModel

from convmodel import ConversationModel
from convmodel.errors import ModelLoadError
from convmodel.hf_model.causality import KNOWN_CAUSAL, require_causal


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("name", ["bert", "roberta"])
def test_a_masked_model_is_refused(name: str, dtype: str, tmp_path: Path) -> None:
    save_tiny(tmp_path, name)
    with pytest.raises(ModelLoadError, match=f"this {name} predicts a token from those after it, .* set is_decoder to"):
        ConversationModel.from_pretrained(tmp_path, device="cpu", dtype=dtype)


def test_a_known_type_that_is_set_to_see_all_tokens_is_refused(tmp_path: Path) -> None:
    save_tiny(tmp_path, "gemma3_text", use_bidirectional_attention=True)
    with pytest.raises(ModelLoadError, match="this gemma3_text predicts a token from those after it"):
        ConversationModel.from_pretrained(tmp_path, device="cpu")


def test_one_made_from_its_configuration_is_refused_too() -> None:
    config = AutoConfig.for_model("bert", vocab_size=258, hidden_size=32, num_hidden_layers=1, num_attention_heads=2)
    with pytest.raises(ModelLoadError, match="this bert predicts a token from those after it"):
        ConversationModel.from_config(config, byte_tokenizer())


@pytest.mark.parametrize("name", ["bert", "bart", "ctrl", "jamba", "mamba", "mixtral", "phimoe", "rwkv"])
def test_causal_models_pass(name: str, make_once: Callable[..., Path]) -> None:
    settings = {"is_decoder": True} if name == "bert" else {}
    folder = make_once(f"causal-{name}", lambda folder: save_tiny(folder, name, **settings))
    assert name not in KNOWN_CAUSAL
    assert ConversationModel.from_pretrained(folder, device="cpu").generate(["Hi"], max_new_tokens=1).response_tokens


def test_a_model_that_counts_positions_from_another_number_is_refused(tmp_path: Path) -> None:
    """As RoBERTa does, whose positions begin behind its padding id; transformers' generate gives them from 0."""
    save_tiny(tmp_path, "roberta", is_decoder=True)
    with pytest.raises(ModelLoadError, match="roberta cannot be used: it does not count positions from 0, as gener"):
        ConversationModel.from_pretrained(tmp_path, device="cpu")


def test_a_model_that_cannot_be_called_so_is_refused() -> None:
    shape: dict[str, Any] = {"vocab_size": 60, "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    hf_model = BertLMHeadModel(BertConfig(is_decoder=True, intermediate_size=32, **shape))
    hf_model.bert.embeddings.LayerNorm = torch.nn.LayerNorm(5)
    with pytest.raises(ModelLoadError, match=r"bert cannot be used: a trial pass .* ended in RuntimeError: .*: choose"):
        require_causal(hf_model)
    del hf_model.bert.embeddings
    with pytest.raises(ModelLoadError, match=r"bert cannot be used: a trial pass .* ended in AttributeError"):
        require_causal(hf_model)
