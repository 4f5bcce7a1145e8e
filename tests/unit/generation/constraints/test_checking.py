"""Grammars are tried elsewhere first: what takes too long or crashes costs a process, not this one."""

import os
from collections.abc import Iterator
from typing import Any

import pytest

from convmodel.errors import ConfigError
from convmodel.generation.constraints.checking import Checker
from convmodel.generation.constraints.grammar import Grammar, read_grammar

GOOD: dict[str, Any] = {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]}
CRASHES = {
    "$ref": "#/$defs/a0",
    "$defs": {f"a{n}": {"properties": {"x": {"$ref": f"#/$defs/a{n + 1}"}}, "required": ["x"]} for n in range(2000)}
    | {"a2000": {}},
}
SLOW = {"allOf": [{"type": "string", "pattern": f"^.*[a-m]{{{n}}}.*$"} for n in range(1, 60)]}


def grammar(schema: Any) -> Grammar:
    result = read_grammar({"json_schema": schema})
    assert result is not None
    return result


@pytest.fixture
def checker() -> Iterator[Checker]:
    checker = Checker()
    yield checker
    checker.close()


def test_a_good_grammar_has_a_short_text(checker: Checker) -> None:
    assert checker.check(grammar(GOOD)).closing == b'{"a":0}'


def test_a_refused_grammar_is_named_by_its_option(checker: Checker) -> None:
    with pytest.raises(ConfigError, match=r"^json_schema cannot be used: Unsatisfiable schema"):
        checker.check(grammar({"type": "string", "minLength": 3, "maxLength": 1}))


@pytest.mark.parametrize("schema", [CRASHES, SLOW], ids=["crashes", "slow"])
def test_after_a_hostile_grammar_another_process_answers(checker: Checker, schema: Any) -> None:
    checker.check(grammar(GOOD))
    for _ in range(2):  # the second answer is remembered
        with pytest.raises(ConfigError, match="too complex: simplify it"):
            checker.check(grammar(schema))
    assert checker.check(grammar({"const": 3})).closing == b"3"


def test_a_process_that_was_killed_is_started_again(checker: Checker) -> None:
    checker.check(grammar(GOOD))
    process = checker._started()
    process.kill()
    process.wait()
    assert checker.check(grammar({"const": 4})).closing == b"4"


def test_another_process_has_a_checker_of_its_own(checker: Checker, monkeypatch: pytest.MonkeyPatch) -> None:
    checker.check(grammar(GOOD))
    ours = checker._started()
    pid = os.getpid()
    monkeypatch.setattr("convmodel.generation.constraints.checking.os.getpid", lambda: pid + 1)
    other = checker._started()
    assert other.pid != ours.pid
    assert ours.poll() is None
    checker.close()
    ours.kill()
    ours.communicate()
