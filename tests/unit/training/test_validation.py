"""Which processes share a validation."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel, Phi3Config

from convmodel.evaluation.processes import Processes
from convmodel.training import validation
from convmodel.training.validation import processes_of

CPU = torch.device("cpu")
ARGS: Any = SimpleNamespace(process_index=2, world_size=3, device=CPU)
LONG_ROPE = Phi3Config(
    hidden_size=16,
    num_attention_heads=2,
    original_max_position_embeddings=8,
    max_position_embeddings=64,
    rope_parameters={
        "rope_type": "longrope",
        "rope_theta": 1e4,
        "short_factor": [1.0] * 4,
        "long_factor": [2.0] * 4,
        "original_max_position_embeddings": 8,
    },
    pad_token_id=0,
)


@pytest.mark.parametrize("sharded", [False, True])
def test_all_processes_share_the_validation_in_step_if_they_share_the_weights(
    sharded: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(validation, "is_sharded", lambda model: sharded)
    model = GPT2LMHeadModel(GPT2Config(vocab_size=61, n_embd=16, n_layer=1, n_head=2, n_positions=32))

    assert processes_of(model, ARGS) == Processes(2, 3, sharded, CPU)


@pytest.mark.parametrize(("sharded", "count"), [(False, 3), (True, 1)])
def test_each_measures_all_if_the_number_of_forward_passes_depends_on_the_batch(
    sharded: bool, count: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(validation, "is_sharded", lambda model: sharded)
    model: Any = SimpleNamespace(config=LONG_ROPE)

    assert processes_of(model, ARGS).count == count
