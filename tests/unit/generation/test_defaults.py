"""The options of sampling for a chat."""

from types import SimpleNamespace

from transformers import GenerationConfig

from convmodel.generation.defaults import CHAT_SAMPLING, chat_sampling


def test_a_model_that_samples_keeps_its_own_options() -> None:
    model = SimpleNamespace(generation_config=GenerationConfig(do_sample=True, temperature=0.3, top_k=20))
    assert chat_sampling(model) == {"do_sample": True, "temperature": 0.3, "top_p": 1.0, "top_k": 20}


def test_others_have_ours() -> None:
    assert chat_sampling(SimpleNamespace(generation_config=GenerationConfig(temperature=0.3))) == CHAT_SAMPLING
    assert chat_sampling(SimpleNamespace()) == CHAT_SAMPLING
