"""The process that tries grammars, by its lines."""

import json
import subprocess
import sys

from convmodel.generation.constraints.grammar import read_grammar

COMMAND = [sys.executable, "-m", "convmodel.generation.constraints.check_process", "60"]


def test_each_line_is_answered() -> None:
    options = [
        {"regex": "a+"},
        {"json_schema": {"type": "wibble"}},
        {"json_schema": {"pattern": "@", "type": "string"}},
    ]
    grammars = [grammar.text for option in options if (grammar := read_grammar(option))]
    text = "".join(json.dumps(grammar) + "\n" for grammar in grammars)

    result = subprocess.run(COMMAND, input=text, capture_output=True, text=True, timeout=60, check=True)

    ready, *lines = map(json.loads, result.stdout.splitlines())
    first, second, third = lines[1::2]
    assert [ready, *lines[::2]] == [{}] * 4
    assert bytes.fromhex(first["closing"]) == b"a"
    assert "wibble" in second["error"]
    assert bytes.fromhex(third["closing"]) == b'"@"'
    assert b"@".hex() in third["literals"]
