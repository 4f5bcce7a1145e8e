"""The façade: what loads, what is refused and how, and that it delegates."""

import json
import random
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from architectures import save_tiny
from chat_templates import FORMS, make_tokenizer
from transformers import AutoTokenizer, GPT2Config, LlamaConfig, MixtralForCausalLM

from convmodel import ConversationModel, ConversationTokenizer, FitConfig
from convmodel.errors import ConfigError, ConversationError, ConvModelError, ModelLoadError, SaveError
from convmodel.generation.output import ConversationModelOutput
from convmodel.hf_model import loading

TURNS = ["Hello, how are you today?", "I am fine, thank you."]
TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json")


@pytest.fixture
def folder(unigram_folder: Path, tmp_path: Path) -> Path:
    """A plain Hugging Face checkpoint, to be spoiled."""
    return Path(shutil.copytree(unigram_folder, tmp_path / "plain"))


@pytest.fixture
def saved(unigram_folder: Path, tmp_path: Path) -> Path:
    """A conversation model's checkpoint, to be spoiled."""
    load(unigram_folder).save_pretrained(tmp_path / "saved")
    return tmp_path / "saved"


def load(folder: Path, **options: Any) -> ConversationModel:
    return ConversationModel.from_pretrained(folder, device="cpu", **options)


def change(path: Path, **fields: Any) -> None:
    """Replaces fields of a JSON file."""
    path.write_text(json.dumps(json.loads(path.read_text(encoding="utf-8")) | fields), encoding="utf-8")


def weights(model: ConversationModel) -> dict[str, torch.Tensor]:
    return {name: value.detach().clone() for name, value in model.hf_model.state_dict().items()}


def equal(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(value, other[name]) for name, value in one.items())


# Loading


@pytest.mark.parametrize(("device_map", "placed"), [(None, True), (0, False), ("auto", False)])
def test_a_device_map_decides_alone(
    unigram_folder: Path, monkeypatch: pytest.MonkeyPatch, device_map: Any, placed: bool
) -> None:
    """The device map 0 is the first GPU, which this machine may not have."""
    asked: list[object] = []
    hf_model = load(unigram_folder).hf_model
    monkeypatch.setattr(loading, "_load", lambda name, options: hf_model.train())
    monkeypatch.setattr(loading, "place", lambda hf_model, device: asked.append(device) or hf_model.eval())

    model = load(unigram_folder, device_map=device_map)

    assert asked == ["cpu"] * placed
    assert not model.hf_model.training


@pytest.mark.slow
def test_a_plain_checkpoint_works_with_defaults(zoo: Path) -> None:
    model = load(zoo)

    output = model.generate(TURNS, max_new_tokens=3)

    gpt2 = model.hf_model.config.model_type == "gpt2"
    assert not (zoo / "convmodel_config.json").exists()
    assert model.tokenizer.layout.use_token_types is gpt2
    assert (model.tokenizer.layout.loss_on, model.tokenizer.layout.max_length) == ("all", None)
    assert output.context == TURNS
    assert not model.hf_model.training
    assert model.device == torch.device("cpu")


@pytest.mark.parametrize("kind", [str, Path])
def test_a_folder_is_a_string_or_a_path(unigram_folder: Path, kind: type) -> None:
    assert load(kind(unigram_folder)).tokenizer(["Hi"]) == load(unigram_folder).tokenizer(["Hi"])


@pytest.mark.slow
def test_loading_leaves_the_random_states_alone(zoo: Path) -> None:
    before = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].tolist()

    load(zoo)

    assert torch.equal(torch.get_rng_state(), before[0])
    assert (random.getstate(), np.random.get_state()[1].tolist()) == before[1:]


def test_the_usual_arguments_are_passed_on(unigram_folder: Path) -> None:
    model = load(unigram_folder, dtype=torch.bfloat16, attn_implementation="eager", local_files_only=True)

    assert model.hf_model.dtype == torch.bfloat16
    assert model.hf_model.config._attn_implementation == "eager"


def test_token_types_can_be_declined_for_a_plain_checkpoint(unigram_folder: Path, tmp_path: Path) -> None:
    model = load(unigram_folder, use_token_types=False)

    model.save_pretrained(tmp_path)

    assert "token_type_ids" not in model.tokenizer(TURNS)
    assert "token_type_ids" not in load(tmp_path).tokenizer(TURNS)
    assert load(tmp_path, use_token_types=False).tokenizer.layout == model.tokenizer.layout
    with pytest.raises(ModelLoadError, match="was trained with use_token_types=False: leave the argument out"):
        load(tmp_path, use_token_types=True)


def test_an_unknown_option_is_named_and_the_known_ones_are_listed(unigram_folder: Path) -> None:
    with pytest.raises(
        ConfigError, match=r"no option devise, torch_type; there are device, layout, names, use_token_types, .*dtype"
    ):
        ConversationModel.from_pretrained(unigram_folder, devise="cpu", torch_type="float32")


@pytest.mark.parametrize("options", [{"device": "nonsense"}, {"device": "cuda:99"}, {"dtype": "nonsense"}])
def test_a_device_or_type_that_does_not_exist_is_refused(unigram_folder: Path, options: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=next(iter(options))):
        ConversationModel.from_pretrained(unigram_folder, **options)


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(ModelLoadError, match=f"there is no folder {re.escape(str(tmp_path))}/model: give a folder"):
        load(tmp_path / "model")


def test_an_empty_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(ModelLoadError, match=re.escape(str(tmp_path))):
        load(tmp_path)


def test_a_folder_without_weights_is_named(folder: Path) -> None:
    (folder / "model.safetensors").unlink()

    with pytest.raises(ModelLoadError, match=f"the folder {re.escape(str(folder))} holds no usable weights"):
        load(folder)


@pytest.mark.parametrize("size", [0, 100, 5000])
def test_weights_that_were_copied_in_part_are_refused(folder: Path, size: int) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:size])

    with pytest.raises(ModelLoadError, match=f"the folder {re.escape(str(folder))} holds no usable weights"):
        load(folder)


@pytest.mark.parametrize("family", ["gpt2_folder", "unigram_folder", "bytelevel_folder"])
def test_a_folder_without_a_tokenizer_is_refused(family: str, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    # transformers makes an empty vocabulary for a GPT-2, to which every text is nothing.
    for name in ("config.json", "generation_config.json", "model.safetensors"):
        shutil.copy(request.getfixturevalue(family) / name, tmp_path)

    with pytest.raises(ModelLoadError, match=f"the folder {re.escape(str(tmp_path))} holds no usable tokenizer"):
        load(tmp_path)


def test_a_folder_without_a_config_is_refused(folder: Path) -> None:
    (folder / "config.json").unlink()

    with pytest.raises(ModelLoadError, match=re.escape(str(folder))):
        load(folder)


def test_weights_of_another_architecture_are_refused_rather_than_made_up(folder: Path) -> None:
    # transformers fills what it does not find with random numbers, and only logs that.
    change(folder / "config.json", n_layer=3)

    with pytest.raises(ModelLoadError, match=r"transformer.h.2"):
        load(folder)


@pytest.mark.slow
def test_a_tokenizer_of_a_larger_vocabulary_is_refused(folder: Path, gpt2_folder: Path) -> None:
    for name in TOKENIZER_FILES:
        shutil.copy(gpt2_folder / name, folder)

    with pytest.raises(ModelLoadError, match=r"466 rows, .* 50,257 entries.*: the tokenizer belongs to another model"):
        load(folder)


def test_a_tokenizer_of_another_model_beside_a_saved_layout_is_refused(saved: Path, bytelevel_folder: Path) -> None:
    for name in TOKENIZER_FILES:
        shutil.copy(bytelevel_folder / name, saved)

    with pytest.raises(
        ModelLoadError, match="the separator 4, but the tokenizer in the same folder has None: one of the"
    ):
        load(saved)


def test_a_padding_token_without_a_row_does_not_matter(folder: Path, bytelevel_folder: Path) -> None:
    # Many a Llama got a padding token in its tokenizer only; padding is masked, so any id will do.
    shutil.rmtree(folder)
    shutil.copytree(bytelevel_folder, folder)
    hf_tokenizer = AutoTokenizer.from_pretrained(folder)
    hf_tokenizer.add_special_tokens({"sep_token": "<|eot_id|>", "pad_token": "[PAD]"})
    hf_tokenizer.save_pretrained(folder)
    talks = [["Hello"], TURNS]

    expected = load(bytelevel_folder).evaluate(talks).tokens

    assert load(folder).evaluate(talks).tokens == expected


# The saved layout


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "cannot be read"),
        ("", "cannot be read"),
        ("[]", "convmodel_config.json"),
        ("{}", "convmodel_config.json"),
        ('{"format": 3, "convmodel_version": "9.0"}', "format 3, written by convmodel 9.0; .*: install that version"),
    ],
)
def test_a_corrupted_or_newer_layout_is_refused_by_its_file(saved: Path, content: str, message: str) -> None:
    (saved / "convmodel_config.json").write_text(content, encoding="utf-8")

    with pytest.raises(ModelLoadError, match=rf"{re.escape(str(saved))}/convmodel_config.json.*") as caught:
        load(saved)

    assert re.search(message, str(caught.value))


@pytest.mark.parametrize(
    ("field", "value"),
    [("separator_id", -1), ("separator_id", 10**6), ("separator_id", "4"), ("use_token_types", 1), ("max_length", 1.5)],
)
def test_a_garbled_field_of_the_layout_is_refused(saved: Path, field: str, value: Any) -> None:
    change(saved / "convmodel_config.json", **{field: value})

    with pytest.raises(ModelLoadError, match=r"convmodel_config.json"):
        load(saved)


@pytest.mark.parametrize("field", ["separator_id", "use_token_types", "speakers", "loss_on", "max_length"])
def test_a_layout_that_lacks_a_field_is_refused_by_the_fields_name(saved: Path, field: str) -> None:
    path = saved / "convmodel_config.json"
    content = json.loads(path.read_text(encoding="utf-8"))
    del content[field]
    path.write_text(json.dumps(content), encoding="utf-8")

    with pytest.raises(ModelLoadError, match=f"convmodel_config.json.* {field}"):
        load(saved)


def test_a_saved_model_is_loaded_with_its_layout(unigram_folder: Path, tmp_path: Path) -> None:
    model = load(unigram_folder)
    model.fit([TURNS], max_steps=1, loss_on="responses", max_length=64)

    model.save_pretrained(tmp_path)

    loaded = load(tmp_path)
    assert loaded.tokenizer.layout == model.tokenizer.layout
    assert (loaded.tokenizer.layout.loss_on, loaded.tokenizer.layout.max_length) == ("responses", 64)
    assert equal(weights(loaded), weights(model))


# From scratch


def tiny_config(**fields: Any) -> GPT2Config:
    return GPT2Config(**{"n_layer": 1, "n_head": 2, "n_embd": 16, "n_positions": 32, "vocab_size": 466} | fields)


@pytest.fixture
def unigram_tokenizer(unigram_folder: Path) -> ConversationTokenizer:
    return ConversationTokenizer.from_pretrained(unigram_folder)


def test_a_model_from_scratch_is_seeded(unigram_tokenizer: ConversationTokenizer) -> None:
    def make(**options: Any) -> dict[str, torch.Tensor]:
        return weights(ConversationModel.from_config(tiny_config(), unigram_tokenizer, device="cpu", **options))

    torch.manual_seed(1)
    first = make()
    torch.manual_seed(2)

    assert equal(first, make())
    assert equal(first, make(seed=0))
    assert not equal(first, make(seed=1))


def test_a_model_from_scratch_leaves_the_random_states_alone(unigram_tokenizer: ConversationTokenizer) -> None:
    before = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].tolist()

    model = ConversationModel.from_config(tiny_config(), unigram_tokenizer, device="cpu")

    assert not model.hf_model.training
    assert torch.equal(torch.get_rng_state(), before[0])
    assert (random.getstate(), np.random.get_state()[1].tolist()) == before[1:]


def test_a_vocabulary_larger_than_the_embedding_is_refused(unigram_tokenizer: ConversationTokenizer) -> None:
    with pytest.raises(ModelLoadError, match="the embedding has 100 rows, but the vocabulary has 466 entries"):
        ConversationModel.from_config(tiny_config(vocab_size=100), unigram_tokenizer)


def test_a_hugging_face_tokenizer_will_do(unigram_folder: Path) -> None:
    model = ConversationModel.from_config(tiny_config(), AutoTokenizer.from_pretrained(unigram_folder), device="cpu")

    assert model.tokenizer(["Hi"])["token_type_ids"][-1] == 1


def test_a_new_model_with_a_template_has_no_token_types() -> None:
    tokenizer = ConversationTokenizer(make_tokenizer(FORMS["chatml"].template, FORMS["chatml"].specials))
    model = ConversationModel.from_config(tiny_config(vocab_size=len(tokenizer)), tokenizer, device="cpu")
    assert (model.tokenizer.layout.name, model.tokenizer.layout.use_token_types) == ("template", False)


def test_the_architecture_decides_about_token_types(unigram_tokenizer: ConversationTokenizer) -> None:
    config = LlamaConfig(
        vocab_size=466, hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2
    )

    model = ConversationModel.from_config(config, unigram_tokenizer, device="cpu")

    assert "token_type_ids" not in model.tokenizer(["Hi"])
    assert "token_type_ids" in unigram_tokenizer(["Hi"])  # the caller's is as it was


def test_a_model_from_scratch_learns_saves_and_answers(
    unigram_tokenizer: ConversationTokenizer, tmp_path: Path
) -> None:
    model = ConversationModel.from_config(tiny_config(), unigram_tokenizer, device="cpu")
    before = model.evaluate([TURNS]).perplexity

    model.fit([TURNS], max_steps=20, learning_rate=1e-2, output_dir=str(tmp_path))

    assert model.evaluate([TURNS]).perplexity < before / 2
    assert load(tmp_path).generate(TURNS[:1], max_new_tokens=3) == model.generate(TURNS[:1], max_new_tokens=3)


# Saving


def test_a_folder_that_cannot_be_written_is_named(unigram_folder: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine", encoding="utf-8")

    with pytest.raises(SaveError, match=r"file cannot be written: .*; choose another folder"):
        load(unigram_folder).save_pretrained(tmp_path / "file")

    assert (tmp_path / "file").read_text(encoding="utf-8") == "mine"


def test_a_model_may_be_saved_over_the_folder_it_came_from(saved: Path) -> None:
    model = load(saved)

    model.save_pretrained(saved)

    assert equal(weights(load(saved)), weights(model))


class FakeUrl(str):
    repo_id = "owner/name"


class FakeHub:
    """Keeps what is asked of the hub, and copies what is uploaded before it is deleted."""

    calls: list[tuple[str, dict[str, Any]]]
    place: Path

    def __init__(self, token: str | None = None) -> None:
        self.calls.append(("login", {"token": token}))

    def create_repo(self, repo_id: str, **options: Any) -> FakeUrl:
        self.calls.append(("create_repo", {"repo_id": repo_id} | options))
        return FakeUrl("https://huggingface.co/owner/name")

    def upload_folder(self, *, folder_path: str, **options: Any) -> None:
        self.calls.append(("upload_folder", options))
        shutil.copytree(folder_path, self.place)


def test_the_hub_gets_the_whole_checkpoint(
    unigram_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(FakeHub, "calls", [], raising=False)
    monkeypatch.setattr(FakeHub, "place", tmp_path / "uploaded", raising=False)
    monkeypatch.setattr("huggingface_hub.HfApi", FakeHub)
    model = load(unigram_folder)
    model.save_pretrained(tmp_path / "saved")

    address = model.push_to_hub("name", private=True, token="secret")

    assert address == "https://huggingface.co/owner/name"
    [login, create, upload] = FakeHub.calls
    assert login == ("login", {"token": "secret"})
    assert create == ("create_repo", {"repo_id": "name", "private": True, "exist_ok": True})
    assert upload[1]["repo_id"] == "owner/name"
    assert {path.name: path.read_bytes() for path in FakeHub.place.iterdir()} == {
        path.name: path.read_bytes() for path in (tmp_path / "saved").iterdir()
    }


# Mistakes


def test_a_model_shows_what_it_is(unigram_folder: Path) -> None:
    model = load(unigram_folder)
    size = sum(parameter.numel() for parameter in model.hf_model.parameters())
    assert repr(model) == f"ConversationModel(gpt2, {size:,} parameters, float32 on cpu, from '{unigram_folder}')"


@pytest.mark.parametrize(("name", "why"), [(None, "not by a NoneType"), (5, "not by a int"), ("", "name .* is empty")])
def test_a_name_that_is_none_is_refused(name: Any, why: str) -> None:
    for loaded in (ConversationModel, ConversationTokenizer):
        with pytest.raises(ModelLoadError, match=why):
            loaded.from_pretrained(name)


def test_a_config_that_is_none_is_refused(unigram_folder: Path) -> None:
    config: Any = {"model_type": "gpt2"}
    with pytest.raises(ConfigError, match="config is a dict: give a PretrainedConfig"):
        ConversationModel.from_config(config, ConversationTokenizer.from_pretrained(unigram_folder))


def test_a_folder_that_is_no_name_is_refused(unigram_folder: Path) -> None:
    for folder in (None, 5):
        with pytest.raises(SaveError, match=f"the folder to write is a {type(folder).__name__}: give its name"):
            load(unigram_folder).save_pretrained(folder)  # type: ignore[arg-type]


def test_parts_of_another_kind_are_refused(unigram_folder: Path) -> None:
    model = load(unigram_folder)
    with pytest.raises(ModelLoadError, match="the model is a str: ConversationModel"):
        ConversationModel("gpt2", model.tokenizer)  # type: ignore[arg-type]
    with pytest.raises(ModelLoadError, match="give a ConversationTokenizer, such as"):
        ConversationModel(model.hf_model, model.tokenizer.hf_tokenizer)


def test_token_types_are_chosen_by_true_or_false(unigram_folder: Path, bytelevel_folder: Path) -> None:
    with pytest.raises(ConfigError, match="use_token_types is 'yes': it must be true or false"):
        load(unigram_folder, use_token_types="yes")
    with pytest.raises(ModelLoadError, match="use_token_types is true, but llama takes none"):
        load(bytelevel_folder, use_token_types=True)


def test_an_option_that_is_nearly_right_is_suggested(unigram_folder: Path) -> None:
    with pytest.raises(ConfigError, match=r"did you mean dtype\?"):
        load(unigram_folder, torch_dtype="bfloat16")
    with pytest.raises(ConfigError, match=r"did you mean max_new_tokens\?"):
        load(unigram_folder).generate(["Hi"], max_tokens=5)  # type: ignore[call-arg]


@pytest.mark.parametrize("callbacks", [5, [5]])
def test_callbacks_of_another_kind_are_refused(unigram_folder: Path, callbacks: Any) -> None:
    with pytest.raises(ConfigError, match="it must be a list of TrainerCallbacks"):
        load(unigram_folder).fit([TURNS], callbacks=callbacks, max_steps=1)


# Delegating


def test_fit_takes_a_config_or_options_and_not_both(unigram_folder: Path) -> None:
    model = load(unigram_folder)
    before = weights(model)

    with pytest.raises(ConfigError, match="give config or epochs, seed, not both"):
        model.fit([TURNS], config=FitConfig(), epochs=1, seed=3)
    with pytest.raises(ConfigError, match="no training option is called lr"):
        model.fit([TURNS], lr=1e-3)

    assert equal(weights(model), before)


def test_fit_and_evaluate_read_files(unigram_folder: Path, tmp_path: Path) -> None:
    model = load(unigram_folder)
    path = tmp_path / "talks.jsonl"
    path.write_text(json.dumps(TURNS) + "\n", encoding="utf-8")

    result = model.fit(path, str(path), max_steps=1)

    assert result.windows == 1
    assert model.evaluate(path) == model.evaluate([TURNS])


@pytest.mark.parametrize("method", ["fit", "evaluate"])
@pytest.mark.parametrize(
    ("data", "message"),
    [
        ([], "the list of conversations is empty"),
        (["Hello", "Hi"], r"conversation 1: .* write \['Hello'\]"),
        ([TURNS, []], "conversation 2: the conversation is empty"),
        ([TURNS, ["Hi", 5]], "conversation 2: turn 2 is int"),
        ("talks.jsonl", "there is no file talks.jsonl"),
    ],
)
def test_bad_data_is_named(unigram_folder: Path, method: str, data: Any, message: str) -> None:
    with pytest.raises(ConversationError, match=message):
        getattr(load(unigram_folder), method)(data)


def test_evaluate_measures_what_the_model_was_trained_on(unigram_folder: Path) -> None:
    model = load(unigram_folder)

    model.fit([TURNS], max_steps=1, loss_on="responses")

    assert model.evaluate([TURNS]) == model.evaluate([TURNS], loss_on="responses")
    assert model.evaluate([TURNS]) != model.evaluate([TURNS], loss_on="all")


def test_generate_and_stream_and_session_agree(unigram_folder: Path) -> None:
    model = load(unigram_folder)
    options = {"do_sample": False, "max_new_tokens": 8, "min_new_tokens": 1}

    [response] = model.generate(TURNS[:1], **options).responses

    assert "".join(chunk.text for chunk in model.stream(TURNS[:1], **options)) == response
    assert model.session(**options).respond(TURNS[0]) == response


def test_an_output_prints_as_its_responses_and_context(unigram_folder: Path) -> None:
    output = load(unigram_folder).generate(["Hi"], max_new_tokens=2, num_beams=2, num_return_sequences=2)

    assert repr(output) == f"ConversationModelOutput(responses={output.responses!r}, context=['Hi'])"
    assert (len(output.responses), len(output.finish_reasons), len(output.scores or [])) == (2, 2, 2)
    assert repr(ConversationModelOutput(["Good thank you"], ["Hello", "How are you"])) == (
        "ConversationModelOutput(responses=['Good thank you'], context=['Hello', 'How are you'])"
    )


@pytest.mark.parametrize(
    ("kind", "parent"),
    [(ModelLoadError, OSError), (SaveError, OSError), (ConfigError, ValueError), (ConversationError, ValueError)],
)
def test_errors_are_ours_and_pythons(kind: type, parent: type) -> None:
    assert issubclass(kind, ConvModelError)
    assert issubclass(kind, parent)


OWN_TOKENIZER = {"auto_map": {"AutoTokenizer": ["own.T", "own.T"]}, "tokenizer_class": "OwnTokenizer"}
OWN_MODEL = {"auto_map": {"AutoConfig": "own.C", "AutoModelForCausalLM": "own.M"}, "model_type": "own"}
OWN_CLASS = {"auto_map": {"AutoModelForCausalLM": "own.M"}, "model_type": "vit"}


@pytest.mark.parametrize(
    ("file", "changes"),
    [("tokenizer_config.json", OWN_TOKENIZER), ("config.json", OWN_MODEL), ("config.json", OWN_CLASS)],
)
def test_code_of_a_model_is_neither_run_nor_asked_about(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, file: str, changes: dict[str, Any]
) -> None:
    trace, questions = tmp_path / "trace", []
    (folder / "own.py").write_text(f"open({str(trace)!r}, 'w')\n", encoding="utf-8")
    change(folder / file, **changes)
    monkeypatch.setattr("builtins.input", lambda text: questions.append(text) or "y")
    for options in ({}, {"trust_remote_code": None}, {"trust_remote_code": False}):
        with pytest.raises(ModelLoadError, match=r"^the (tokenizer|weights|config) of .* needs Python code"):
            load(folder, **options)
    assert not questions
    assert not trace.exists()


def test_auto_map_beside_classes_that_transformers_has_is_no_obstacle(folder: Path) -> None:
    change(folder / "tokenizer_config.json", auto_map={"AutoTokenizer": ["own.T", "own.T"]})
    change(folder / "config.json", auto_map={"AutoConfig": "own.C", "AutoModelForCausalLM": "own.M"})
    assert load(folder).tokenizer.sep_token == "[SEP]"


def test_a_head_with_fewer_rows_than_the_embedding_is_refused_unless_it_has_the_separators(tmp_path: Path) -> None:
    """Resized, and so with as many, it could be trained and saved, but not loaded again."""
    save_tiny(tmp_path / "without", "moshi")
    with pytest.raises(ModelLoadError, match="the embedding and the head of this moshi have 259 and 258 rows, none"):
        ConversationModel.from_pretrained(tmp_path / "without", device="cpu")

    save_tiny(tmp_path / "with", "moshi", vocab_size=260)
    model = ConversationModel.from_pretrained(tmp_path / "with", device="cpu")
    model.save_pretrained(tmp_path / "saved")
    loaded = ConversationModel.from_pretrained(tmp_path / "saved", device="cpu")
    assert loaded.generate(["Hi"], max_new_tokens=4).responses == model.generate(["Hi"], max_new_tokens=4).responses


def test_a_resized_model_with_a_vocabulary_size_of_its_own_is_loaded_again(tmp_path: Path) -> None:
    """Marian's decoder_vocab_size, which transformers leaves as it was."""
    save_tiny(tmp_path / "base", "marian", decoder_vocab_size=258)
    model = ConversationModel.from_pretrained(tmp_path / "base", device="cpu")
    model.save_pretrained(tmp_path / "saved")
    loaded = ConversationModel.from_pretrained(tmp_path / "saved", device="cpu")
    assert loaded.evaluate([["Hi", "Yes"]]).loss == model.evaluate([["Hi", "Yes"]]).loss


def test_a_model_with_another_table_of_tokens_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As DeepSeek-V4's of experts, which has no row for a separator that was added."""
    save_tiny(tmp_path, "mixtral")
    forward = MixtralForCausalLM.forward

    def with_table(self: MixtralForCausalLM, input_ids: torch.Tensor, **options: Any) -> Any:
        torch.arange(258)[input_ids]
        return forward(self, input_ids, **options)

    monkeypatch.setattr(MixtralForCausalLM, "forward", with_table)
    with pytest.raises(ModelLoadError, match="this mixtral cannot read the separator, although its"):
        ConversationModel.from_pretrained(tmp_path, device="cpu")


def test_an_embedding_that_cannot_be_resized_is_refused(tmp_path: Path) -> None:
    save_tiny(tmp_path, "xlstm")
    with pytest.raises(ModelLoadError, match="this xlstm has no room for the separator, and transformers cannot"):
        ConversationModel.from_pretrained(tmp_path, device="cpu")
