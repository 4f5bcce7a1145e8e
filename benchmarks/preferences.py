"""Learning from judgements: equality with TRL, a synthetic taste, and the guard.

    python benchmarks/preferences.py equality --model FOLDER --peers peers/bin/python
    python benchmarks/preferences.py taste --model builtin:chitchat --output results.jsonl
    python benchmarks/preferences.py sweep --model builtin:chitchat --output sweep.jsonl
    python benchmarks/preferences.py ruin --model builtin:chitchat

equality: losses, gradients and log-probabilities of the same ids by convmodel and by TRL's DPOTrainer and KTOTrainer,
in float32; and batches of 8, batches of 1 and packed rows of ours. It exits with 1 if one is above 1e-5. `--model`
is a folder with a Llama, `--peers` the Python of an environment that has TRL, as `preferences_peers.py` describes.
taste: responses that end in a question mark, or have at most 6 words, are liked. How many of held-out responses do so
before and after learning from 20, 40 and 200 judgements, the test perplexity, time and memory; for each objective, and
for supervised training on the liked responses alone (`sft`). `reward` trains nothing and fits a reward model. With
`--own-turns`, kto also learns from what a reward model says of the model's turns to itself, as `improve` does. With
`--candidates 16`, the best of so many is counted, too: before by the usual score, afterwards by the reward model
of the judgements as well. A reward model that the model has already is removed first.
sweep: the same for the first taste, 40 judgements and the first seed, with settings varied one by one.
ruin: the same at 30 times the learning rate: the guard must stop it, and leave all weights as they were.

A run that was stopped resumes: what `--output` has is not measured again.
"""

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

from convmodel.training.improvement import SETTINGS as IMPROVE

OBJECTIVES = ("kto", "dpo", "orpo", "sft", "reward")
BASE: dict[str, Any] = IMPROVE | {"max_length": 512}
"""What is the same for all objectives of `taste` and `sweep`, unless `SETTINGS` has something else."""

SETTINGS: dict[str, dict[str, Any]] = {
    "kto": {},
    "dpo": {"epochs": 4, "sft_weight": 0.2},
    "orpo": {"epochs": 4, "beta": 0.5},
    "sft": {"epochs": 4},
    "reward": {},
}
OF_JUDGEMENTS = ("max_regression", "replay_weight", "beta", "sft_weight")
RUINOUS = 30.0  # times the learning rate, for `ruin`

VARIED: dict[str, list[dict[str, Any]]] = {
    "kto": [
        {},
        *({"replay_weight": value} for value in (0.0, 0.5, 2.0)),
        *({"learning_rate": value} for value in (5e-5, 1e-4, 5e-4, 1e-3)),
        *({"beta": value} for value in (0.05, 0.1, 0.5)),
        *({"epochs": value} for value in (3, 10, 20)),
        *({"batch_size": value} for value in (4, 16)),
        {"weight_decay": 0.0},
    ],
    "dpo": [{"sft_weight": value} for value in (0.0, 0.2, 1.0)],
    "orpo": [{"beta": value} for value in (0.2, 0.5, 1.0)],
}
"""Changes to the settings, for `sweep`."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=["equality", "taste", "sweep", "ruin"])
    parser.add_argument("--model", default="builtin:chitchat", help="a folder or builtin:NAME; for equality a folder")
    parser.add_argument("--peers", help="for equality: the Python of TRL's environment")
    parser.add_argument("--output", type=Path, help="for taste and sweep: a file of JSON lines, one per run")
    parser.add_argument("--objectives", nargs="+", choices=OBJECTIVES, default=OBJECTIVES)
    parser.add_argument("--tastes", nargs="+", choices=["question", "short"], default=["question", "short"])
    parser.add_argument("--judgements", type=int, nargs="+", help="by default 20, 40 and 200, for sweep 40")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--settings", type=json.loads, default={}, help="for all runs, as JSON")
    parser.add_argument("--contexts", type=int, default=480, help="whose responses are judged")
    parser.add_argument("--valid", type=int, default=100, help="conversations that the guard validates on")
    parser.add_argument("--test", type=int, default=100, help="conversations of the test perplexity")
    parser.add_argument("--replay", choices=["sample", "self"], default="self", help="what is replayed")
    parser.add_argument("--new-tokens", type=int, default=40, help="per sampled response, at most")
    parser.add_argument("--own-turns", action="store_true", help="for kto, let a reward model judge what is replayed")
    parser.add_argument("--candidates", type=int, default=0, help="count the best of so many responses, too")
    parser.add_argument("--vary", type=json.loads, help='for sweep: {"kto": [{"learning_rate": 1e-4}, ...]}')
    options = parser.parse_args()
    options.judgements = options.judgements or ([40] if options.part == "sweep" else [20, 40, 200])
    if options.part == "equality":
        from preferences_equality import compare

        raise SystemExit(compare(options.model, options.peers))
    from preferences_taste import Task, matrix, print_table, ruin

    if not options.output and options.part != "ruin":
        parser.error(f"{options.part} needs --output")
    with tempfile.TemporaryDirectory() as scratch:
        folder = options.output.parent if options.output else Path(scratch)
        folder.mkdir(parents=True, exist_ok=True)
        sizes: dict[str, Any] = {name: getattr(options, name) for name in ("contexts", "valid", "new_tokens", "replay")}
        task = Task.make(options.model, folder, **sizes)
    if options.part == "ruin":
        learning = [name for name in options.objectives if name not in ("sft", "reward")]
        raise SystemExit(max(ruin(task, settings(name, options.settings), RUINOUS) for name in learning))
    measuring = {"test": options.test, "candidates": options.candidates}
    print_table(matrix(task, [{"before": True}, *cells(options)], options.output, **measuring))


def cells(options: argparse.Namespace) -> list[dict[str, Any]]:
    """Returns the runs of `taste` or `sweep`."""
    if options.part == "sweep":
        chosen = [(objective, change) for objective, changes in (options.vary or VARIED).items() for change in changes]
        return [
            {"taste": taste, "count": count, "seed": seed, "settings": settings(objective, options.settings | change)}
            for taste in options.tastes[:1] for count in options.judgements for seed in options.seeds[:1]
            for objective, change in chosen
        ]  # fmt: skip
    return [
        {"taste": taste, "count": count, "seed": seed, "settings": settings(objective, options.settings)}
        | ({"own_turns": True} if options.own_turns and objective == "kto" else {})
        for taste in options.tastes
        for seed in options.seeds
        for count in options.judgements
        for objective in options.objectives
    ]


def settings(objective: str, changes: dict[str, Any]) -> dict[str, Any]:
    """Returns the settings of a run, without those that change nothing with its objective."""
    if objective == "reward":  # nothing is trained
        return {"objective": objective}
    chosen = BASE | SETTINGS[objective] | changes
    if objective == "sft":
        chosen = {name: value for name, value in chosen.items() if name not in OF_JUDGEMENTS}
    return chosen | {"objective": objective}


if __name__ == "__main__":
    main()
