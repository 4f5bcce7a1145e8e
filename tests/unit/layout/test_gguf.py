"""The tokenizer and the config of a GGUF file: the same ids, ends and settings as those of the model it was made of."""

import logging
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
from chat_templates import CHATML
from gguf_files import write_gguf
from transformers import AutoTokenizer, LlamaConfig

from convmodel.errors import ModelLoadError
from convmodel.layout.gguf import load_gguf_config, load_gguf_tokenizer
from convmodel.layout.tokenizer import ConversationTokenizer
from convmodel.layout.tokenizer_files import load_config, load_tokenizer
from tokenizers_zoo import SENTENCES

PROBES = [*SENTENCES, "1  23\n\n4", "x\t 5's", "½ ²", "<tool> <|im_end|>", "", "  ", "\r\n"]


def ids(tokenizer: ConversationTokenizer) -> list[list[int]]:
    return [tokenizer.encode(text) for text in PROBES]


def test_texts_get_the_ids_of_the_model_it_was_made_of(smollm2_folder: Path, tmp_path: Path) -> None:
    path = write_gguf(tmp_path / "model.gguf", smollm2_folder)
    original = AutoTokenizer.from_pretrained(smollm2_folder)
    hf_tokenizer, ends = load_gguf_tokenizer(path)

    assert hf_tokenizer.get_vocab() == original.get_vocab()
    assert hf_tokenizer(PROBES)["input_ids"] == original(PROBES)["input_ids"]
    assert ends == (original.eos_token_id,)
    added = [
        {index: (str(token), token.special) for index, token in tokenizer.added_tokens_decoder.items()}
        for tokenizer in (hf_tokenizer, original)
    ]
    assert added[0] == added[1]
    in_layout = [ConversationTokenizer.from_pretrained(source) for source in (path, smollm2_folder)]
    assert ids(in_layout[0]) == ids(in_layout[1])


@pytest.mark.parametrize(("pre", "warned"), [("gpt-2", False), ("qwen2", False), ("falcon", True), (None, True)])
def test_rules_that_are_not_known_are_warned_of(
    smollm2_folder: Path, tmp_path: Path, pre: str | None, warned: bool, caplog: pytest.LogCaptureFixture
) -> None:
    path = write_gguf(tmp_path / "model.gguf", smollm2_folder, pre=pre)
    with caplog.at_level(logging.WARNING):
        load_gguf_tokenizer(path)
    assert ("splits texts by rules" in caplog.text) is warned
    assert not warned or f"({pre or 'not named'})" in caplog.text


def test_rules_that_transformers_lacks_split_as_those_of_another_name(smollm2_folder: Path, tmp_path: Path) -> None:
    def split(pre: str) -> list[Any]:
        backend = load_gguf_tokenizer(write_gguf(tmp_path / f"{pre}.gguf", smollm2_folder, pre=pre))[
            0
        ].backend_tokenizer
        return [[piece for piece, _ in backend.pre_tokenizer.pre_tokenize_str(text)] for text in PROBES]

    assert split("stablelm2") == split("qwen2") != split("gpt-2")
    assert split("chatglm-bpe") == split("llama-bpe") != split("qwen2")
    assert split("starcoder") == split("smollm") != split("gpt-2")


def test_a_word_of_the_vocabulary_that_no_merges_lead_to_is_a_token(smollm2_folder: Path, tmp_path: Path) -> None:
    # As in Llama 3's vocabulary, which was trained with another library.
    for pre, expected in (("llama-bpe", True), ("qwen2", False)):
        hf_tokenizer, _ = load_gguf_tokenizer(write_gguf(tmp_path / f"{pre}.gguf", smollm2_folder, pre=pre))
        assert hf_tokenizer.backend_tokenizer.model.ignore_merges is expected
        assert (hf_tokenizer("Hi").input_ids[0] == hf_tokenizer.bos_token_id) is expected


def test_the_chat_template_and_the_ends_are_used_as_those_of_a_folder(smollm2_folder: Path, tmp_path: Path) -> None:
    end = AutoTokenizer.from_pretrained(smollm2_folder).convert_tokens_to_ids("<|endoftext|>")
    extra = {"tokenizer.chat_template": CHATML, "tokenizer.ggml.eot_token_id": end}
    path = write_gguf(tmp_path / "model.gguf", smollm2_folder, extra=extra)
    tokenizer = ConversationTokenizer.from_pretrained(path)
    assert tokenizer.layout.name == "template"
    assert end in tokenizer.stop_token_ids
    _, layout, stop_ids = load_tokenizer(str(path), {})
    assert layout is None
    assert stop_ids == (tokenizer.end_token_id, end)
    assert ConversationTokenizer.from_pretrained(path, layout="separator").layout.name == "separator"


def test_the_config_is_that_of_the_model(smollm2_folder: Path, tmp_path: Path) -> None:
    config = load_config(str(write_gguf(tmp_path / "model.gguf", smollm2_folder)), {})
    original = LlamaConfig.from_pretrained(smollm2_folder)
    names = ("hidden_size", "num_hidden_layers", "num_key_value_heads", "head_dim", "vocab_size", "rope_parameters")
    assert [getattr(config, name) for name in names] == [getattr(original, name) for name in names]
    assert config.tie_word_embeddings is original.tie_word_embeddings


def test_scaled_positions_are_kept_or_refused(smollm2_folder: Path, tmp_path: Path) -> None:
    def rope(**scaling: Any) -> Any:
        extra = {f"llama.rope.scaling.{name}": value for name, value in scaling.items()}
        return load_gguf_config(write_gguf(tmp_path / "model.gguf", smollm2_folder, extra=extra)).rope_parameters

    assert rope(type="none")["rope_type"] == "default"
    assert {"rope_type": "linear", "factor": 8.0}.items() <= rope(type="linear", factor=8.0).items()
    yarn = rope(type="yarn", factor=4.0, original_context_length=32)
    assert {"rope_type": "yarn", "original_max_position_embeddings": 32}.items() <= yarn.items()
    with pytest.raises(ModelLoadError, match=r"scales its positions \(longrope\) in a way that is not read from GGUF"):
        rope(type="longrope", factor=4.0)


@pytest.mark.parametrize(
    ("architecture", "layers", "width", "heads", "size", "scalar"),
    [
        ("gemma2", 26, 2304, 8, 256, 256),
        ("gemma2", 42, 3584, 16, 256, 256),
        ("gemma2", 46, 4608, 32, 128, 144),
        ("gemma3", 48, 3840, 16, 256, 256),
        ("gemma3", 62, 5376, 32, 128, 168),
        ("gemma3", 6, 64, 4, 32, 32),
    ],
)
def test_attention_of_gemma_has_the_scale_of_its_size(
    architecture: str, layers: int, width: int, heads: int, size: int, scalar: int, tmp_path: Path
) -> None:
    path = tmp_path / "model.gguf"
    writer = gguf.GGUFWriter(str(path), architecture)
    writer.add_block_count(layers)
    writer.add_embedding_length(width)
    writer.add_head_count(heads)
    writer.add_key_length(size)
    writer.add_token_list(["a", "b", "c"])
    writer.add_tensor("output_norm.weight", np.ones(width, dtype=np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()

    config = load_gguf_config(path)

    assert (config.num_hidden_layers, config.hidden_size, config.head_dim) == (layers, width, size)
    assert config.query_pre_attn_scalar == scalar


def test_an_architecture_that_transformers_does_not_read_is_named(smollm2_folder: Path, tmp_path: Path) -> None:
    path = write_gguf(tmp_path / "model.gguf", smollm2_folder, architecture="rwkv7")
    with pytest.raises(ModelLoadError, match="is of the architecture rwkv7, which transformers cannot read from GGUF"):
        ConversationTokenizer.from_pretrained(path)


def test_a_tokenizer_that_transformers_does_not_read_is_named(smollm2_folder: Path, tmp_path: Path) -> None:
    path = write_gguf(tmp_path / "model.gguf", smollm2_folder)
    path.write_bytes(path.read_bytes().replace(b"gpt2", b"rwkv", 1))
    with pytest.raises(ModelLoadError, match=r"has a tokenizer \(rwkv\) that transformers cannot read from GGUF"):
        ConversationTokenizer.from_pretrained(path)


@pytest.mark.parametrize(("prefix", "pieces"), [(True, ["▁", "a", "▁", "b"]), (False, ["a", "▁", "b"])])
def test_a_sentencepiece_vocabulary_has_a_space_in_front_if_the_file_says_so(prefix: bool, pieces: list[str]) -> None:
    from transformers import LlamaTokenizer

    from convmodel.layout.gguf import _split_as_llama_cpp

    entries = ("<unk>", "<s>", "</s>", "▁", "a", "b")
    hf_tokenizer: Any = LlamaTokenizer(vocab={entry: index for index, entry in enumerate(entries)}, merges=[])
    backend = hf_tokenizer.backend_tokenizer
    _split_as_llama_cpp(backend, {"tokenizer_type": "llama", "add_prefix_space": prefix}, Path("model.gguf"))
    for text, expected in (("a b", pieces), (" a", ["▁", *pieces[: len(pieces) - 2]])):
        encoding = backend.encode(text, add_special_tokens=False)
        assert encoding.tokens == expected
        assert backend.decode(encoding.ids) == text
