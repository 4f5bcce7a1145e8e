"""Generation: the layout goes on through the response, every path says the same, and nothing is left behind."""

import math
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from architectures import save_tiny
from scripted import enliven, scripted, watched
from serving import wait_until

from convmodel import Conversation, ConversationModel
from convmodel.errors import ConfigError, ContextTooLongError, ConversationError, LogitsError
from convmodel.generation.options import read_options
from convmodel.generation.respond import make_request

CONTEXT = ["Hello there", "How are you"]
TEN_TURNS = [f"This is what is said in turn number {number}" for number in range(1, 11)]


def load(folder: Path, factor: float = 10.0) -> ConversationModel:
    model = ConversationModel.from_pretrained(folder, device="cpu")
    enliven(model.hf_model, factor)
    return model


@pytest.fixture(scope="module")
def gpt2(gpt2_folder: Path) -> ConversationModel:
    return load(gpt2_folder)


@pytest.fixture(scope="module")
def llama(bytelevel_folder: Path) -> ConversationModel:
    return load(bytelevel_folder, factor=20.0)


@pytest.fixture(scope="module")
def unigram(unigram_folder: Path) -> ConversationModel:
    """Its padding is not its separator."""
    return load(unigram_folder)


@pytest.fixture(params=["gpt2", "llama", "unigram"])
def model(request: pytest.FixtureRequest) -> ConversationModel:
    fixture: ConversationModel = request.getfixturevalue(request.param)
    return fixture


@pytest.fixture(autouse=True)
def _no_thread_is_left() -> Iterator[None]:
    yield
    assert not generating()


def generating() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "convmodel-generate"]


def streamed(model: ConversationModel, context: Any, **options: Any) -> str:
    return "".join(chunk.text for chunk in model.stream(context, **options))


def response_ids(model: ConversationModel, context: Any, **options: Any) -> list[int]:
    output = model.generate(context, **options)
    ids: list[int] = output.raw.sequences[0].tolist()[output.prompt_tokens :]
    return ids


def greedy_by_hand(model: ConversationModel, context: Any, new_tokens: int) -> list[int]:
    """Greedy decoding as one writes it down: the whole sequence through the model for every token."""
    encoding = model.tokenizer(context)
    ids, types = list(encoding["input_ids"]), list(encoding.get("token_type_ids", []))
    begin = len(ids)
    for _ in range(new_tokens):
        inputs = {"input_ids": torch.tensor([ids])}
        if types:
            inputs["token_type_ids"] = torch.tensor([types])
        with torch.no_grad():
            logits = model.hf_model(**inputs, use_cache=False).logits
        ids.append(int(logits[0, -1].argmax()))
        types = [*types, types[-1]] if types else types
        if ids[-1] in model.tokenizer.stop_token_ids:
            break
    return ids[begin:]


# The layout goes on through the response.


def test_every_generated_token_has_the_responders_type_and_the_next_position(gpt2: ConversationModel) -> None:
    encoding = gpt2.tokenizer(CONTEXT)
    begin = len(encoding["input_ids"])

    with watched(gpt2) as passes:
        said = response_ids(gpt2, CONTEXT, max_new_tokens=5)

    prompt, *steps = passes
    assert prompt.ids == [encoding["input_ids"]]
    assert prompt.types == [encoding["token_type_ids"]]
    assert prompt.positions == [list(range(begin))]
    assert [step.ids for step in steps] == [[[index]] for index in said[:-1]]
    assert [step.types for step in steps] == [[[0]]] * 4
    assert [step.positions for step in steps] == [[[begin + number]] for number in range(4)]


@pytest.mark.parametrize("reply_as", ["Ann", "Bob", "Cem", "Dan"])
def test_the_type_that_goes_on_is_the_index_of_whoever_responds(gpt2: ConversationModel, reply_as: str) -> None:
    context = Conversation(["Hi", "Hello", "Hey"], ["Ann", "Bob", "Cem"])
    with watched(gpt2) as passes:
        gpt2.generate(context, reply_as=reply_as, max_new_tokens=3)
    index = ["Ann", "Bob", "Cem", "Dan"].index(reply_as)
    assert passes[0].types[0][-1] == index
    assert [step.types for step in passes[1:]] == [[[index]]] * 2


@pytest.mark.parametrize(
    "options", [{"num_beams": 3}, {"do_sample": True, "num_return_sequences": 3, "seed": 1}], ids=["beams", "sampling"]
)
def test_types_and_positions_go_on_in_every_row(gpt2: ConversationModel, options: dict[str, Any]) -> None:
    with watched(gpt2) as passes:
        gpt2.generate(CONTEXT, max_new_tokens=4, **options)
    begin = len(passes[0].ids[0])
    for number, step in enumerate(passes[1:]):
        assert step.types == [[0]] * 3
        assert step.positions == [[begin + number]] * 3


def test_types_go_on_without_a_cache(gpt2: ConversationModel) -> None:
    prompt = gpt2.tokenizer(CONTEXT)
    with watched(gpt2) as passes:
        said = response_ids(gpt2, CONTEXT, max_new_tokens=4, use_cache=False)
    assert passes[-1].ids == [prompt["input_ids"] + said[:-1]]
    assert passes[-1].types == [prompt["token_type_ids"] + [0, 0, 0]]
    assert passes[-1].positions == [list(range(len(prompt["input_ids"]) + 3))]


def test_the_responders_type_matters(gpt2: ConversationModel) -> None:
    """Else the tests above and below would prove little."""
    first = gpt2.generate(CONTEXT, max_new_tokens=10)
    other = gpt2.generate(CONTEXT, max_new_tokens=10, reply_as="assistant")
    assert first.responses != other.responses


# Every path says the same.


@pytest.mark.parametrize("turns", [1, 2, 3, 10])
def test_greedy_is_what_one_writes_by_hand(model: ConversationModel, turns: int) -> None:
    context = [f"Say {number}" for number in range(turns)]
    by_hand = greedy_by_hand(model, context, 12)
    assert len(set(by_hand)) > 3
    assert response_ids(model, context, max_new_tokens=12) == by_hand


def test_cached_equals_uncached_over_ten_turns(model: ConversationModel) -> None:
    turns: list[str] = []
    for number in range(10):
        turns.append(f"Well {number}")
        cached = model.generate(turns, max_new_tokens=5, min_new_tokens=5)
        uncached = model.generate(turns, max_new_tokens=5, min_new_tokens=5, use_cache=False)
        assert cached.raw.sequences.tolist() == uncached.raw.sequences.tolist()
        turns.append(cached.responses[0].strip() or "Hm")


@pytest.mark.parametrize("context", [["Hi"], CONTEXT, TEN_TURNS[:3]], ids=["one", "two", "three"])
def test_streamed_equals_generated(model: ConversationModel, context: list[str]) -> None:
    output = model.generate(context, max_new_tokens=25)
    chunks = list(model.stream(context, max_new_tokens=25))
    assert "".join(chunk.text for chunk in chunks) == output.responses[0]
    assert chunks[-1].finish_reason == output.finish_reasons[0]
    assert [chunk.finish_reason for chunk in chunks[:-1]] == [None] * (len(chunks) - 1)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_streamed_equals_generated_when_sampling_with_a_seed(model: ConversationModel, seed: int) -> None:
    options = {"do_sample": True, "top_p": 0.9, "temperature": 2.0, "max_new_tokens": 20, "seed": seed}
    assert streamed(model, CONTEXT, **options) == model.generate(CONTEXT, **options).responses[0]


@pytest.mark.parametrize("reply", ["Good thank you", "日本語、そして 😀👩‍👩‍👧!", "a  b \n c", "x" * 60])
def test_a_scripted_reply_comes_out_as_it_was_written(model: ConversationModel, reply: str) -> None:
    written = model.tokenizer.decode(model.tokenizer.encode(reply))
    with scripted(model, reply, reply):
        output = model.generate(CONTEXT, max_new_tokens=100)
        chunks = list(model.stream(CONTEXT, max_new_tokens=100))
    assert output.responses == [written]
    assert "".join(chunk.text for chunk in chunks) == written
    assert output.finish_reasons == ["stop"]
    assert chunks[-1].finish_reason == "stop"


def test_two_streams_at_once_do_not_disturb_each_other(model: ConversationModel) -> None:
    contexts = [["Hello there"], ["What is your name", "Ann", "And yours"]]
    alone = [streamed(model, context, max_new_tokens=20) for context in contexts]

    streams = [model.stream(context, max_new_tokens=20) for context in contexts]
    texts = ["", ""]
    for _ in range(40):
        for number, stream in enumerate(streams):
            chunk = next(stream, None)
            texts[number] += chunk.text if chunk else ""

    assert texts == alone


# Several responses.


def test_several_responses_are_returned_in_order(model: ConversationModel) -> None:
    with scripted(model, "One", "Two and more", "Three"):
        output = model.generate(CONTEXT, do_sample=True, num_return_sequences=3)
    assert output.responses == ["One", "Two and more", "Three"]
    assert output.finish_reasons == ["stop"] * 3
    assert output.response_tokens == [len(model.tokenizer.encode(text)) for text in output.responses]
    assert output.context == CONTEXT
    assert output.scores is None


def test_unequal_lengths_do_not_matter(model: ConversationModel) -> None:
    """What fills a row that has ended is neither text nor counted."""
    long = "This one goes on and on until there is no room for it"
    room = len(model.tokenizer.encode(long)) - 2
    with scripted(model, "A", long, "Fine, thank you"):
        output = model.generate(CONTEXT, do_sample=True, num_return_sequences=3, max_new_tokens=room)
    assert output.responses[0] == "A"
    assert output.responses[2] == "Fine, thank you"
    assert long.startswith(output.responses[1])
    assert output.finish_reasons == ["stop", "length", "stop"]
    assert output.response_tokens[1] == room


def test_equal_rows_say_what_one_says(model: ConversationModel) -> None:
    alone = model.generate(CONTEXT, max_new_tokens=15).responses[0]
    rows = model.generate(CONTEXT, max_new_tokens=15, do_sample=True, top_k=1, num_return_sequences=3).responses
    assert rows == [alone] * 3


def test_sampled_responses_differ(gpt2: ConversationModel) -> None:
    output = gpt2.generate(CONTEXT, do_sample=True, temperature=3.0, num_return_sequences=4, seed=0, max_new_tokens=8)
    assert len(set(output.responses)) == 4


def test_beams_give_sorted_scores_and_as_many_responses_as_asked_for(model: ConversationModel) -> None:
    output = model.generate(CONTEXT, num_beams=4, num_return_sequences=3, max_new_tokens=6)
    assert len(output.responses) == len(output.finish_reasons) == len(output.response_tokens) == 3
    assert output.scores is not None
    assert output.scores == sorted(output.scores, reverse=True)


def test_the_best_beam_is_at_least_as_probable_as_greedy(gpt2: ConversationModel) -> None:
    def nats(ids: list[int]) -> float:
        prompt = gpt2.tokenizer(CONTEXT)
        whole = torch.tensor([prompt["input_ids"] + ids])
        types = torch.tensor([prompt["token_type_ids"] + [0] * len(ids)])
        with torch.no_grad():
            logits = gpt2.hf_model(input_ids=whole, token_type_ids=types).logits[0].log_softmax(-1)
        return sum(logits[-len(ids) - 1 + number, index].item() for number, index in enumerate(ids))

    options = {"max_new_tokens": 3, "min_new_tokens": 3}
    greedy = response_ids(gpt2, CONTEXT, **options)
    output = gpt2.generate(CONTEXT, num_beams=8, length_penalty=0.0, **options)
    best = output.raw.sequences[0].tolist()[output.prompt_tokens :]

    assert nats(best) >= nats(greedy)
    assert output.scores == pytest.approx([nats(best)], abs=1e-3)


# Why a response ended.


def test_a_response_that_ends_by_itself_has_stopped(model: ConversationModel) -> None:
    with scripted(model, "Fine"):
        output = model.generate(CONTEXT, max_new_tokens=20)
    assert (output.responses, output.finish_reasons) == (["Fine"], ["stop"])
    assert output.response_tokens == [len(model.tokenizer.encode("Fine"))]


def test_the_limit_ends_a_response_and_takes_none_of_its_tokens(model: ConversationModel) -> None:
    reply = "One two three four five six seven"
    ids = model.tokenizer.encode(reply)
    with scripted(model, reply, reply):
        output = model.generate(CONTEXT, max_new_tokens=5)
        chunks = list(model.stream(CONTEXT, max_new_tokens=5))
    assert output.responses == [model.tokenizer.decode(ids[:5])]
    assert output.finish_reasons == ["length"]
    assert output.response_tokens == [5]
    assert "".join(chunk.text for chunk in chunks) == output.responses[0]
    assert chunks[-1].finish_reason == "length"


def test_a_separator_as_the_very_last_token_stops(model: ConversationModel) -> None:
    ids = model.tokenizer.encode("Good thank you")
    with scripted(model, ids, ids):
        output = model.generate(CONTEXT, max_new_tokens=len(ids) + 1)
        chunks = list(model.stream(CONTEXT, max_new_tokens=len(ids) + 1))
    assert (output.responses, output.finish_reasons) == (["Good thank you"], ["stop"])
    assert chunks[-1].finish_reason == "stop"


def test_one_token_too_few_for_the_separator_is_the_limit(model: ConversationModel) -> None:
    ids = model.tokenizer.encode("Good thank you")
    with scripted(model, ids):
        output = model.generate(CONTEXT, max_new_tokens=len(ids))
    assert (output.responses, output.finish_reasons) == (["Good thank you"], ["length"])


def test_the_end_of_text_stops_as_the_separator_does(llama: ConversationModel) -> None:
    end_of_text = llama.tokenizer.hf_tokenizer.eos_token_id
    with scripted(llama, [*llama.tokenizer.encode("Fine"), end_of_text, *llama.tokenizer.encode("not this")]):
        output = llama.generate(CONTEXT, max_new_tokens=20)
    assert (output.responses, output.finish_reasons) == (["Fine"], ["stop"])


def test_an_empty_response_is_empty_and_has_stopped(model: ConversationModel) -> None:
    with scripted(model, "", ""):
        output = model.generate(CONTEXT)
        chunks = list(model.stream(CONTEXT))
    assert (output.responses, output.finish_reasons, output.response_tokens) == ([""], ["stop"], [0])
    assert [(chunk.text, chunk.finish_reason) for chunk in chunks] == [("", "stop")]


def test_the_caller_may_choose_another_stop_id(gpt2: ConversationModel) -> None:
    with scripted(gpt2, "Yes. No."):
        output = gpt2.generate(CONTEXT, eos_token_id=13)
    assert (output.responses, output.finish_reasons) == (["Yes"], ["stop"])


@pytest.mark.parametrize("new_tokens", [1, 4, 9])
def test_the_caller_may_bound_prompt_and_response_together(model: ConversationModel, new_tokens: int) -> None:
    prompt = len(model.tokenizer(CONTEXT)["input_ids"])
    with scripted(model, "One two three four five six seven eight nine ten", "One two three four five six seven eight"):
        output = model.generate(CONTEXT, max_length=prompt + new_tokens)
        streamed(model, CONTEXT, max_length=prompt + new_tokens)
    assert output.prompt_tokens + output.response_tokens[0] == prompt + new_tokens
    assert output.left_out == 0


def test_at_least_so_many_new_tokens_count_without_the_prompt(model: ConversationModel) -> None:
    with scripted(model, "", otherwise=model.tokenizer.encode("so")[-1]):
        output = model.generate(CONTEXT, min_new_tokens=4)
    assert output.response_tokens == [4]
    assert output.finish_reasons == ["stop"]


# Stop strings.


@pytest.mark.parametrize(
    ("stop", "expected"),
    [
        ("three", "One two "),
        (" three", "One two"),
        ("wo thr", "One t"),
        (["five", "two", "four"], "One "),
        (["nowhere"], "One two three four"),
        ([], "One two three four"),
        ("One", ""),
    ],
    ids=str,
)
def test_a_stop_string_ends_the_response_before_it(
    model: ConversationModel, stop: str | list[str], expected: str
) -> None:
    with scripted(model, "One two three four", "One two three four"):
        output = model.generate(CONTEXT, stop_strings=stop)
        chunks = list(model.stream(CONTEXT, stop_strings=stop))
    assert output.responses == [expected]
    assert output.finish_reasons == ["stop"]
    assert "".join(chunk.text for chunk in chunks) == expected
    assert chunks[-1].finish_reason == "stop"


def test_what_only_began_like_a_stop_string_is_said_in_the_end(model: ConversationModel) -> None:
    with scripted(model, "Fine User", "Fine User"):
        output = model.generate(CONTEXT, stop_strings=" User:")
        chunks = list(model.stream(CONTEXT, stop_strings=" User:"))
    assert output.responses == ["Fine User"]
    assert "".join(chunk.text for chunk in chunks) == "Fine User"


def test_no_work_is_done_after_a_stop_string(gpt2: ConversationModel) -> None:
    with scripted(gpt2, "One two three" + " four" * 90) as script:
        gpt2.generate(CONTEXT, stop_strings="three", max_new_tokens=100)
    assert script.steps == 3


def test_rows_stop_at_stop_strings_one_by_one(model: ConversationModel) -> None:
    with scripted(model, "No END really", "Yes it is", "END"):
        output = model.generate(CONTEXT, do_sample=True, num_return_sequences=3, stop_strings="END")
    assert output.responses == ["No ", "Yes it is", ""]
    assert output.finish_reasons == ["stop"] * 3


def test_a_stop_string_of_the_context_stops_nothing(model: ConversationModel) -> None:
    with scripted(model, "Fine"):
        output = model.generate(["Say END", "END"], stop_strings="END")
    assert output.responses == ["Fine"]


# Randomness.


def test_a_seed_gives_the_same_text_twice(model: ConversationModel) -> None:
    options = {"do_sample": True, "temperature": 2.0, "max_new_tokens": 15}
    first, again, other = (model.generate(CONTEXT, seed=seed, **options).responses for seed in (0, 0, 1))
    assert first == again
    assert first != other


def test_a_seed_gives_the_same_text_whatever_the_global_random_state(gpt2: ConversationModel) -> None:
    options = {"do_sample": True, "temperature": 2.0, "max_new_tokens": 10, "seed": 5}
    torch.manual_seed(1)
    first = gpt2.generate(CONTEXT, **options).responses
    torch.manual_seed(2)
    assert gpt2.generate(CONTEXT, **options).responses == first


def test_a_seed_leaves_the_global_random_state_alone(gpt2: ConversationModel) -> None:
    options = {"do_sample": True, "max_new_tokens": 10, "seed": 5}
    before = torch.get_rng_state()
    gpt2.generate(CONTEXT, **options)
    streamed(gpt2, CONTEXT, **options)
    interrupted = gpt2.stream(CONTEXT, **options)
    next(interrupted)
    interrupted.close()  # type: ignore[attr-defined]
    assert torch.equal(torch.get_rng_state(), before)


def test_seeded_streams_at_once_keep_their_texts_and_the_global_random_state(gpt2: ConversationModel) -> None:
    options = {"do_sample": True, "temperature": 2.0, "max_new_tokens": 15}
    alone = [streamed(gpt2, CONTEXT, seed=seed, **options) for seed in (1, 2)]
    before = torch.get_rng_state()

    slow = gpt2.hf_model.register_forward_hook(lambda *_: time.sleep(0.005))
    streams = [gpt2.stream(CONTEXT, seed=seed, **options) for seed in (1, 2)]
    texts = [next(stream).text for stream in streams]
    for number, stream in enumerate(streams):
        texts[number] += "".join(chunk.text for chunk in stream)
    slow.remove()

    assert texts == alone
    assert torch.equal(torch.get_rng_state(), before)


def test_greedy_ignores_the_random_state(gpt2: ConversationModel) -> None:
    before = torch.get_rng_state()
    gpt2.generate(CONTEXT, max_new_tokens=5)
    assert torch.equal(torch.get_rng_state(), before)


def test_without_a_seed_the_global_random_state_decides(gpt2: ConversationModel) -> None:
    options = {"do_sample": True, "temperature": 2.0, "max_new_tokens": 10}
    texts = []
    with torch.random.fork_rng(devices=[]):
        for seed in (3, 3, 4):
            torch.manual_seed(seed)
            texts.append(gpt2.generate(CONTEXT, **options).responses[0])
    assert texts[0] == texts[1] != texts[2]


# The model is left as it was found.


def talk(model: ConversationModel) -> None:
    model.generate(CONTEXT, max_new_tokens=3)


def talk_streaming(model: ConversationModel) -> None:
    streamed(model, CONTEXT, max_new_tokens=3)


def talk_interrupted(model: ConversationModel) -> None:
    stream = model.stream(CONTEXT, max_new_tokens=30)
    next(stream)
    stream.close()  # type: ignore[attr-defined]


def talk_in_error(model: ConversationModel) -> None:
    with pytest.raises(ConfigError):
        model.generate(CONTEXT, do_sample=True, temperature=-1.0)
    with pytest.raises(ConfigError):
        streamed(model, CONTEXT, do_sample=True, temperature=-1.0)


TALKS = [talk, talk_streaming, talk_interrupted, talk_in_error]


@pytest.mark.parametrize("say", TALKS)
@pytest.mark.parametrize("training", [True, False])
def test_the_mode_is_left_as_it_was(
    gpt2: ConversationModel, say: Callable[[ConversationModel], None], training: bool
) -> None:
    gpt2.hf_model.train(training)
    say(gpt2)
    modes = {module.training for module in gpt2.hf_model.modules()}
    gpt2.hf_model.eval()
    assert modes == {training}


@pytest.mark.parametrize("say", TALKS)
def test_a_part_in_another_mode_keeps_it(gpt2: ConversationModel, say: Callable[[ConversationModel], None]) -> None:
    gpt2.hf_model.train()
    gpt2.hf_model.transformer.h[0].eval()  # as for a frozen part
    say(gpt2)
    kept = [block.training for block in gpt2.hf_model.transformer.h]
    gpt2.hf_model.eval()
    assert kept == [False, True]


def test_dropout_is_off_though_the_model_is_in_training_mode(gpt2: ConversationModel) -> None:
    expected = gpt2.generate(CONTEXT, max_new_tokens=15).responses[0]
    gpt2.hf_model.train()
    texts = [gpt2.generate(CONTEXT, max_new_tokens=15).responses[0], streamed(gpt2, CONTEXT, max_new_tokens=15)]
    gpt2.hf_model.eval()
    assert texts == [expected] * 2


def test_no_gradients_are_kept(gpt2: ConversationModel) -> None:
    output = gpt2.generate(CONTEXT, max_new_tokens=3, output_logits=True)
    assert not output.raw.logits[0].requires_grad
    assert torch.is_grad_enabled()
    assert all(parameter.grad is None for parameter in gpt2.hf_model.parameters())


def test_the_generation_config_is_left_alone(gpt2: ConversationModel) -> None:
    before = gpt2.hf_model.generation_config.to_dict()
    gpt2.generate(CONTEXT, max_new_tokens=3, do_sample=True, top_p=0.5, seed=1)
    streamed(gpt2, CONTEXT, max_new_tokens=3, do_sample=True, top_p=0.5, seed=1)
    assert gpt2.hf_model.generation_config.to_dict() == before


# Streams end when they are told to.


def test_closing_a_stream_ends_the_work_promptly(gpt2: ConversationModel) -> None:
    with scripted(gpt2, " one" * 90, "Fine", seconds=0.01) as script:
        stream = gpt2.stream(CONTEXT, max_new_tokens=100)
        assert next(stream).text == " one"
        stream.close()  # type: ignore[attr-defined]

        assert not generating()
        assert script.steps < 20
        assert streamed(gpt2, CONTEXT) == "Fine"


def test_forgetting_a_stream_ends_the_work(gpt2: ConversationModel) -> None:
    with scripted(gpt2, " one" * 90, seconds=0.01) as script:
        for chunk in gpt2.stream(CONTEXT, max_new_tokens=100):
            assert chunk.text == " one"
            break
        assert not generating()
    assert script.steps < 20


def test_a_stream_that_nobody_reads_does_no_work(gpt2: ConversationModel) -> None:
    with scripted(gpt2) as script:
        stream = gpt2.stream(CONTEXT)
        assert not generating()
        stream.close()  # type: ignore[attr-defined]
    assert script.steps == 0


def test_chunks_come_while_the_model_works(gpt2: ConversationModel) -> None:
    with scripted(gpt2, " one" * 50, seconds=0.01) as script:
        stream = gpt2.stream(CONTEXT, max_new_tokens=60)
        next(stream)
        assert script.steps < 25
        stream.close()  # type: ignore[attr-defined]


# Errors.


@pytest.mark.parametrize(
    "options",
    [
        {"do_sample": True, "temperature": -1.0},
        {"top_k": "many", "do_sample": True},
        {"cache_implementation": "nonsense"},
        {"num_return_sequences": 2},
        {"presence_penalty": "a"},
        {"frequency_penalty": float("nan")},
        {"logit_bias": {999_999: 1}},
        {"logit_bias": {"x": 1}},
        {"no_repeat_context_ngram_size": -1},
        {"eos_token_id": [[1]]},
    ],
    ids=str,
)
def test_what_transformers_refuses_is_a_config_error_on_every_path(
    gpt2: ConversationModel, options: dict[str, Any]
) -> None:
    with pytest.raises(ConfigError):
        gpt2.generate(CONTEXT, **options)
    with pytest.raises(ConfigError):
        streamed(gpt2, CONTEXT, **options)


@pytest.mark.parametrize(
    "options", [{"num_beams": 2}, {"num_return_sequences": 2, "do_sample": True}, {"max_tokens": 3}, {"seed": "one"}]
)
def test_options_that_cannot_be_streamed_are_refused_at_the_call(
    gpt2: ConversationModel, options: dict[str, Any]
) -> None:
    with pytest.raises(ConfigError):
        gpt2.stream(CONTEXT, **options)


def test_a_wrong_context_is_refused_at_the_call(gpt2: ConversationModel) -> None:
    with pytest.raises(ConversationError):
        gpt2.stream([])
    with pytest.raises(ContextTooLongError):
        gpt2.stream(["long " * 200])


def test_an_error_of_the_model_comes_through_a_stream(gpt2: ConversationModel) -> None:
    expected = streamed(gpt2, CONTEXT, max_new_tokens=5)

    def fail(*_: Any) -> None:
        raise RuntimeError("out of memory")

    failing = gpt2.hf_model.register_forward_hook(fail)
    with pytest.raises(RuntimeError, match="out of memory"):
        streamed(gpt2, CONTEXT, max_new_tokens=5)
    failing.remove()

    assert streamed(gpt2, CONTEXT, max_new_tokens=5) == expected


def test_an_error_after_some_text_comes_through_a_stream(gpt2: ConversationModel) -> None:
    def fail(ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        if ids.shape[1] > 9:
            raise RuntimeError("out of memory")
        return scores

    with scripted(gpt2, "One two three four five six seven"):
        stream = gpt2.stream(["Hi"], logits_processor=[fail])
        assert next(stream).text == "One"
        with pytest.raises(RuntimeError, match="out of memory"):
            list(stream)


# What goes in, what is told.


def test_the_output_prints_its_responses_and_context_only(gpt2: ConversationModel) -> None:
    with scripted(gpt2, "Good thank you"):
        output = gpt2.generate(["Hello", "How are you"])
    assert repr(output) == "ConversationModelOutput(responses=['Good thank you'], context=['Hello', 'How are you'])"


def test_the_oldest_turns_that_do_not_fit_are_left_out_and_counted(gpt2: ConversationModel) -> None:
    with scripted(gpt2, "Fine") as script:
        output = gpt2.generate(TEN_TURNS, max_new_tokens=80)
    assert 0 < output.left_out < 10
    assert script.prompts == [gpt2.tokenizer(TEN_TURNS[output.left_out :])["input_ids"]]
    assert output.prompt_tokens == len(script.prompts[0]) <= 48
    assert output.context == TEN_TURNS


def test_a_long_turn_is_an_error_unless_it_may_be_cut(gpt2: ConversationModel) -> None:
    turn = "word " * 150
    with pytest.raises(ContextTooLongError, match="cut_long_turn"):
        gpt2.generate([turn], max_new_tokens=20)
    with scripted(gpt2, "Fine"):
        output = gpt2.generate([turn], max_new_tokens=20, cut_long_turn=True)
    assert output.cut == len(gpt2.tokenizer.encode(turn)) + 2 - 108
    assert output.prompt_tokens == 108


def test_all_positions_may_be_filled(model: ConversationModel) -> None:
    """The last new token needs no position, but one more must not be asked for."""
    output = model.generate(["word " * 200], cut_long_turn=True, max_new_tokens=28, min_new_tokens=28)
    assert output.prompt_tokens == 100
    assert output.response_tokens == [28]


def test_transformers_own_output_can_be_asked_for(gpt2: ConversationModel) -> None:
    output = gpt2.generate(CONTEXT, return_dict_in_generate=True, output_scores=True, max_new_tokens=2)
    assert len(output.raw.scores) == 2


def test_logits_processors_and_stopping_criteria_are_used_on_every_path(gpt2: ConversationModel) -> None:
    word = gpt2.tokenizer.encode(" word")[0]

    def only_word(ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        return torch.full_like(scores, -torch.inf).index_fill(1, torch.tensor([word]), 0.0)

    def three(ids: torch.Tensor, scores: Any, **_: Any) -> torch.Tensor:
        return torch.tensor([ids[:, -3:].eq(word).all().item()])

    options: dict[str, Any] = {"logits_processor": [only_word], "stopping_criteria": [three]}
    assert gpt2.generate(CONTEXT, **options).responses == [" word word word"]
    assert streamed(gpt2, CONTEXT, **options) == " word word word"
    assert options == {"logits_processor": [only_word], "stopping_criteria": [three]}


def test_assisted_decoding_says_what_greedy_says(llama: ConversationModel) -> None:
    expected = llama.generate(CONTEXT, max_new_tokens=15).responses
    assert llama.generate(CONTEXT, max_new_tokens=15, prompt_lookup_num_tokens=3).responses == expected
    assert llama.generate(CONTEXT, max_new_tokens=15, assistant_model=llama.hf_model).responses == expected


@pytest.mark.slow
def test_a_stream_that_waits_for_another_ends_at_once(gpt2: ConversationModel) -> None:
    slow = gpt2.hf_model.register_forward_hook(lambda *_: time.sleep(0.3))
    first = gpt2.stream(CONTEXT, max_new_tokens=30, min_new_tokens=30, use_cache=False)  # on transformers' `generate`
    next(first)
    [other] = generating()
    second = gpt2.stream(CONTEXT, max_new_tokens=30, use_cache=False)
    waiting = threading.Thread(target=lambda: next(second, None))
    waiting.start()
    wait_until(lambda: sum(thread.is_alive() for thread in generating()) == 2)
    [thread] = {*generating()} - {other}
    begin = time.perf_counter()
    thread._target.__self__.stop()  # type: ignore[attr-defined]
    assert time.perf_counter() - begin < 5  # the first takes 9 seconds in all
    waiting.join()
    slow.remove()
    first.close()  # type: ignore[attr-defined]


@pytest.mark.parametrize("options", [{}, {"use_cache": False}], ids=["engine", "transformers"])
@pytest.mark.parametrize("stop", [[], ["e"]], ids=["whole", "stop string"])
def test_chunks_carry_all_tokens_and_how_quickly_they_came(
    model: ConversationModel, options: dict[str, Any], stop: list[str]
) -> None:
    chunks = [*model.stream(CONTEXT, max_new_tokens=12, stop_strings=stop, **options)]
    output = model.generate(CONTEXT, max_new_tokens=12, stop_strings=stop, **options)

    ids = [index for chunk in chunks for index in chunk.token_ids]
    assert ids == response_ids(model, CONTEXT, max_new_tokens=12, **options)[: output.response_tokens[0]]
    assert [chunk.tokens_per_second is None for chunk in chunks] == [True] * (len(chunks) - 1) + [len(ids) < 2]
    assert all(chunk.token_ids for chunk in chunks[:-1])


# Models that the engine does not support


@pytest.fixture(scope="module")
def mamba(make_once: Callable[..., Path]) -> ConversationModel:
    return ConversationModel.from_pretrained(make_once("tiny-mamba", lambda it: save_tiny(it, "mamba")), device="cpu")


def test_each_response_has_the_next_seed_without_the_engine(mamba: ConversationModel) -> None:
    options: dict[str, Any] = {"do_sample": True, "max_new_tokens": 6}
    together = mamba.generate(CONTEXT, seed=1, num_return_sequences=3, **options)
    apart = [mamba.generate(CONTEXT, seed=seed, **options).responses[0] for seed in (1, 2, 3)]
    assert together.responses == apart
    assert len({*apart}) == 3
    assert len(together.raw.sequences) == 3
    batch = mamba.generate_batch([CONTEXT, CONTEXT[:1], CONTEXT], seed=1, num_return_sequences=2, **options)
    assert batch[1].responses == mamba.generate(CONTEXT[:1], seed=3, num_return_sequences=2, **options).responses


def test_reranking_and_log_probabilities_need_the_engine(mamba: ConversationModel) -> None:
    with pytest.raises(
        ConfigError, match=r"rerank needs the engine, which does not support mamba in transformers 5\.\S+: leave"
    ):
        mamba.generate(CONTEXT, do_sample=True, num_return_sequences=2, rerank="mmi")
    with pytest.raises(ConfigError, match="candidates needs the engine, which does not support mamba in"):
        mamba.generate(CONTEXT, do_sample=True, candidates=2)
    assert not any(chunk.log_probabilities for chunk in mamba.stream(CONTEXT, max_new_tokens=3))


@pytest.mark.parametrize("name", ["bart", "git"])
def test_a_model_that_padding_changes_generates_alone(name: str, make_once: Callable[..., Path]) -> None:
    """BART counts it as positions, and GIT masks it where an image would be."""
    folder = make_once(f"tiny-{name}", lambda folder: save_tiny(folder, name))
    model = ConversationModel.from_pretrained(folder, device="cpu")
    contexts = [["Hi"], ["What is up with you today?"], ["No"]]
    together = [output.responses for output in model.generate_batch(contexts, max_new_tokens=8)]
    assert together == [model.generate(context, max_new_tokens=8).responses for context in contexts]


def test_transformers_generate_keeps_the_types_of_ctrl(make_once: Callable[..., Path]) -> None:
    folder = make_once("tiny-ctrl", lambda folder: save_tiny(folder, "ctrl"))
    ctrl = ConversationModel.from_pretrained(folder, device="cpu")
    options: dict[str, Any] = {"max_new_tokens": 8, "min_new_tokens": 8}
    expected = ctrl.generate(CONTEXT, **options).responses
    assert ctrl.generate(CONTEXT, output_scores=True, **options).responses == expected
    assert ctrl.generate(CONTEXT, num_beams=1, output_logits=True, **options).responses == expected
    assert "prepare_inputs_for_generation" not in vars(ctrl.hf_model)


def test_logit_bias_of_a_model_whose_vocabulary_is_that_of_its_text_part(llama: ConversationModel) -> None:
    """As in Gemma 3 with images."""
    config = llama.hf_model.config
    entries = config.vocab_size
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(llama.hf_model, "config", _WithText(config))
        with pytest.raises(ConfigError, match=f"logit_bias names {entries}: there are {entries:} token ids, from 0 on"):
            llama.generate(CONTEXT, logit_bias={entries: 1.0})


class _WithText:
    """A configuration whose text part is another."""

    def __init__(self, text: Any) -> None:
        self._text = text

    def get_text_config(self, **_: Any) -> Any:
        return self._text


@pytest.mark.parametrize(("optional", "lead"), [(None, " "), (True, " "), (False, "")])
def test_a_template_has_its_space_for_itself(llama: ConversationModel, optional: bool | None, lead: str) -> None:
    """Also if a call might have come in its place; what a schema describes is the whole text."""
    schema = {} if optional is None else {"json_schema": {"type": "object"}}
    options = read_options(llama.hf_model, llama.tokenizer, {"max_new_tokens": 20, **schema})
    if options.grammar is not None:
        options = replace(options, grammar=replace(options.grammar, optional=bool(optional)))
    prompt = replace(llama.tokenizer.prompt(["Hi"]), lead=" ")
    assert make_request(llama.hf_model, llama.tokenizer, prompt, options).lead == lead


@pytest.mark.parametrize("value", [math.nan, math.inf])
@pytest.mark.parametrize(
    "options", [{}, {"do_sample": True}, {"do_sample": True, "candidates": 3}, {"num_beams": 2}], ids=str
)
def test_logits_that_are_not_numbers_are_an_error(
    gpt2_folder: Path, monkeypatch: pytest.MonkeyPatch, options: dict[str, Any], value: float
) -> None:
    model = load(gpt2_folder)
    with torch.no_grad():
        model.hf_model.transformer.ln_f.weight.fill_(value)

    with pytest.raises(LogitsError, match="the model's logits are not numbers; its weights are damaged or too large"):
        model.generate(["Hello"], max_new_tokens=3, **options)
    if "num_beams" not in options:
        with pytest.raises(LogitsError):
            list(model.stream(["Hello"], max_new_tokens=3, **options | {"candidates": None}))
