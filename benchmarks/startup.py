"""The time of `--help`, an import and a first response, compared with that of importing torch.

    python benchmarks/startup.py

Runs each in fresh processes, in turn, in an empty folder, and prints medians in seconds; of the response also our part:
what is left of each round's time without the imports of torch and of GPT-2 from transformers.
"""

import statistics
import subprocess
import sys
import tempfile
import time

ROUNDS = 7
RESPONSE, IMPORTS, OURS = "convmodel generate Hello", "import torch, transformers' GPT-2", "of a response, our part"
LIMITS = {"convmodel --help": 1.0, "import convmodel": 0.3, RESPONSE: 4.0, OURS: 0.5}
COMMANDS = {
    "bare python": ["-c", "pass"],
    "import convmodel": ["-c", "import convmodel"],
    "convmodel --help": ["-m", "convmodel", "--help"],
    "convmodel fit --help": ["-m", "convmodel", "fit", "--help"],
    "import torch": ["-c", "import torch"],
    "import torch, transformers' Trainer": ["-c", "import torch; from transformers import Trainer"],
    IMPORTS: ["-c", "import torch; from transformers import AutoTokenizer, AutoModelForCausalLM, GPT2LMHeadModel"],
    RESPONSE: ["-m", "convmodel", "generate", "Hello"],
}


def main() -> None:
    seconds: dict[str, list[float]] = {name: [] for name in COMMANDS}
    with tempfile.TemporaryDirectory() as folder:
        for _ in range(ROUNDS + 1):
            for name, arguments in COMMANDS.items():
                begin = time.perf_counter()
                subprocess.run([sys.executable, *arguments], check=True, stdout=subprocess.DEVNULL, cwd=folder)
                seconds[name].append(time.perf_counter() - begin)
    seconds[OURS] = [whole - imports for whole, imports in zip(seconds[RESPONSE], seconds[IMPORTS], strict=True)]
    for name, runs in seconds.items():
        median = statistics.median(runs[1:])  # the first round fills the disk cache
        limit = LIMITS.get(name)
        verdict = "" if limit is None else f"   (promised: under {limit:g} s: {'yes' if median < limit else 'NO'})"
        print(f"{name:36} {median:6.3f} s{verdict}")


if __name__ == "__main__":
    main()
