"""The engine compared with llama.cpp on the same weights, alternating, in float32 and int8.

    python benchmarks/engines.py MODEL --llama llama/bin/python [--rounds 7] [--threads 2] [--only float32 int8]
    python benchmarks/engines.py MODEL --busy [--rounds 7]
    python benchmarks/engines.py MODEL --memory

MODEL is a folder with a model of Llama's architecture, such as SmolLM2-135M-Instruct; `--llama` the Python of an
environment with llama.cpp (see `engines_llamacpp.py`), which gets the model as `convmodel export` writes it. All sides
decode greedily, keep nothing between requests, and are measured in turn, while the others wait. Medians of the rounds,
and the median of the ratios of each round, ours divided by theirs: less is better, except for tokens per second.

With `--busy`, the time per token is compared with that beside a program that keeps one core busy, alternating. With
`--memory`, the most memory that loading with int8 weights takes, more than importing, is compared with their size.
"""

import argparse
import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

KINDS = {"float32": "f32", "int8": "q8_0"}
NEW = 32
CLIENTS = 8


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--llama", help="the Python of llama.cpp's environment")
    parser.add_argument("--busy", action="store_true")
    parser.add_argument("--memory", action="store_true")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--only", nargs="+", choices=list(KINDS), default=list(KINDS))
    options = parser.parse_args()
    if options.memory:
        return memory(options.model)
    if options.busy:
        return busy(options)
    print(f"{'':34}{'ours':>10}{'llama.cpp':>11}{'ratio':>8}")
    for kind in options.only:
        ours = Ours(options.model, kind, options.threads)
        theirs = Peer(options, KINDS[kind], 1)
        for length in (16, 512):
            prompt = [100 + 7 * n for n in range(length)]
            rounds = [(ours.ask(prompt, 1), theirs.ask(prompt, 1)) for _ in range(options.rounds + 1)][1:]
            show(f"{kind}, ms per token after {length}", rounds, "token_ms")
            show(f"{kind}, ms for a prompt of {length}", rounds, "prompt_ms")
        theirs.close()
        several = Peer(options, KINDS[kind], CLIENTS)
        prompt = [100 + 7 * n for n in range(16)]
        rounds = [(ours.ask(prompt, CLIENTS), several.ask(prompt, CLIENTS)) for _ in range(options.rounds + 1)][1:]
        show(f"{kind}, {CLIENTS} clients, tokens per second", rounds, "tokens_per_second")
        several.close()
    return None


def busy(options: argparse.Namespace) -> None:
    """Prints the milliseconds per token beside a busy program and alone, and the ratio."""
    print(f"{'':34}{'busy':>10}{'idle':>11}{'ratio':>8}")
    prompt = [100 + 7 * n for n in range(16)]
    for kind in options.only:
        ours, rounds = Ours(options.model, kind, options.threads), []
        for _ in range(options.rounds + 1):
            idle = ours.ask(prompt, 4)
            program = subprocess.Popen([sys.executable, "-c", "while True: pass"])
            time.sleep(0.5)
            ours.ask(prompt, 1)  # which notices it
            rounds.append((ours.ask(prompt, 4), idle))
            program.kill()
            program.wait()
            time.sleep(2.5)  # after which the engine looks again
            ours.ask(prompt, 1)
        show(f"{kind}, ms per step of 4 responses", rounds[1:], "token_ms")


def memory(path: str) -> None:
    """Prints the peak of this process while it loads, and the size of what it loaded."""
    import torch

    from convmodel import ConversationModel

    def peak() -> int:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024

    before = peak()
    model = ConversationModel.from_pretrained(path, device="cpu", quantize="int8").hf_model
    tensors = {
        tensor.data_ptr(): tensor.nbytes
        for module in model.modules()
        for tensor in (*module._parameters.values(), *module._buffers.values(), *vars(module).values())
        if isinstance(tensor, torch.Tensor)
    }
    packed = sum(tensors.values()) / 2**20
    print(f"packed {packed:.0f} MiB; peak {peak() - before} MiB more than before; limit {1.15 * packed + 250:.0f} MiB")


Measured = dict[str, float]


def show(title: str, rounds: list[tuple[Measured, Measured]], name: str) -> None:
    ours, theirs = ([each[side][name] for each in rounds] for side in (0, 1))
    ratio = statistics.median(one / other for one, other in zip(ours, theirs, strict=True))
    print(f"{title:34}{statistics.median(ours):10.1f}{statistics.median(theirs):11.1f}{ratio:8.2f}", flush=True)


class Ours:
    """The engine in this process."""

    def __init__(self, path: str, kind: str, threads: int) -> None:
        import torch

        from convmodel import ConversationModel

        torch.set_num_threads(threads)
        quantize = None if kind == "float32" else kind
        self._model: Any = ConversationModel.from_pretrained(path, device="cpu", dtype="float32", quantize=quantize)

    def ask(self, prompt: list[int], clients: int) -> Measured:
        from convmodel.generation.engine.engine import Engine
        from convmodel.generation.engine.request import Request
        from convmodel.generation.engine.sampling import Sampler

        engine = Engine(self._model.hf_model)

        def request(number: int) -> Request:
            ids = [*prompt[:-1], prompt[-1] + number]
            return Request(ids, [], [Sampler({}, ids, [])], stop_ids=frozenset(), max_new_tokens=NEW)

        first = Request([1], [], [Sampler({}, [1], [])], stop_ids=frozenset(), max_new_tokens=1)
        for _ in engine.follow(first):  # which also tries the forward pass
            pass
        requests = [request(number) for number in range(clients)]
        begin, firsts = time.perf_counter(), 0.0
        for _ in engine.follow_all(requests):
            firsts = firsts or time.perf_counter() - begin
        seconds = time.perf_counter() - begin
        return {
            "prompt_ms": firsts * 1000,
            "token_ms": (seconds - firsts) / (NEW - 1) * 1000,
            "tokens_per_second": NEW * clients / seconds,
        }


class Peer:
    """llama.cpp in an environment and a process of its own, asked line by line."""

    def __init__(self, options: argparse.Namespace, weights: str, slots: int) -> None:
        from convmodel import ConversationModel

        self._folder = tempfile.TemporaryDirectory()
        path = Path(self._folder.name, "model.gguf")
        ConversationModel.from_pretrained(options.model, device="cpu").export(path, weights=weights, unproven=True)
        script = Path(__file__).with_name("engines_llamacpp.py")
        command = [options.llama, str(script), str(path), str(options.threads), str(slots)]
        self._running = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        )
        if self._line() != "ready":
            sys.exit("llama.cpp did not start: run engines_llamacpp.py alone to see why")

    def ask(self, prompt: list[int], clients: int) -> Measured:
        assert self._running.stdin is not None
        self._running.stdin.write(json.dumps({"prompt": prompt, "new": NEW, "clients": clients}) + "\n")
        self._running.stdin.flush()
        found: Measured = json.loads(self._line())
        return found

    def close(self) -> None:
        self._running.kill()
        self._running.wait()
        self._folder.cleanup()

    def _line(self) -> str:
        assert self._running.stdout is not None
        return self._running.stdout.readline().strip()


if __name__ == "__main__":
    main()
