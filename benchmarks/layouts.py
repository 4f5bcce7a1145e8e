"""What the two token layouts make of an instruct model: how well it learns conversations, and what it keeps.

    python benchmarks/layouts.py MODEL [--seeds 3] [--conversations 300] [--learning-rate 5e-5] [--output results.json]

MODEL is a folder with an instruct model that has a chat template, such as SmolLM2-135M-Instruct. For each layout and
each seed the model is fine-tuned for one epoch on the same conversations of the sample, with the responses supervised.
Printed are, as means over the seeds with 95 % bootstrap intervals over conversations:

- bits per byte of the responses of the 100 test conversations, before and after;
- ln p of 50 held-out instruct exchanges (`instruct.jsonl`) and their ends, in nats per exchange, before and after;
- tokens per second of encoding and training, and the windows' tokens.

With --output, a run that was stopped resumes: what was measured is not measured again.
"""

import argparse
import json
import statistics
import time
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from convmodel import ConversationModel
from convmodel.conversation import Conversation
from convmodel.data.reading.reader import ConversationReader
from convmodel.evaluation.turn_statistics import measure_turns

HERE = Path(__file__).parent
SAMPLE = HERE.parent / "src/convmodel/assets/sample"
LAYOUTS = ("template", "separator")
LENGTH = 512


def main() -> None:
    """Measures every layout with every seed, in turns, and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--conversations", type=int, default=300)
    parser.add_argument("--learning-rate", type=float, default=5e-5)
    parser.add_argument("--output", type=Path)
    arguments = parser.parse_args()
    path = arguments.output
    results: dict[str, Any] = json.loads(path.read_text(encoding="utf-8")) if path and path.exists() else {}
    train = list(islice(ConversationReader(SAMPLE / "train.jsonl"), arguments.conversations))
    for layout in LAYOUTS:
        results.setdefault(f"{layout} before", {})
    for seed in ["before", *range(arguments.seeds)]:
        for layout in LAYOUTS:
            if results.get(key := f"{layout} {seed}"):
                continue
            model = ConversationModel.from_pretrained(arguments.model, layout=layout)
            results[key] = _encoded(model, train)
            if seed != "before":
                rate = arguments.learning_rate
                options: dict[str, Any] = {
                    "epochs": 1,
                    "batch_size": 8,
                    "packing": True,
                    "max_length": LENGTH,
                    "loss_on": "responses",
                }
                fitted = model.fit(train, seed=seed, learning_rate=rate, **options)
                results[key] |= {"tokens_per_second": fitted.tokens_per_second, "steps": fitted.steps}
            results[key] |= _measured(model)
            print(key, {name: value for name, value in results[key].items() if not isinstance(value, list)}, flush=True)
            if path:
                path.write_text(json.dumps(results), encoding="utf-8")
    _print(results, arguments.seeds)


def _encoded(model: ConversationModel, train: list[Conversation]) -> dict[str, Any]:
    seconds = []
    for _ in range(5):
        start = time.perf_counter()
        batches = model.tokenizer.windows_batch(train, max_length=LENGTH, loss_on="responses")
        seconds.append(time.perf_counter() - start)
    windows = [window for batch in batches for window in batch]
    return {
        "window_tokens": sum(len(window.input_ids) for window in windows),
        "supervised_tokens": sum(window.supervised_tokens for window in windows),
        "encoding_seconds": statistics.median(seconds),
    }


def _measured(model: ConversationModel) -> dict[str, Any]:
    test = list(ConversationReader(SAMPLE / "test.jsonl"))
    options: dict[str, Any] = {"max_length": LENGTH, "loss_on": "responses"}
    corpus = measure_turns(model.hf_model, model.tokenizer, test, **options)
    turns = [each.turns for each in corpus.conversations]
    exchanges = list(ConversationReader(HERE / "instruct.jsonl"))
    kept = measure_turns(model.hf_model, model.tokenizer, exchanges, **options)
    return {
        "nats": [sum(turn.text_nats for turn in each) for each in turns],
        "bytes": [sum(turn.text_bytes for turn in each) for each in turns],
        "kept": [-sum(turn.nats for turn in each.turns) for each in kept.conversations],
    }


def _print(results: dict[str, Any], seeds: int) -> None:
    """Prints a row for each layout, before and after, and the difference of the layouts after."""
    rng = np.random.default_rng(0)
    samples = {}
    print(f"\n{'':22}{'bits per byte':>26}{'ln p of an exchange, nats':>32}")
    for layout in LAYOUTS:
        for name, keys in (("before", ["before"]), ("after", list(range(seeds)))):
            runs = [results[f"{layout} {key}"] for key in keys]
            nats, size = np.array([run["nats"] for run in runs]), np.array([run["bytes"] for run in runs])
            kept = np.array([run["kept"] for run in runs])
            chosen = rng.integers(0, nats.shape[1], (2000, nats.shape[1]))
            others = rng.integers(0, kept.shape[1], (2000, kept.shape[1]))
            bits = (nats[:, chosen].sum(-1) / size[:, chosen].sum(-1)).mean(0) / np.log(2)
            means = kept[:, others].mean(-1).mean(0)
            samples[layout, name] = bits, means
            print(f"{layout + ', ' + name:22}{_interval(bits):>26}{_interval(means):>32}")
    for layout in LAYOUTS:
        first = results[f"{layout} 0"]
        rate = statistics.median(results[f"{layout} {seed}"]["tokens_per_second"] for seed in range(seeds))
        print(
            f"{layout}: {first['window_tokens']:,} tokens in windows, {first['supervised_tokens']:,} supervised; "
            f"encoded in {first['encoding_seconds']:.3f} s; trained at {rate:,.0f} tokens per second"
        )


def _interval(values: "np.ndarray[Any, Any]") -> str:
    low, high = np.quantile(values, [0.025, 0.975])
    return f"{values.mean():.3f} ({low:.3f} to {high:.3f})"


if __name__ == "__main__":
    main()
