"""Which layout a tokenizer gets, and why."""

import logging

import pytest
from chat_templates import CHATML, FORMS, REFUSED, make_tokenizer

from convmodel.errors import ConfigError, ModelLoadError
from convmodel.layout.choosing import choose_layout, require_saved, with_names
from convmodel.layout.config import LayoutConfig
from convmodel.layout.markers import SeparatorMarkers
from convmodel.layout.tokenizer import ConversationTokenizer

SPECIALS = FORMS["chatml"].specials


def test_a_chat_template_is_used() -> None:
    choice = choose_layout(make_tokenizer(CHATML, SPECIALS), "auto", use_token_types=True)
    assert choice.layout.name == "template"
    assert not choice.layout.use_token_types
    assert choice.reason == "measured from the model's chat template"


def test_the_reason_names_what_was_set() -> None:
    form = FORMS["rewriting"]
    choice = choose_layout(make_tokenizer(form.template, form.specials), "template", use_token_types=False)
    assert choice.reason.endswith("with enable_thinking=false")
    form = FORMS["llama3"]
    choice = choose_layout(make_tokenizer(form.template, form.specials), "auto", use_token_types=False)
    assert choice.reason.endswith("with the date 26 July 2024")


def test_without_one_it_is_the_separator() -> None:
    choice = choose_layout(make_tokenizer("", SPECIALS), "auto", use_token_types=True)
    assert isinstance(choice.layout.markers, SeparatorMarkers)
    assert choice.reason == "the tokenizer has no chat template"


def test_one_that_cannot_be_used_is_named(caplog: pytest.LogCaptureFixture) -> None:
    template, specials, reason = REFUSED["text only"]
    with caplog.at_level(logging.WARNING):
        choice = choose_layout(make_tokenizer(template, specials), "auto", use_token_types=False)
    assert choice.layout.name == "separator"
    assert "the layout is separator, not the model's chat template: nothing but text" in caplog.text
    with pytest.raises(ModelLoadError, match=f"{reason}.*: load the model with layout='separator'"):
        choose_layout(make_tokenizer(template, specials), "template", use_token_types=False)


def test_the_separator_can_be_requested() -> None:
    choice = choose_layout(make_tokenizer(CHATML, SPECIALS), "separator", use_token_types=False)
    assert (choice.layout.name, choice.reason) == ("separator", "as requested")


def test_our_own_template_is_the_separator_layout() -> None:
    first = ConversationTokenizer(make_tokenizer("", SPECIALS))
    assert ConversationTokenizer(first.hf_tokenizer).layout.name == "separator"


def test_another_name_is_refused() -> None:
    with pytest.raises(ConfigError, match="layout is 'chat': it must be auto, separator or template"):
        choose_layout(make_tokenizer("", SPECIALS), "chat", use_token_types=False)  # type: ignore[arg-type]


def test_names_need_the_template_layout() -> None:
    choice = choose_layout(make_tokenizer(CHATML, SPECIALS), "auto", use_token_types=False)
    assert with_names(choice.layout, "prefix", (7,)).names == "prefix"
    assert with_names(choice.layout, None, (7,)).stop_ids == (7,)
    with pytest.raises(ConfigError, match="names='prefix' needs the template layout"):
        with_names(LayoutConfig(5, "<sep>", False), "prefix", ())
    with pytest.raises(ConfigError, match="names is 'suffix': it must be prefix, or left out"):
        with_names(choice.layout, "suffix", ())


def test_of_several_templates_it_is_the_default() -> None:
    tokenizer = make_tokenizer(CHATML, SPECIALS)
    tokenizer.chat_template = {"default": CHATML, "tool_use": "{{ nothing }}"}
    assert choose_layout(tokenizer, "template", use_token_types=False).layout.name == "template"
    tokenizer.chat_template = {"tool_use": CHATML}
    assert choose_layout(tokenizer, "auto", use_token_types=False).reason == "the tokenizer has no chat template"


def test_a_saved_model_keeps_its_layout() -> None:
    saved = LayoutConfig(5, "<sep>", False)
    require_saved("model", saved, "auto", None)
    require_saved("model", saved, "separator", False)
    with pytest.raises(ModelLoadError, match="model was saved in the separator layout: leave layout='template' out"):
        require_saved("model", saved, "template", None)
    with pytest.raises(ModelLoadError, match="trained with use_token_types=False"):
        require_saved("model", saved, "auto", True)
