"""How long a user waits for `convmodel --help` and `import convmodel`, beside what importing torch costs.

    python benchmarks/startup.py

Runs each in fresh processes, in turn, and prints medians in seconds.
"""

import statistics
import subprocess
import sys
import time

ROUNDS = 7
LIMITS = {"convmodel --help": 1.0, "import convmodel": 0.3}
COMMANDS = {
    "bare python": ["-c", "pass"],
    "import convmodel": ["-c", "import convmodel"],
    "convmodel --help": ["-m", "convmodel", "--help"],
    "convmodel fit --help": ["-m", "convmodel", "fit", "--help"],
    "import torch": ["-c", "import torch"],
    "import torch, transformers' Trainer": ["-c", "import torch; from transformers import Trainer"],
}


def main() -> None:
    seconds: dict[str, list[float]] = {name: [] for name in COMMANDS}
    for _ in range(ROUNDS + 1):
        for name, arguments in COMMANDS.items():
            begin = time.perf_counter()
            subprocess.run([sys.executable, *arguments], check=True, stdout=subprocess.DEVNULL)
            seconds[name].append(time.perf_counter() - begin)
    for name, runs in seconds.items():
        median = statistics.median(runs[1:])  # the first round fills the disk cache
        limit = LIMITS.get(name)
        verdict = "" if limit is None else f"   (promised: under {limit:g} s: {'yes' if median < limit else 'NO'})"
        print(f"{name:36} {median:6.3f} s{verdict}")


if __name__ == "__main__":
    main()
