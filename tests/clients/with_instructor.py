"""instructor, on OpenAI's client."""

import asyncio

import instructor
import openai
from checking import HELLO, LOCKED_URL, LONG, MODEL, URL, Pet, Weather, check, main, raised
from instructor.core.exceptions import InstructorRetryException
from pydantic import BaseModel, ConfigDict, field_validator

client = openai.OpenAI(base_url=URL, api_key="none", max_retries=0)
by_schema = instructor.from_openai(client, mode=instructor.Mode.JSON_SCHEMA)
by_tools = instructor.from_openai(client)
seen: list[str] = []


class Picky(BaseModel):
    """What is accepted the third time."""

    model_config = ConfigDict(extra="forbid")
    size: bool

    @field_validator("size")
    @classmethod
    def _refuse_twice(cls, size: bool) -> bool:
        seen.append(str(size))
        if len(seen) < 3:
            raise ValueError("try again")
        return size


@check
def schemas() -> None:
    asked = {"model": MODEL, "messages": HELLO}
    assert isinstance(by_schema.create(**asked, response_model=Pet), Pet)
    assert isinstance(by_tools.create(**asked, response_model=Weather), Weather)
    weather, completion = by_schema.create_with_completion(**asked, response_model=Weather)
    assert isinstance(weather, Weather)
    assert completion.usage.total_tokens > 0


@check
def simple_types() -> None:
    assert isinstance(by_tools.create(model=MODEL, messages=HELLO, response_model=bool), bool)
    assert isinstance(by_tools.create(model=MODEL, messages=HELLO, response_model=list[Weather]), list)


@check
def further_parameters() -> None:
    asked = {"model": MODEL, "messages": HELLO, "response_model": Weather}
    assert isinstance(by_schema.create(**asked, extra_body={"top_k": 5}), Weather)
    raised(lambda: by_schema.create(**asked, extra_body={"bogus": 1}), InstructorRetryException)


@check
def stream() -> None:
    for mode in (by_schema, by_tools):
        parts = [*mode.create_partial(model=MODEL, messages=HELLO, response_model=Weather)]
        Weather.model_validate(parts[-1].model_dump())


@check
def retries_of_validation() -> None:
    for mode in (by_schema, by_tools):
        seen.clear()
        mode.create(model=MODEL, messages=HELLO, response_model=Picky, max_retries=4)
        assert len(seen) == 3, seen


@check
def asynchronous() -> None:
    other = instructor.from_openai(openai.AsyncOpenAI(base_url=URL, api_key="none"))
    assert isinstance(asyncio.run(other.create(model=MODEL, messages=HELLO, response_model=Weather)), Weather)


@check
def provider() -> None:
    other = instructor.from_provider(f"openai/{MODEL}", base_url=URL, api_key="none")
    assert isinstance(other.create(messages=HELLO, response_model=Weather), Weather)


@check
def errors() -> None:
    for asked in (
        {"model": "gpt-5", "messages": HELLO},
        {"model": MODEL, "messages": [{"role": "user", "content": LONG}]},
    ):
        error = raised(lambda asked=asked: by_schema.create(**asked, response_model=Pet), InstructorRetryException)
        assert "there is no model" in str(error) or "context_length_exceeded" in str(error), error
    locked = instructor.from_openai(openai.OpenAI(base_url=LOCKED_URL, api_key="wrong", max_retries=0))
    raised(lambda: locked.create(model=MODEL, messages=HELLO, response_model=Weather), InstructorRetryException)


main()
