"""What the user is told of other programs."""

from dataclasses import replace

from export_models import make_model

from convmodel.export.gguf_file import gguf_model
from convmodel.export.notes import notes


def test_a_difference_is_told_where_there_is_one() -> None:
    for name, has_ollama, signs in (
        ("llama, separator", True, []),
        ("llama 3", False, ["only ASCII"]),
        ("llama 3", True, ["only ASCII", "cannot trim"]),
        ("mistral", True, ["300 positions instead of 512", "no place for system messages"]),
        ("phi3, longrope", False, ["256 positions instead of 512"]),
    ):
        model = make_model(name)
        found = notes(gguf_model(model.hf_model, model.tokenizer), model.tokenizer.layout, has_ollama=has_ollama)
        assert len(found) == len(signs), found
        assert all(sign in note for sign, note in zip(signs, found, strict=True))


def test_names_normalization_and_settings_are_told() -> None:
    loaded = make_model("llama")
    model = gguf_model(loaded.hf_model, loaded.tokenizer)
    model = replace(model, vocabulary=replace(model.vocabulary, normalizes=True), dropped=["typical_p"])
    found = notes(model, replace(loaded.tokenizer.layout, names="prefix"), has_ollama=False)
    for sign in ("form NFC", "names of speakers are not written", "left out: typical_p"):
        assert any(sign in note for note in found)
