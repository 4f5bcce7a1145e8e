"""What `convmodel doctor` and `convmodel fit` promise to the jobs of a server, without training.

Owns: the promise: arguments, files and exit codes. `convmodel import` is the real one, unless `--talks N` is given, the
number of conversations that it "reads"; `--hang SECONDS` lets it wait before it begins. `--give FOLDER` is the model
that `fit` "trains", `--fail TEXT` makes it fail, `--steps N` and `--pause SECONDS` say how long it takes, `--finding
STATUS` is what the doctor finds, `--die N` is the signal that kills it after a step. SIGTERM stops it after the step.
The next run resumes at the last checkpoint, which it leaves after every step.
"""

import argparse
import json
import shutil
import signal
import sys
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path
from types import FrameType


def command(**options: object) -> list[str]:
    """The command line of this program, as the server takes one."""
    given = [part for name, value in options.items() for part in (f"--{name}", str(value))]
    return [sys.executable, __file__, *given]


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--pause", type=float, default=0.01)
    parser.add_argument("--give", type=Path)
    parser.add_argument("--fail", default="")
    parser.add_argument("--finding", default="warn")
    parser.add_argument("--refuse", default="")
    parser.add_argument("--die", type=int, default=0)
    parser.add_argument("--hang", type=float, default=0)
    parser.add_argument("--talks", type=int, default=0)
    arguments = sys.argv[1:] if arguments is None else arguments
    if "import" in arguments:
        begin = arguments.index("import")
        given = parser.parse_args(arguments[:begin])
        return import_(given, arguments[begin:])
    parser.add_argument("command", choices=["doctor", "fit"])
    given, rest = parser.parse_known_args(arguments)
    return (doctor if given.command == "doctor" else fit)(given, rest)


def import_(given: argparse.Namespace, arguments: Sequence[str]) -> int:
    time.sleep(given.hang)
    if given.talks:
        folder = Path(dict(pairwise(arguments))["--output"])
        folder.mkdir()
        for part, count in (("train", given.talks - 1), ("valid", 1)):
            (folder / f"{part}.jsonl").write_text('{"turns": ["Hello", "Hi"]}\n' * count)
        tables: dict[str, object] = {
            "formats": {"turns": given.talks},
            "carried": {},
            "notes": [],
            "first_problems": [],
        }
        speakers = {"speaker_turns": {"Ann": 9, "Will": 9}, "first_words": {"Ann": "Hello", "Will": "Hi"}}
        print(json.dumps(tables | speakers))
        return 0
    from convmodel.cli.main import main as convmodel

    sys.argv[1:] = arguments
    convmodel()
    return 0


def doctor(given: argparse.Namespace, rest: Sequence[str]) -> int:
    if given.refuse:
        print(f"convmodel: {rest[1]}:4: {given.refuse}", file=sys.stderr)
        return 1
    checks = [
        {"name": "separator", "status": "pass", "finding": "it is a token", "fix": ""},
        {"name": "steps", "status": given.finding, "finding": "3 steps are few", "fix": "raise epochs"},
    ]
    estimate = None if "--no-estimate" in rest else {"steps": 3, "seconds": 1.5}
    print(json.dumps({"checks": checks, "arguments": rest, "estimate": estimate}))
    return int(given.finding == "fail")


def fit(given: argparse.Namespace, rest: Sequence[str]) -> int:
    stopped: list[int] = []

    def stop(number: int, frame: FrameType | None) -> None:
        stopped.append(number)

    signal.signal(signal.SIGTERM, stop)
    options = dict(pairwise(rest))
    folder = Path(options["--output-dir"])
    folder.mkdir(exist_ok=True)
    (folder / "arguments.json").write_text(json.dumps(rest))
    (folder / "run.json").write_text("{}")
    done = train(folder, given, stopped)
    if given.fail:
        print(f"Traceback\nconvmodel: {rest[0]}: {given.fail}", file=sys.stderr)
        return 1
    if done < given.steps:
        print("stopped after a step: the same command resumes", file=sys.stderr)
        return 143
    others = shutil.ignore_patterns("metrics.jsonl", "run.json", "checkpoint-*")
    shutil.copytree(given.give or Path(options["--model"]), folder, dirs_exist_ok=True, ignore=others)
    for path in folder.glob("checkpoint-*"):
        shutil.rmtree(path)
    from convmodel.training.resume.run_folder import RunFolder  # what `fit` itself marks its end with

    run = RunFolder(folder, {})
    run.begin(None)
    run.finish()
    print(
        json.dumps({"steps": given.steps, "verdict": "Better: validation perplexity fell from 30.00 to 21.00, by 30%."})
    )
    return 0


def train(folder: Path, given: argparse.Namespace, stopped: Sequence[int]) -> int:
    """Writes a line for each step, from where an earlier run was stopped; returns the last step."""
    path = folder / "metrics.jsonl"
    done = max((int(one.name.partition("-")[2]) for one in folder.glob("checkpoint-*")), default=0)
    lines = path.read_text().splitlines(keepends=True)[: done + 1] if done else []
    lines = lines or [json.dumps({"event": "begin", "steps": given.steps, "config": {}}) + "\n"]
    path.write_text("".join(lines))
    with path.open("a") as file:
        for step in range(done + 1, given.steps + 1):
            time.sleep(given.pause)
            record = {"step": step, "loss": 2.0 + 1 / step, "tokens": 100 * step, "seconds": step * 1.5}
            records = [record]
            if step == given.steps:
                records.append({"step": step, "eval_loss": 3.05, "eval_perplexity": 21.0})
            now = datetime.now(UTC).isoformat()  # exact, since it takes no time before its first step
            file.write("".join(json.dumps(record | {"time": now}) + "\n" for record in records))
            file.flush()
            if given.die and step > done:
                signal.raise_signal(given.die)
            (folder / f"checkpoint-{step}").mkdir()
            if stopped:
                return step
    return given.steps


if __name__ == "__main__":
    sys.exit(main())
