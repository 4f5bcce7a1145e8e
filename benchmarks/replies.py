"""Conversations of models with themselves under several settings, to be read blind.

    python benchmarks/replies.py WORK [--models NAME ...] [--settings single 16 ...]
    python benchmarks/replies.py WORK --openings benchmarks/openings.txt    # 20 others than by default
    python benchmarks/replies.py WORK --judged WORK/judged.json

The first command writes `WORK/blind.txt`, the conversations of all models and settings in a random order, and
`WORK/key.json`, whose they are; it prints what can be counted. Readers write a JSON file with a list of 0 and 1 for
each conversation: whether each generated turn is sensible at its place. The last command prints the share of sensible
turns of each, with its standard error over conversations.
"""

import argparse
import json
import random
import statistics
import time
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

OPENINGS = (
    "Hello! How are you today?",
    "What do you like to do at the weekend?",
    "Tell me about a film you have seen.",
    "Hey, what's up?",
    "Do you like music?",
    "What are you studying?",
    "I'm so tired today.",
    "Where are you from?",
    "Do you have any pets?",
    "I just got back from work.",
    "What's your favorite food?",
    "Have you been on vacation lately?",
    "It's so cold outside today.",
    "Do you play any sports?",
    "I have an exam tomorrow and I am nervous.",
    "What are you doing this weekend?",
    "Do you have brothers or sisters?",
    "I love reading. Do you?",
    "My friend is getting married next week.",
    "What kind of job do you want?",
)
TURNS = 9  # after the opening
SAMPLED: dict[str, Any] = {"do_sample": True, "top_k": 0, "min_new_tokens": 1, "max_new_tokens": 60}
_CHAT: dict[str, Any] = {
    "temperature": 0.6, "top_p": 0.9, "candidates": 16, "repeat_weight": 3.0, "reward_weight": 0.0,
}  # fmt: skip
_WARM: dict[str, Any] = {
    "temperature": 0.75, "top_p": 0.95, "candidates": 24, "repeat_weight": 4.0, "mmi_lambda": 0.4, "reward_weight": 0.0,
}  # fmt: skip
SETTINGS: dict[str, dict[str, Any]] = {
    "single": {"temperature": 0.8, "top_p": 0.95},
    "8": _CHAT | {"candidates": 8},
    "16": _CHAT,
    "32": _CHAT | {"candidates": 32},
    "16 cool": _CHAT | {"temperature": 0.5, "top_p": 0.8},
    "16 cold": _CHAT | {"temperature": 0.35},
    "16 mild": _CHAT | {"temperature": 0.5, "repeat_weight": 1.5},
    "16 narrow": _CHAT | {"top_p": 0.7},
    "16 likelihood": _CHAT | {"rerank": "likelihood"},
    "16 lambda 0.3": _CHAT | {"temperature": 0.5, "mmi_lambda": 0.3},
    "16 strict": _CHAT | {"repeat_weight": 5.0},
    "24 cool": _CHAT | {"temperature": 0.4, "candidates": 24},
    "24 lambda 0.4": _CHAT | {"temperature": 0.55, "candidates": 24, "repeat_weight": 4.0, "mmi_lambda": 0.4},
    "32 lambda 0.4": _CHAT | {"candidates": 32, "repeat_weight": 4.0, "mmi_lambda": 0.4},
    "16 warm": _WARM | {"candidates": 16, "mmi_lambda": 0.5, "repeat_weight": 3.0, "temperature": 0.7},
    "24 warm": _WARM,
    "24 warm strict": _WARM | {"repeat_weight": 6.0},
    "24 warm lambda 0.2": _WARM | {"mmi_lambda": 0.2, "repeat_weight": 5.0},
    "16 warm strict": _WARM | {"candidates": 16, "repeat_weight": 6.0},
    "16 warm strictest": _WARM | {"candidates": 16, "repeat_weight": 9.0},
    "16 warm lambda 0.3": _WARM | {"candidates": 16, "mmi_lambda": 0.3, "repeat_weight": 6.0},
    "16 warm lambda 0.2": _WARM | {"candidates": 16, "mmi_lambda": 0.2, "repeat_weight": 8.0},
    "32 warm lambda 0.3": _WARM | {"candidates": 32, "mmi_lambda": 0.3, "repeat_weight": 5.0},
    "24 hot strictest": _WARM | {"temperature": 0.85, "repeat_weight": 10.0},
    "32 hotter": _WARM | {"candidates": 32, "temperature": 0.9, "mmi_lambda": 0.3, "repeat_weight": 8.0},
    "24 reward": _WARM | {"reward_weight": 4.0},
    "24 reward 8": _WARM | {"reward_weight": 8.0},
    "32 hot": _CHAT | {"temperature": 0.8, "top_p": 0.95, "candidates": 32},
    "32 warm": _CHAT | {"temperature": 0.8, "top_p": 0.95, "candidates": 32, "repeat_weight": 2.0},
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("work", type=Path)
    parser.add_argument("--models", nargs="+", default=["builtin:chitchat"])
    parser.add_argument("--settings", nargs="+", choices=SETTINGS, default=["single", "16"])
    parser.add_argument("--openings", type=Path, help="a file with an opening per line; by default 20 of small talk")
    parser.add_argument("--judged", type=Path)
    arguments = parser.parse_args()
    if arguments.judged:
        judge(arguments.work, json.loads(arguments.judged.read_text(encoding="utf-8")))
    else:
        lines = arguments.openings and arguments.openings.read_text(encoding="utf-8").splitlines()
        generate(arguments.work, arguments.models, arguments.settings, lines or OPENINGS)


def generate(work: Path, names: list[str], settings: list[str], openings: Sequence[str]) -> None:
    from convmodel import ConversationModel

    talks: list[tuple[str, list[str]]] = []
    print("| model, settings | words per turn | different pairs of words | repeated turns | ms per turn, median |")
    print("|---|---|---|---|---|")
    for name in names:
        model = ConversationModel.from_pretrained(name, device="cpu")
        for setting in settings:
            label = f"{name}, {setting}"
            own, seconds = talk(model, SETTINGS[setting], openings)
            talks += [(label, turns) for turns in own]
            words = [[text.lower().split() for text in turns] for turns in own]
            pairs = [pair for turns in words for text in turns[1:] for pair in pairwise(text)]
            repeated = sum(turns[n] in turns[:n] for turns in words for n in range(1, len(turns)))
            length = statistics.mean(len(text) for turns in words for text in turns[1:])
            share, median = len({*pairs}) / len(pairs), 1000 * statistics.median(seconds)
            print(f"| {label} | {length:.1f} | {share:.2f} | {repeated} | {median:.0f} |", flush=True)
    random.Random(0).shuffle(talks)
    work.mkdir(parents=True, exist_ok=True)
    blocks = [
        "\n".join([f"## conversation {n}", *(f"{k}. [{'AB'[k % 2]}] {text!r}" for k, text in enumerate(turns))])
        for n, (_, turns) in enumerate(talks, 1)
    ]
    (work / "blind.txt").write_text("\n\n".join(blocks) + "\n", encoding="utf-8")
    key = {str(n): label for n, (label, _) in enumerate(talks, 1)}
    (work / "key.json").write_text(json.dumps(key), encoding="utf-8")


def talk(model: Any, setting: dict[str, Any], openings: Sequence[str]) -> tuple[list[list[str]], list[float]]:
    """Returns a conversation after each opening, and the seconds of each generated turn."""
    conversations, seconds = [], []
    for number, opening in enumerate(openings):
        turns = [opening]
        for turn in range(TURNS):
            begin = time.perf_counter()
            turns.append(model.generate(turns, seed=100 * number + turn, **SAMPLED | setting).responses[0].strip())
            seconds.append(time.perf_counter() - begin)
        conversations.append(turns)
    return conversations, seconds


def judge(work: Path, judged: dict[str, list[int]]) -> None:
    key: dict[str, str] = json.loads((work / "key.json").read_text(encoding="utf-8"))
    print("| model, settings | turns | sensible | standard error |\n|---|---|---|---|")
    for setting in dict.fromkeys(key.values()):
        shares = [statistics.mean(judged[number]) for number, each in key.items() if each == setting]
        turns = sum(len(judged[number]) for number, each in key.items() if each == setting)
        error = statistics.stdev(shares) / len(shares) ** 0.5
        print(f"| {setting} | {turns} | {statistics.mean(shares):.2f} | {error:.2f} |")


if __name__ == "__main__":
    main()
