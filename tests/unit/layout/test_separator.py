"""Which token separates turns, and the chat template that renders the layout for plain transformers."""

from pathlib import Path

import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import AutoTokenizer, PreTrainedTokenizerBase, PreTrainedTokenizerFast

import tokenizers_zoo
from convmodel.conversation import Conversation
from convmodel.layout.tokenizer import ConversationTokenizer

MESSAGES = [
    {"role": "system", "content": "You are kind."},
    {"role": "user", "content": "Hello, how are you today?"},
    {"role": "assistant", "content": "元気です 🍕\nAnd you?"},
    {"role": "user", "content": " 私も🙂"},
]
SAME_ROLE_TWICE = [
    {"role": "user", "content": "Good morning!"},
    {"role": "user", "content": "Did you sleep well?"},
    {"role": "assistant", "content": "はい、元気です。"},
    {"role": "assistant", "content": "Thank you."},
]


def bytelevel(*words: str) -> PreTrainedTokenizerBase:
    """A byte-level tokenizer with no special token at all, whose vocabulary ends with some words."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    backend = Tokenizer(models.BPE({piece: i for i, piece in enumerate([*alphabet, *words])}, []))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=backend)


def rendered(hf_tokenizer: PreTrainedTokenizerBase, messages: list[dict[str, str]]) -> list[int]:
    return list(hf_tokenizer.apply_chat_template(messages, tokenize=True, return_dict=False))


@pytest.mark.parametrize(
    ("family_name", "shown", "index", "entries"),
    [
        ("unigram", "[SEP]", 4, 466),  # its own
        ("gpt2", "<sep>", 50256, 50257),  # unknown is end-of-text
        ("bytelevel", "<sep>", 403, 404),  # added: no unknown token
        ("smollm2", "<sep>", 401, 402),  # added: unknown and end-of-text differ
    ],
)
def test_each_family_has_the_separator_that_the_contract_gives_it(
    family_name: str, shown: str, index: int, entries: int, zoo_folders: dict[str, Path]
) -> None:
    tokenizer = ConversationTokenizer.from_pretrained(zoo_folders[family_name])
    assert (tokenizer.sep_token, tokenizer.sep_token_id, len(tokenizer)) == (shown, index, entries)
    assert tokenizer.separator_added is (family_name in ("bytelevel", "smollm2"))
    assert tokenizer.hf_tokenizer.sep_token_id == index


@pytest.mark.slow
def test_a_tokenizers_own_separator_comes_before_all(gpt2_folder: Path) -> None:
    hf_tokenizer = AutoTokenizer.from_pretrained(gpt2_folder)
    hf_tokenizer.add_tokens(["<sep>"])
    hf_tokenizer.add_special_tokens({"sep_token": "[SEP]"})
    tokenizer = ConversationTokenizer(hf_tokenizer)
    assert (tokenizer.sep_token, tokenizer.sep_token_id, tokenizer.separator_added) == ("[SEP]", 50258, False)


@pytest.mark.slow
def test_sep_in_the_vocabulary_comes_before_the_unknown_token(gpt2_folder: Path) -> None:
    hf_tokenizer = AutoTokenizer.from_pretrained(gpt2_folder)
    hf_tokenizer.add_tokens(["<sep>"])
    tokenizer = ConversationTokenizer(hf_tokenizer)
    assert (tokenizer.sep_token, tokenizer.sep_token_id, tokenizer.separator_added) == ("<sep>", 50257, False)


def test_sep_in_the_vocabulary_keeps_its_id_through_two_rounds(tmp_path: Path) -> None:
    tokenizer = ConversationTokenizer(bytelevel("<sep>"))
    assert (tokenizer.sep_token_id, tokenizer.separator_added) == (256, False)
    before = tokenizer(["Hi <sep>", "Hello"])
    for number in range(2):
        tokenizer.save_pretrained(tmp_path / str(number))
        assert AutoTokenizer.from_pretrained(tmp_path / str(number)).sep_token_id == 256
        tokenizer = ConversationTokenizer.from_pretrained(tmp_path / str(number))
        assert tokenizer(["Hi <sep>", "Hello"]) == before


def test_no_unknown_token_and_no_last_token_are_not_one_token() -> None:
    tokenizer = ConversationTokenizer(bytelevel())
    assert (tokenizer.sep_token, tokenizer.sep_token_id, tokenizer.separator_added) == ("<sep>", 256, True)


def test_the_separator_is_added_once() -> None:
    hf_tokenizer = bytelevel()
    first, second = ConversationTokenizer(hf_tokenizer), ConversationTokenizer(hf_tokenizer)
    assert first.sep_token_id == second.sep_token_id == 256
    assert len(second) == 257


@pytest.mark.parametrize("messages", [MESSAGES, SAME_ROLE_TWICE], ids=["system", "same role twice"])
def test_the_template_renders_the_layout(family: ConversationTokenizer, messages: list[dict[str, str]]) -> None:
    assert rendered(family.hf_tokenizer, messages) == family(messages)["input_ids"]


@pytest.mark.slow
def test_the_template_joins_turns_of_one_speaker_where_there_are_no_types(zoo: Path) -> None:
    tokenizer = ConversationTokenizer.from_pretrained(zoo, use_token_types=False)
    ids = rendered(tokenizer.hf_tokenizer, SAME_ROLE_TWICE)
    assert ids == tokenizer(SAME_ROLE_TWICE)["input_ids"]
    assert ids == tokenizer(["Good morning!\nDid you sleep well?", "はい、元気です。\nThank you."])["input_ids"]


def test_the_template_marks_the_beginning_of_each_turn_where_the_tokenizer_marks_only_the_first() -> None:
    # As Llama 2: the mark of a beginning is put before a whole text, not after a special token inside it.
    backend = Tokenizer(models.Unigram(tokenizers_zoo.unigram_pieces(), unk_id=0, byte_fallback=True))
    backend.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first")
    backend.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    hf_tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="<unk>", sep_token="[SEP]")
    tokenizer = ConversationTokenizer(hf_tokenizer)
    messages = Conversation(["How are you?", "I am fine", "はい"]).to_messages()
    assert rendered(hf_tokenizer, messages) == tokenizer(messages)["input_ids"]


@pytest.mark.slow
def test_a_tokenizer_that_no_template_can_follow_gets_none_and_a_warning(
    gpt2_folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    # Hugging Face splits every space out as an added token; the layout does not.
    hf_tokenizer = AutoTokenizer.from_pretrained(gpt2_folder, chat_template="{{ messages }}")
    hf_tokenizer.add_tokens([" "])
    tokenizer = ConversationTokenizer(hf_tokenizer)
    assert tokenizer.hf_tokenizer.chat_template is None
    assert "no chat template renders this tokenizer's layout" in caplog.text
