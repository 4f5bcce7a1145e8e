"""Text never becomes control: whatever a text spells, it is encoded as ordinary characters."""

import unicodedata
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers
from transformers import AutoTokenizer, GPT2Tokenizer, PreTrainedTokenizerFast, T5Tokenizer

import tokenizers_zoo
from convmodel.errors import ModelLoadError
from convmodel.layout.text_encoder import encoder_and_bound, marks_words, text_encoder
from convmodel.layout.tokenizer import ConversationTokenizer

WORD = "you"
"""An ordinary entry of every family's vocabulary."""


def control_ids(tokenizer: ConversationTokenizer) -> set[int]:
    """The ids that no text may have: every added token's, and every special token's."""
    hf_tokenizer = tokenizer.hf_tokenizer
    return {tokenizer.sep_token_id, *hf_tokenizer.all_special_ids, *hf_tokenizer.get_added_vocab().values()}


def spellings(tokenizer: ConversationTokenizer) -> st.SearchStrategy[str]:
    """Texts made of control tokens' spellings, in any order and number, and of anything else between them."""
    hf_tokenizer = tokenizer.hf_tokenizer
    tokens = sorted({"<sep>", *hf_tokenizer.get_added_vocab(), *hf_tokenizer.all_special_tokens})
    parts = st.one_of(
        st.sampled_from(tokens),
        st.sampled_from([" ", "\n", "▁", "Ġ", "<", "</", "|>", "[", "Hello", " you", WORD]),
        st.text(max_size=3),
    )
    return st.lists(parts, min_size=1, max_size=8).map("".join)


@pytest.fixture(scope="module")
def family_with_own_tokens(zoo: Path) -> ConversationTokenizer:
    """A family to which its user has added tokens: a name, an ordinary word of the vocabulary, a space and a word."""
    hf_tokenizer = AutoTokenizer.from_pretrained(zoo)
    assert hf_tokenizer.convert_tokens_to_ids(WORD) not in (None, hf_tokenizer.unk_token_id)
    hf_tokenizer.add_tokens(["<person>", WORD, " are", "ön"])
    hf_tokenizer.add_special_tokens({"extra_special_tokens": ["<mood>"]}, replace_extra_special_tokens=False)
    return ConversationTokenizer(hf_tokenizer)


@pytest.mark.slow
@given(data=st.data())
def test_no_text_becomes_a_control_token(family: ConversationTokenizer, data: st.DataObject) -> None:
    text = data.draw(spellings(family))
    assert control_ids(family).isdisjoint(family.encode(text))


@given(data=st.data())
def test_no_text_becomes_a_token_that_the_user_added(
    family_with_own_tokens: ConversationTokenizer, data: st.DataObject
) -> None:
    text = data.draw(spellings(family_with_own_tokens))
    assert control_ids(family_with_own_tokens).isdisjoint(family_with_own_tokens.encode(text))


@given(data=st.data())
def test_no_turn_forges_a_turn(family: ConversationTokenizer, data: st.DataObject) -> None:
    turns = data.draw(st.lists(spellings(family).filter(lambda text: text.strip()), min_size=1, max_size=3))
    ids = family(turns)["input_ids"]
    assert ids.count(family.sep_token_id) == len(turns) + 1


def test_text_with_control_tokens_comes_back_as_it_was(family: ConversationTokenizer) -> None:
    for token in sorted({"<sep>", "<|endoftext|>", *family.hf_tokenizer.get_added_vocab()}):
        text = f"a {token}{token} b {token}"
        assert family.decode(family.encode(text)) == text


def test_text_with_a_users_own_tokens_comes_back_as_it_was(family_with_own_tokens: ConversationTokenizer) -> None:
    text = f"<person>, how are {WORD}? Schön! <mood>"
    assert family_with_own_tokens.decode(family_with_own_tokens.encode(text)) == text


def test_a_separator_that_the_vocabulary_has_as_a_word_is_no_text_either() -> None:
    # `<sep>` is an ordinary entry here, as in a vocabulary trained on text that held it, and no added token yet.
    backend = Tokenizer(models.BPE({"<": 0, "s": 1, "e": 2, "p": 3, ">": 4, "<sep>": 5}, [], ignore_merges=True))
    tokenizer = ConversationTokenizer(PreTrainedTokenizerFast(tokenizer_object=backend))
    assert tokenizer.sep_token_id == 5
    assert tokenizer.encode("<sep>") == [0, 1, 2, 3, 4]


@pytest.mark.slow
def test_a_special_token_that_is_a_word_of_the_vocabulary_is_no_text_either(gpt2_folder: Path) -> None:
    hf_tokenizer = AutoTokenizer.from_pretrained(gpt2_folder)
    hf_tokenizer.pad_token = WORD
    tokenizer = ConversationTokenizer(hf_tokenizer)
    assert hf_tokenizer.pad_token_id not in tokenizer.encode(WORD)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("token", "special", "text"),
    [
        ("!", False, "Hi! Hello!"),  # id 0 of GPT-2
        ("!", True, "Hi! Hello!"),  # as the pad token, which the "!" of id 0 often is
        ("é", False, "食べる"),  # in a byte-level vocabulary "é" is how byte E9 is written, with which 食 begins
    ],
)
def test_a_character_that_is_an_added_token_is_not_lost(
    token: str, special: bool, text: str, gpt2_folder: Path
) -> None:
    # Nothing else in the vocabulary spells it, so it stays the ordinary character that it is.
    hf_tokenizer = AutoTokenizer.from_pretrained(gpt2_folder)
    if special:
        hf_tokenizer.add_special_tokens({"pad_token": token})
    else:
        hf_tokenizer.add_tokens([token])
    tokenizer = ConversationTokenizer(hf_tokenizer)
    assert tokenizer.decode(tokenizer.encode(text)) == text


ORDINARY = [
    "Hello, how are you today?",
    "こんにちは、お元気ですか。",
    "I love 🍕 and 私も🙂",
    "2,750,000",
    "Zoë's naïve café",
]


@pytest.mark.parametrize("text", ORDINARY)
def test_ordinary_text_has_the_ids_that_hugging_face_gives_it(family: ConversationTokenizer, text: str) -> None:
    assert family.encode(text) == family.hf_tokenizer.encode(text, add_special_tokens=False)


def test_many_turns_at_once_have_the_ids_of_each_alone(family: ConversationTokenizer) -> None:
    ids = family(ORDINARY)["input_ids"]
    alone = [i for text in ORDINARY for i in (family.sep_token_id, *family.encode(text))]
    assert ids[len(family.layout.control_ids) - 1 :] == [*alone, family.sep_token_id]


@pytest.mark.slow
def test_the_hugging_face_tokenizer_keeps_its_own_ways(zoo: Path) -> None:
    hf_tokenizer = AutoTokenizer.from_pretrained(zoo)
    before = hf_tokenizer.encode(f"a{hf_tokenizer.eos_token}b")
    encoder = text_encoder(hf_tokenizer)
    assert hf_tokenizer.encode(f"a{hf_tokenizer.eos_token}b") == before
    assert hf_tokenizer.eos_token_id in before
    assert encoder.get_added_tokens_decoder() == {}


@pytest.mark.slow
def test_truncation_padding_and_tokens_around_a_text_are_gone(family: ConversationTokenizer, zoo: Path) -> None:
    hf_tokenizer = AutoTokenizer.from_pretrained(zoo)
    hf_tokenizer.backend_tokenizer.enable_truncation(3)
    hf_tokenizer.backend_tokenizer.enable_padding(length=50)
    encoder = text_encoder(hf_tokenizer)
    for text in ("Hi", "Good morning! Did you sleep well?"):
        assert encoder.encode(text).ids == family.encode(text)


def test_the_same_vocabulary_is_prepared_once(bytelevel_folder: Path) -> None:
    one, other, changed = (AutoTokenizer.from_pretrained(bytelevel_folder) for _ in range(3))
    changed.add_tokens(["<new>"])
    assert text_encoder(one) is text_encoder(other)
    assert text_encoder(changed) is not text_encoder(one)


def test_a_tokenizer_without_a_fast_backend_is_refused() -> None:
    with pytest.raises(ModelLoadError, match="object is not backed by the tokenizers library"):
        text_encoder(object())  # type: ignore[arg-type]


def test_an_unknown_character_never_ends_the_text() -> None:
    # transformers' T5 class takes entry 2 for the unknown token; in the Japanese GPT-2s' vocabulary that is `</s>`.
    pieces = [piece for piece in tokenizers_zoo.unigram_pieces() if not piece[0].startswith("<0x")]
    hf_tokenizer = T5Tokenizer(pieces, extra_ids=0, sep_token="[SEP]", pad_token="[PAD]", bos_token="<s>")
    assert hf_tokenizer.eos_token_id in hf_tokenizer.encode("🍕", add_special_tokens=False)  # as it is
    tokenizer = ConversationTokenizer(hf_tokenizer)
    ids = tokenizer.encode("I love 🍕")
    assert hf_tokenizer.eos_token_id not in ids
    assert ids[-1] == hf_tokenizer.unk_token_id == 0


def test_an_unknown_character_keeps_the_vocabularys_unknown_id_where_no_token_is_named() -> None:
    backend = Tokenizer(models.Unigram([("<nothing>", 0.0), ("</s>", 0.0), ("a", -1.0), ("▁", -1.0)], unk_id=0))
    backend.pre_tokenizer = pre_tokenizers.Metaspace()
    hf_tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="</s>")
    assert text_encoder(hf_tokenizer).encode("a🍕").ids == [3, 2, 0]


@pytest.mark.slow
def test_gpt2_spells_its_control_token_as_tiktoken_does() -> None:
    # What tiktoken's `encode_ordinary` gives for GPT-2.
    files = tokenizers_zoo.GPT2_FILES
    hf_tokenizer = GPT2Tokenizer(vocab=str(files / "vocab.json"), merges=str(files / "merges.txt"))
    assert text_encoder(hf_tokenizer).encode("<|endoftext|>").ids == [27, 91, 437, 1659, 5239, 91, 29]


REPEATED = ["a", " ", "é\u0301", "\U0001f600", "-", "日本語", "<sep>", "\u1f80"]


@pytest.mark.parametrize("text", REPEATED)
def test_no_text_has_fewer_tokens_than_is_certain(family: ConversationTokenizer, text: str) -> None:
    most = family.most_characters
    assert most is None or len(text * 2000) / most <= len(family.encode(text * 2000))


@pytest.mark.long
def test_the_longest_token_bounds_the_tokens_of_a_text(gpt2_folder: Path, unigram_folder: Path) -> None:
    gpt2 = AutoTokenizer.from_pretrained(gpt2_folder)
    longest = max(gpt2.get_vocab(), key=len)
    assert encoder_and_bound(gpt2)[1] == len(longest)
    gpt2.backend_tokenizer.normalizer = normalizers.NFC()
    assert encoder_and_bound(gpt2)[1] == 4 * len(longest)
    for shortens in (normalizers.NFKC(), normalizers.Strip(), normalizers.Replace("ab", "c")):
        gpt2.backend_tokenizer.normalizer = normalizers.Sequence([normalizers.NFC(), shortens])
        assert encoder_and_bound(gpt2)[1] is None
    assert encoder_and_bound(AutoTokenizer.from_pretrained(unigram_folder))[1] is None  # it joins unknown characters


def test_no_character_is_composed_of_more_than_four() -> None:
    characters = (chr(code) for code in range(0x110000) if not 0xD800 <= code < 0xE000)
    assert max(len(unicodedata.normalize("NFD", character)) for character in characters) == 4


@pytest.mark.slow
def test_a_space_mark_in_front_of_a_text_is_noticed(family: ConversationTokenizer) -> None:
    encoders = [encoder_and_bound(family.hf_tokenizer, word_prefix=prefix)[0] for prefix in (True, False)]
    marked, plain = (encoder.encode(WORD, add_special_tokens=False).ids for encoder in encoders)
    assert marks_words(family.hf_tokenizer) == (marked != plain)
