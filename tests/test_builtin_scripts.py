"""How the built-in model is made: which entries a vocabulary keeps, pieces of conversations, and pseudonyms."""

import importlib
from collections import Counter
from pathlib import Path
from types import ModuleType

import pytest

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


@pytest.mark.parametrize("script", ["train_builtin"], indirect=True)
@pytest.mark.parametrize("lengths", [[200] * 12, [600, 3, 3], [500, 8], [508], [300, 300, 1], [7] * 500])
def test_pieces_are_the_conversation_and_fit(script: ModuleType, lengths: list[int]) -> None:
    turns = [f"turn {number}" for number in range(len(lengths))]
    sizes = dict(zip(turns, lengths, strict=True))
    pieces = script.pieces(turns, lengths)
    assert [turn for piece in pieces for turn in piece] == turns
    for piece in pieces:
        total = sum(sizes[turn] for turn in piece)
        # A turn that is too long is a piece, and a last turn stays with the piece before.
        assert total <= script.PIECE or len(piece) == 1 or total - sizes[piece[-1]] <= script.PIECE
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
