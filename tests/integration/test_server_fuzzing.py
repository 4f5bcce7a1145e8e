"""Whatever the OpenAPI document allows, and much that it does not: no crash, and every answer as documented."""

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import schemathesis
from fine_tuning_service import Tuning, make_tune
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
)
from serving import HELLO, Serving, wait_until

from convmodel.server.app import create_app
from convmodel.server.serving.model_registry import ModelRegistry
from convmodel.server.settings import ServerSettings

pytestmark = pytest.mark.loopback

CHECKS = (
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
)
EXAMPLES = 40  # of each route
OF_FINE_TUNING = "files|fine_tuning|models|train"


@pytest.fixture
def document(request: pytest.FixtureRequest) -> Any:
    """The server's OpenAPI document."""
    request.node._nodeid = request.node.nodeid  # schemathesis 4.32 reads this attribute, which pytest 9 no longer has
    app: Any = create_app(ModelRegistry(dict, ServerSettings())).app
    return schemathesis.openapi.from_dict(app.openapi())


schema = schemathesis.pytest.from_fixture("document")  # read where the tests run, not where they are collected


def check(server: Serving, case: schemathesis.Case) -> None:
    if isinstance(case.body, dict):
        if isinstance(case.body.get("model"), str):
            case.body["model"] = "tiny"  # else most of it would be 404
        for name in ("max_completion_tokens", "max_tokens", "max_output_tokens"):
            if isinstance(case.body.get(name), int):
                case.body[name] %= 4
    answer = case.call(base_url=server.url, timeout=20)
    case.validate_response(answer, checks=CHECKS)
    assert answer.status_code != 422
    if answer.status_code >= 400:
        assert answer.json()["error"].keys() == {"message", "type", "param", "code"}


@pytest.mark.slow
@schema.parametrize()
@settings(max_examples=EXAMPLES, suppress_health_check=[*HealthCheck])
def test_every_route_answers_as_documented(server: Serving, case: schemathesis.Case) -> None:
    check(server, case)


@pytest.mark.long
@pytest.mark.timeout(1200)
@schema.parametrize()
@settings(max_examples=10 * EXAMPLES, suppress_health_check=[*HealthCheck])
def test_every_route_answers_many_more_requests_as_documented(server: Serving, case: schemathesis.Case) -> None:
    check(server, case)


@pytest.fixture(scope="module")
def tuning(tmp_path_factory: pytest.TempPathFactory, gpt2_folder: Path) -> Iterator[Tuning]:
    with make_tune(tmp_path_factory.mktemp("fuzzing"), gpt2_folder)(steps=1) as tuning:
        yield tuning


@pytest.fixture(scope="module")
def uploaded(tuning: Tuning) -> str:
    return tuning.upload()


def check_with_a_file(tuning: Tuning, uploaded: str, case: schemathesis.Case) -> None:
    if isinstance(case.body, dict) and "training_file" in case.body:
        case.body["training_file"] = uploaded  # else most of it would be refused for that
    if isinstance(case.body, dict) and "files" in case.body:
        case.body["files"] = [uploaded]
    check(tuning.served, case)


@pytest.mark.slow
@schema.include(path_regex=OF_FINE_TUNING).parametrize()
@settings(max_examples=10, suppress_health_check=[*HealthCheck])
def test_every_route_answers_as_documented_where_fine_tuning_is_allowed(
    tuning: Tuning, uploaded: str, case: schemathesis.Case
) -> None:
    check_with_a_file(tuning, uploaded, case)


@pytest.mark.long
@pytest.mark.timeout(600)
@schema.include(path_regex=OF_FINE_TUNING).parametrize()
@settings(max_examples=60, suppress_health_check=[*HealthCheck])
def test_every_route_answers_more_requests_as_documented_where_fine_tuning_is_allowed(
    tuning: Tuning, uploaded: str, case: schemathesis.Case
) -> None:
    check_with_a_file(tuning, uploaded, case)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda children: st.lists(children) | st.dictionaries(st.text(), children),
    max_leaves=10,
)
NAMES = [
    *("temperature", "top_p", "top_k", "min_p", "presence_penalty", "frequency_penalty", "logit_bias", "seed", "stop"),
    *("stream", "n", "logprobs", "top_logprobs", "stream_options", "reply_as", "max_completion_tokens", "messages"),
    *("user", "metadata", "tools", "response_format"),
]


@pytest.mark.slow
@given(changes=st.dictionaries(st.sampled_from(NAMES), JSON, max_size=3))
@settings(max_examples=60, suppress_health_check=[*HealthCheck])
def test_any_value_of_any_parameter_is_taken_or_refused(server: Serving, changes: dict[str, Any]) -> None:
    answer = server.chat(**({"max_completion_tokens": 2} | changes))
    assert answer.status in (200, 400)
    if answer.status == 400:
        assert answer.error["type"] == "invalid_request_error"


NUMBER = st.sampled_from([0, -0.0, 1e-300, 5e-324, 0.0099, 0.01, 1, 2, math.nextafter(2, 0), math.nextafter(0, 1)])


@pytest.mark.slow
@given(
    temperature=NUMBER, top_p=NUMBER.filter(lambda value: value <= 1), min_p=NUMBER.filter(lambda value: value <= 1),
    top_k=st.sampled_from([0, 1, 2, 50257, 2**20]), bias=st.sampled_from([-100, 0, 100]),
    penalty=st.sampled_from([-2, 0, 2]),
)  # fmt: skip
@settings(max_examples=25, suppress_health_check=[*HealthCheck])
def test_every_mixture_of_extremes_is_sampled_from(
    server: Serving, temperature: float, top_p: float, min_p: float, top_k: int, bias: float, penalty: float
) -> None:
    answer = server.chat(
        HELLO, temperature=temperature, top_p=top_p, min_p=min_p, top_k=top_k, max_completion_tokens=3, n=2, seed=1,
        logit_bias={str(index): bias for index in range(0, 50257, 50)}, presence_penalty=penalty,
        frequency_penalty=penalty,
    )  # fmt: skip
    assert answer.status == 200, answer.body
    assert all(choice["message"]["content"] is not None for choice in answer.json["choices"])


def test_nothing_is_left_of_it_all(server: Serving) -> None:
    wait_until(server.is_idle)
    wait_until(lambda: server.is_idle("plain"))
    wait_until(lambda: not server.server.server_state.tasks)
    assert server.chat(max_tokens=1).status == 200
