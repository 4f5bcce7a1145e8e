"""The exported page: what it carries, its policy, its size, and what it refuses."""

import base64
import copy
import hashlib
import json
import re
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest
import torch
from html_page import Page
from scripted import enliven
from torch import nn
from transformers import GenerationConfig, GPT2Config, GPT2LMHeadModel, MistralConfig, MistralForCausalLM

from convmodel import ConversationModel, ConversationTokenizer
from convmodel.errors import ConfigError
from convmodel.export import html_page
from convmodel.export.html_page import MOST_POSITIONS, SCRIPTS, make_page
from convmodel.hf_model.int8_layers import Int8Embedding, Int8Linear
from convmodel.hf_model.quantization import quantize_weights
from convmodel.layout.tokenizer import ConversationTokenizer as Tokenizer

SOURCES = files("convmodel.export") / "page"


@pytest.fixture(scope="module")
def model(gpt2_folder: Path) -> ConversationModel:
    """A tiny GPT-2 with GPT-2's vocabulary; tests leave it as it is."""
    model = ConversationModel.from_pretrained(gpt2_folder, device="cpu")
    enliven(model.hf_model)
    return model


@pytest.fixture(scope="module")
def page(model: ConversationModel) -> str:
    return make_page(model.hf_model, model.tokenizer, title="My <bot> & I")


def block(page: str, name: str) -> str:
    match = re.search(rf'<script id="{name}"[^>]*>([^<]*)</script>', page)
    assert match
    return match[1]


def facts_of(page: str) -> dict[str, Any]:
    result: dict[str, Any] = json.loads(block(page, "facts"))
    return result


def make(model: ConversationModel, **changes: Any) -> str:
    """Makes the page of a model with another config."""
    config = GPT2Config(**{"vocab_size": len(model.tokenizer), "n_embd": 32, "n_head": 2, "n_layer": 1} | changes)
    return make_page(GPT2LMHeadModel(config), model.tokenizer, title="Bot")


@pytest.mark.slow
def test_the_model_is_not_changed(gpt2_folder: Path) -> None:
    model = ConversationModel.from_pretrained(gpt2_folder, device="cpu")
    before = copy.deepcopy(model.hf_model.state_dict())
    model.hf_model.train()
    make_page(model.hf_model, model.tokenizer, title="Bot")
    assert model.hf_model.training
    after = model.hf_model.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_the_policy_has_the_hashes_of_script_and_style(page: str) -> None:
    policy = re.search(r'<meta http-equiv="Content-Security-Policy" content="([^"]*)">', page)
    assert policy
    for name, pattern in (("script", r'<script type="module">(.*?)</script>'), ("style", r"<style>(.*?)</style>")):
        [content] = re.findall(pattern, page, flags=re.DOTALL)
        digest = base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()
        assert f"{name}-src 'sha256-{digest}';" in policy[1]
    assert policy[1].startswith("default-src 'none';")
    assert "unsafe" not in policy[1]
    assert policy.start() < page.index("<style>") < page.index("<script")


def test_the_page_is_one_file_of_valid_html(page: str) -> None:
    parsed = Page(re.sub(r"<(link|input)\b", "<meta", page))  # the other elements without an end
    assert [link for link in parsed.referred if not link.startswith(("#", "data:"))] == []
    assert len(parsed.ids) == len({*parsed.ids})
    assert parsed.text.count("My <bot> & I") == 2
    assert not re.search(r"\{\{\w+\}\}", page)


def test_the_size_of_the_builtin_models_page() -> None:
    model = ConversationModel.from_pretrained("builtin:chitchat", device="cpu")
    page = make_page(model.hf_model, model.tokenizer, title="Chitchat")
    quantize_weights(model.hf_model, "int8")
    matrices = [each for each in model.hf_model.modules() if isinstance(each, Int8Linear | Int8Embedding)]
    tied = model.hf_model.lm_head
    size = sum(each.rows.nbytes for each in matrices if each is not tied)  # type: ignore[union-attr, operator]
    assert len(page.encode()) <= 1.45 * size


def test_limits_and_sampling_are_those_of_a_chat(model: ConversationModel, page: str) -> None:
    facts = facts_of(page)
    assert facts["title"] == "My <bot> & I"
    assert facts["sampling"] == {"temperature": 0.8, "topP": 0.95, "topK": 0}
    assert facts["stopIds"] == sorted(model.tokenizer.stop_token_ids)
    assert facts["budget"] + facts["newTokens"] == 128
    assert facts["layout"]["openings"]["user"]["response"] == [model.tokenizer.sep_token_id]


@pytest.mark.slow
def test_a_page_uses_a_part_of_many_positions(model: ConversationModel) -> None:
    facts = facts_of(make(model, n_positions=MOST_POSITIONS + 1))
    assert facts["budget"] + facts["newTokens"] == MOST_POSITIONS


@pytest.mark.slow
def test_sampling_is_that_of_the_generation_config(model: ConversationModel) -> None:
    other = ConversationModel(copy.deepcopy(model.hf_model), model.tokenizer)
    other.hf_model.generation_config = GenerationConfig(do_sample=True, temperature=0.5, top_k=7)
    page = make_page(other.hf_model, model.tokenizer, title="Bot")
    assert facts_of(page)["sampling"] == {"temperature": 0.5, "topP": 1.0, "topK": 7}
    for name, value in (("min_p", 0.1), ("repetition_penalty", 1.2), ("no_repeat_ngram_size", 3)):
        other.hf_model.generation_config = GenerationConfig(do_sample=True, **{name: value})
        with pytest.raises(ConfigError, match=f"{name}={value}.*remove it"):
            make_page(other.hf_model, model.tokenizer, title="Bot")


@pytest.mark.slow
def test_settings_for_chats_come_first(model: ConversationModel) -> None:
    other = ConversationModel(copy.deepcopy(model.hf_model), model.tokenizer)
    chat: dict[str, Any] = {"temperature": 0.6, "top_p": 0.9, "candidates": 16, "repeat_weight": 3.0}
    other.hf_model.generation_config = GenerationConfig(chat=chat)
    page = make_page(other.hf_model, model.tokenizer, title="Bot")
    assert facts_of(page)["sampling"] == {"temperature": 0.6, "topP": 0.9, "topK": 0}
    other.hf_model.generation_config = GenerationConfig(chat=chat | {"min_p": 0.1})
    with pytest.raises(ConfigError, match=r"min_p=0.1.*remove it"):
        make_page(other.hf_model, model.tokenizer, title="Bot")


def test_the_probe_is_what_the_int8_model_generates(model: ConversationModel, page: str) -> None:
    probe = facts_of(page)["probe"]
    other = ConversationModel(copy.deepcopy(model.hf_model), model.tokenizer)
    quantize_weights(other.hf_model, "int8")
    output = other.generate(probe["texts"], do_sample=False, max_new_tokens=8, min_new_tokens=8)
    assert output.raw.sequences[0].tolist() == probe["ids"] + probe["tokens"]
    assert len(probe["tokens"]) == 8


@pytest.mark.slow
def test_a_model_that_is_too_large_is_refused(model: ConversationModel, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match=r"million parameters, but a page has at most 34 million: "):
        make(model, n_embd=640)
    monkeypatch.setattr(html_page, "LARGEST_PAGE", 1000)
    with pytest.raises(ConfigError, match="2 million parameters"):
        make(model)


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"activation_function": "relu"}, "activation_function is 'relu'"),
        ({"scale_attn_weights": False}, "scale_attn_weights is False"),
        ({"scale_attn_by_inverse_layer_idx": True}, "scale_attn_by_inverse_layer_idx is True"),
        ({"add_cross_attention": True}, "add_cross_attention is True"),
    ],
)
def test_another_shape_is_refused(model: ConversationModel, changes: dict[str, Any], problem: str) -> None:
    with pytest.raises(ConfigError, match=f"{problem}.*export another format"):
        make(model, **changes)


def test_another_state_of_a_model_is_refused(model: ConversationModel) -> None:
    mistral = MistralForCausalLM(
        MistralConfig(
            vocab_size=8,
            hidden_size=8,
            intermediate_size=8,
            num_hidden_layers=1,
            num_attention_heads=1,
            num_key_value_heads=1,
        )
    )
    with pytest.raises(ConfigError, match="GPT-2 and Llama models only, not MistralForCausalLM: export another"):
        make_page(mistral, model.tokenizer, title="Bot")
    quantized = copy.deepcopy(model.hf_model)
    quantize_weights(quantized, "int8")
    with pytest.raises(ConfigError, match="load it without quantize"):
        make_page(quantized, model.tokenizer, title="Bot")
    adapted: Any = copy.deepcopy(model.hf_model)
    adapted._hf_peft_config_loaded = True
    with pytest.raises(ConfigError, match=r"merge_adapters\(\)"):
        make_page(adapted, model.tokenizer, title="Bot")


def test_other_vocabularies_are_refused(unigram_folder: Path, bytelevel_folder: Path) -> None:
    llama = ConversationModel.from_pretrained(bytelevel_folder, device="cpu")
    with pytest.raises(ConfigError, match="splits texts as GPT-2's does"):
        make_page(llama.hf_model, llama.tokenizer, title="Bot")
    model = ConversationModel.from_pretrained(unigram_folder, device="cpu")
    with pytest.raises(ConfigError, match="byte-level BPE"):
        make_page(model.hf_model, model.tokenizer, title="Bot")


@pytest.mark.slow
def test_a_model_in_half_precision_is_exported(model: ConversationModel) -> None:
    half = copy.deepcopy(model.hf_model).bfloat16()
    probe = facts_of(make_page(half, model.tokenizer, title="Bot"))["probe"]
    assert probe["tokens"] == facts_of(make_page(half.float(), model.tokenizer, title="Bot"))["probe"]["tokens"]


def test_the_sources_make_no_html_and_load_nothing() -> None:
    for file in SOURCES.iterdir():
        text = file.read_text(encoding="utf-8")
        assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\(|new Function", text)
        assert not re.search(r"\bfetch\(|XMLHttpRequest|WebSocket|sendBeacon|importScripts", text)
        assert not re.search(r"https?://(?!www\.w3\.org/2000/svg)", text)
        assert not re.search(r"\sstyle=|\son\w+=", text) or not file.name.endswith(".html")


def test_the_scripts_can_be_one_script() -> None:
    """Names at the top level are unique, and nothing is imported from elsewhere."""
    assert {file.name for file in SOURCES.iterdir()} == {*SCRIPTS, "page.html", "page.css"}
    names: list[str] = []
    for number, name in enumerate(SCRIPTS):
        text = (SOURCES / name).read_text(encoding="utf-8")
        imported = re.findall(r'^import .* from "\./(.*)";$', text, flags=re.MULTILINE)
        assert len(imported) == len(re.findall(r"^import", text, flags=re.MULTILINE))
        assert {*imported} <= {*SCRIPTS[:number]}
        for listed, single in re.findall(
            r"^(?:export )?(?:async )?(?:const|let|function\*?|class) (?:\[(.*?)\]|(\w+))", text, flags=re.MULTILINE
        ):
            names += re.findall(r"\w+", listed or single)
    assert len(names) == len({*names})


@pytest.mark.slow
def test_types_of_the_layout(gpt2_folder: Path) -> None:
    tokenizer: Tokenizer = ConversationTokenizer.from_pretrained(gpt2_folder, use_token_types=False)
    model = ConversationModel(GPT2LMHeadModel(GPT2Config(n_embd=8, n_head=1, n_layer=1)), tokenizer)
    layout = facts_of(make_page(model.hf_model, tokenizer, title="Bot"))["layout"]
    assert (layout["types"], layout["joins"]) == (False, True)
    assert isinstance(model.hf_model.get_input_embeddings(), nn.Embedding)
