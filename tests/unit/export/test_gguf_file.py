"""A GGUF file: its metadata, its tensors, and models that have none."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from export_models import make_model
from gguf import GGUFReader

from convmodel import ConversationModel
from convmodel.errors import ConfigError
from convmodel.export.gguf_file import UNPROVEN, file_size, gguf_model, write_gguf
from convmodel.export.origin import Origin
from convmodel.layout.tokenizer import ConversationTokenizer

ORIGIN = Origin("My bot", "owner/base", "apache-2.0")


def read(path: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    reader = GGUFReader(path)
    return {name: field.contents() for name, field in reader.fields.items()}, {t.name: t for t in reader.tensors}


@pytest.mark.parametrize("kind", ["f32", "q4_0"])
def test_metadata_say_what_the_model_is(tmp_path: Path, kind: str) -> None:
    loaded = make_model("llama 3")
    loaded.hf_model.generation_config.do_sample = True
    loaded.hf_model.generation_config.temperature = 0.5
    model = gguf_model(loaded.hf_model, loaded.tokenizer)
    types = write_gguf(model, tmp_path / "x.gguf", kind, ORIGIN)
    fields, tensors = read(tmp_path / "x.gguf")
    assert sum(types.values()) == len(tensors) == len(model.tensors)
    expected = {
        "general.architecture": "llama",
        "general.name": "My bot",
        "general.license": "apache-2.0",
        "general.base_model.0.name": "base",
        "general.base_model.0.repo_url": "https://huggingface.co/owner/base",
        "general.file_type": {"f32": 0, "q4_0": 2}[kind],
        "general.sampling.temp": 0.5,
        "general.sampling.top_p": 1.0,
        "llama.context_length": 512,
        "llama.attention.head_count": 4,
        "llama.attention.head_count_kv": 2,
        "llama.rope.dimension_count": 16,
        "tokenizer.ggml.pre": model.vocabulary.pre_tokenizer,
        "tokenizer.ggml.eos_token_id": loaded.tokenizer.end_token_id,
        "tokenizer.ggml.eot_token_id": loaded.tokenizer.end_token_id,
        "tokenizer.ggml.add_bos_token": False,
        "tokenizer.chat_template": model.templates.jinja(),
    }
    assert {name: fields[name] for name in expected} == expected
    assert UNPROVEN not in fields
    size = (tmp_path / "x.gguf").stat().st_size
    assert file_size(model, kind) <= size < file_size(model, kind) + 200_000


def test_the_model_s_own_sampling_goes_and_what_llama_cpp_lacks_is_named() -> None:
    loaded = make_model("llama")
    config = loaded.hf_model.generation_config
    config.do_sample, config.repetition_penalty, config.min_p, config.typical_p = True, 1.1, 0.05, 0.9
    model = gguf_model(loaded.hf_model, loaded.tokenizer)
    assert (model.sampling["repetition_penalty"], model.sampling["min_p"]) == (1.1, 0.05)
    assert model.dropped == ["typical_p"]
    config.typical_p = 1.0
    assert gguf_model(loaded.hf_model, loaded.tokenizer).dropped == []


def test_settings_for_chats_come_first_and_candidates_are_named() -> None:
    loaded = make_model("llama")
    chat = {"temperature": 0.6, "top_p": 0.9, "min_p": 0.1, "candidates": 16, "repeat_weight": 3.0}
    loaded.hf_model.generation_config.chat = chat
    model = gguf_model(loaded.hf_model, loaded.tokenizer)
    assert model.sampling == {"temperature": 0.6, "top_p": 0.9, "top_k": 0, "min_p": 0.1, "repetition_penalty": 1.0}
    assert model.dropped == ["candidates", "repeat_weight"]


def test_tensors_are_the_weights(tmp_path: Path) -> None:
    loaded = make_model("gpt2")
    model = gguf_model(loaded.hf_model, loaded.tokenizer)
    write_gguf(model, tmp_path / "x.gguf", "f32", Origin("x"), proven=False)
    fields, tensors = read(tmp_path / "x.gguf")
    assert fields[UNPROVEN] is True
    weights = loaded.hf_model.transformer.h[1].mlp.c_fc.weight.detach().numpy()
    np.testing.assert_array_equal(tensors["blk.1.ffn_up.weight"].data, weights.T)
    assert "output.weight" not in tensors  # it is the embedding


def test_a_beginning_of_text_token_is_switched_on_if_the_tokenizer_adds_it(
    bytelevel_folder: Path, tmp_path: Path
) -> None:
    loaded = ConversationModel.from_pretrained(bytelevel_folder)
    model = gguf_model(loaded.hf_model, loaded.tokenizer)
    write_gguf(model, tmp_path / "x.gguf", "f32", Origin("x"))
    fields, _ = read(tmp_path / "x.gguf")
    bos = loaded.tokenizer.layout.bos_id
    assert (fields["tokenizer.ggml.add_bos_token"], fields["tokenizer.ggml.bos_token_id"]) == (True, bos)
    assert model.templates.bos
    assert model.templates.bos not in model.templates.go()


def test_token_types_are_refused_with_the_way_out() -> None:
    model = make_model("gpt2")
    tokenizer = ConversationTokenizer(model.tokenizer.hf_tokenizer, use_token_types=True)
    with pytest.raises(ConfigError, match=r"trained with token types, .*convmodel fit --token-types off"):
        gguf_model(model.hf_model, tokenizer)


def test_more_ends_than_a_file_has_are_refused() -> None:
    loaded = make_model("llama")
    loaded.tokenizer.layout = type(loaded.tokenizer.layout)(
        **{name: getattr(loaded.tokenizer.layout, name) for name in loaded.tokenizer.layout.__slots__}
        | {"stop_ids": (4, 5, 6)}
    )
    with pytest.raises(ConfigError, match="has 4 tokens that end a response, and a GGUF file has 3"):
        gguf_model(loaded.hf_model, loaded.tokenizer)


def test_an_unknown_type_is_an_error() -> None:
    loaded = make_model("llama")
    with pytest.raises(ConfigError, match="'q9': it must be one of f32, f16"):
        file_size(gguf_model(loaded.hf_model, loaded.tokenizer), "q9")
