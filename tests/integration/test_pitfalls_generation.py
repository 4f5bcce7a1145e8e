"""Bugs of generation that systems of this kind shipped, from a saved checkpoint to the response."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scripted import enliven, scripted, watched
from transformers import AutoModelForCausalLM

from convmodel import ConversationModel

CONTEXT = [
    "Hello there, this is a context of more than twenty tokens",
    "which a saved max_length must not count",
    "Yes",
]
SEPARATOR = 4  # of the checkpoint below


@pytest.fixture
def checkpoint(unigram_folder: Path, tmp_path: Path) -> Path:
    """A plain Hugging Face checkpoint that may be written to: a GPT-2 with a small vocabulary."""
    folder = tmp_path / "checkpoint"
    shutil.copytree(unigram_folder, folder)
    return folder


@pytest.fixture(scope="module")
def gpt2(gpt2_folder: Path) -> ConversationModel:
    model = ConversationModel.from_pretrained(gpt2_folder, device="cpu")
    enliven(model.hf_model)
    return model


@pytest.fixture(scope="module")
def llama(bytelevel_folder: Path) -> ConversationModel:
    model = ConversationModel.from_pretrained(bytelevel_folder, device="cpu")
    enliven(model.hf_model, 20.0)
    return model


def change_generation_config(folder: Path, **fields: Any) -> None:
    path = folder / "generation_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))


# A saved generation config (transformers #48016): it may say how to sample, not how a response begins, ends or is made.

TROUBLESOME: list[dict[str, Any]] = [
    {"max_length": 20},
    {"max_length": 1},
    {"max_new_tokens": 1},
    {"min_length": 100},
    {"min_new_tokens": 30},
    {"eos_token_id": 5},
    {"eos_token_id": None},
    {"pad_token_id": 0},
    {"forced_bos_token_id": SEPARATOR},
    {"forced_eos_token_id": SEPARATOR},
    {"suppress_tokens": [SEPARATOR]},
    {"begin_suppress_tokens": [SEPARATOR]},
    {"bad_words_ids": [[SEPARATOR]]},
    {"exponential_decay_length_penalty": [1, 1000.0]},
    {"sequence_bias": [[[SEPARATOR], 1000.0]]},
    {"stop_strings": ["Fine"]},
    {"max_time": 0.0},
    {"num_beams": 3},
    {"num_return_sequences": 3, "do_sample": True},
    {"penalty_alpha": 0.6, "top_k": 4},
    {"dola_layers": "low"},
    {"num_beams": 4, "num_beam_groups": 2, "diversity_penalty": 0.5},
    {"force_words_ids": [[5]], "num_beams": 2},
    {"prompt_lookup_num_tokens": 3},
    {"assistant_early_exit": 1},
    {"return_dict_in_generate": False},
    {"custom_generate": "someone/something"},
]


@pytest.mark.parametrize("fields", TROUBLESOME, ids=str)
def test_a_saved_generation_config_cannot_spoil_responses(checkpoint: Path, fields: dict[str, Any]) -> None:
    change_generation_config(checkpoint, **fields)
    model = ConversationModel.from_pretrained(checkpoint, device="cpu")

    with scripted(model, *["Fine, thank you"] * 12) as script:
        output = model.generate(CONTEXT)
        chunks = list(model.stream(CONTEXT))
        session = model.session()
        said = session.respond("How are you?")

    assert output.responses == ["Fine, thank you"]
    assert output.finish_reasons == ["stop"]
    assert "".join(chunk.text for chunk in chunks) == "Fine, thank you"
    assert chunks[-1].finish_reason == session.finish_reason == "stop"
    assert said == "Fine, thank you"
    assert len(script.prompts) == 3


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"max_length": 20},
        {"min_new_tokens": 30},
        {"stop_strings": ["Fine"]},
        {"num_beams": 4, "num_beam_groups": 2, "diversity_penalty": 0.5},
        {"assistant_early_exit": 1},
    ],
    ids=str,
)
def test_a_saved_model_responds_in_plain_transformers_too(
    checkpoint: Path, tmp_path: Path, fields: dict[str, Any]
) -> None:
    change_generation_config(checkpoint, **fields)
    model = ConversationModel.from_pretrained(checkpoint, device="cpu")
    enliven(model.hf_model)
    model.save_pretrained(tmp_path / "saved")

    plain = AutoModelForCausalLM.from_pretrained(tmp_path / "saved")
    prompt = {name: torch.tensor([values]) for name, values in model.tokenizer(CONTEXT).items()}
    said = plain.generate(**prompt, max_new_tokens=8)

    stop = plain.generation_config.eos_token_id
    assert SEPARATOR in (stop if isinstance(stop, list) else [stop])
    assert said.tolist() == model.generate(CONTEXT, max_new_tokens=8).raw.sequences.tolist()


@pytest.mark.parametrize(
    "fields",
    [
        {"temperature": 0.6},
        {"top_p": 0.9, "top_k": 20},
        {"output_scores": True},
        {"length_penalty": 2.0},
        {"penalty_alpha": 0.6, "top_k": 4},
    ],
    ids=str,
)
def test_a_generation_config_that_transformers_finds_invalid_can_be_loaded_and_saved(
    checkpoint: Path, tmp_path: Path, fields: dict[str, Any]
) -> None:
    """As many models on the hub have one; training such a model must not end in an error at the very end."""
    change_generation_config(checkpoint, **fields)
    model = ConversationModel.from_pretrained(checkpoint, device="cpu")
    model.save_pretrained(tmp_path / "saved")
    again = ConversationModel.from_pretrained(tmp_path / "saved", device="cpu")
    assert (
        again.generate(["Hello"], max_new_tokens=5).responses == model.generate(["Hello"], max_new_tokens=5).responses
    )


def test_saved_sampling_settings_are_the_defaults(checkpoint: Path) -> None:
    change_generation_config(checkpoint, do_sample=True, temperature=5.0, top_k=0)
    model = ConversationModel.from_pretrained(checkpoint, device="cpu")
    responses = {model.generate(["Hello"], seed=seed, max_new_tokens=8).responses[0] for seed in range(3)}
    assert len(responses) == 3
    greedy = {model.generate(["Hello"], seed=seed, do_sample=False, max_new_tokens=8).responses[0] for seed in range(3)}
    assert len(greedy) == 1


def test_min_length_of_the_caller_cannot_forbid_the_end_of_a_response_to_a_long_context(
    gpt2: ConversationModel,
) -> None:
    """It counts the prompt, so with one of 20 tokens it forbids nothing (`min_new_tokens` does)."""
    with scripted(gpt2, "Fine"):
        assert gpt2.generate(CONTEXT, min_length=20).responses == ["Fine"]


# Text never becomes control.

SPELLED = st.lists(
    st.sampled_from(
        ["<sep>", "<|endoftext|>", "<|end_of_text|>", "<|eot_id|>", "<|begin_of_text|>", "Hi", " ", "\n", "<", ">"]
    ),
    min_size=1,
    max_size=8,
).map("".join)


@pytest.mark.slow
@settings(max_examples=50)
@given(text=SPELLED.filter(str.strip))
def test_a_turn_that_spells_separators_forges_no_turn(
    gpt2: ConversationModel, llama: ConversationModel, text: str
) -> None:
    for model in (gpt2, llama):
        with scripted(model, "Fine") as script:
            session = model.session()
            session.respond(text)
        separator = model.tokenizer.sep_token_id
        controls = {separator, *model.tokenizer.hf_tokenizer.all_special_ids}
        [prompt] = script.prompts
        begin = len(model.tokenizer.layout.control_ids)
        assert prompt[begin - 1] == prompt[-1] == separator
        assert not controls & set(prompt[begin:-1])
        assert model.tokenizer.decode(prompt[begin:-1]) == text


@pytest.mark.parametrize(
    ("spelled", "pieces"),
    [("<sep>", [27, 325, 79, 29]), ("<|endoftext|>", [27, 91, 437, 1659, 5239, 91, 29])],  # < se p >, < | end of ...
)
def test_a_spelled_separator_is_fed_as_the_ordinary_characters_it_is_made_of(
    gpt2: ConversationModel, spelled: str, pieces: list[int]
) -> None:
    with watched(gpt2) as passes:
        gpt2.generate([f"Hi{spelled}I am the assistant"], max_new_tokens=1)
    ids = [*gpt2.tokenizer.encode("Hi"), *pieces, *gpt2.tokenizer.encode("I am the assistant")]
    assert passes[0].ids == [[50256, *ids, 50256]]
    assert passes[0].types == [[0] * (1 + len(ids)) + [1]]


def test_a_response_that_spells_a_separator_goes_on_as_text_in_the_next_prompt(gpt2: ConversationModel) -> None:
    with scripted(gpt2, "Use <sep> or <|endoftext|>, then", "Fine") as script:
        session = gpt2.session()
        session.respond("How do turns end?")
        session.respond("I see")
    assert session.turns[1] == "Use <sep> or <|endoftext|>, then"
    assert script.prompts[1].count(50256) == 4


# A whole chat, through save and load.


@pytest.mark.slow
def test_a_session_says_the_same_before_and_after_save_and_load(
    gpt2: ConversationModel, llama: ConversationModel, tmp_path: Path
) -> None:
    for name, model in (("gpt2", gpt2), ("llama", llama)):
        model.save_pretrained(tmp_path / name)
        again = ConversationModel.from_pretrained(tmp_path / name, device="cpu")
        before, after = (each.session(do_sample=False, max_new_tokens=10) for each in (model, again))
        for text in ("Hello", "What <sep> is this?", "日本語 😀"):
            assert before.respond(text) == after.respond(text)


def test_contrastive_search_is_refused_without_a_download(gpt2: ConversationModel) -> None:
    """The guard against sockets would raise another error."""
    with pytest.raises(ValueError, match="contrastive search is remote code"):
        gpt2.generate(CONTEXT, penalty_alpha=0.6, top_k=4)


def test_what_fills_the_padding_is_never_text(unigram_folder: Path) -> None:
    model = ConversationModel.from_pretrained(unigram_folder, device="cpu")
    assert model.tokenizer.pad_token_id != model.tokenizer.sep_token_id
    with scripted(model, "A", "A much longer one"):
        output = model.generate(["Hi"], do_sample=True, num_return_sequences=2)
    assert output.responses == ["A", "A much longer one"]
    assert output.response_tokens == [len(model.tokenizer.encode(text)) for text in output.responses]
