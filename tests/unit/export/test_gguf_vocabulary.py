"""A tokenizer as llama.cpp's vocabulary."""

from pathlib import Path

import pytest
from export_models import MODELS, make_model
from gguf import TokenType

from convmodel import ConversationModel, ConversationTokenizer
from convmodel.errors import ConfigError
from convmodel.export.gguf_vocabulary import vocabulary_of


@pytest.mark.parametrize("name", MODELS)
def test_there_is_one_entry_a_row_and_each_has_a_name_of_its_own(name: str) -> None:
    model = make_model(name)
    rows = model.hf_model.config.vocab_size
    vocabulary = vocabulary_of(model.tokenizer, rows)
    assert len(set(vocabulary.tokens)) == len(vocabulary.kinds) == len(vocabulary.tokens) == rows
    assert vocabulary.kinds.count(TokenType.UNUSED) == rows - len(model.tokenizer)


def test_control_tokens_get_names_that_no_text_has() -> None:
    model = make_model("llama")
    first, second = (vocabulary_of(model.tokenizer, 420) for _ in range(2))
    ids = model.tokenizer.layout.markers.end_ids
    assert ids <= first.names.keys()
    for index, name in first.names.items():
        plain = model.tokenizer.hf_tokenizer.convert_ids_to_tokens(index)
        assert name.startswith(f"{plain}-")
        assert len(name) == len(plain) + 17
        assert first.kinds[index] == TokenType.CONTROL
        assert name != second.names[index]


def test_control_tokens_that_are_not_special_are_hidden_too(smollm2_folder: Path) -> None:
    tokenizer = ConversationTokenizer.from_pretrained(smollm2_folder)
    tool = tokenizer.hf_tokenizer.convert_tokens_to_ids("<tool>")
    assert tool in vocabulary_of(tokenizer, len(tokenizer)).names


def test_space_marks_go_with_scores_and_bytes_with_merges() -> None:
    marked, by_bytes = (vocabulary_of(make_model(name).tokenizer, 800) for name in ("llama, space marks", "llama"))
    assert (marked.model, marked.pre_tokenizer, marked.merges) == ("llama", None, ())
    assert marked.kinds.count(TokenType.BYTE) == 256
    assert max(marked.scores) == 0.0
    assert (by_bytes.model, by_bytes.pre_tokenizer, by_bytes.scores) == ("gpt2", "gpt-2", ())
    assert by_bytes.merges


def test_other_kinds_of_vocabularies_are_refused(unigram_folder: Path) -> None:
    model = ConversationModel.from_pretrained(unigram_folder, use_token_types=False)
    with pytest.raises(ConfigError, match="its tokenizer is a Unigram model"):
        vocabulary_of(model.tokenizer, len(model.tokenizer))
