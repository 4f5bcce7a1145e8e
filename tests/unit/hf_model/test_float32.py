"""In float32 a model is what it is when saved and loaded, not what half precision had made of it."""

from pathlib import Path
from typing import Any

import pytest
import torch
from architectures import save_tiny

from convmodel import ConversationModel
from convmodel.hf_model.float32 import to_float32

TALKS = [["Hello", "Hi, how are you?", "Good, thanks!"], ["Did you eat?", "Yes, soup."]]


@pytest.mark.parametrize("options", [{}, {"lora": True, "merge": True}])
def test_what_is_saved_is_what_was_measured(options: dict[str, Any], tmp_path: Path) -> None:
    save_tiny(tmp_path / "base", "gemma2", hidden_size=40)  # its root is rounded in bfloat16
    model = ConversationModel.from_pretrained(tmp_path / "base", device="cpu", dtype="bfloat16")
    result = model.fit(TALKS, TALKS, max_steps=2, precision="fp32", output_dir=str(tmp_path / "model"), **options)
    loaded = ConversationModel.from_pretrained(tmp_path / "model", device="cpu")
    assert loaded.hf_model.dtype == model.hf_model.dtype == torch.float32
    assert model.evaluate(TALKS).loss == loaded.evaluate(TALKS).loss
    assert result.validation is not None
    if not options:  # adapters learn on the base in half precision
        assert result.validation.loss == loaded.evaluate(TALKS).loss


def test_float32_stays_as_it_is(tmp_path: Path) -> None:
    save_tiny(tmp_path, "gemma2", hidden_size=40)
    model = ConversationModel.from_pretrained(tmp_path, device="cpu")
    embedding: Any = model.hf_model.get_input_embeddings()
    embedding.embed_scale.fill_(3.0)
    to_float32(model.hf_model)
    assert embedding.embed_scale.item() == 3.0
