"""LiteLLM, with the provider `openai`."""

import asyncio
import json
from typing import Any

import litellm
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

litellm.suppress_debug_info = True
SERVER = {"model": f"openai/{MODEL}", "api_base": URL, "api_key": "none", "max_retries": 0}


def create(messages: list[Any] = HELLO, **options: Any) -> Any:
    return litellm.completion(messages=messages, **{**SERVER, **options})


@check
def chat() -> None:
    message = create(TALK).choices[0].message
    create([*HELLO, message.model_dump(), *HELLO])


@check
def options() -> None:
    settings: dict[str, Any] = {"seed": 7, "max_tokens": 8, "stop": ["zq"], "top_p": 0.9, "n": 2, "logprobs": True}
    first, second = (create(**settings, top_logprobs=2).choices for _ in range(2))
    assert [choice.message.content for choice in first] == [choice.message.content for choice in second]
    assert len(first) == 2


@check
def further_parameters() -> None:
    create(extra_body={"top_k": 5, "candidates": 2})
    raised(lambda: create(extra_body={"bogus": 1}), litellm.BadRequestError)


@check
def stream() -> None:
    chunks = [*create(stream=True, stream_options={"include_usage": True})]
    assert chunks[-1].usage.completion_tokens > 0
    assert litellm.stream_chunk_builder(chunks, messages=HELLO).choices[0].finish_reason in ("stop", "length")


@check
def asynchronous() -> None:
    async def ask() -> list[Any]:
        streams = [await litellm.acompletion(messages=HELLO, stream=True, **SERVER) for _ in range(3)]
        return [[chunk async for chunk in stream] for stream in streams]

    assert all(asyncio.run(ask()))


@check
def schemas() -> None:
    Pet.model_validate_json(create(response_format=Pet).choices[0].message.content)
    assert isinstance(json.loads(create(response_format={"type": "json_object"}).choices[0].message.content), dict)


@check
def tools() -> None:
    message = create(tools=[WEATHER_TOOL], tool_choice="required").choices[0].message
    Weather.model_validate_json(message.tool_calls[0].function.arguments)
    result = {"role": "tool", "tool_call_id": message.tool_calls[0].id, "name": "weather", "content": "clear"}
    create([*HELLO, message, result], tools=[WEATHER_TOOL])
    chunks = [*create(tools=[WEATHER_TOOL], tool_choice="required", stream=True)]
    [call] = litellm.stream_chunk_builder(chunks).choices[0].message.tool_calls
    Weather.model_validate_json(call.function.arguments)


@check
def responses() -> None:
    asked = {"model": f"openai/{MODEL}", "input": "Hello", "api_base": URL, "api_key": "none"}
    assert litellm.responses(**asked).output
    assert [*litellm.responses(**asked, stream=True)]


@check
def router() -> None:
    routes = [{"model_name": "bot", "litellm_params": SERVER}]
    assert litellm.Router(model_list=routes).completion(model="bot", messages=HELLO).choices


@check
def models() -> None:
    names = litellm.get_valid_models(
        check_provider_endpoint=True, custom_llm_provider="openai", api_base=URL, api_key="none"
    )
    assert names == [MODEL]


@check
def errors() -> None:
    raised(lambda: create(model="openai/gpt-5"), litellm.NotFoundError)
    raised(lambda: create([{"role": "user", "content": LONG}]), litellm.ContextWindowExceededError)
    raised(lambda: create(api_base=LOCKED_URL, api_key="wrong"), litellm.AuthenticationError)
    raised(lambda: create(timeout=0.001), litellm.Timeout)
    raised(
        lambda: litellm.embedding(model=f"openai/{MODEL}", input=["Hello"], api_base=URL, api_key="none"),
        litellm.NotFoundError,
    )


@check
def retries() -> None:
    locked = {"api_base": LOCKED_URL, "api_key": KEY}
    refused = [answer for answer in burst(lambda: create(**locked, n=8)) if isinstance(answer, Exception)]
    assert refused, "the queue was never full"
    assert all(isinstance(error, litellm.RateLimitError) for error in refused), refused
    patient = burst(lambda: create(**locked, n=8, max_retries=30))
    assert not [answer for answer in patient if isinstance(answer, Exception)]


main()
