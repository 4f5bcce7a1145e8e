"""Grammars are tried elsewhere first: what takes too long or crashes costs a process, not this one."""

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from convmodel.errors import ConfigError
from convmodel.generation.constraints import checking
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


@pytest.mark.slow
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


def test_a_process_that_ends_before_it_reads_a_grammar_is_not_the_grammars_fault(
    checker: Checker, monkeypatch: pytest.MonkeyPatch
) -> None:
    checker.check(grammar(GOOD))
    process = checker._started()
    process.kill()
    process.wait()
    monkeypatch.setattr(process, "poll", lambda: None)  # not noticed yet
    assert checker.check(grammar({"const": 5})).closing == b"5"


def test_modules_of_the_current_folder_are_not_run(
    checker: Checker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "random.py").write_text("raise SystemExit")
    monkeypatch.chdir(tmp_path)
    assert checker.check(grammar({"const": 6})).closing == b"6"


def test_a_grammar_that_takes_a_core_too_long_ends_the_process() -> None:
    checker = Checker(seconds=0.001)
    with pytest.raises(ConfigError, match=r"more than 0.001 s"):
        checker.check(grammar({"enum": [f"value {n}" for n in range(9000)]}))
    checker.close()


def test_the_process_ends_with_its_owner() -> None:
    code = (
        "from convmodel.generation.constraints.checking import CHECKER as checker\n"
        "from convmodel.generation.constraints.grammar import read_grammar\n"
        "checker.check(read_grammar({'regex': 'a'}))\n"
        "print(checker._process.pid, flush=True)\n"
        "import os, signal\n"
        "os.kill(os.getpid(), signal.SIGTERM)\n"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert any(_has_ended(int(result.stdout)) for _ in range(300))


def _has_ended(pid: int) -> bool:
    state = subprocess.run(["ps", "-o", "stat=", "-p", str(pid)], capture_output=True, text=True, check=False).stdout
    time.sleep(0 if (ended := state.strip()[:1] in ("", "Z")) else 0.1)
    return ended


def test_another_process_has_a_checker_of_its_own(checker: Checker, monkeypatch: pytest.MonkeyPatch) -> None:
    checker.check(grammar(GOOD))
    ours = checker._started()
    monkeypatch.setattr(checking, "os", SimpleNamespace(getpid=lambda: os.getpid() + 1))
    other = checker._started()
    assert other.pid != ours.pid
    assert ours.poll() is None
    checker.close()
    ours.kill()
    ours.communicate()
