"""OpenAI's Python client, versions 2 and 3."""

import asyncio
import json
from typing import Any

import openai
from checking import (
    HELLO,
    KEY,
    LOCKED_URL,
    LONG,
    MODEL,
    TALK,
    URL,
    WEATHER_TOOL,
    Pet,
    Weather,
    burst,
    check,
    main,
    raised,
)

client = openai.OpenAI(base_url=URL, api_key="none", max_retries=0)
create = client.chat.completions.create


@check
def chat() -> None:
    first = create(model=MODEL, messages=TALK)
    assert isinstance(first.choices[0].message.content, str)
    assert first.usage.total_tokens == first.usage.prompt_tokens + first.usage.completion_tokens
    create(model=MODEL, messages=[*HELLO, first.choices[0].message, *HELLO])  # a response sent back as it came


@check
def options() -> None:
    settings: dict[str, Any] = {
        "seed": 7,
        "n": 2,
        "max_completion_tokens": 8,
        "stop": ["zq"],
        "top_p": 0.9,
        "logprobs": True,
    }
    first, second = (create(model=MODEL, messages=HELLO, top_logprobs=2, **settings) for _ in range(2))
    texts = [choice.message.content for choice in first.choices]
    assert texts == [choice.message.content for choice in second.choices]
    assert len(texts) == 2
    assert all(len(choice.logprobs.content[0].top_logprobs) == 2 for choice in first.choices)


@check
def further_parameters() -> None:
    create(model=MODEL, messages=HELLO, extra_body={"top_k": 5, "candidates": 2})
    error = raised(lambda: create(model=MODEL, messages=HELLO, extra_body={"bogus": 1}), openai.BadRequestError)
    assert (error.param, error.code) == ("bogus", "unsupported_parameter")


@check
def stream() -> None:
    chunks = list(create(model=MODEL, messages=HELLO, stream=True, stream_options={"include_usage": True}))
    assert chunks[-1].usage.completion_tokens > 0
    assert [chunk.choices[0].finish_reason for chunk in chunks[:-1]][-1] in ("stop", "length")
    with client.chat.completions.stream(model=MODEL, messages=HELLO) as events:
        assert events.get_final_completion().choices[0].message.content is not None
    with create(model=MODEL, messages=HELLO, stream=True) as left:
        next(iter(left))


@check
def asynchronous() -> None:
    async def ask() -> list[Any]:
        async with openai.AsyncOpenAI(base_url=URL, api_key="none") as other:
            return await asyncio.gather(*(other.chat.completions.create(model=MODEL, messages=HELLO) for _ in range(4)))

    assert len(asyncio.run(ask())) == 4


@check
def schemas() -> None:
    parsed = client.chat.completions.parse(model=MODEL, messages=HELLO, response_format=Pet)
    assert isinstance(parsed.choices[0].message.parsed, Pet)
    assert isinstance(client.responses.parse(model=MODEL, input="Hello", text_format=Pet).output_parsed, Pet)
    text = create(model=MODEL, messages=HELLO, response_format={"type": "json_object"}).choices[0].message.content
    assert isinstance(json.loads(text), dict)


@check
def tools() -> None:
    for choice in ("required", {"type": "function", "function": {"name": "weather"}}):
        message = create(model=MODEL, messages=HELLO, tools=[WEATHER_TOOL], tool_choice=choice).choices[0].message
        Weather.model_validate_json(message.tool_calls[0].function.arguments)
    result = {"role": "tool", "tool_call_id": message.tool_calls[0].id, "content": "clear"}
    create(model=MODEL, messages=[*HELLO, message, result], tools=[WEATHER_TOOL])
    with client.chat.completions.stream(
        model=MODEL, messages=HELLO, tools=[WEATHER_TOOL], tool_choice="required"
    ) as events:
        [call] = events.get_final_completion().choices[0].message.tool_calls
    Weather.model_validate_json(call.function.arguments)


@check
def responses() -> None:
    events = list(client.responses.create(model=MODEL, input="Hello", instructions="Be kind.", stream=True))
    assert events[-1].type in ("response.completed", "response.incomplete")
    assert isinstance(client.responses.create(model=MODEL, input="Hello").output_text, str)


@check
def completions() -> None:
    assert client.completions.create(model=MODEL, prompt="Once upon", max_tokens=5).choices[0].text


@check
def models() -> None:
    assert [model.id for model in client.models.list()] == [MODEL]


@check
def errors() -> None:
    assert raised(lambda: create(model="gpt-5", messages=HELLO), openai.NotFoundError).code == "model_not_found"
    long = [{"role": "user", "content": LONG}]
    assert raised(lambda: create(model=MODEL, messages=long), openai.BadRequestError).code == "context_length_exceeded"
    raised(lambda: client.embeddings.create(model=MODEL, input="Hello"), openai.NotFoundError)
    locked = openai.OpenAI(base_url=LOCKED_URL, api_key="wrong", max_retries=0)
    raised(lambda: locked.models.list(), openai.AuthenticationError)
    impatient = client.with_options(timeout=0.001)
    raised(lambda: impatient.chat.completions.create(model=MODEL, messages=HELLO), openai.APITimeoutError)


@check
def retries() -> None:
    def ask(retries: int) -> list[Any]:
        locked = openai.OpenAI(base_url=LOCKED_URL, api_key=KEY, max_retries=retries)
        return burst(lambda: locked.chat.completions.create(model=MODEL, messages=HELLO, n=8))

    refused = [result for result in ask(0) if isinstance(result, Exception)]
    assert refused, "the queue was never full"
    assert all(isinstance(error, openai.RateLimitError) for error in refused), refused
    assert all(int(error.response.headers["retry-after"]) > 0 for error in refused)
    assert not [result for result in ask(30) if isinstance(result, Exception)]


main()
