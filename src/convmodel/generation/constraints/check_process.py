"""The process that tries a grammar before the one that generates does.

Owns: what it reads and writes: a line of JSON for each grammar; an empty object once that is read, and the answer. For
some grammars llguidance takes minutes, or all memory, or crashes; here that costs only a process that has nothing else.
"""

import json
import signal
import sys
import time
from contextlib import suppress
from typing import Any

from llguidance import LLMatcher

from convmodel.errors import ConfigError
from convmodel.generation.constraints.closing import common_literals, find_closing, in_json, patterns_of, words_of
from convmodel.generation.constraints.matching import is_json, make_matcher, make_tokenizer

_MEMORY = 2**30  # bytes
_LONGEST = 2**14  # bytes of the shortest response that is looked for
_EXAMPLE_STEPS = 2000  # to look for an example of a pattern


_COMPILE_SECONDS = 0.25  # of a core, since each response compiles its grammar again

_START = "{}\n"


def main(seconds: float) -> None:
    """Answers each line of the standard input; ends if one takes longer than some seconds of a core."""
    _limit_memory()
    tokenizer = make_tokenizer([*(bytes([byte]) for byte in range(256)), b""], 256, list)
    _write(_START)
    for line in sys.stdin:
        _write(_START)
        _limit_seconds(seconds)
        answer = _answer(tokenizer, json.loads(line))
        _limit_seconds(0)
        _write(json.dumps(answer) + "\n")


def _write(line: str) -> None:
    sys.stdout.write(line)
    sys.stdout.flush()


def _answer(tokenizer: Any, grammar: str) -> dict[str, Any]:
    begin = time.process_time()
    try:
        matcher = make_matcher(tokenizer, grammar)
    except ConfigError as error:
        return {"error": str(error)}
    if time.process_time() - begin > _COMPILE_SECONDS:
        return {"error": f"it is too complex: simplify it (compiling it took more than {_COMPILE_SECONDS:g} s)"}
    literals = _literals(tokenizer, grammar)
    closing = find_closing(matcher, range(256), limit=_LONGEST, literals=literals, is_json=is_json(grammar))
    if closing is None:
        return {"error": "no response that matches it was found"}
    return {"closing": closing.hex(), "literals": [text.hex() for text in literals]}


def _literals(tokenizer: Any, grammar: str) -> list[bytes]:
    """Returns texts that a grammar may need where it allows any text."""
    if not is_json(grammar):
        return words_of(grammar)
    if not (patterns := patterns_of(grammar)):
        return common_literals() if '"format"' in grammar else []
    literals: dict[bytes, None] = {}
    for pattern in patterns:
        with suppress(ConfigError):
            regex = LLMatcher.grammar_from_regex(pattern.removeprefix("^").removesuffix("$"))
            matcher, words = make_matcher(tokenizer, regex), words_of(pattern)
            limits: Any = {"limit": _LONGEST, "most": _EXAMPLE_STEPS}
            example = find_closing(matcher, range(256), literals=words, is_json=False, **limits)
            literals |= {in_json(example): None} if example else {}
    return [*literals, *common_literals()]


def _limit_seconds(seconds: float) -> None:
    """Lets the system end this process after some seconds of a core; 0 lifts the limit."""
    if hasattr(signal, "setitimer"):  # not on Windows
        signal.setitimer(signal.ITIMER_PROF, seconds)


def _limit_memory() -> None:
    with suppress(ImportError, ValueError, OSError):  # not on Windows; macOS has no such limit
        import resource

        resource.setrlimit(resource.RLIMIT_AS, (_MEMORY, _MEMORY))


if __name__ == "__main__":
    main(float(sys.argv[1]))
