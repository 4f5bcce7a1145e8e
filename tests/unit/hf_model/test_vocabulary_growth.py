"""Growing a vocabulary: fewer tokens for another language, and nothing else is another than before."""

import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer, models
from transformers import GPT2Config, PhiConfig, PreTrainedTokenizerFast

from convmodel import ConversationModel, ConversationTokenizer
from convmodel.data.reading.reader import read_conversations
from convmodel.errors import ConfigError
from convmodel.layout.vocabulary import train_vocabulary

JAPANESE = Path(__file__).parents[2] / "data/chatterbot/japanese"
OTHERS = ["Hello there, how are you?", "<sep> <|endoftext|>", "naïve café 🙂", "\n\n  tabs\t", "привет"]


@pytest.fixture(scope="module")
def turns() -> list[str]:
    return [turn for conversation in read_conversations(JAPANESE) for turn in conversation.turns]


Load = Callable[[], ConversationModel]


def grow_vocabulary(model: ConversationModel, texts: Iterable[str], entries: int) -> ConversationModel:
    model.grow_vocabulary(texts, entries)
    return model


@pytest.fixture(scope="module", params=["gpt2", "builtin:chitchat", "bytelevel"])
def load(request: pytest.FixtureRequest) -> Load:
    """A real vocabulary with an added separator, one that has it inside, and a model without token types."""
    folders = {"gpt2": "gpt2_folder", "bytelevel": "bytelevel_folder"}
    name = request.param
    place = request.getfixturevalue(folders[name]) if name in folders else name
    return lambda: ConversationModel.from_pretrained(place)


@pytest.fixture(scope="module")
def grown(load: Load, turns: list[str]) -> ConversationModel:
    """The model of `load` with 200 new entries; read it, don't change it."""
    return grow_vocabulary(load(), turns, 200)


@pytest.mark.long
def test_another_language_takes_fewer_tokens_and_all_text_comes_back(
    load: Load, grown: ConversationModel, turns: list[str]
) -> None:
    before = load()

    assert len(grown.tokenizer) == len(before.tokenizer) + 200
    for text in [*turns, *OTHERS]:
        assert grown.tokenizer.decode(grown.tokenizer.encode(text)) == text
    sizes = [sum(len(model.tokenizer.encode(turn)) for turn in turns) for model in (before, grown)]
    assert sizes[1] < 0.6 * sizes[0]


def test_text_without_new_pieces_is_encoded_as_ever_and_means_the_same(load: Load, grown: ConversationModel) -> None:
    before = load()
    old = before.hf_model.state_dict()
    logits = before.hf_model(torch.tensor([before.tokenizer(OTHERS[:3])["input_ids"]])).logits

    for text in OTHERS:
        assert grown.tokenizer.encode(text) == before.tokenizer.encode(text)
    assert grown.tokenizer(OTHERS[:3]) == before.tokenizer(OTHERS[:3])
    for name, tensor in grown.hf_model.state_dict().items():
        assert torch.equal(tensor[: len(old[name])], old[name]), name
    again = grown.hf_model(torch.tensor([grown.tokenizer(OTHERS[:3])["input_ids"]])).logits
    torch.testing.assert_close(again[..., : logits.shape[-1]], logits, rtol=1e-5, atol=1e-5)


@pytest.mark.slow
def test_a_new_row_is_the_mean_of_those_it_joins(gpt2_folder: Path) -> None:
    """`zqzq` is z, q, z, q; first z+q are joined, then zq+zq."""
    model = ConversationModel.from_pretrained(gpt2_folder)
    pieces = model.tokenizer.encode("zq")
    rows = model.hf_model.get_input_embeddings().weight[pieces].detach().clone()

    grown = grow_vocabulary(model, ["zqzq"] * 3, 2)

    [whole] = grown.tokenizer.encode("zqzq")
    row = grown.hf_model.get_input_embeddings().weight[whole]
    assert whole == len(grown.tokenizer) - 1
    torch.testing.assert_close(row, rows.mean(dim=0))


@pytest.mark.slow
def test_it_is_saved_and_loaded_also_by_plain_transformers(
    grown: ConversationModel, turns: list[str], tmp_path: Path
) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    grown.save_pretrained(tmp_path / "grown")

    again = ConversationModel.from_pretrained(tmp_path / "grown")
    plain, tokenizer = (kind.from_pretrained(tmp_path / "grown") for kind in (AutoModelForCausalLM, AutoTokenizer))

    for text in [*turns, *OTHERS]:
        assert again.tokenizer.encode(text) == grown.tokenizer.encode(text)
    text = turns[0]
    assert tokenizer(text, add_special_tokens=False)["input_ids"] == grown.tokenizer.encode(text)
    assert plain.get_input_embeddings().weight.shape[0] >= len(grown.tokenizer)
    assert again.score(["Hello"], turns[:2]) == pytest.approx(grown.score(["Hello"], turns[:2]))


@pytest.mark.slow
def test_it_grows_the_same_every_time_and_can_grow_again(
    load: Load, grown: ConversationModel, turns: list[str]
) -> None:
    again = grow_vocabulary(load(), iter(turns), 200)
    twice = grow_vocabulary(grow_vocabulary(load(), turns, 100), turns, 100)

    states = [model.tokenizer.hf_tokenizer.backend_tokenizer.to_str() for model in (grown, again)]
    assert states[0] == states[1]
    assert [twice.tokenizer.encode(turn) for turn in turns] == [grown.tokenizer.encode(turn) for turn in turns]


def test_padding_follows_the_new_vocabulary() -> None:
    tokenizer = ConversationTokenizer(train_vocabulary(["hello you fine"] * 3, 290))
    tokenizer.hf_tokenizer.add_special_tokens({"pad_token": "<pad>"})  # of the tokenizer alone, until it grows
    size = {"vocab_size": len(tokenizer), "n_embd": 8, "n_layer": 1, "n_head": 1}
    model = ConversationModel.from_config(GPT2Config(**size), tokenizer)

    grow_vocabulary(model, ["hello you fine"] * 3, 5)

    assert model.hf_model.generation_config.pad_token_id == model.tokenizer.pad_token_id


@pytest.mark.slow
def test_pairs_that_stand_once_make_no_entry(gpt2_folder: Path) -> None:
    model = ConversationModel.from_pretrained(gpt2_folder)

    assert len(grow_vocabulary(model, ["zqzx", "こ"], 100).tokenizer) == 50257


def made_of(state: dict[str, Any], **config: Any) -> ConversationModel:
    """A tiny model of random weights over a vocabulary in its serialised form."""
    backend = Tokenizer.from_str(json.dumps(state))
    hf_tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="<|endoftext|>", sep_token="<sep>")
    rows = max(hf_tokenizer.get_vocab().values()) + 1
    sizes = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    return ConversationModel.from_config(PhiConfig(vocab_size=rows, **sizes, **config), hf_tokenizer)


def test_ids_that_are_left_out_are_not_taken(turns: list[str]) -> None:
    state = json.loads(train_vocabulary(["low lower"] * 3, 262).backend_tokenizer.to_str())
    last = max(state["model"]["vocab"], key=state["model"]["vocab"].__getitem__)
    state["model"]["vocab"][last] += 7
    before = made_of(state)

    grown = grow_vocabulary(made_of(state), turns, 30)

    assert grown.tokenizer.encode("low lower") == before.tokenizer.encode("low lower")
    assert sorted(grown.tokenizer.hf_tokenizer.get_vocab().values())[-30:] == list(range(269, 299))
    assert all(grown.tokenizer.decode(grown.tokenizer.encode(turn)) == turn for turn in turns)


def test_a_heads_bias_grows_too() -> None:
    model = made_of(json.loads(train_vocabulary(["a"], 258).backend_tokenizer.to_str()))
    model.hf_model.lm_head.bias.data = torch.arange(258.0)
    pieces = model.tokenizer.encode("zq")

    grown = grow_vocabulary(model, ["zq"] * 3, 1)

    [whole] = grown.tokenizer.encode("zq")
    assert grown.hf_model.lm_head.bias[whole] == sum(pieces) / 2
    torch.testing.assert_close(grown.hf_model.lm_head.weight[whole], grown.hf_model.lm_head.weight[pieces].mean(dim=0))


@pytest.mark.slow
def test_a_vocabulary_larger_than_a_plane_of_unicode_grows(turns: list[str]) -> None:
    state = json.loads(train_vocabulary(["a"], 258).backend_tokenizer.to_str())
    state["model"]["vocab"] |= {f"z{number}": 258 + number for number in range(140_000)}

    grown = grow_vocabulary(made_of(state), turns, 20)

    assert len(grown.tokenizer) == 258 + 140_000 + 20
    assert all(grown.tokenizer.decode(grown.tokenizer.encode(turn)) == turn for turn in turns)


def test_a_sentencepiece_bpe_does_not_grow() -> None:
    """Its bytes are pieces such as `<0xE3>`, which joined would be no bytes any more."""
    pieces = ["<unk>", "<|endoftext|>", "<sep>", *(f"<0x{byte:02X}>" for byte in range(256)), "a", "b"]
    state = json.loads(Tokenizer(models.BPE(byte_fallback=True, unk_token="<unk>")).to_str())
    state["model"]["vocab"] = {piece: index for index, piece in enumerate(pieces)}
    state["pre_tokenizer"] = {"type": "Metaspace", "replacement": "\u2581", "prepend_scheme": "first", "split": True}

    with pytest.raises(ConfigError, match="the vocabulary is a BPE of another kind: only a byte-level BPE grows"):
        grow_vocabulary(made_of(state), ["おはよう"] * 3, 5)


@pytest.mark.slow
def test_what_cannot_grow(gpt2_folder: Path, unigram_folder: Path) -> None:
    with pytest.raises(ConfigError, match="entries is 0: it must be at least 1"):
        grow_vocabulary(ConversationModel.from_pretrained(gpt2_folder), ["a"], 0)
    with pytest.raises(ConfigError, match="the vocabulary is Unigram: only a byte-level BPE grows"):
        grow_vocabulary(ConversationModel.from_pretrained(unigram_folder), ["a"], 10)
    with pytest.raises(ConfigError, match="a quantized model cannot be given more entries: load it without quantize"):
        grow_vocabulary(ConversationModel.from_pretrained(gpt2_folder, device="cpu", quantize="int8"), ["a"], 10)
