"""What a file says of where its model comes from."""

from pathlib import Path

from export_models import make_model

from convmodel import ConversationModel
from convmodel.export.options import DEFAULTS
from convmodel.export.origin import origin_of
from convmodel.hf_model.lora import add_adapters
from convmodel.hf_model.model_card import FINE_TUNED_FROM


def test_name_base_and_license_come_from_the_model(tmp_path: Path) -> None:
    folder = tmp_path / "my-bot"
    make_model("llama").save_pretrained(folder)
    card = folder / "README.md"
    text = card.read_text().replace("---\n", "---\nlicense: mit\n", 1)
    card.write_text(f"{text}\n| {FINE_TUNED_FROM} | `owner/first` |\n")
    loaded = ConversationModel.from_pretrained(folder)
    origin = origin_of(loaded.hf_model, tmp_path / "x.gguf", DEFAULTS)
    assert (origin.name, origin.base, origin.license) == ("my-bot", "owner/first", "mit")
    loaded.hf_model.name_or_path = "owner/base"
    options = DEFAULTS | {"name": "Given\nFROM x", "license": "gpl-3.0"}
    origin = origin_of(loaded.hf_model, tmp_path / "x.gguf", options)
    assert (origin.name, origin.base, origin.license) == ("Given FROM x", "owner/base", "gpl-3.0")


def test_adapters_have_the_name_of_the_file_and_their_base(tmp_path: Path) -> None:
    model = make_model("llama")
    model.hf_model.name_or_path = "owner/base"
    add_adapters(model.hf_model, model.tokenizer, {"r": 2})
    origin = origin_of(model.hf_model, tmp_path / "bot.gguf", DEFAULTS)
    assert (origin.name, origin.base) == ("bot", "owner/base")
