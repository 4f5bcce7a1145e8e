"""Evaluation mode for the duration of a block."""

import pytest
from torch import nn
from transformers import GPT2Config, GPT2LMHeadModel

from convmodel.hf_model.eval_mode import evaluation_mode


@pytest.mark.parametrize("fails", [False, True])
def test_each_module_gets_its_mode_back(fails: bool) -> None:
    sizes = {"n_layer": 1, "n_head": 1, "n_embd": 4, "n_positions": 8, "vocab_size": 10}
    hf_model = GPT2LMHeadModel(GPT2Config(**sizes, bos_token_id=0, eos_token_id=0)).train()
    frozen: nn.Module = hf_model.transformer.h[0].eval()
    before = [module.training for module in hf_model.modules()]

    try:
        with evaluation_mode(hf_model):
            assert not any(module.training for module in hf_model.modules())
            if fails:
                raise KeyError
    except KeyError:
        pass

    assert [module.training for module in hf_model.modules()] == before
    assert not frozen.training
    assert hf_model.training
