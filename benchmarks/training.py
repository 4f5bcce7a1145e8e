"""Fine-tuning on a CPU: convmodel's `fit` compared with TRL's SFTTrainer and Hugging Face's Trainer.

    python benchmarks/training.py train.jsonl --tokenizer FOLDER --peers peers/bin/python [--valid valid.jsonl]
    python benchmarks/training.py train.jsonl --model FOLDER --only speed --dropout 0 --peers peers/bin/python
    python benchmarks/training.py train.jsonl --model FOLDER --only busy [--rounds 3] [--max-length 64]

`train.jsonl` has one conversation a line; `--tokenizer` is a folder with GPT-2's tokenizer (or any hub id); `--peers`
the Python of an environment that has TRL, as `training_peers.py` describes. Conversations are cut between
turns into pieces of at most `--max-length` tokens, so that each is one window and all its tokens are targets.

speed: a model of GPT-2 small's shape with random weights, or that of `--model`, one epoch, about the same number of
tokens per step for all, each in a fresh process, alternating; of the steps after the first, which warms up; with the
dropout of GPT-2 and without (the others drop attention weights too, convmodel never does).
limit: the rate of the machine's matrix products alone, and how much of it training reaches.
quality: perplexity on `--valid` of a small model, trained from scratch on the same windows by convmodel and by TRL.
busy: only where asked for, on a machine without other work: seconds per step beside a program that keeps one core busy
and alone, alternating within one run, and the ratio; without `--model`, of builtin:chitchat. Compare with the same
beside `OMP_WAIT_POLICY=active`, with which a user decides that threads never sleep.
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from itertools import islice
from pathlib import Path
from typing import Any

from training_task import FailedError, Side, Task

FP32, BF16 = {"bf16": False}, {"bf16": True}
TRL = {"gradient_checkpointing": False}  # on by default: less memory for more time
BY_LENGTH = {"train_sampling_strategy": "group_by_length"}
BFD, WRAPPED = ({"packing": True, "packing_strategy": strategy} for strategy in ("bfd", "wrapped"))

LORA = {"r": 16, "lora_alpha": 32, "target_modules": "all-linear"}

SIDES = {
    "convmodel": Side("convmodel", {"packing": True}, packed=True),
    "convmodel fp32": Side("convmodel", {"packing": True, "precision": "fp32"}, packed=True),
    "trl fp32": Side("trl", TRL | FP32),
    "trl bf16": Side("trl", TRL | BF16),
    "trl bf16 checkpointed": Side("trl", BF16),
    "trl fp32 by length": Side("trl", TRL | FP32 | BY_LENGTH),
    "trl bf16 by length": Side("trl", TRL | BF16 | BY_LENGTH),
    "trl bf16 padding-free": Side("trl", TRL | BF16 | {"padding_free": True, "max_length": None}),
    "trl bf16 bfd": Side("trl", TRL | BF16 | BFD, packed=True),
    "trl fp32 wrapped": Side("trl", TRL | FP32 | WRAPPED, packed=True),
    "trl bf16 wrapped": Side("trl", TRL | BF16 | WRAPPED, packed=True),
    "convmodel LoRA": Side("convmodel", {"packing": True, "lora": LORA}, packed=True),
    "trl bf16 wrapped LoRA": Side("trl", TRL | BF16 | WRAPPED, packed=True, lora=LORA),
    "trl bf16 by length LoRA": Side("trl", TRL | BF16 | BY_LENGTH, lora=LORA),
    "hf fp32": Side("hf", FP32),
    "hf bf16": Side("hf", BF16),
    "hf fp32 by length": Side("hf", FP32 | BY_LENGTH),
    "hf bf16 by length": Side("hf", BF16 | BY_LENGTH),
}
QUALITY = {"convmodel": Side("convmodel", {"precision": "fp32"}), "trl": Side("trl", TRL | FP32)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("train", type=Path)
    parser.add_argument("--valid", type=Path, help="for quality")
    parser.add_argument("--tokenizer", default="gpt2")
    parser.add_argument("--model", help="a folder, for speed and limit; by default GPT-2 small's shape")
    parser.add_argument("--peers", help="the Python of TRL's environment")
    parser.add_argument("--only", choices=["speed", "limit", "quality", "busy"])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--conversations", type=int, help="by default 48, for quality 300")
    parser.add_argument("--windows", type=int, default=8, help="per step")
    parser.add_argument("--tokens", type=int, default=12_000, help="of the conversations, for speed and limit")
    parser.add_argument("--max-length", type=int, help="by default 512, for quality 256, for busy 128")
    parser.add_argument("--sides", nargs="+", choices=SIDES, metavar="SIDE", help=f"for speed: {', '.join(SIDES)}")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="for quality")
    parser.add_argument("--dropout", type=float, nargs="+", default=[0.1, 0.0], help="for speed; GPT-2's own is 0.1")
    options = parser.parse_args()
    if options.only not in ("limit", "busy") and not options.peers:
        parser.error("speed and quality need --peers")
    if options.only == "quality" and not options.valid:
        parser.error("quality needs --valid")
    with tempfile.TemporaryDirectory() as folder:
        # For all sides: no request to the Hub, and nothing is left in the user's caches.
        caches = {"CONVMODEL_CACHE": f"{folder}/windows", "HF_DATASETS_CACHE": f"{folder}/datasets"}
        os.environ.update(caches | {"HF_HUB_OFFLINE": "1"})
        if options.only == "busy":
            return busy(options)
        if options.only != "quality":
            speed(options, Path(folder, "speed"))
        if options.only == "quality" or (options.only is None and options.valid):
            quality(options, Path(folder))
    return None


def speed(options: argparse.Namespace, folder: Path) -> None:
    """Trains on every side in turn, and measures the products in between."""
    from transformers import GPT2Config

    start = options.model or GPT2Config()
    task = Task.make(options, folder, start, conversations=48, max_length=512, tokens=options.tokens)
    chosen = options.sides or [name for name in SIDES if options.only != "limit" or name.startswith("convmodel")]
    found: dict[tuple[float, str], list[dict[str, Any]]] = {
        (dropout, name): [] for dropout in options.dropout for name in chosen
    }
    products = []
    print(f"{options.model or 'GPT-2 small'}, {task.describe()}, {options.rounds} rounds in turn", flush=True)
    for _ in range(options.rounds):
        for dropout, name in [*found]:
            settings = {"learning_rate": 5e-5, "warmup_steps": 0, "seed": 0}
            try:
                found[dropout, name].append(task.train(SIDES[name], settings, dropout=dropout))
            except FailedError as error:
                del found[dropout, name]
                print(f"  {name}, dropout {dropout:g}, does not work here: {error}")
        if options.only != "speed":
            products.append(task.work({"worker": "products"}))
    if options.only != "limit":
        for dropout in options.dropout:
            print_speeds(dropout, {name: results for (kind, name), results in found.items() if kind == dropout})
    if products:
        print_limit(
            products,
            {
                f"{name}, dropout {dropout:g}": found[dropout, name]
                for dropout, name in found
                if name.startswith("convmodel")
            },
        )


def print_speeds(dropout: float, found: dict[str, list[dict[str, Any]]]) -> None:
    """Prints a line per side: tokens per second, the ratio to each peer's best side, and memory."""
    speeds = {name: [result["tokens"] / result["seconds"] for result in results] for name, results in found.items()}
    best = {}
    for peer in ("trl", "hf"):
        theirs = [name for name in speeds if name.startswith(peer)]
        if theirs:
            best[peer] = max(theirs, key=lambda name: statistics.median(speeds[name]))
    print(f"dropout {dropout:g}: useful tokens per second, medians; ratio to those of {' and '.join(best.values())};")
    print("  peak memory, and memory held after the first and the last step, GiB; loss at the first and the last")
    for name, own in speeds.items():
        ratios = [
            statistics.median(one / other for one, other in zip(own, speeds[side], strict=True))
            for side in best.values()
        ]
        last = found[name][-1]
        print(
            f"  {name:22} {statistics.median(own):5.0f} {f'({min(own):.0f}-{max(own):.0f})':>11}",
            *(f"{ratio:5.2f} x" for ratio in ratios),
            f"{max(result['peak_gib'] for result in found[name]):6.2f}",
            "-".join(f"{held:.2f}" for held in last["resident_gib"]),
            f"{last['losses'][0]:7.2f}-{last['losses'][-1]:.2f}",
        )


def print_limit(products: list[dict[str, Any]], ours: dict[str, list[dict[str, Any]]]) -> None:
    """Prints what the machine's products would allow, and what of it training reached."""
    square, own, alone = (
        statistics.median(result[name] for result in products)
        for name in ("square_gflops", "model_gflops", "tokens_per_second")
    )
    precision, parameters = products[0]["precision"], products[0]["parameters"]
    rule = square * 1e9 / (6 * parameters)
    print(f"limits: matrix products in {precision}, medians of {len(products)} rounds")
    print(
        f"  4096 x 4096: {square:.0f} GFLOP/s; at 6 x {parameters / 1e6:.1f} M operations per token {rule:.0f} tokens/s"
    )
    print(f"  the model's own products alone: {own:.0f} GFLOP/s, {alone:.0f} tokens/s")
    for name, results in ours.items():
        reached = statistics.median(result["tokens"] / result["seconds"] for result in results)
        print(f"  {name:28} {reached:6.0f} tokens/s: {reached / rule:.2f} and {reached / alone:.2f} of these")


def quality(options: argparse.Namespace, folder: Path) -> None:
    """Trains a small model on both sides from the same weights, and evaluates both with the same code."""
    from transformers import LlamaConfig

    from convmodel import ConversationModel
    from convmodel.data.reading.reader import ConversationReader

    shape = LlamaConfig(
        vocab_size=50257,
        hidden_size=256,
        intermediate_size=688,
        num_hidden_layers=4,
        num_attention_heads=4,
        max_position_embeddings=512,
        tie_word_embeddings=True,
    )
    valid = [*islice(ConversationReader(options.valid), 30)]
    ratios = []
    for seed in options.seeds:
        task = Task.make(options, folder / f"quality-{seed}", shape, conversations=300, max_length=256, seed=seed)
        if not ratios:
            print(f"quality: a Llama of 4 layers from scratch, {task.describe()}; perplexity on {options.valid.name}")
        settings = {"learning_rate": 1e-3, "warmup_steps": task.windows // task.per_update // 20, "seed": seed}
        perplexity, losses = {}, {}
        for name, side in QUALITY.items():
            saved = task.folder / name
            losses[name] = task.train(side, settings, save=saved)["losses"]
            model = ConversationModel.from_pretrained(saved, device="cpu")
            perplexity[name] = model.evaluate(valid, max_length=task.max_length, loss_on="all").perplexity
        assert len({len(found) for found in losses.values()}) == 1, "the sides took different numbers of steps"
        ratios.append(perplexity["convmodel"] / perplexity["trl"])
        values = ", ".join(f"{name} {value:.2f}" for name, value in perplexity.items())
        print(f"  seed {seed}, {len(losses['trl'])} steps: {values}; ratio {ratios[-1]:.4f}", flush=True)
    print(f"  mean ratio {statistics.mean(ratios):.4f} (less than 1: convmodel's is lower)")


STEPS = {"alone": 4, "first": 2, "busy": 4, "after": 2}
"""Steps of a round: alone, the first two beside a busy program, which notice it, four more, and those after its end."""


def busy(options: argparse.Namespace) -> None:
    """Prints the seconds of each kind of step, and the ratio of those beside a busy program to those alone."""
    from transformers import TrainerCallback

    from convmodel import ConversationModel
    from convmodel.data.reading.reader import ConversationReader

    names = [name for name, count in STEPS.items() for _ in range(count)]
    seconds: list[dict[str, list[float]]] = [{name: [] for name in STEPS} for _ in range(options.rounds + 1)]
    programs: list[subprocess.Popen[bytes]] = []

    class Clock(TrainerCallback):  # type: ignore[misc]
        def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            name = names[state.global_step % len(names)]
            if name == "first" and not programs:
                programs.append(subprocess.Popen([sys.executable, "-c", "while True: pass"]))
                time.sleep(0.5)
            if name == "after" and programs:
                end(programs)
                time.sleep(2.5)  # after which the next step looks again
            self.begin = time.perf_counter()

        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            number, step = divmod(state.global_step - 1, len(names))
            seconds[number][names[step]].append(time.perf_counter() - self.begin)
            print(f"  round {number}, {names[step]}: {seconds[number][names[step]][-1]:.3f} s", flush=True)

    model = ConversationModel.from_pretrained(options.model or "builtin:chitchat", device="cpu")
    rows = [*islice(ConversationReader(options.train), options.conversations or 48)]
    settings = {"packing": True, "max_length": options.max_length or 128, "batch_size": 2, "learning_rate": 1e-5}
    try:
        model.fit(rows, max_steps=len(seconds) * len(names), callbacks=[Clock()], **settings)
    finally:
        end(programs)
    print_busy(seconds[1:])  # the first round warms up


def end(programs: list[subprocess.Popen[bytes]]) -> None:
    """Ends programs and waits for them."""
    while programs:
        program = programs.pop()
        program.kill()
        program.wait()


def print_busy(seconds: list[dict[str, list[float]]]) -> None:
    """Prints the medians of the rounds' medians, and the median of the rounds' ratios."""
    medians = [{name: statistics.median(values) for name, values in one.items()} for one in seconds]
    for name in STEPS:
        found = [one[name] for one in medians]
        print(f"{name:6} {statistics.median(found):7.3f} s per step ({min(found):.3f}-{max(found):.3f})")
    ratios = [one["busy"] / one["alone"] for one in medians]
    print(f"busy / alone: {statistics.median(ratios):.2f} ({min(ratios):.2f}-{max(ratios):.2f})")


if __name__ == "__main__":
    main()
