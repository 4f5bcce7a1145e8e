"""The values that a chat's options have: those given, the model's own, and the defaults."""

import copy
from pathlib import Path

import pytest

from convmodel import ConversationModel
from convmodel.errors import ConfigError
from convmodel.generation.options import warn_once


@pytest.fixture(scope="module")
def gpt2(gpt2_folder: Path) -> ConversationModel:
    return ConversationModel.from_pretrained(gpt2_folder, device="cpu")


def test_settings_are_the_values_in_use(gpt2: ConversationModel) -> None:
    session = gpt2.session(max_new_tokens=3, seed=7)
    values = {"temperature": 0.8, "top_p": 0.95, "top_k": 0, "max_new_tokens": 3, "repetition_penalty": 1.0}
    assert session.settings == values | {"do_sample": True, "seed": 7, "candidates": 1}

    session.set_options(do_sample=False, seed=None, num_beams=2)
    unused = dict.fromkeys(("temperature", "top_p", "top_k", "seed"))
    assert session.settings == values | unused | {"do_sample": False, "candidates": 1, "num_beams": 2}

    session.set_options(do_sample=None, num_beams=None, candidates=4, repeat_weight=2.0)
    assert (session.settings["candidates"], session.settings["repeat_weight"]) == (4, 2.0)


def test_settings_have_what_the_config_sets(gpt2: ConversationModel) -> None:
    model = copy.deepcopy(gpt2)
    own = {"do_sample": True, "min_p": 0.1, "no_repeat_ngram_size": 3}
    chat = {"candidates": 4, "mmi_lambda": 0.25, "repeat_weight": 1.0}
    for name, value in (own | {"chat": chat}).items():
        setattr(model.hf_model.generation_config, name, value)
    session = model.session()  # in which the model's mmi_lambda is no error, with candidates or without
    assert session.settings.items() >= (own | chat).items()
    assert session.setting("min_p") == 0.1

    session.set_options(do_sample=False)
    assert session.settings["no_repeat_ngram_size"] == 3
    assert session.settings.keys().isdisjoint({"min_p", "mmi_lambda"})


def test_a_setting_that_does_not_exist_is_refused(gpt2: ConversationModel) -> None:
    session = gpt2.session()
    assert session.setting("seed") is None
    assert session.setting("num_beams") is None
    for ask in (lambda: session.setting("temprature"), lambda: session.set_options(temprature=None)):
        with pytest.raises(ConfigError, match=r"is called temprature; .*; did you mean temperature"):
            ask()


def test_candidates_that_cannot_be_drawn_are_a_warning(
    gpt2: ConversationModel, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    model = copy.deepcopy(gpt2)
    model.hf_model.generation_config.chat = {"candidates": 4}
    warn_once.cache_clear()
    assert model.session().settings["candidates"] == 4
    assert not caplog.records

    assert model.session(encoder_repetition_penalty=1.2).settings["candidates"] == 1
    monkeypatch.setattr("convmodel.generation.respond.can_be_cached", lambda _: False)
    assert model.session().settings["candidates"] == 1

    start = (
        "the model asks for the best of 4 responses in chats, but only one is generated: the engine does not support "
    )
    of_option, of_model = caplog.messages
    assert of_option == f"{start}encoder_repetition_penalty"
    assert of_model.startswith(f"{start}gpt2 in transformers 5.")
