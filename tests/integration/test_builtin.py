"""The model inside the package: it loads everywhere, is what its card says, and can be learned further."""

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner

from convmodel import ConversationModel
from convmodel.cli.chat import ABOUT_CHITCHAT
from convmodel.cli.demo import EXPORT, ME
from convmodel.cli.main import app
from convmodel.data.importing.pipeline import ImportOptions, import_conversations
from convmodel.data.importing.segmenting import Segmenting
from convmodel.data.importing.splitting import PARTS
from convmodel.data.reading.reader import read_conversations
from convmodel.errors import ConfigError, ModelLoadError
from convmodel.files.hub import CHITCHAT, resolve_builtin
from convmodel.hf_model.int8_file import INT8_FILE, SCALES
from convmodel.hf_model.reward_model import reward_model_of
from convmodel.layout.tokenizer import ConversationTokenizer
from fine_tuning import TALKS

FOLDER = Path(resolve_builtin(CHITCHAT))
SAMPLE = FOLDER.parent / "sample"
JAPANESE = Path(__file__).parents[1] / "data/chatterbot/japanese"


@pytest.fixture(scope="module")
def chitchat() -> ConversationModel:
    return ConversationModel.from_pretrained(CHITCHAT)


def test_it_is_a_llama_with_separators(chitchat: ConversationModel) -> None:
    config = chitchat.hf_model.config
    assert (config.model_type, config.num_hidden_layers, config.max_position_embeddings) == ("llama", 3, 512)
    assert not chitchat.tokenizer.layout.use_token_types
    assert chitchat.tokenizer.sep_token == "<sep>"
    assert len(chitchat.tokenizer) == config.vocab_size == len(chitchat.hf_model.get_input_embeddings().weight)


def test_8_bits_in_the_package_and_float32_in_memory(chitchat: ConversationModel) -> None:
    stored = load_file(FOLDER / INT8_FILE)
    for name, parameter in chitchat.hf_model.named_parameters():
        assert stored[name].shape == parameter.shape
        assert stored[name].dtype == (torch.int8 if parameter.ndim == 2 else torch.float16)
        assert (name + SCALES in stored) == (parameter.ndim == 2)
    assert (FOLDER / INT8_FILE).stat().st_size < 16e6
    assert not (FOLDER / "model.safetensors").exists()
    assert {parameter.dtype for parameter in chitchat.hf_model.parameters()} == {torch.float32}


def test_saved_again_plain_transformers_loads_it(chitchat: ConversationModel, tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    chitchat.save_pretrained(tmp_path)
    plain, tokenizer = AutoModelForCausalLM.from_pretrained(tmp_path), AutoTokenizer.from_pretrained(tmp_path)

    assert tokenizer.get_vocab() == chitchat.tokenizer.hf_tokenizer.get_vocab()
    messages = [{"role": "user", "content": "Hello"}]
    rendered = tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=True, return_dict=False)
    assert rendered == chitchat.tokenizer(["Hello"])["input_ids"]
    assert all(map(torch.equal, plain.parameters(), chitchat.hf_model.parameters()))


@pytest.mark.parametrize("missing", ["model.norm.weight", f"model.layers.0.mlp.up_proj.weight{SCALES}"])
def test_an_incomplete_file_is_refused(missing: str, tmp_path: Path) -> None:
    folder = shutil.copytree(FOLDER, tmp_path / "model")
    stored = load_file(folder / INT8_FILE)
    save_file({name: weight for name, weight in stored.items() if name != missing}, folder / INT8_FILE)
    with pytest.raises(ModelLoadError, match=missing):
        ConversationModel.from_pretrained(folder)


def test_options_of_loading_apply(chitchat: ConversationModel) -> None:
    model = ConversationModel.from_pretrained(CHITCHAT, device="cpu", dtype="bfloat16", attn_implementation="eager")
    assert model.hf_model.dtype == torch.bfloat16
    assert model.hf_model.config._attn_implementation == "eager"
    assert chitchat.hf_model.generation_config.chat["candidates"] == 24  # type: ignore[union-attr]
    reward = reward_model_of(model.hf_model)  # bfloat16 is another precision of the same weights
    assert reward is not None


def test_its_reward_model_is_of_these_weights_and_better_than_chance(chitchat: ConversationModel) -> None:
    reward = reward_model_of(chitchat.hf_model)
    assert reward is not None
    assert reward.is_informative
    assert chitchat.session().settings["reward_weight"] == 4.0


def test_chat_says_how_many_parameters_it_has(chitchat: ConversationModel) -> None:
    count = chitchat.hf_model.num_parameters()
    assert f"with {count / 1e6:.0f} M parameters" in ABOUT_CHITCHAT


def test_any_text_is_encoded(chitchat: ConversationModel) -> None:
    characters = "".join(map(chr, [*range(0x20), *range(0x7F, 0x2000), 0x20AC, 0x1F600, 0x50000, 0x9FFFF]))
    assert chitchat.tokenizer.decode(chitchat.tokenizer.encode(characters)) == characters


@pytest.mark.long
def test_the_card_says_what_is_measured(chitchat: ConversationModel) -> None:
    card = (FOLDER / "README.md").read_text(encoding="utf-8")
    [row] = re.findall(r"^\| sample \| (\d+) \| ([\d,]+) \| ([\d.]+) \| ([\d.]+) \|$", card, re.MULTILINE)

    measured = chitchat.evaluate(str(SAMPLE / "test.jsonl"))

    assert [int(number.replace(",", "")) for number in row[:2]] == [measured.conversations, measured.tokens]
    assert float(row[2]) == pytest.approx(measured.perplexity, abs=0.06)
    assert float(row[3]) == pytest.approx(measured.bits_per_byte, abs=0.0006)
    assert measured.bits_per_byte < 1.45


def test_what_it_has_not_read_is_listed_by_id() -> None:
    held = json.loads((FOLDER / "held_out.json").read_text(encoding="utf-8"))
    sample = [one.id for name in ("valid", "test") for one in read_conversations(SAMPLE / f"{name}.jsonl")]

    assert held["sample"] == sample
    assert [len(held[name]) for name in ("valid", "test")] == [200, 200]
    assert not set(held["valid"]) & set(held["test"])


@pytest.mark.parametrize(
    "name", ["builtin:", "builtin:nothing", "builtin:sample", "builtin:chitchat:2", "builtin:../assets/chitchat"]
)
@pytest.mark.parametrize("load", [ConversationModel.from_pretrained, ConversationTokenizer.from_pretrained])
def test_no_such_model(load: Callable[[str], object], name: str) -> None:
    with pytest.raises(ModelLoadError, match=f"the package has no model {name}: use builtin:chitchat"):
        load(name)


@pytest.mark.slow
def test_adapters_learned_on_it_name_it_and_load_anywhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = ConversationModel.from_pretrained(CHITCHAT)
    model.fit(TALKS, max_steps=2, lora=True, learning_rate=1e-2, output_dir=str(tmp_path / "adapters"))
    monkeypatch.chdir(tmp_path)

    again = ConversationModel.from_pretrained("adapters")

    assert json.loads(Path("adapters/adapter_config.json").read_text())["base_model_name_or_path"] == CHITCHAT
    assert again.score(["Hello"], ["Hi"]) == pytest.approx(model.score(["Hello"], ["Hi"]))
    assert model.score(["Hello"], ["Hi"]) != ConversationModel.from_pretrained(CHITCHAT).score(["Hello"], ["Hi"])


@pytest.mark.long
def test_it_learns_another_script_without_unknowns(tmp_path: Path) -> None:
    model = ConversationModel.from_pretrained(CHITCHAT)
    conversations = read_conversations(JAPANESE)
    turns = [turn for conversation in conversations for turn in conversation.turns]
    assert all(model.tokenizer.decode(model.tokenizer.encode(turn)) == turn for turn in turns)
    before = model.evaluate(conversations)

    model.fit(conversations, max_steps=30, learning_rate=1e-3, batch_size=4, output_dir=str(tmp_path / "model"))

    again = ConversationModel.from_pretrained(tmp_path / "model")
    assert again.evaluate(conversations).perplexity < before.perplexity / 4
    assert again.tokenizer.hf_tokenizer.get_vocab() == model.tokenizer.hf_tokenizer.get_vocab()


@pytest.mark.long
def test_with_a_vocabulary_that_grew_it_learns_another_script_faster(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    conversations = read_conversations(JAPANESE)
    found = {}
    for name, options in {"grown": ["--grow-vocabulary", "300"], "same": []}.items():
        arguments = ["fit", str(JAPANESE), "--model", CHITCHAT, "--output-dir", name, *options]
        arguments += ["--epochs", "4", "--learning-rate", "1e-3", "--batch-size", "4"]
        result = CliRunner().invoke(app, arguments, catch_exceptions=False)
        assert result.exit_code == 0, result.output
        found[name] = ConversationModel.from_pretrained(name).evaluate(conversations)
        if name == "grown":
            assert "the vocabulary grew from 8,021 to 8,321 entries" in " ".join(result.stderr.split())

    assert found["grown"].tokens < found["same"].tokens / 2
    assert found["grown"].bits_per_byte < found["same"].bits_per_byte
    assert found["grown"].text_bytes == found["same"].text_bytes


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--from-scratch", "tiny"], "--from-scratch trains its own vocabulary: leave --grow-vocabulary out"),
        (["--model", CHITCHAT, "--lora"], "lora does not train new embeddings: leave out --grow-vocabulary"),
    ],
)
def test_what_does_not_go_with_a_vocabulary_that_grows(options: list[str], message: str, tmp_path: Path) -> None:
    arguments = ["fit", str(JAPANESE), "--grow-vocabulary", "9", "--output-dir", str(tmp_path / "m"), *options]
    with pytest.raises(ConfigError, match=message):
        CliRunner().invoke(app, arguments, catch_exceptions=False)


@pytest.mark.parametrize("options", [["--layout", "separator"], ["--names", "prefix"]])
def test_the_layout_of_a_new_model_is_not_chosen(options: list[str], tmp_path: Path) -> None:
    arguments = ["fit", str(JAPANESE), "--from-scratch", "tiny", "--output-dir", str(tmp_path / "m"), *options]
    with pytest.raises(ConfigError, match="--layout and --names are for a pretrained model"):
        CliRunner().invoke(app, arguments, catch_exceptions=False)


@pytest.mark.slow
def test_the_demos_export_is_talk_and_no_speech_is_held_out_and_learned(tmp_path: Path) -> None:
    options = ImportOptions(segmenting=Segmenting(me=ME))
    summary = import_conversations([FOLDER.parent / "stage" / EXPORT], tmp_path, options)
    splits = {name: read_conversations(tmp_path / f"{name}.jsonl") for name in PARTS}
    turns = {name: [turn for one in split for turn in one.turns] for name, split in splits.items()}

    assert summary.formats == {"whatsapp": 1}
    assert not summary.problems
    assert not summary.dropped_entries
    assert summary.dropped == {"exact duplicate": 1}
    assert summary.speakers.keys() == {"Anne", ME}
    counts = f"| {summary.conversations:,} | {summary.entries:,} |"
    assert counts in (FOLDER.parent / "stage/README.md").read_text(encoding="utf-8")
    starts = [one.turn_speakers[0] for split in splits.values() for one in split]
    assert starts == ["user"] * len(starts)  # no two conversations were joined, and none was cut

    for turn in (turn for said in turns.values() for turn in said):
        assert not re.match(r"(Enter|Re-enter|Exit|Exeunt)\b", turn)
        assert not re.search(r"[*_#\\\[\]]|[.?!] [A-Z' ]{4,}$", turn)
    long = {turn for turn in turns["train"] if len(turn) > 60}
    assert not long & {*turns["valid"], *turns["test"]}
    assert sum(map(len, splits.values())) > 1500
