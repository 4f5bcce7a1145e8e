"""Responses that match a schema, on every path of the Python API: valid, and the same on all of them."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jsonschema_rs
import pytest
from architectures import save_tiny
from scripted import scripted

from convmodel import ConversationModel
from convmodel.errors import ConfigError
from convmodel.generation.engine.request import Request
from convmodel.generation.options import read_options
from convmodel.generation.respond import make_prompt, make_request

CONTEXT = ["Hello there", "How are you"]
CONTEXTS = [["Hi"], ["Hello", "How are you?", "Fine"], ["What is your name?"]]
PERSON: dict[str, Any] = {
    "type": "object",
    "properties": {"name": {"type": "string"}, "tags": {"type": "array", "items": {"type": "string"}}},
    "required": ["name", "tags"],
    "additionalProperties": False,
}
DRAWN: dict[str, Any] = {"json_schema": PERSON, "max_new_tokens": 40, "do_sample": True, "seed": 3}


@pytest.fixture(params=["tiny", "plain"])
def model(request: pytest.FixtureRequest, served_models: dict[str, ConversationModel]) -> ConversationModel:
    return served_models[request.param]


def check(text: str) -> None:
    jsonschema_rs.validate(PERSON, json.loads(text))


@pytest.mark.slow
@pytest.mark.parametrize(
    "options",
    [
        {"do_sample": False},
        {"temperature": 2.0, "top_p": 0.9, "seed": 1},
        {"temperature": 1.0, "top_k": 1, "seed": 1},
        {"temperature": 1.0, "min_p": 0.5, "presence_penalty": 1.0, "seed": 1},
        {"min_new_tokens": 40},
        {"suppress_tokens": [*range(400)]},
        {"num_return_sequences": 3, "do_sample": True, "seed": 5},
        {"num_return_sequences": 2, "do_sample": True, "seed": 5, "rerank": "likelihood"},
        {"no_repeat_ngram_size": 1},
    ],
    ids=str,
)
def test_no_other_option_breaks_the_schema(model: ConversationModel, options: dict[str, Any]) -> None:
    output = model.generate(CONTEXT, json_schema=PERSON, max_new_tokens=40, **options)
    assert len(output.responses) == options.get("num_return_sequences", 1)
    for text in output.responses:
        check(text)
    assert {*output.finish_reasons} == {"stop"}


@pytest.mark.slow
def test_all_paths_give_the_same(model: ConversationModel) -> None:
    [expected] = model.generate(CONTEXTS[0], **DRAWN).responses
    assert "".join(chunk.text for chunk in model.stream(CONTEXTS[0], **DRAWN)) == expected
    assert model.session(**DRAWN).respond(CONTEXTS[0][0]) == expected
    batch = model.generate_batch(CONTEXTS, **DRAWN)
    assert batch[0].responses == [expected]
    for output in batch:
        check(output.responses[0])


@pytest.mark.parametrize("pattern", ["(yes|no)", "[0-9]{3}-[a-z]+", "é+", "[^a]{1,12}!"])
def test_a_pattern_is_matched_whole(model: ConversationModel, pattern: str) -> None:
    for seed in range(5):
        [text] = model.generate(CONTEXT, regex=pattern, do_sample=True, seed=seed, max_new_tokens=16).responses
        assert re.fullmatch(pattern, text)


def test_a_grammar_is_obeyed(model: ConversationModel) -> None:
    grammar = 'start: sum "=" NUMBER\nsum: NUMBER ("+" NUMBER)*\nNUMBER: /[0-9]{1,3}/'
    for seed in range(5):
        [text] = model.generate(CONTEXT, grammar=grammar, do_sample=True, seed=seed, max_new_tokens=16).responses
        assert re.fullmatch("[0-9]{1,3}([+][0-9]{1,3})*=[0-9]{1,3}", text)


def test_what_a_model_wants_to_say_is_kept_if_it_is_legal(model: ConversationModel) -> None:
    wanted = '{"name":"Hello there","tags":["How are you"]}'
    with scripted(model, wanted):
        assert model.generate(CONTEXT, json_schema=PERSON, max_new_tokens=60).responses == [wanted]


def test_others_share_the_steps(model: ConversationModel, monkeypatch: pytest.MonkeyPatch) -> None:
    def request(**options: Any) -> Request:
        checked = read_options(model.hf_model, model.tokenizer, {"max_new_tokens": 30, "seed": 1} | options)
        prompt = make_prompt(model.tokenizer, CONTEXT, checked)
        return make_request(model.hf_model, model.tokenizer, prompt, checked, remember=False)

    def requests() -> list[Request]:
        free = request(do_sample=True, min_new_tokens=30)
        return [free, request(do_sample=True, json_schema=PERSON), request(do_sample=True, regex="(a|b){29}")]

    alone = []
    for single in requests():
        for _ in model.engine.follow(single):
            pass
        alone.append(single.rows[0].tokens)
    passes, read = [], model.engine.runner.read
    monkeypatch.setattr(model.engine.runner, "read", lambda parts: passes.append(1) or read(parts))
    together = requests()
    for _ in model.engine.follow_all(together):
        pass

    assert [single.rows[0].tokens for single in together] == alone
    assert len(passes) <= 30 + len(together)


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({"json_schema": {"type": "wibble"}}, "json_schema cannot be used: Invalid type: wibble"),
        ({"json_schema": {"type": "object"}, "max_new_tokens": 1}, r"max_new_tokens is 1: .*json_schema has \d tokens"),
        ({"json_schema": {"type": "object"}, "output_scores": True}, "json_schema does not go .* output_scores"),
        ({"regex": "a+", "stop_strings": ["a"]}, "stop_strings could end what regex requires"),
        ({"regex": "a("}, "regex cannot be used: .*unclosed group"),
        ({"grammar": "start: b"}, "grammar cannot be used: .*unknown name"),
    ],
)
def test_what_cannot_be_obeyed_is_refused(model: ConversationModel, options: dict[str, Any], problem: str) -> None:
    for call in (model.generate, lambda context, **more: model.generate_batch([context], **more)):
        with pytest.raises(ConfigError, match=problem):
            call(CONTEXT, **options)
    with pytest.raises(ConfigError, match=problem):
        next(model.stream(CONTEXT, **options))


def test_a_model_that_transformers_generates_with_is_refused(make_once: Callable[..., Path]) -> None:
    model = ConversationModel.from_pretrained(make_once("tiny-rwkv", lambda folder: save_tiny(folder, "rwkv")))
    with pytest.raises(ConfigError, match="json_schema does not go together with rwkv"):
        model.generate(CONTEXT, json_schema={"type": "object"}, max_new_tokens=8)
