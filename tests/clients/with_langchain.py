"""LangChain: `ChatOpenAI` of langchain-openai, and LangChain's agents."""

import asyncio
from typing import Any

import openai
from checking import KEY, LOCKED_URL, LONG, MODEL, URL, Pet, Weather, burst, check, main, raised
from langchain.agents import create_agent
from langchain.agents.structured_output import ProviderStrategy
from langchain_core.exceptions import ContextOverflowError
from langchain_core.messages import AIMessage, HumanMessage, SystemMessage
from langchain_core.tools import tool
from langchain_openai import ChatOpenAI, OpenAIEmbeddings


def model(**options: Any) -> ChatOpenAI:
    return ChatOpenAI(**{"model": MODEL, "base_url": URL, "api_key": "none", "max_retries": 0, **options})


@tool
def weather(city: str) -> str:
    """Reports the weather."""
    return "clear"


@check
def chat() -> None:
    talk = [SystemMessage("Be kind."), HumanMessage("Hello"), AIMessage("Hi"), HumanMessage("Fine.")]
    answer = model().invoke(talk)
    assert answer.usage_metadata["total_tokens"] > 0
    model().invoke([*talk, answer, HumanMessage("And you?")])
    assert isinstance(asyncio.run(model().ainvoke("Hello")).content, str)


@check
def options() -> None:
    settings = {"seed": 7, "max_tokens": 8, "stop": ["zq"], "top_p": 0.9, "logprobs": True, "temperature": 0.5, "n": 2}
    first, second = (model(**settings).generate([[HumanMessage("Hello")]]).generations[0] for _ in range(2))
    assert [generation.text for generation in first] == [generation.text for generation in second]
    assert first[0].message.response_metadata["logprobs"]["content"]


@check
def further_parameters() -> None:
    model(extra_body={"top_k": 5, "candidates": 2}).invoke("Hello")
    raised(lambda: model(extra_body={"bogus": 1}).invoke("Hello"), openai.BadRequestError)


@check
def stream() -> None:
    whole = None
    for chunk in model(stream_usage=True).stream("Hello"):
        whole = chunk if whole is None else whole + chunk
    assert whole.usage_metadata["output_tokens"] > 0
    assert whole.response_metadata["finish_reason"] in ("stop", "length")


@check
def batch() -> None:
    assert len(model().batch(["Hello", "Hi", "Hey"])) == 3


@check
def schemas() -> None:
    for method in ("json_schema", "function_calling"):
        schema = Pet if method == "json_schema" else Weather  # a function's schema is part of the prompt
        assert isinstance(model().with_structured_output(schema, method=method).invoke("Hello"), schema)
    assert isinstance([*model().with_structured_output(Pet).stream("Hello")][-1], Pet)
    assert {*model().with_structured_output(Pet.model_json_schema()).invoke("Hello")} >= {"name", "kind"}


@check
def tools() -> None:
    for choice in ("any", "weather"):
        answer = model().bind_tools([weather], tool_choice=choice).invoke("Hello")
        assert answer.tool_calls[0]["name"] == "weather"
    talk = [HumanMessage("Hello"), answer, weather.invoke(answer.tool_calls[0])]
    model().bind_tools([weather], tool_choice="none").invoke(talk)
    whole = None
    for chunk in model().bind_tools([weather], tool_choice="any").stream("Hello"):
        whole = chunk if whole is None else whole + chunk
    assert whole.tool_calls[0]["name"] == "weather"


@check
def agents() -> None:
    talk = {"messages": [{"role": "user", "content": "Hello"}]}
    assert create_agent(model(), tools=[weather], system_prompt="Be kind.").invoke(talk)["messages"]
    agent = create_agent(model(), tools=[weather], response_format=ProviderStrategy(Weather))
    assert isinstance(agent.invoke(talk, {"recursion_limit": 50})["structured_response"], Weather)


@check
def responses() -> None:
    assert model(use_responses_api=True).invoke("Hello").response_metadata["status"] in ("completed", "incomplete")
    assert isinstance(model(use_responses_api=True).with_structured_output(Pet).invoke("Hello"), Pet)


@check
def errors() -> None:
    raised(lambda: model(model="gpt-5").invoke("Hello"), openai.NotFoundError)
    raised(lambda: model().invoke(LONG), ContextOverflowError)
    raised(lambda: model(use_responses_api=True).invoke(LONG), ContextOverflowError)
    raised(lambda: model(base_url=LOCKED_URL, api_key="wrong").invoke("Hello"), openai.AuthenticationError)
    raised(lambda: model(timeout=0.001).invoke("Hello"), openai.APITimeoutError)
    embeddings = OpenAIEmbeddings(base_url=URL, api_key="none", check_embedding_ctx_length=False)
    raised(lambda: embeddings.embed_query("Hello"), openai.NotFoundError)


@check
def retries() -> None:
    patient = model(base_url=LOCKED_URL, api_key=KEY, max_retries=30)
    assert not [answer for answer in burst(lambda: patient.invoke("Hello")) if isinstance(answer, Exception)]


main()
