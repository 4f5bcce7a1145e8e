"""Generation on a CPU: convmodel's engine compared with Hugging Face's `generate` and with CTranslate2.

    python benchmarks/generation.py --tokenizer FOLDER [--peers peers/bin/python] [--only tokens turns bulk memory]

A model of GPT-2 small's shape with random weights, in float32 and int8; `--model` takes another one. `--tokenizer` is a
folder with GPT-2's tokenizer (or a hub id); `--peers` the Python of an environment with ctranslate2.
All sides have the same weights, decode greedily and are measured in turn; medians, and the median of the ratios.

tokens: milliseconds per token after prompts of 16 and 512 tokens, and for the prompt itself.
turns:  seconds for responses of 16 tokens over 40 turns of a conversation.
bulk:   32 contexts of 8 to 400 tokens, 32 new tokens each: tokens per second in total.
memory: the most memory of a conversation of 40 turns, more than importing takes, each side in its own process.
"""

import argparse
import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

PARTS = ("tokens", "turns", "bulk", "memory")
Work = Callable[[], float]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokenizer", default="gpt2")
    parser.add_argument("--model", help="a conversation model; by default GPT-2 small with random weights")
    parser.add_argument("--peers", help="the Python of CTranslate2's environment")
    parser.add_argument("--only", nargs="+", choices=PARTS, default=PARTS)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        return print(json.dumps(talk_alone(options.worker, options.model)))
    with tempfile.TemporaryDirectory() as folder:
        if not options.model:
            options.model = make_model(options.tokenizer, Path(folder, "model"))
        models = load(options.model)
        for part in options.only:
            {"tokens": tokens, "turns": turns, "bulk": bulk, "memory": memory}[part](options, models)
    return None


def make_model(tokenizer: str, folder: Path) -> str:
    from transformers import GPT2Config

    from convmodel import ConversationModel, ConversationTokenizer

    model = ConversationModel.from_config(GPT2Config(), ConversationTokenizer.from_pretrained(tokenizer))
    model.save_pretrained(folder)
    return str(folder)


def load(path: str) -> dict[str, Any]:
    """Loads the model once for each precision that this version knows."""
    from convmodel import ConversationModel
    from convmodel.errors import ConfigError

    found = {"fp32": ConversationModel.from_pretrained(path, device="cpu")}
    for precision in ("int8", "int4"):
        with suppress(ConfigError):
            found[precision] = ConversationModel.from_pretrained(path, device="cpu", quantize=precision)
    return found


def compare(title: str, sides: dict[str, Work], rounds: int, *, unit: str, better: str = "less") -> None:
    """Runs all sides in turn; prints their medians, and how many times better than the first each is."""
    found: dict[str, list[float]] = {name: [] for name in sides}
    for number in range(rounds + 1):
        for name, work in sides.items():
            value = work()
            if number:  # the first round warms up
                found[name].append(value)
    print(f"{title} ({unit}, medians of {rounds} rounds in turn)")
    first = next(iter(found.values()))
    for name, own in found.items():
        ratios = [one / other if better == "less" else other / one for one, other in zip(first, own, strict=True)]
        spread = f"({min(own):.1f}-{max(own):.1f})"
        print(f"  {name:28} {statistics.median(own):8.2f} {spread:>17} {statistics.median(ratios):6.2f} x", flush=True)


# One response


def by_engine(model: Any, ids: list[int], new: int) -> float:
    """Returns the seconds for `new` tokens, the prompt included; nothing is remembered."""
    from convmodel.generation.engine.engine import Engine
    from convmodel.generation.engine.request import Request
    from convmodel.generation.engine.sampling import Sampler

    engine = Engine(model.hf_model)

    def follow(ids: list[int], new: int) -> float:
        types = [0] * len(ids) if model.tokenizer.layout.use_token_types else []
        request = Request(ids, types, [Sampler({}, ids, [])], stop_ids=frozenset(), max_new_tokens=new)
        begin = time.perf_counter()
        for _ in engine.follow(request):
            pass
        return time.perf_counter() - begin

    follow([ids[-1]], 1)  # an engine first tries its forward pass
    return follow(ids, new)


def by_hf(model: Any, ids: list[int], new: int) -> float:
    import torch

    given = torch.tensor([ids])
    inputs = {"input_ids": given, "attention_mask": torch.ones_like(given)}
    if model.tokenizer.layout.use_token_types:
        inputs["token_type_ids"] = torch.zeros_like(given)
    begin = time.perf_counter()
    model.hf_model.generate(**inputs, max_new_tokens=new, min_new_tokens=new, do_sample=False)
    return time.perf_counter() - begin


def tokens(options: argparse.Namespace, models: dict[str, Any]) -> None:
    new = 32
    for length in (16, 512):
        ids = [100 + 7 * n for n in range(length)]

        def each(seconds: Callable[[Any, list[int], int], float], model: Any, ids: list[int] = ids) -> float:
            """Takes the prompt away, which has its own line."""
            return (seconds(model, ids, new + 1) - seconds(model, ids, 1)) / new * 1000

        sides: dict[str, Work] = {"Hugging Face, fp32": lambda e=each: e(by_hf, models["fp32"])}
        for name, model in models.items():
            sides[f"convmodel, {name}"] = lambda model=model, e=each: e(by_engine, model)
        peer = Peer(options, ids, new) if options.peers else None
        if peer:
            sides["CTranslate2, int8"] = peer.milliseconds
        compare(f"per token after a prompt of {length}", sides, options.rounds, unit="ms")
        if peer:
            peer.close()
        prompt: dict[str, Work] = {"Hugging Face, fp32": lambda ids=ids: by_hf(models["fp32"], ids, 1) * 1000}
        for name, model in models.items():
            prompt[f"convmodel, {name}"] = lambda model=model, ids=ids: by_engine(model, ids, 1) * 1000
        compare(f"a prompt of {length} and one token", prompt, options.rounds, unit="ms")


class Peer:
    """CTranslate2 with int8 weights in an environment of its own, asked line by line."""

    def __init__(self, options: argparse.Namespace, ids: list[int], new: int) -> None:
        script = Path(__file__).with_name("generation_peers.py")
        command = [options.peers, str(script), options.model, str(len(ids)), str(new)]
        self._running = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def milliseconds(self) -> float:
        assert self._running.stdin is not None
        assert self._running.stdout is not None
        print("again", file=self._running.stdin, flush=True)
        return float(self._running.stdout.readline())

    def close(self) -> None:
        self._running.communicate()


# A conversation


def talk(model: Any, rounds: int, *, new: int = 16) -> list[float]:
    """Returns the seconds for each response of a session."""
    session = model.session(max_new_tokens=new, min_new_tokens=new)
    seconds = []
    for number in range(rounds):
        begin = time.perf_counter()
        session.respond(f"This is what I say in turn {number}.")
        seconds.append(time.perf_counter() - begin)
    return seconds


def turns(options: argparse.Namespace, models: dict[str, Any]) -> None:
    told: dict[str, list[list[float]]] = {name: [] for name in models}
    for _ in range(options.rounds):
        for name, model in models.items():
            model.engine.caches.clear()
            told[name].append(talk(model, 21))
    print(f"responses of 16 tokens in a session, ms, medians of {options.rounds} (its {2 * 21} turns)")
    for name, found in told.items():
        at = {turn: statistics.median(each[turn // 2] for each in found) * 1000 for turn in (4, 20, 40)}
        print(f"  convmodel, {name}: turn 4 {at[4]:.0f}, turn 20 {at[20]:.0f}, turn 40 {at[40]:.0f}: ", end="")
        print(f"{statistics.median(each[20] / each[2] for each in found):.2f} times turn 4's")
    session = models["fp32"].session(max_new_tokens=16, min_new_tokens=16)
    while len(models["fp32"].tokenizer(session.turns or ["-"])["input_ids"]) < 480:
        session.respond("This is what I say in one of my turns.")
    context = [*session.turns, "And this is what I say now."]
    ids = models["fp32"].tokenizer(context)["input_ids"]

    def respond(model: Any) -> float:
        model.generate(context[:-1], max_new_tokens=1)  # as far as a session has read
        begin = time.perf_counter()
        model.generate(context, max_new_tokens=16, min_new_tokens=16)
        return (time.perf_counter() - begin) * 1000

    sides: dict[str, Work] = {"Hugging Face, fp32": lambda: by_hf(models["fp32"], ids, 16) * 1000}
    for name, model in models.items():
        sides[f"convmodel, {name}"] = lambda model=model: respond(model)
    compare(f"a response of 16 tokens at turn {len(context)}, {len(ids)} tokens", sides, options.rounds, unit="ms")


# Many contexts


def bulk(options: argparse.Namespace, models: dict[str, Any]) -> None:
    import torch

    new, lengths = 32, [8 + round(392 * n / 31) for n in range(32)]
    prompts = [[100 + 7 * n + number for n in range(length)] for number, length in enumerate(lengths)]
    order = [prompts[n * 13 % 32] for n in range(32)]  # mixed
    hf_model = models["fp32"].hf_model

    def loop() -> float:
        return 32 * new / sum(by_hf(models["fp32"], ids, new) for ids in order)

    def padded() -> float:
        longest = max(map(len, order))
        ids = torch.tensor([[0] * (longest - len(each)) + each for each in order])
        mask = torch.tensor([[0] * (longest - len(each)) + [1] * len(each) for each in order])
        begin = time.perf_counter()
        hf_model.generate(input_ids=ids, attention_mask=mask, max_new_tokens=new, min_new_tokens=new, do_sample=False)
        return 32 * new / (time.perf_counter() - begin)

    def engine(model: Any) -> float:
        from convmodel.generation.engine.engine import Engine
        from convmodel.generation.engine.request import Request
        from convmodel.generation.engine.sampling import Sampler

        made, begin = Engine(model.hf_model), time.perf_counter()
        following = []
        for ids in order:
            types = [0] * len(ids) if model.tokenizer.layout.use_token_types else []
            request = Request(ids, types, [Sampler({}, ids, [])], stop_ids=frozenset(), max_new_tokens=new)
            request.remember, request.patient = False, True
            following.append(made.follow(request))
        while following:
            following = [each for each in following if next(each, following) is None]
        return 32 * new / (time.perf_counter() - begin)

    sides: dict[str, Work] = {"Hugging Face, one by one": loop, "Hugging Face, padded": padded}
    for name, model in models.items():
        sides[f"convmodel, {name}"] = lambda model=model: engine(model)
    compare(
        "32 contexts, 32 new tokens each", sides, max(2, options.rounds // 2), unit="tokens per second", better="more"
    )


# Memory


def memory(options: argparse.Namespace, models: dict[str, Any]) -> None:
    weights = sum(weight.nbytes for weight in models["fp32"].hf_model.parameters()) / 2**20
    print(f"most memory of 40 turns beyond what importing takes; the weights are {weights:.0f} MiB in float32")
    found = {}
    for name in models:
        command = [sys.executable, __file__, "--worker", name, "--model", options.model]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        found[name] = json.loads(done.stdout.splitlines()[-1])
        of_fp32 = found[name] / found["fp32"]
        print(f"  convmodel, {name}: {found[name]:.0f} MiB, {found[name] / weights:.2f} of the weights, {of_fp32:.2f}")


def talk_alone(precision: str, path: str) -> float:
    import torch

    from convmodel import ConversationModel

    ConversationModel.from_pretrained  # noqa: B018  (imports all that it needs)
    torch.mm(torch.ones(64, 64), torch.ones(64, 64))
    before = current_mib()
    options = {} if precision == "fp32" else {"quantize": precision}
    model = ConversationModel.from_pretrained(path, device="cpu", **options)
    loaded = peak_mib()
    talk(model, 20)
    print(f"loading {loaded - before:.0f} MiB, in use {current_mib() - before:.0f} MiB", file=sys.stderr)
    return peak_mib() - before


def peak_mib() -> float:
    """Returns the peak memory of this process; getrusage would include that of its parent."""
    status = Path("/proc/self/status").read_text(encoding="ascii")
    return int(status.split("VmHWM:")[1].split()[0]) / 1024


def current_mib() -> float:
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    return pages * resource.getpagesize() / 2**20


if __name__ == "__main__":
    main()
