"""Exports: checks before the work, and nothing half-written."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from export_models import make_model

from convmodel import Conversation, ConversationModel
from convmodel.errors import ConfigError, ConversationError, ExportError, MissingExtraError, SaveError
from convmodel.export import exporting
from convmodel.export.exporting import Exported
from convmodel.export.gguf_file import UNPROVEN

pytestmark = pytest.mark.loopback

DATA = [Conversation(["Hello there", "How are you?"])]


@pytest.fixture(scope="module")
def model() -> ConversationModel:
    return make_model("llama")


def export(model: ConversationModel, path: Path, **options: Any) -> Exported:
    return model.export(path, **{"weights": "f32", "data": DATA} | options)


def test_a_file_is_proven_and_says_so(model: ConversationModel, tmp_path: Path) -> None:
    steps: list[str] = []
    before = {name: value.clone() for name, value in model.hf_model.state_dict().items()}
    exported = export(model, tmp_path / "bot.gguf", progress=steps.append)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bot.gguf", "bot.proof.json"]
    content = json.loads((tmp_path / "bot.proof.json").read_text())
    assert exported.proof is not None
    assert content["prompts"] == exported.proof.prompts > 10
    assert (content["file"], content["weights"]) == ("bot.gguf", "f32")
    assert steps == [
        *("writing", "starting llama.cpp", "comparing prompts", "comparing generated tokens", "measuring perplexity")
    ]
    assert all(torch.equal(value, before[name]) for name, value in model.hf_model.state_dict().items())


def test_a_name_that_llama_cpp_has_a_rule_for_is_written_otherwise(model: ConversationModel, tmp_path: Path) -> None:
    """Of a file whose name contains phi-3 it looks up control tokens by their names, which are others here."""
    assert export(model, tmp_path / "bot.gguf", name="my-Phi-3-mini").proof is not None
    assert b"my-Phi 3-mini" in (tmp_path / "bot.gguf").read_bytes()


def test_a_proof_of_an_earlier_file_does_not_stay(model: ConversationModel, tmp_path: Path) -> None:
    export(model, tmp_path / "bot.gguf")
    export(model, tmp_path / "bot.gguf", unproven=True, overwrite=True)
    assert [path.name for path in tmp_path.iterdir()] == ["bot.gguf"]


def test_a_page_takes_no_options_of_gguf(tmp_path: Path) -> None:
    model = ConversationModel.from_pretrained("builtin:chitchat")
    with pytest.raises(ConfigError, match="a page has no weights, unproven: leave it out"):
        model.export(tmp_path / "bot.html", weights="q8_0", unproven=True)


def test_ollama_gets_a_folder(model: ConversationModel, tmp_path: Path) -> None:
    exported = export(model, tmp_path / "bot", to="ollama")
    assert sorted(path.name for path in (tmp_path / "bot").iterdir()) == ["Modelfile", "model.gguf", "proof.json"]
    assert exported.proof is not None
    assert exported.proof.ollama_prompts > 8


@pytest.mark.slow
def test_a_page_is_one_file(tmp_path: Path) -> None:
    exported = ConversationModel.from_pretrained("builtin:chitchat").export(tmp_path / "bot.html", name="Chitchat")
    assert [path.name for path in tmp_path.iterdir()] == ["bot.html"]
    assert exported.size == (tmp_path / "bot.html").stat().st_size
    assert "<title>Chitchat" in (tmp_path / "bot.html").read_text(encoding="utf-8")[:5000]


def test_a_file_that_differs_is_not_left_behind(
    model: ConversationModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*arguments: Any, **options: Any) -> None:
        raise ExportError("position 3 differs")

    monkeypatch.setattr(exporting, "prove", fail)
    with pytest.raises(ExportError, match="position 3 differs; the file was not kept"):
        export(model, tmp_path / "new" / "bot.gguf")
    (tmp_path / "bot.gguf").write_text("earlier")
    with pytest.raises(ExportError):
        export(model, tmp_path / "bot.gguf", overwrite=True)
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [("bot.gguf", "earlier")]


def test_nothing_is_replaced_unless_asked(model: ConversationModel, tmp_path: Path) -> None:
    for name, to in (("bot.gguf", "gguf"), ("bot/Modelfile", "ollama"), ("bot.html", "html")):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("mine")
        place = tmp_path / name.removesuffix("/Modelfile")
        with pytest.raises(SaveError, match=r"exists: give another name, or replace it with --overwrite"):
            export(model, place, to=to)
        assert (tmp_path / name).read_text() == "mine"


@pytest.mark.parametrize(("to", "kind"), [("gguf", "a folder"), ("html", "a folder"), ("ollama", "a file")])
def test_a_folder_is_no_file_and_a_file_no_folder(model: ConversationModel, tmp_path: Path, to: str, kind: str) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").write_text("mine")
    with pytest.raises(SaveError, match=f"is {kind}: give another name"):
        export(model, tmp_path / kind.removeprefix("a "), to=to, overwrite=True)


def test_a_place_that_cannot_be_written_is_an_error_before_the_work(model: ConversationModel, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    with pytest.raises(SaveError, match="cannot be written"):
        export(model, tmp_path / "file" / "bot.gguf")


def test_a_full_disk_is_an_error_before_the_work(
    model: ConversationModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = exporting.shutil.disk_usage(tmp_path)
    monkeypatch.setattr(exporting.shutil, "disk_usage", lambda _: usage._replace(free=1 << 20))
    with pytest.raises(SaveError, match=r"needs \d+ MiB, and the disk has 1 MiB left: free some"):
        export(model, tmp_path / "bot.gguf")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({"to": "ollama"}, r"bot\.gguf has the suffix of gguf, and the target is ollama"),
        ({"to": "onnx"}, "the target of the export is 'onnx': it must be one of gguf, ollama, html"),
        ({"weights": "q9"}, "the type of weights is 'q9'"),
        ({"weight": "f16"}, "export has no option weight; .*did you mean weights"),
        ({"data": []}, "the list of conversations is empty"),
    ],
)
def test_options_are_checked(model: ConversationModel, tmp_path: Path, options: dict[str, Any], problem: str) -> None:
    with pytest.raises((ConfigError, ConversationError), match=problem):
        export(model, tmp_path / "bot.gguf", **options)
    assert not list(tmp_path.iterdir())


def test_a_name_without_suffix_needs_a_target(model: ConversationModel, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"has no suffix that says what to export: give NAME\.gguf"):
        export(model, tmp_path / "bot")


def test_a_quantized_model_is_refused(bytelevel_folder: Path, tmp_path: Path) -> None:
    quantized = ConversationModel.from_pretrained(bytelevel_folder, quantize="int8")
    for name in ("bot.gguf", "bot.html"):
        with pytest.raises(ConfigError, match="a quantized model cannot be exported: load it without quantize"):
            quantized.export(tmp_path / name)


def test_without_llama_cpp_a_file_must_be_called_unproven(
    model: ConversationModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(exporting, "is_installed", lambda: False)
    with pytest.raises(MissingExtraError, match=r"write it unproven .*\(the extra export\): .*pip install "):
        export(model, tmp_path / "bot.gguf")
    exported = export(model, tmp_path / "bot.gguf", unproven=True)
    assert exported.proof is None
    assert [path.name for path in tmp_path.iterdir()] == ["bot.gguf"]
    assert UNPROVEN.encode() in (tmp_path / "bot.gguf").read_bytes()


def test_adapters_are_merged_in_a_copy(bytelevel_folder: Path, tmp_path: Path) -> None:
    from convmodel.hf_model.lora import add_adapters, has_adapters

    model = ConversationModel.from_pretrained(bytelevel_folder)
    add_adapters(model.hf_model, model.tokenizer, {"r": 2})
    for name, parameter in model.hf_model.named_parameters():
        if "lora_B" in name:  # zero at first
            torch.nn.init.normal_(parameter.data)
    exported = export(model, tmp_path / "bot.gguf")  # the proof compares it with the adapted model
    assert exported.proof is not None
    assert has_adapters(model.hf_model)
