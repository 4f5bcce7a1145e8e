"""What the checks of the clients share: how they are collected and reported, and the servers that they ask.

Runs in the environment of a client, which has pydantic but neither convmodel nor pytest.
"""

import json
import sys
import time
import traceback
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

MODEL = "chitchat"
HELLO = [{"role": "user", "content": "Hello!"}]
TALK = [
    {"role": "system", "content": "Be kind."},
    *HELLO,
    {"role": "assistant", "content": "Hi, how are you?"},
    {"role": "user", "content": "Fine."},
]
LONG = "word " * 1000
URL, LOCKED_URL, KEY = sys.argv[1:] if len(sys.argv) == 4 else ("", "", "")
"""The base URL of a server, and of one that needs a key and lets one request wait; both serve `builtin:chitchat` with
system messages."""

_CHECKS: list[Callable[[], Any]] = []


class Home(BaseModel):
    """Where it lives."""

    model_config = ConfigDict(extra="forbid")
    city: str
    floor: int | None = None


class Pet(BaseModel):
    """A pet."""

    model_config = ConfigDict(extra="forbid")
    name: str
    kind: Literal["cat", "dog"]
    tags: list[str]
    home: Home
    size: int | bool


class Weather(BaseModel):
    """The weather."""

    model_config = ConfigDict(extra="forbid")
    city: str
    sky: Literal["clear", "rain"]


WEATHER_TOOL = {
    "type": "function",
    "function": {"name": "weather", "description": "Reports the weather.", "parameters": Weather.model_json_schema()},
}


def check(function: Callable[[], Any]) -> Callable[[], Any]:
    """Adds a check, which raises if the client and the server do not work together."""
    _CHECKS.append(function)
    return function


def raised(function: Callable[[], Any], error: type[BaseException]) -> Any:
    """Returns the error that a function must raise."""
    try:
        result = function()
    except error as caught:
        return caught
    raise AssertionError(f"no {error.__name__}, but {result!r}")


def burst(ask: Callable[[], Any], requests: int = 16) -> list[Any]:
    """Returns the results or errors of many requests at the same time."""

    def attempt(_: int) -> Any:
        try:
            return ask()
        except Exception as error:
            return error

    with ThreadPoolExecutor(requests) as pool:
        return list(pool.map(attempt, range(requests)))


def main() -> None:
    """Runs the checks and prints the results as JSON, one line per check."""
    for function in _CHECKS:
        begin, problem = time.perf_counter(), ""
        try:
            function()
        except Exception:
            problem = traceback.format_exc(limit=-3)
        name = function.__name__.replace("_", " ")
        seconds = round(time.perf_counter() - begin, 2)
        print(json.dumps({"check": name, "problem": problem, "seconds": seconds}), flush=True)
