"""The options of sampling for a chat."""

from types import SimpleNamespace

from transformers import GenerationConfig

from convmodel.generation.defaults import CHAT_SAMPLING, all_chat_sampling, chat_candidates, chat_sampling


def test_a_model_that_samples_keeps_its_own_options() -> None:
    model = SimpleNamespace(generation_config=GenerationConfig(do_sample=True, temperature=0.3, top_k=20))
    assert chat_sampling(model) == {"do_sample": True, "temperature": 0.3, "top_p": 1.0, "top_k": 20}


def test_others_have_ours() -> None:
    assert chat_sampling(SimpleNamespace(generation_config=GenerationConfig(temperature=0.3))) == CHAT_SAMPLING
    assert chat_sampling(SimpleNamespace()) == CHAT_SAMPLING


CHAT = {"temperature": 0.6, "candidates": 8, "repeat_weight": 2.0}


def test_a_model_may_have_settings_for_chats_only() -> None:
    model = SimpleNamespace(generation_config=GenerationConfig(chat=CHAT))
    assert chat_sampling(model) == CHAT_SAMPLING | {"temperature": 0.6}
    assert chat_candidates(model) == {"candidates": 8, "repeat_weight": 2.0}
    both = GenerationConfig(do_sample=True, temperature=0.3, top_p=0.5, chat=CHAT)
    assert chat_sampling(SimpleNamespace(generation_config=both))["temperature"] == 0.6
    assert chat_sampling(SimpleNamespace(generation_config=both))["top_p"] == 0.5


def test_programs_that_a_model_is_exported_to_get_every_setting_of_its_chats() -> None:
    config = GenerationConfig(repetition_penalty=1.2, chat=CHAT | {"min_p": 0.1})
    values = all_chat_sampling(SimpleNamespace(generation_config=config))
    assert {name: values[name] for name in ("temperature", "top_p", "min_p", "repetition_penalty", "typical_p")} == {
        "temperature": 0.6, "top_p": 0.95, "min_p": 0.1, "repetition_penalty": 1.2, "typical_p": 1.0,
    }  # fmt: skip


def test_a_model_without_candidates_draws_one() -> None:
    for chat in ({}, {"candidates": 1, "repeat_weight": 2.0}, {"repeat_weight": 2.0}, None, "fast"):
        assert chat_candidates(SimpleNamespace(generation_config=GenerationConfig(chat=chat))) == {}
    assert chat_candidates(SimpleNamespace(generation_config=None)) == chat_candidates(SimpleNamespace()) == {}
