"""Models from GGUF files: the weights of the model they were made of, as floats that can be trained and saved."""

import logging
from pathlib import Path

import numpy as np
import pytest
import torch
from chat_templates import CHATML
from gguf_files import write_gguf

from convmodel import ConversationModel
from convmodel.errors import ModelLoadError

CONTEXT = ["Hello, how are you today?"]


def test_the_weights_are_those_of_the_model(
    smollm2_folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = write_gguf(tmp_path / "model.gguf", smollm2_folder)
    with caplog.at_level(logging.INFO):
        model = ConversationModel.from_pretrained(path, device="cpu")
    original = ConversationModel.from_pretrained(smollm2_folder, device="cpu")
    loaded = model.hf_model.state_dict()
    assert all(torch.equal(loaded[name], weight) for name, weight in original.hf_model.state_dict().items())
    assert model.score(CONTEXT, ["Fine"]) == original.score(CONTEXT, ["Fine"])
    assert "model.gguf: the F32 weights (" in caplog.text
    assert "quality" not in caplog.text


def test_quantized_weights_become_floats_that_are_saved_as_any(
    smollm2_folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = write_gguf(tmp_path / "model.gguf", smollm2_folder, kind="Q8_0", extra={"tokenizer.chat_template": CHATML})
    with caplog.at_level(logging.INFO):
        model = ConversationModel.from_pretrained(path, device="cpu")
    assert "model.gguf: the Q8_0 weights (" in caplog.text
    assert "are loaded as float32, which takes" in caplog.text
    assert "the quality stays that of the quantized file" in caplog.text
    assert model.hf_model.dtype == torch.float32
    separated = {"device": "cpu", "layout": "separator"}
    original = ConversationModel.from_pretrained(smollm2_folder, **separated).hf_model.state_dict()
    loaded = ConversationModel.from_pretrained(path, **separated).hf_model.state_dict()
    error = max(float((loaded[name] - weight).abs().max() / weight.abs().max()) for name, weight in original.items())
    assert 0 < error < 0.01

    model.save_pretrained(tmp_path / "saved")
    assert not list((tmp_path / "saved").glob("*.gguf"))
    assert "quantization" not in (tmp_path / "saved/config.json").read_text()
    again = ConversationModel.from_pretrained(tmp_path / "saved", device="cpu")
    assert again.generate(CONTEXT, max_new_tokens=8) == model.generate(CONTEXT, max_new_tokens=8)
    assert again.tokenizer.layout.template == model.tokenizer.layout.template


def test_a_dtype_is_taken(smollm2_folder: Path, tmp_path: Path) -> None:
    path = write_gguf(tmp_path / "model.gguf", smollm2_folder)
    assert ConversationModel.from_pretrained(path, device="cpu", dtype="bfloat16").hf_model.dtype == torch.bfloat16
    option = ConversationModel.from_pretrained(tmp_path, device="cpu", gguf_file="model.gguf")
    assert option.hf_model.name_or_path == str(path)


@pytest.mark.slow
def test_adapters_are_loaded_with_their_file(
    smollm2_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_gguf(tmp_path / "base.gguf", smollm2_folder, kind="Q8_0")
    monkeypatch.chdir(tmp_path)
    model = ConversationModel.from_pretrained("base.gguf", device="cpu")
    model.fit([[*CONTEXT, "I am fine."]] * 4, max_steps=2, lora={"r": 2}, output_dir="adapters", seed=1)
    assert (tmp_path / "adapters/adapter_config.json").exists()

    monkeypatch.chdir("/")  # the name of the base is a whole path
    adapted = ConversationModel.from_pretrained(tmp_path / "adapters", device="cpu")
    assert adapted.generate(CONTEXT, max_new_tokens=8) == model.generate(CONTEXT, max_new_tokens=8)
    write_gguf(tmp_path / "base.gguf", smollm2_folder, kind="F32")
    with pytest.raises(ModelLoadError):
        ConversationModel.from_pretrained(tmp_path / "adapters")


def test_weights_that_the_model_does_not_have_are_an_error(smollm2_folder: Path, tmp_path: Path) -> None:
    tensors = {"blk.0.attn_q.bias": np.zeros(32, np.float32)}
    path = write_gguf(tmp_path / "model.gguf", smollm2_folder, tensors=tensors)
    with pytest.raises(
        ModelLoadError, match=r"has 1 weights that llama does not have .*, such as blk\.0\.attn_q\.bias"
    ):
        ConversationModel.from_pretrained(path)


def test_the_factors_of_llama_3_become_its_scaling(smollm2_folder: Path, tmp_path: Path) -> None:
    from transformers import LlamaConfig
    from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

    scaling = {
        "rope_type": "llama3", "rope_theta": 10000.0, "factor": 32.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8192,
    }  # fmt: skip
    config = LlamaConfig.from_pretrained(smollm2_folder, rope_parameters=scaling)
    scaled, _ = ROPE_INIT_FUNCTIONS["llama3"](config, torch.device("cpu"))
    plain = 1.0 / 10000.0 ** (torch.arange(len(scaled)) / len(scaled))
    factors = (plain / scaled).numpy().astype(np.float32)
    assert factors.max() > 1

    path = write_gguf(tmp_path / "model.gguf", smollm2_folder, tensors={"rope_freqs.weight": factors})
    rope = ConversationModel.from_pretrained(path, device="cpu").hf_model.config.rope_parameters
    assert rope.pop("factor") == pytest.approx(scaling.pop("factor"), rel=1e-3)
    assert rope == scaling

    path = write_gguf(tmp_path / "other.gguf", smollm2_folder, tensors={"rope_freqs.weight": factors[::-1].copy()})
    with pytest.raises(ModelLoadError, match="scales its positions in a way that is not that of Llama 3"):
        ConversationModel.from_pretrained(path)
