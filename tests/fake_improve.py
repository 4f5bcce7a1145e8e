"""What `convmodel improve` promises to the server, without training: its arguments, files and exit codes.

Owns: the promise. `--give FOLDER` is the model that it "trains", `--fail TEXT` makes it fail, `--steps N` and `--pause
SECONDS` say how long it takes. SIGTERM stops it after the step; the next run resumes there.
"""

import argparse
import json
import shutil
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from types import FrameType

CONTEXTS = ["How are you?", "What do you like?", "Is it raining?"]
GUARD = "The perplexity rose by more than 5 %: the model after step 1 was kept."


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
    parser.add_argument("--guard", default="")
    parser.add_argument("--kept", type=int, default=3)
    parser.add_argument("model")
    parser.add_argument("--feedback", action="append", type=Path, required=True)
    parser.add_argument("--output-dir", type=Path, required=True)
    parser.add_argument("--json", action="store_true", required=True)
    given = parser.parse_args(arguments)
    stopped: list[int] = []

    def stop(number: int, frame: FrameType | None) -> None:
        stopped.append(number)

    signal.signal(signal.SIGTERM, stop)
    folder: Path = given.output_dir
    folder.mkdir(exist_ok=True)
    print("training ...", file=sys.stderr, flush=True)
    done = write_metrics(folder, given.steps, given.pause, stopped)
    if given.fail:
        print(f"Traceback\n\x1b[31merror:\x1b[0m 10 %\r{given.fail}", file=sys.stderr)
        return 1
    if done < given.steps:
        print("stopped after a step: the same command resumes", file=sys.stderr)
        return 143
    finish(folder, given.give or Path(given.model), given)
    return 0


def write_metrics(folder: Path, steps: int, pause: float, stopped: Sequence[int]) -> int:
    """Writes a line for each step, from where an earlier run was stopped; returns the last step."""
    path = folder / "metrics.jsonl"
    done = len(path.read_text().splitlines()) - 2 if path.exists() else 0
    with path.open("a") as file:

        def write(**record: object) -> None:
            file.write(json.dumps(record) + "\n")
            file.flush()

        if not done:
            write(event="begin", steps=steps, config={"max_regression": 0.1})
            write(step=0, eval_loss=3.0, eval_perplexity=20.0, seconds=0.0)
        for step in range(done + 1, steps + 1):
            time.sleep(pause)
            if step == steps:
                write(step=step, loss=2.0 + 1 / step, eval_loss=3.05, eval_perplexity=21.0, seconds=step * 1.5)
            else:
                write(step=step, loss=2.0 + 1 / step, seconds=step * 1.5)
            if stopped:
                return step
    return steps


def finish(folder: Path, model: Path, given: argparse.Namespace) -> None:
    """Writes the model, the held-out contexts and the report."""
    if model.is_dir():
        shutil.copytree(model, folder, dirs_exist_ok=True)
    lines = [{"turns": [text, "Yes"], "speakers": ["user", "assistant"], "pinned": 0} for text in CONTEXTS]
    (folder / "held-out.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    used = sum(path.read_text(encoding="utf-8").count("\n") for path in given.feedback)
    report = {
        "objective": "kto", "kinds": {"thumb": used}, "used": used, "held_out": len(CONTEXTS), "guard": given.guard,
        "steps": given.kept,
        "before": {"perplexity": 20.0, "ends": 0.97}, "after": {"perplexity": 21.0, "ends": 0.96},
        "seconds": 4.5, "model": given.model,
    }  # fmt: skip
    (folder / "improvement.json").write_text(json.dumps(report))
    print(json.dumps(report))


if __name__ == "__main__":
    sys.exit(main())
