"""pydantic-ai, with `OpenAIChatModel` and `OpenAIResponsesModel`."""

import asyncio
from contextlib import suppress
from typing import Any

from checking import HELLO, KEY, LOCKED_URL, LONG, MODEL, URL, Pet, Weather, burst, check, main, raised
from openai import AsyncOpenAI
from pydantic_ai import Agent, Embedder, ModelRetry, NativeOutput, PromptedOutput
from pydantic_ai.embeddings.openai import OpenAIEmbeddingModel
from pydantic_ai.exceptions import ModelHTTPError, UnexpectedModelBehavior, UsageLimitExceeded
from pydantic_ai.models.openai import OpenAIChatModel, OpenAIResponsesModel
from pydantic_ai.providers.openai import OpenAIProvider
from pydantic_ai.usage import UsageLimits

TEXT = HELLO[0]["content"]


def provider(url: str = URL, key: str = "none", retries: int = 0) -> OpenAIProvider:
    return OpenAIProvider(openai_client=AsyncOpenAI(base_url=url, api_key=key, max_retries=retries))


def agent(name: str = MODEL, *, at: OpenAIProvider | None = None, **options: Any) -> Agent[Any, Any]:
    return Agent(OpenAIChatModel(name, provider=at or provider()), **options)


def add_weather(to: Agent[Any, Any]) -> Agent[Any, Any]:
    @to.tool_plain
    def weather(city: str) -> str:
        """Reports the weather."""
        return "clear"

    return to


@check
def chat() -> None:
    bot = agent(instructions="Be kind.")
    first = bot.run_sync(TEXT)
    assert first.usage.output_tokens > 0
    assert isinstance(bot.run_sync("And you?", message_history=first.all_messages()).output, str)


@check
def options() -> None:
    settings: Any = {"temperature": 0.5, "seed": 7, "max_tokens": 8, "stop_sequences": ["zq"], "top_p": 0.9}
    first, second = (agent(model_settings=settings).run_sync(TEXT).output for _ in range(2))
    assert first == second


@check
def further_parameters() -> None:
    agent(model_settings={"extra_body": {"top_k": 5, "candidates": 2}}).run_sync(TEXT)
    raised(lambda: agent(model_settings={"extra_body": {"bogus": 1}}).run_sync(TEXT), ModelHTTPError)


@check
def stream() -> None:
    async def ask() -> tuple[list[str], int]:
        async with agent().run_stream(TEXT) as result:
            return [text async for text in result.stream_text(delta=True)], result.usage.output_tokens

    pieces, tokens = asyncio.run(ask())
    assert pieces
    assert tokens > 0


@check
def schemas() -> None:
    assert isinstance(agent(output_type=NativeOutput(Pet)).run_sync(TEXT).output, Pet)
    assert isinstance(agent(output_type=Weather).run_sync(TEXT).output, Weather)  # as a tool
    assert isinstance(agent(output_type=NativeOutput([Pet, Weather])).run_sync(TEXT).output, Pet | Weather)
    assert isinstance(agent(output_type=bool).run_sync(TEXT).output, bool)


@check
def streamed_schemas() -> None:
    async def ask(output: Any) -> list[Any]:
        async with agent(output_type=output).run_stream(TEXT) as result:
            return [part async for part in result.stream_output()]

    for output in (NativeOutput(Pet), Weather):
        assert isinstance(asyncio.run(ask(output))[-1], Pet | Weather)


@check
def retries_of_validation() -> None:
    seen: list[bool] = []

    def refuse_twice(value: bool) -> bool:
        seen.append(value)
        if len(seen) < 3:
            raise ModelRetry("Try again.")
        return value

    for output in (NativeOutput(bool), bool):
        seen.clear()
        bot = agent(output_type=output, retries=4)
        bot.output_validator(refuse_twice)
        bot.run_sync(TEXT)
        assert len(seen) == 3, seen


@check
def prompted_schemas() -> None:
    bot = agent(output_type=PromptedOutput(bool), retries=0)
    with suppress(UnexpectedModelBehavior):  # a model that was not trained on JSON does not know the fields
        assert isinstance(bot.run_sync(TEXT).output, bool)


@check
def tools() -> None:
    assert isinstance(add_weather(agent()).run_sync(TEXT).output, str)
    for output in (Weather, NativeOutput(Weather)):
        bot = add_weather(agent(output_type=output, retries=5))
        with suppress(UsageLimitExceeded):  # it calls the function each time
            assert isinstance(bot.run_sync(TEXT, usage_limits=UsageLimits(request_limit=3)).output, Weather)


@check
def responses() -> None:
    model = OpenAIResponsesModel(MODEL, provider=provider())
    first = Agent(model).run_sync(TEXT)
    assert isinstance(Agent(model).run_sync("And you?", message_history=first.all_messages()).output, str)
    assert isinstance(Agent(model, output_type=NativeOutput(Pet)).run_sync(TEXT).output, Pet)


@check
def errors() -> None:
    assert raised(lambda: agent("gpt-5").run_sync(TEXT), ModelHTTPError).status_code == 404
    error = raised(lambda: agent().run_sync(LONG), ModelHTTPError)
    assert (error.status_code, type(error).__name__) == (400, "ModelContextWindowExceededError")
    assert raised(lambda: agent(at=provider(LOCKED_URL, "wrong")).run_sync(TEXT), ModelHTTPError).status_code == 401
    embedder = Embedder(OpenAIEmbeddingModel(MODEL, provider=provider()))
    assert raised(lambda: asyncio.run(embedder.embed_query(TEXT)), ModelHTTPError).status_code == 404


@check
def retries() -> None:
    def ask() -> str:
        return agent(at=provider(LOCKED_URL, KEY, retries=30)).run_sync(TEXT).output

    assert not [answer for answer in burst(ask, 8) if isinstance(answer, Exception)]


main()
