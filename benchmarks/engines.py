"""The engine compared with llama.cpp and ONNX Runtime GenAI on the same weights, alternating, in float32 and int8.

    python benchmarks/engines.py MODEL --llama llama/bin/python [--rounds 7] [--threads 2] [--only float32 int8]
    python benchmarks/engines.py MODEL --onnx ort/bin/python [--rounds 7] [--threads 2] [--only float32 int8]
    python benchmarks/engines.py MODEL --busy [--rounds 7]
    python benchmarks/engines.py MODEL --memory

MODEL is a folder with a model of Llama's architecture, such as SmolLM2-135M-Instruct. `--llama` is the Python of an
environment with llama.cpp (see `engines_llamacpp.py`), which gets the model as `convmodel export` writes it; `--onnx`
that of one with ONNX Runtime GenAI (see `engines_onnx.py`), whose model builder converts the model to a temporary
folder before anything is timed. Its int8 and its int4 are both compared with our int8; in float32, the tokens are
compared, too, up to the first difference.

All sides decode greedily on as many threads, keep nothing between requests, and are measured in turn, while the others
wait. Medians of the rounds, and the median of the ratios of each round, ours divided by theirs: less is better, except
for tokens per second.

With `--busy`, the time per token is compared with that beside a program that keeps one core busy, alternating. With
`--memory`, the most memory that loading with int8 weights takes, more than importing, is compared with their size.
"""

import argparse
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from engines_protocol import Measured, Peer

KINDS = ("float32", "int8")
LLAMA = {"float32": ("float32", "f32"), "int8": ("int8", "q8_0")}
ONNX = {"float32": ("float32", "fp32"), "int8": ("int8", "int8"), "int8, their int4": ("int8", "int4")}
"""Our kind of weights and theirs, by the title of what is measured."""

NEW = 32
CLIENTS = 8
REST = 0.2
"""Seconds before each measurement: threads wait actively for the next step for up to 0.03 s after the last."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--llama", help="the Python of llama.cpp's environment")
    parser.add_argument("--onnx", help="the Python of ONNX Runtime GenAI's environment")
    parser.add_argument("--busy", action="store_true")
    parser.add_argument("--memory", action="store_true")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--only", nargs="+", choices=KINDS, default=KINDS)
    options = parser.parse_args()
    if options.memory:
        return memory(options.model)
    if options.busy:
        return busy(options)
    if not (options.llama or options.onnx):
        parser.error("name an environment to compare with: --llama PYTHON or --onnx PYTHON")
    if options.llama:
        print_header("ours", "llama.cpp")
        compare(options, LLAMA, llamacpp)
    if options.onnx:
        print_header("ours", "ORT GenAI")
        compare(options, ONNX, onnx)
    return None


def compare(options: argparse.Namespace, kinds: dict[str, tuple[str, str]], convert: "Convert") -> None:
    """Prints the medians of ours and of one peer."""
    for title, (kind, weights) in kinds.items():
        if kind not in options.only:
            continue
        ours = Ours(options.model, kind, options.threads)
        with tempfile.TemporaryDirectory() as folder:
            start = convert(options, weights, folder)
            theirs = start(1)
            for length in (16, 512):
                rounds = alternate(options, ours, theirs, length, 1)
                show(f"{title}, ms per token after {length}", rounds, "token_ms")
                show(f"{title}, ms for a prompt of {length}", rounds, "prompt_ms")
                if kind == "float32":
                    show_tokens(f"{title}, equal tokens after {length}", rounds)
            theirs.close()
            several = start(CLIENTS)
            rounds = alternate(options, ours, several, 16, CLIENTS)
            show(f"{title}, {CLIENTS} clients, tokens per second", rounds, "tokens_per_second")
            several.close()


def alternate(
    options: argparse.Namespace, ours: "Ours", theirs: Peer, length: int, clients: int
) -> list[tuple[Measured, Measured]]:
    """Asks both in turn; the first round, which warms up, is left out."""
    prompt = [100 + 7 * n for n in range(length)]
    rounds = []
    for _ in range(options.rounds + 1):
        time.sleep(REST)
        our = ours.ask(prompt, clients)
        time.sleep(REST)
        rounds.append((our, theirs.ask(prompt, NEW, clients)))
    return rounds[1:]


Convert = Callable[[argparse.Namespace, str, str], Callable[[int], Peer]]
"""Writes a peer's weights to a folder; what it returns starts the peer for so many clients at once."""


def llamacpp(options: argparse.Namespace, weights: str, folder: str) -> Callable[[int], Peer]:
    from convmodel import ConversationModel

    path = Path(folder, "model.gguf")
    ConversationModel.from_pretrained(options.model, device="cpu").export(path, weights=weights, unproven=True)
    script = Path(__file__).with_name("engines_llamacpp.py")
    return lambda slots: Peer(options.llama, str(script), str(path), str(options.threads), str(slots))


def onnx(options: argparse.Namespace, weights: str, folder: str) -> Callable[[int], Peer]:
    script = str(Path(__file__).with_name("engines_onnx.py"))
    command = [options.onnx, script, "build", options.model, weights, folder]
    built = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    if built.returncode:
        sys.exit(f"{built.stdout}\nONNX Runtime GenAI cannot convert the model: see above")
    return lambda _: Peer(options.onnx, script, "serve", folder, str(options.threads))


def busy(options: argparse.Namespace) -> None:
    """Prints the milliseconds per token beside a busy program and alone, and the ratio."""
    print_header("busy", "idle")
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


def print_header(one: str, other: str) -> None:
    print(f"{'':48}{one:>10}{other:>11}{'ratio':>8}", flush=True)


def show(title: str, rounds: list[tuple[Measured, Measured]], name: str) -> None:
    ours, theirs = ([each[side][name] for each in rounds] for side in (0, 1))
    ratio = statistics.median(one / other for one, other in zip(ours, theirs, strict=True))
    print(f"{title:48}{statistics.median(ours):10.1f}{statistics.median(theirs):11.1f}{ratio:8.2f}", flush=True)


def show_tokens(title: str, rounds: list[tuple[Measured, Measured]]) -> None:
    """Prints how many tokens both have in common before the first difference, if the peer returns them."""
    ours, theirs = rounds[0]
    if "tokens" in theirs:
        equal = [one == other for one, other in zip(ours["tokens"], theirs["tokens"], strict=True)]
        print(f"{title:48}{[*equal, False].index(False):10} of {NEW}", flush=True)


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
            "tokens": requests[0].rows[0].tokens,
        }


if __name__ == "__main__":
    main()
