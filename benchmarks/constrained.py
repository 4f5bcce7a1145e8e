"""Responses that must match a JSON schema: speed per token, whether all are valid, and hostile schemas.

    python benchmarks/constrained.py [--model MODEL] [--only speed answers hostile] [--answers 1000]

speed:   milliseconds per token, free and under a schema, in turn in one process; medians, and the median of the ratios.
answers: responses to schemas that hypothesis draws: every one must parse and validate, or be refused first.
hostile: schemas that are deep, wide, cyclic or explosive: the longest time until each is answered or refused, and how
         much memory the process takes more afterwards.
"""

import argparse
import json
import statistics
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

from convmodel import ConversationModel
from convmodel.errors import ConfigError

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
from json_schemas import SCHEMAS, hostile_schemas

PARTS = ("speed", "answers", "hostile")
CONTEXT = ["Hello, how are you?", "I am fine. Tell me about your family and your dog."]
TOKENS = 120
PERSON = {
    "type": "object",
    "properties": {
        "name": {"type": "string"},
        "age": {"type": "integer", "minimum": 0, "maximum": 150},
        "friends": {"type": "array", "items": {"type": "string"}, "minItems": 3},
        "about": {"type": "string", "minLength": 400},
    },
    "required": ["name", "age", "friends", "about"],
    "additionalProperties": False,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="builtin:chitchat")
    parser.add_argument("--only", nargs="+", choices=PARTS, default=PARTS)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--answers", type=int, default=1000)
    options = parser.parse_args()
    model = ConversationModel.from_pretrained(options.model, device="cpu")
    for part in options.only:
        {"speed": speed, "answers": answers, "hostile": hostile}[part](model, options)


def speed(model: ConversationModel, options: argparse.Namespace) -> None:
    shared: dict[str, Any] = {"max_new_tokens": TOKENS, "temperature": 1.0, "top_p": 0.9}

    def milliseconds(seed: int, **more: Any) -> float:
        begin = time.perf_counter()
        result = model.generate(CONTEXT, seed=seed, **shared, **more)
        return (time.perf_counter() - begin) * 1000 / result.response_tokens[0]

    free, bound = [], []
    for seed in range(-2, options.rounds):
        pair = milliseconds(abs(seed), min_new_tokens=TOKENS), milliseconds(abs(seed), json_schema=PERSON)
        if seed >= 0:  # the first ones warm up
            free.append(pair[0])
            bound.append(pair[1])
    ratio = statistics.median(b / a for a, b in zip(free, bound, strict=True))
    print(
        f"speed: {statistics.median(free):.2f} ms per token free, {statistics.median(bound):.2f} under a schema: "
        f"{ratio:.3f} times"
    )


# Answers


def answers(model: ConversationModel, options: argparse.Namespace) -> None:
    from hypothesis import HealthCheck, Phase, given, settings

    counts: Counter[str] = Counter()
    seen: set[str] = set()

    @settings(
        max_examples=10 * options.answers,
        database=None,
        deadline=None,
        derandomize=True,
        phases=[Phase.generate],
        suppress_health_check=[*HealthCheck],
    )
    @given(SCHEMAS)
    def check(schema: dict[str, Any]) -> None:
        text = json.dumps(schema)
        answered = counts["valid"] + counts["invalid"]
        if text in seen or answered == options.answers:
            return
        seen.add(text)
        outcome = answer(model, schema, len(seen))
        counts[outcome.partition(":")[0]] += 1
        if outcome.startswith("invalid"):
            print(f"{outcome}\n  under {text}")
        elif outcome.startswith("refused"):
            counts["  " + outcome.partition("used: ")[2][:50]] += 1

    check()
    print("answers:", ", ".join(f"{count} {name}" for name, count in sorted(counts.items(), key=lambda item: -item[1])))


def answer(model: ConversationModel, schema: dict[str, Any], seed: int, *, validates: bool = True) -> str:
    import jsonschema_rs

    try:
        result = model.generate(CONTEXT, json_schema=schema, max_new_tokens=96, temperature=1.0, seed=seed)
    except ConfigError as error:
        return f"refused: {error}"
    text = result.responses[0]
    try:
        value = json.loads(text)
        if validates:
            jsonschema_rs.validate(schema, value, validate_formats=True)
    except ValueError as error:  # ValidationError is one
        return f"invalid: {text!r}: {str(error).splitlines()[0]}"
    return "valid" if result.finish_reasons == ["stop"] else f"invalid: {text!r} was cut"


# Hostile schemas


def hostile(model: ConversationModel, options: argparse.Namespace) -> None:
    answer(model, {"type": "boolean"}, 0)  # starts the process that checks schemas
    seconds, outcomes, before = [], Counter[str](), memory()
    for name, schema in hostile_schemas():
        begin = time.perf_counter()
        outcome = answer(model, schema, 0, validates=False)  # some take the validator for ever
        seconds.append((time.perf_counter() - begin, name))
        outcomes[outcome.partition(":")[0]] += 1
        if outcome.startswith("invalid"):
            print(name, outcome)
    longest = ", ".join(f"{name} {time:.2f} s" for time, name in sorted(seconds)[:-4:-1])
    counts = ", ".join(f"{count} {outcome}" for outcome, count in outcomes.items())
    print(f"hostile: {len(seconds)} schemas, {counts}; longest {longest}; memory {memory() - before:+.0f} MiB")


def memory() -> float:
    if sys.platform != "linux":
        return float("nan")
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096 / 2**20


if __name__ == "__main__":
    main()
