"""How the built-in model is made: which entries a vocabulary keeps, pieces of conversations, and pseudonyms."""

import importlib
import json
from collections import Counter
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from tokenizers.pre_tokenizers import ByteLevel
from transformers import LlamaConfig, LlamaForCausalLM

ROOT = Path(__file__).parents[1]


@pytest.fixture
def script(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """Imports a module of `scripts/`."""
    monkeypatch.syspath_prepend(str(ROOT / "scripts"))
    return importlib.import_module(request.param)


@pytest.mark.parametrize("script", ["prune_model"], indirect=True)
def test_an_entry_is_kept_with_all_that_it_is_merged_from(script: ModuleType) -> None:
    entries = ["<|endoftext|>", "<|im_end|>", *"abcdĠ", "ab", "abc", "cd", "Ġab"]
    bpe = {"vocab": {entry: index for index, entry in enumerate(entries)}}
    bpe["merges"] = [["a", "b"], ["ab", "c"], ["c", "d"], ["Ġ", "ab"]]
    counts = Counter({entries.index("abc"): 9, entries.index("Ġab"): 5, entries.index("cd"): 3})

    def kept(size: int) -> list[str]:
        return script.kept_entries(bpe, counts, size)

    assert kept(5) == list("abcdĠ")
    assert kept(6) == [*"abcdĠ", "cd"]  # abc would need ab, too
    assert kept(7) == [*"abcdĠ", "ab", "abc"]
    assert kept(8) == [*"abcdĠ", "ab", "abc", "Ġab"]


def tiny_llama(**settings: Any) -> LlamaForCausalLM:
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "intermediate_size": 24, "num_attention_heads": 2, "num_key_value_heads": 1}
    return LlamaForCausalLM(LlamaConfig(**sizes, tie_word_embeddings=True, **settings)).eval()


@pytest.mark.parametrize("script", ["prune_model"], indirect=True)
def test_layers_and_rows_are_those_of_the_whole_model(script: ModuleType) -> None:
    whole = tiny_llama(num_hidden_layers=4, vocab_size=30)
    pruned = script.prune_weights(whole, [0, 3], [5, 1, 7])
    assert (pruned.config.num_hidden_layers, pruned.config.vocab_size) == (2, 3)
    assert torch.equal(pruned.model.embed_tokens.weight, whole.model.embed_tokens.weight[[5, 1, 7]])
    # What remains computes what the whole model computes without the other layers.
    whole.model.layers = torch.nn.ModuleList([whole.model.layers[0], whole.model.layers[3]])
    for number, layer in enumerate(whole.model.layers):
        layer.self_attn.layer_idx = number
    ours, theirs = pruned(torch.tensor([[2, 0]])).logits, whole(torch.tensor([[7, 5]])).logits
    assert torch.allclose(ours, theirs[..., [5, 1, 7]], atol=1e-6)


@pytest.mark.parametrize("script", ["prune_model"], indirect=True)
def test_all_bytes_get_entries_and_the_others_stay(script: ModuleType, tmp_path: Path) -> None:
    alphabet = sorted(ByteLevel.alphabet())
    present = [byte for number, byte in enumerate(alphabet) if number % 9]
    vocabulary = {entry: index for index, entry in enumerate(["<|endoftext|>", "<sep>", *present])}
    model = tiny_llama(num_hidden_layers=1, vocab_size=len(vocabulary))
    model.save_pretrained(tmp_path / "pruned")
    spec = {"model": {"vocab": vocabulary, "merges": []}}
    (tmp_path / "pruned/tokenizer.json").write_text(json.dumps(spec), encoding="utf-8")

    script.complete_bytes(tmp_path / "pruned", tmp_path / "complete")

    again = LlamaForCausalLM.from_pretrained(tmp_path / "complete")
    entries = json.loads((tmp_path / "complete/tokenizer.json").read_text(encoding="utf-8"))["model"]["vocab"]
    assert entries.keys() >= {*alphabet}
    assert sorted(entries.values()) == [*range(len(entries))]
    assert vocabulary.items() <= entries.items()
    old, new = model.model.embed_tokens.weight, again.model.embed_tokens.weight
    assert len(new) == again.config.vocab_size == len(entries)
    assert torch.equal(new[: len(old)], old)
    from_128 = [index for entry, index in vocabulary.items() if len(entry) == 1 and entry >= "\u00a1"]
    assert torch.allclose(new[len(old) :], old[from_128].mean(0).expand(len(new) - len(old), -1))
    assert again.lm_head.weight is again.model.embed_tokens.weight


@pytest.mark.parametrize("script", ["train_builtin"], indirect=True)
@pytest.mark.parametrize(
    "lengths", [[200] * 12, [400, 200, 400, 200], [600, 3, 3], [500, 8], [508], [300, 300, 1], [7] * 500]
)
def test_pieces_are_the_conversation_and_fit(script: ModuleType, lengths: list[int]) -> None:
    turns = [f"turn {number}" for number in range(len(lengths))]
    sizes = dict(zip(turns, lengths, strict=True))
    pieces = script.pieces(turns, lengths)
    assert [turn for piece in pieces for turn in piece] == turns
    for number, piece in enumerate(pieces, 1):
        total = sum(sizes[turn] for turn in piece)
        is_last = number == len(pieces)  # a last turn stays with the piece before
        assert total <= script.PIECE or len(piece) == 1 or (is_last and total - sizes[piece[-1]] <= script.PIECE)
    assert len(pieces) == 1 or len(pieces[-1]) > 1


@pytest.mark.parametrize("script", ["pseudonyms"], indirect=True)
def test_people_are_renamed_in_their_conversation_only(script: ModuleType) -> None:
    lists = [["mary", "linda", "naomi", "hope", "rose"], ["james", "john", "adam", "will"]]
    ordinary = ["I hope you will come.", "she will, I hope", "hope so, will do", "I will hope", "we will hope"] * 2
    conversations = [
        ["Hey Naomi, how are you?", "Good! I'm adam. ADAM, like naomis brother", "Hi! hope all is well"],
        ["Did you see Naomi Watts?", "No, but Adam Sandler"],
        ["My name is Kurosaki", "Hello kurosaki", "What is my name for you", "Sorry, will you?"],
        ordinary,
    ]
    renamed, names, replaced = script.rename(conversations, lists)
    first, unchanged, third, last = renamed
    assert (unchanged, last) == (conversations[1], ordinary)
    assert (names, replaced) == (3, 6)
    text = " ".join(first)
    assert not any(name in text.lower() for name in ("naomi", "adam"))
    new = first[0].split()[1].rstrip(",")
    assert new.lower() in [name for names in lists for name in names]
    assert f"{new.lower()}s brother" in first[1]
    other = first[1].split("I'm ")[1].split(".")[0]
    assert other.islower()
    assert other.upper() in first[1]
    assert first[2] == conversations[0][2]
    assert third[0].split()[-1].lower() == third[1].split()[-1]
    assert third[2:] == conversations[2][2:]
