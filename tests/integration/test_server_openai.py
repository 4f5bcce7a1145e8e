"""OpenAI's own Python client talks to the server as to OpenAI's."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any

import openai
import pytest
from scripted import scripted
from serving import HELLO, Serving

from convmodel import ConversationModel

pytestmark = pytest.mark.loopback

TALK = [
    {"role": "user", "content": "Hello there"},
    {"role": "assistant", "content": "How are you?"},
    {"role": "user", "content": "Fine 😀, and you?"},
]


@pytest.fixture(scope="module")
def client(server: Serving) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0) as client:
        yield client


@asynccontextmanager
async def async_client(server: Serving) -> AsyncIterator[openai.AsyncOpenAI]:
    async with openai.AsyncOpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0) as client:
        yield client


def by_python(model: ConversationModel, **options: Any) -> list[str]:
    """The same as the server is asked for, of the Python API; tokens drawn as OpenAI draws: from all of them."""
    said: Any = {"do_sample": True, "temperature": 1.0, "top_p": 1.0, "top_k": 0, "min_new_tokens": 1}
    output = model.generate(TALK, reply_as="assistant", **(said | options))
    return output.responses


def streamed(client: openai.OpenAI, **options: Any) -> tuple[list[str], list[Any]]:
    """Asks for a stream; returns the text of each choice, and the chunks."""
    with client.chat.completions.create(
        model="tiny", messages=TALK, stream=True, stream_options={"include_usage": True}, **options
    ) as stream:
        chunks = list(stream)
    texts = [""] * options.get("n", 1)
    for chunk in chunks:
        for choice in chunk.choices:
            texts[choice.index] += choice.delta.content or ""
    return texts, chunks


@pytest.mark.parametrize("name", ["tiny", "plain"])
@pytest.mark.parametrize("seed", [0, 1, 12345])
def test_server_responses_equal_python(
    client: openai.OpenAI, served_models: dict[str, ConversationModel], name: str, seed: int
) -> None:
    expected = by_python(served_models[name], seed=seed, max_new_tokens=24, num_return_sequences=2, top_p=0.9)
    asked: Any = {"model": name, "messages": TALK, "seed": seed, "max_completion_tokens": 24, "n": 2, "top_p": 0.9}
    whole = client.chat.completions.create(**asked)
    assert [choice.message.content for choice in whole.choices] == expected
    texts = ["", ""]
    for chunk in client.chat.completions.create(**asked, stream=True):
        for choice in chunk.choices:
            texts[choice.index] += choice.delta.content or ""
    assert texts == expected


@pytest.mark.slow
def test_eight_at_once_get_what_each_would_get_alone(
    server: Serving, served_models: dict[str, ConversationModel]
) -> None:
    settings: list[dict[str, Any]] = [
        {"temperature": 1.5, "seed": 0},
        {"temperature": 0.7, "seed": 1},
        {"top_p": 0.5, "seed": 2},
        {"temperature": 0},
        {"presence_penalty": 1.5, "seed": 3},
        {"frequency_penalty": -1.0, "seed": 4},
        {"logit_bias": {"11": 5.0, "318": -100.0}, "seed": 5},
        {"seed": 0},
    ]

    async def ask_all() -> list[str | None]:
        async with async_client(server) as client:
            return await asyncio.gather(*(ask(client, number, each) for number, each in enumerate(settings)))

    async def ask(client: openai.AsyncOpenAI, number: int, options: Any) -> str | None:
        asked = {"model": "tiny", "messages": TALK, "max_completion_tokens": 30} | options
        if number % 2:
            return (await client.chat.completions.create(**asked)).choices[0].message.content
        stream = await client.chat.completions.create(**asked, stream=True)
        return "".join([chunk.choices[0].delta.content or "" async for chunk in stream])

    def alone(options: dict[str, Any]) -> str:
        greedy = {"do_sample": False, "temperature": None, "top_p": None, "top_k": None}
        options = greedy if options == {"temperature": 0} else options
        return by_python(served_models["tiny"], max_new_tokens=30, **options)[0]

    assert asyncio.run(ask_all()) == [alone(each) for each in settings]


def test_chunks_come_in_openais_order(client: openai.OpenAI) -> None:
    texts, chunks = streamed(client, n=2, seed=3, max_completion_tokens=12)
    *told, last = chunks
    assert len({chunk.id for chunk in chunks}) == 1
    assert {chunk.object for chunk in chunks} == {"chat.completion.chunk"}
    assert all(chunk.usage is None for chunk in told)
    assert [chunk.choices[0].delta.role for chunk in told[:2]] == ["assistant", "assistant"]
    assert [chunk.choices[0].delta.content for chunk in told[:2]] == ["", ""]
    assert all(len(chunk.choices) == 1 for chunk in told)
    for index in range(2):
        mine = [chunk.choices[0] for chunk in told if chunk.choices[0].index == index]
        assert [choice.finish_reason for choice in mine[:-1]] == [None] * (len(mine) - 1)
        assert mine[-1].finish_reason in ("stop", "length")
        assert mine[-1].delta.content is None
    assert last.choices == []
    assert last.usage.prompt_tokens + last.usage.completion_tokens == last.usage.total_tokens
    whole = client.chat.completions.create(model="tiny", messages=TALK, n=2, seed=3, max_completion_tokens=12)
    assert whole.usage.completion_tokens == last.usage.completion_tokens
    assert [choice.message.content for choice in whole.choices] == texts


def test_no_usage_unless_it_is_asked_for(client: openai.OpenAI) -> None:
    chunks = list(client.chat.completions.create(model="tiny", messages=HELLO, stream=True, max_tokens=3))
    assert all(len(chunk.choices) == 1 for chunk in chunks)
    assert all("usage" not in chunk.model_fields_set for chunk in chunks)


def test_usage_counts_prompts_responses_and_what_was_remembered(
    server: Serving, client: openai.OpenAI, served_models: dict[str, ConversationModel]
) -> None:
    server.engine().caches.clear()
    with scripted(server.model(), "Good thanks", "Same"):
        first = client.chat.completions.create(model="tiny", messages=TALK)
        said = {"role": "assistant", "content": first.choices[0].message.content}
        second = client.chat.completions.create(
            model="tiny", messages=[*TALK, said, {"role": "user", "content": "Tell me"}]
        )
    tokenizer = served_models["tiny"].tokenizer
    assert first.usage.completion_tokens == len(tokenizer.encode("Good thanks"))
    assert first.usage.prompt_tokens == len(tokenizer(TALK)["input_ids"])
    assert first.usage.prompt_tokens_details.cached_tokens == 0
    # All but the separator that ended the response, which had not been read.
    assert second.usage.prompt_tokens_details.cached_tokens == (
        first.usage.prompt_tokens + first.usage.completion_tokens
    )


def test_emoji_come_whole(server: Serving, client: openai.OpenAI) -> None:
    said = "a😀b👨‍👩‍👧こんにちは🇯🇵"
    with scripted(server.model(), said):
        [text], chunks = streamed(client)
    assert text == said
    pieces = [chunk.choices[0].delta.content for chunk in chunks if chunk.choices and chunk.choices[0].delta.content]
    assert len(pieces) > 5
    assert "�" not in "".join(pieces)


def test_half_a_character_at_the_limit_is_left_out(server: Serving, client: openai.OpenAI) -> None:
    tokenizer = server.model().tokenizer
    length = len(tokenizer.encode("ab😀")) - 1
    with scripted(server.model(), "ab😀", "ab😀"):
        [text], chunks = streamed(client, max_completion_tokens=length)
        whole = client.chat.completions.create(model="tiny", messages=TALK, max_completion_tokens=length)
    assert text == whole.choices[0].message.content == "ab"
    assert chunks[-2].choices[0].finish_reason == whole.choices[0].finish_reason == "length"


@pytest.mark.parametrize(
    ("stop", "expected"),
    [
        ("wor", "Hello "),
        (["never", "lo wo"], "Hel"),
        ("Hello world, it is", ""),
        (["zz", "is late"], "Hello world, it "),
        ("not there", "Hello world, it is late"),
    ],
)
def test_stop_strings_never_leak(server: Serving, client: openai.OpenAI, stop: Any, expected: str) -> None:
    said = "Hello world, it is late"
    with scripted(server.model(), said, said):
        [text], chunks = streamed(client, stop=stop)
        whole = client.chat.completions.create(model="tiny", messages=TALK, stop=stop)
    assert text == whole.choices[0].message.content == expected
    assert whole.choices[0].finish_reason == "stop"
    assert chunks[-2].choices[0].finish_reason == "stop"


def test_log_probabilities(client: openai.OpenAI) -> None:
    asked: Any = {"model": "tiny", "messages": TALK, "logprobs": True, "top_logprobs": 3, "temperature": 0}
    whole = client.chat.completions.create(**asked, max_completion_tokens=8)
    content = whole.choices[0].logprobs.content
    assert len(content) == whole.usage.completion_tokens == 8
    for token in content:
        assert token.token == token.top_logprobs[0].token
        assert token.logprob == pytest.approx(token.top_logprobs[0].logprob, abs=1e-4)
        values = [other.logprob for other in token.top_logprobs]
        assert values == sorted(values, reverse=True)
        assert all(value <= 0 for value in values)
        assert len(values) == 3
    said = b"".join(bytes(token.bytes) for token in content).decode(errors="ignore")
    assert said == whole.choices[0].message.content
    stream = client.chat.completions.create(**asked, max_completion_tokens=8, stream=True)
    told = [
        token for chunk in stream for choice in chunk.choices if choice.logprobs for token in choice.logprobs.content
    ]
    assert [(token.token, token.logprob) for token in told] == [(token.token, token.logprob) for token in content]


def test_stop_strings_do_not_leak_through_log_probabilities(server: Serving, client: openai.OpenAI) -> None:
    asked: Any = {"model": "tiny", "messages": TALK, "logprobs": True, "stop": "o wor", "stream": True}
    with scripted(server.model(), "Well, hello world, it is late"):
        chunks = list(client.chat.completions.create(**asked))
    choices = [chunk.choices[0] for chunk in chunks if chunk.choices[0].logprobs]
    assert [token.token for choice in choices for token in choice.logprobs.content] == ["Well", ","]


def test_a_bias_is_openais(server: Serving, client: openai.OpenAI) -> None:
    """A bias is added to the logit: it turns two tokens' order round where it is more than what lies between them."""
    asked: Any = {"model": "tiny", "messages": TALK, "temperature": 0, "max_completion_tokens": 1, "logprobs": True}
    first = client.chat.completions.create(**asked, top_logprobs=2).choices[0].logprobs.content[0]
    ids = []
    for other in first.top_logprobs:
        [index] = server.model().tokenizer.encode(other.token) or [None]
        ids.append(index)
    gap = first.top_logprobs[0].logprob - first.top_logprobs[1].logprob
    for by, winner in ((gap * 0.9, 0), (gap * 1.1, 1)):
        biased = client.chat.completions.create(**asked, logit_bias={str(ids[1]): by})
        assert biased.choices[0].logprobs.content[0].token == first.top_logprobs[winner].token
    banned = client.chat.completions.create(**asked, logit_bias={str(ids[0]): -100})
    assert banned.choices[0].logprobs.content[0].token == first.top_logprobs[1].token


def test_lengths(client: openai.OpenAI) -> None:
    for name in ("max_completion_tokens", "max_tokens"):
        whole = client.chat.completions.create(model="tiny", messages=HELLO, temperature=0, **{name: 2})
        assert whole.usage.completion_tokens <= 2
        assert whole.choices[0].finish_reason == "length"


def test_completions(server: Serving, client: openai.OpenAI) -> None:
    with scripted(server.model(), " a time", " the end"):
        found = client.completions.create(
            model="tiny", prompt=["Once upon", "This is"], echo=True, logprobs=2, max_tokens=10
        )
    assert [choice.text for choice in found.choices] == ["Once upon a time", "This is the end"]
    assert [choice.index for choice in found.choices] == [0, 1]
    assert found.object == "text_completion"
    told = found.choices[0].logprobs
    assert "".join(told.tokens) == " a time"
    assert told.text_offset[0] == len("Once upon")
    assert len(told.token_logprobs) == len(told.tokens) == len(told.top_logprobs) == len(told.text_offset)
    with scripted(server.model(), " a time", " the end"):
        texts = ["", ""]
        stream = client.completions.create(model="tiny", prompt=["Once upon", "This is"], stream=True)
        for chunk in stream:
            texts[chunk.choices[0].index] += chunk.choices[0].text
    assert sorted(texts) == [" a time", " the end"]


def test_responses(server: Serving, client: openai.OpenAI) -> None:
    with scripted(server.model(), "I am fine", "I am fine"):
        whole = client.responses.create(model="tiny", input="How are you?")
        assert (whole.status, whole.output_text) == ("completed", "I am fine")
        assert whole.usage.total_tokens == whole.usage.input_tokens + whole.usage.output_tokens
        events = list(client.responses.create(model="tiny", input="How are you?", stream=True))
    kinds = list(dict.fromkeys(event.type for event in events))
    assert kinds == [
        "response.created",
        "response.in_progress",
        "response.output_item.added",
        "response.content_part.added",
        "response.output_text.delta",
        "response.output_text.done",
        "response.content_part.done",
        "response.output_item.done",
        "response.completed",
    ]
    assert [event.sequence_number for event in events] == list(range(len(events)))
    deltas = [event.delta for event in events if event.type == "response.output_text.delta"]
    assert "".join(deltas) == "I am fine"
    assert events[-1].response.output_text == "I am fine"
    assert events[-1].response.usage.output_tokens == whole.usage.output_tokens


def test_a_response_that_the_limit_ends_is_incomplete(client: openai.OpenAI) -> None:
    said = [{"role": "user", "content": [{"type": "input_text", "text": "Hello"}]}]
    whole = client.responses.create(model="tiny", input=said, max_output_tokens=2, temperature=0)
    assert (whole.status, whole.incomplete_details.reason) == ("incomplete", "max_output_tokens")
    events = list(client.responses.create(model="tiny", input=said, max_output_tokens=2, temperature=0, stream=True))
    assert events[-1].type == "response.incomplete"
    assert events[-1].response.output_text == whole.output_text


def test_models(client: openai.OpenAI) -> None:
    assert [model.id for model in client.models.list()] == ["tiny", "plain"]
    assert client.models.retrieve("plain").owned_by == "convmodel"
    with pytest.raises(openai.NotFoundError) as caught:
        client.models.retrieve("gpt-5")
    assert caught.value.code == "model_not_found"


def test_errors_are_the_clients(client: openai.OpenAI) -> None:
    with pytest.raises(openai.NotFoundError, match="there is no model gpt-5") as missing:
        client.chat.completions.create(model="gpt-5", messages=HELLO)
    assert (missing.value.param, missing.value.code) == ("model", "model_not_found")
    with pytest.raises(openai.BadRequestError, match="prediction is not supported here") as refused:
        client.chat.completions.create(model="tiny", messages=HELLO, prediction={"type": "content", "content": "Hi"})
    assert (refused.value.param, refused.value.code) == ("prediction", "unsupported_parameter")
    with pytest.raises(openai.BadRequestError) as hot:
        client.chat.completions.create(model="tiny", messages=HELLO, temperature=2.1, stream=True)
    assert hot.value.param == "temperature"


def test_the_async_client_gets_streams_and_errors(server: Serving) -> None:
    async def ask() -> None:
        async with async_client(server) as client:
            whole = await client.chat.completions.create(model="tiny", messages=TALK, seed=5, max_tokens=9)
            stream = await client.chat.completions.create(
                model="tiny", messages=TALK, seed=5, max_tokens=9, stream=True
            )
            texts = [chunk.choices[0].delta.content or "" async for chunk in stream]
            assert "".join(texts) == whole.choices[0].message.content
            with pytest.raises(openai.BadRequestError):
                await client.chat.completions.create(model="tiny", messages=[])

    asyncio.run(ask())
