"""The time of top-p, compared with that of transformers' sort of the whole vocabulary.

    python benchmarks/sampling.py [MODEL ...]    # names or folders of models; by default builtin:chitchat

For each model, alternating between transformers' top-p and ours: the best of 16 candidates, and a single response of 40
tokens, both at temperature 0.7 and top-p 0.9, with the same seeds. Prints medians in milliseconds and their ratio, and
whether all texts are equal, as they should be.
"""

import statistics
import sys
import time
from typing import Any

from transformers.generation.logits_process import TopPLogitsWarper

from convmodel import ConversationModel
from convmodel.generation.engine.logits_processors import TopP

ROUNDS = 15
CONTEXT = ["Hello! How are you today?", "I'm good, thanks. What about you?"]
SAMPLING: dict[str, Any] = {"temperature": 0.7, "top_p": 0.9, "top_k": 0, "do_sample": True}
SETTINGS: dict[str, dict[str, Any]] = {
    "best of 16": {"candidates": 16, "max_new_tokens": 40},
    "40 tokens": {"candidates": 1, "min_new_tokens": 40, "max_new_tokens": 40},
}


def main() -> None:
    print("| model | vocabulary | response | transformers' top-p, ms | ours, ms | speed-up | same texts |")
    print("|---|---|---|---|---|---|---|")
    for name in sys.argv[1:] or ["builtin:chitchat"]:
        model = ConversationModel.from_pretrained(name, device="cpu")
        for label, setting in SETTINGS.items():
            theirs, ours, same = compare(model, SAMPLING | setting)
            size = len(model.tokenizer)
            times = f"{theirs:.0f} | {ours:.0f} | {theirs / ours:.2f}"
            print(f"| {name} | {size:,} | {label} | {times} | {'yes' if same else 'NO'} |", flush=True)


def compare(model: ConversationModel, options: dict[str, Any]) -> tuple[float, float, bool]:
    """Returns the median milliseconds with transformers' top-p and with ours, and whether all texts are equal."""
    own = TopP.__call__
    seconds: dict[Any, list[float]] = {TopPLogitsWarper.__call__: [], own: []}
    texts: dict[Any, list[str]] = {call: [] for call in seconds}
    for seed in range(ROUNDS + 1):
        for call in list(seconds)[:: (-1) ** seed]:  # each is first in every second round
            TopP.__call__ = call  # type: ignore[method-assign]
            begin = time.perf_counter()
            texts[call] += model.generate(CONTEXT, seed=seed, **options).responses
            seconds[call].append(time.perf_counter() - begin)
    TopP.__call__ = own  # type: ignore[method-assign]
    theirs, ours = (1000 * statistics.median(runs[1:]) for runs in seconds.values())  # the first round loads code
    return theirs, ours, len({tuple(said) for said in texts.values()}) == 1


if __name__ == "__main__":
    main()
