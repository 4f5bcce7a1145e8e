"""Values that change nothing are no reason to refuse a request."""

from typing import Any

import pytest
from pydantic import BaseModel, ValidationError

from convmodel.server.api.schemas import ChatRequest, CompletionRequest, ResponsesRequest

HI = {"role": "user", "content": "Hi"}
TEXTS: dict[type[BaseModel], dict[str, Any]] = {
    ChatRequest: {"messages": [HI]},
    CompletionRequest: {"prompt": "Hi"},
    ResponsesRequest: {"input": "Hi"},
}


@pytest.mark.parametrize(
    ("schema", "fields"),
    [
        (ChatRequest, {"reasoning_effort": "none", "verbosity": "medium", "repetition_penalty": 1, "best_of": 1}),
        (ChatRequest, {"n": 3, "best_of": 3, "repetition_penalty": 1.0, "stream_options": {"include_usage": False}}),
        (ChatRequest, {"stream": True, "stream_options": {"include_usage": True, "include_obfuscation": False}}),
        (ChatRequest, {"messages": [HI | {"provider_specific_fields": {"refusal": None}, "tool_calls": None}]}),
        (CompletionRequest, {"suffix": "", "n": 2, "best_of": 2}),
        (ResponsesRequest, {"stream_options": {"include_obfuscation": False}, "reasoning": {"effort": "none"}}),
        (ResponsesRequest, {"text": {"format": {"type": "text"}, "verbosity": "medium"}, "truncation": "auto"}),
    ],
)
def test_values_without_effect_are_dropped(schema: type[BaseModel], fields: dict[str, Any]) -> None:
    schema.model_validate({"model": "m"} | TEXTS[schema] | fields)


@pytest.mark.parametrize(
    ("schema", "fields"),
    [
        (ChatRequest, {"n": 2, "best_of": 3}),
        (ChatRequest, {"reasoning_effort": "low"}),
        (ChatRequest, {"repetition_penalty": 1.1}),
        (ChatRequest, {"repetition_penalty": True}),
        (ChatRequest, {"stream": True, "stream_options": {"include_obfuscation": True}}),
        (ChatRequest, {"messages": [HI | {"provider_specific_fields": {"refusal": "no"}}]}),
        (CompletionRequest, {"suffix": "end"}),
        (ResponsesRequest, {"reasoning": {"effort": "low"}}),
    ],
)
def test_other_values_are_refused(schema: type[BaseModel], fields: dict[str, Any]) -> None:
    with pytest.raises(ValidationError, match="Extra inputs are not permitted"):
        schema.model_validate({"model": "m"} | TEXTS[schema] | fields)
