"""Conversations of people with models, who do not know which model or settings they talk to.

    python benchmarks/people.py WORK --begin [--models NAME ...] [--settings 16 ...] [--openings FILE ...]
    python benchmarks/people.py WORK --said WORK/said.json     # again for each turn
    python benchmarks/people.py WORK --judged WORK/judged.json

The first command answers an opening in each conversation and writes `WORK/blind.txt`, all conversations in a random
order. People write a JSON file with what they say next in some of them, `{"1": "...", "7": "..."}`; the second command
answers that. Several may write at the same time, each in conversations of their own. Readers who talked to none of them
then write, for each conversation, a list of 0 and 1: whether each turn of the model ([B]) is sensible at its place. The
last command prints the share of sensible turns of each model, with its standard error over conversations.
"""

import argparse
import json
import random
from pathlib import Path
from typing import Any

from replies import OPENINGS, SAMPLED, SETTINGS, judge


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("work", type=Path)
    parser.add_argument("--models", nargs="+", default=["builtin:chitchat"])
    parser.add_argument("--settings", nargs="+", choices=SETTINGS, default=["16"])
    parser.add_argument("--openings", type=Path, nargs="+", help="files with an opening per line; by default 20 lines")
    action = parser.add_mutually_exclusive_group(required=True)
    action.add_argument("--begin", action="store_true")
    action.add_argument("--said", type=Path)
    action.add_argument("--judged", type=Path)
    options = parser.parse_args()
    talks = options.work / "talks"
    if options.judged:
        judge(options.work, json.loads(options.judged.read_text(encoding="utf-8")))
        return
    if options.begin:
        files = [path.read_text(encoding="utf-8").splitlines() for path in options.openings or []]
        openings = [line for lines in files for line in lines] or list(OPENINGS)
        said = begin(options.work, options.models, options.settings, openings)
    else:
        said = json.loads(options.said.read_text(encoding="utf-8"))
    answer(talks, said)
    numbers = sorted(int(path.stem) for path in talks.glob("*.json"))
    blocks = [show(number, json.loads((talks / f"{number}.json").read_text(encoding="utf-8"))) for number in numbers]
    (options.work / "blind.txt").write_text("\n\n".join(blocks) + "\n", encoding="utf-8")
    for number in said:
        print(show(int(number), json.loads((talks / f"{number}.json").read_text(encoding="utf-8"))), end="\n\n")


def begin(work: Path, models: list[str], settings: list[str], openings: list[str]) -> dict[str, str]:
    """Writes the empty conversations; returns the opening of each."""
    chosen = [
        {"model": model, "setting": setting, "seed": 100 * number, "opening": opening, "turns": []}
        for model in models
        for setting in settings
        for number, opening in enumerate(openings)
    ]
    random.Random(0).shuffle(chosen)
    (work / "talks").mkdir(parents=True)
    for number, talk in enumerate(chosen, 1):
        (work / "talks" / f"{number}.json").write_text(json.dumps(talk), encoding="utf-8")
    key = {str(number): f"{talk['model']}, {talk['setting']}" for number, talk in enumerate(chosen, 1)}
    (work / "key.json").write_text(json.dumps(key), encoding="utf-8")
    return {str(number): str(talk["opening"]) for number, talk in enumerate(chosen, 1)}


def answer(talks: Path, said: dict[str, str]) -> None:
    """Adds what people said, and the models' responses, to the conversations."""
    from convmodel import ConversationModel

    loaded: dict[str, ConversationModel] = {}
    for number, text in said.items():
        path = talks / f"{number}.json"
        talk: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        if talk["model"] not in loaded:
            loaded[talk["model"]] = ConversationModel.from_pretrained(talk["model"], device="cpu")
        turns = [*talk["turns"], text.strip()]
        options = SAMPLED | SETTINGS[talk["setting"]]
        response = loaded[talk["model"]].generate(turns, seed=talk["seed"] + len(turns), **options).responses[0].strip()
        new = path.with_suffix(".new")  # others read all conversations meanwhile
        new.write_text(json.dumps(talk | {"turns": [*turns, response]}, ensure_ascii=False), encoding="utf-8")
        new.replace(path)


def show(number: int, talk: dict[str, Any]) -> str:
    lines = (f"{place}. [{'AB'[place % 2]}] {text!r}" for place, text in enumerate(talk["turns"]))
    return "\n".join([f"## conversation {number}", *lines])


if __name__ == "__main__":
    main()
