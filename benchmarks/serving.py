"""The speed of serving, compared with `transformers serve` with the same weights on the same machine.

    python benchmarks/serving.py [MODEL] [--rounds 5] [--clients 8] [--tokens 32] [--only together|turns|queue|cancel]

MODEL is a folder with a chat template that both servers load, in float32; by default the built-in one, saved to a
temporary folder. Both servers run as programs of their own and are asked over HTTP by streaming clients, in turns;
medians are printed. All responses have the same number of tokens: greedy, with a bias against the ids that would end
them.

- together: tokens per second of one client and of several at once, and the slowest first token;
- turns: time to the first token of turn 20 of a conversation that was led with the server;
- queue: 500 requests at once to ours: answered or refused, first tokens, memory;
- cancel: how soon a client that leaves has freed its place, in steps of decoding.
"""

import argparse
import asyncio
import json
import os
import re
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import httpx2

from convmodel import ConversationModel
from convmodel.data.reading.reader import ConversationReader

SAMPLE = Path(__file__).parents[1] / "src/convmodel/assets/sample/test.jsonl"
TURNS = 20
AT_ONCE = 500


@dataclass
class Server:
    """A server in work; `stop` are the ids that end a response."""

    name: str
    url: str
    model: str
    process: Any
    stop: Sequence[int]

    def body(self, messages: Sequence[dict[str, str]], tokens: int) -> dict[str, Any]:
        return {
            "model": self.model,
            "messages": [*messages],
            "max_completion_tokens": tokens,
            "temperature": 0.0,
            "logit_bias": {str(index): -100.0 for index in self.stop},
            "stream": True,
        }


@dataclass
class Told:
    """What one client got; times in seconds since it asked."""

    status: int
    text: str = ""
    first: float = 0.0
    last: float = 0.0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", nargs="?")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--clients", type=int, default=8)
    parser.add_argument("--tokens", type=int, default=32)
    parser.add_argument("--only", choices=["together", "turns", "queue", "cancel"])
    parser.add_argument("--quantize", help="of our server")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        path = options.model
        if path is None:
            path = f"{folder}/chitchat"
            ConversationModel.from_pretrained("builtin:chitchat").save_pretrained(path)
        stop = ConversationModel.from_pretrained(path).tokenizer.stop_token_ids
        asyncio.run(measure(path, stop, options))


async def measure(path: str, stop: Sequence[int], options: argparse.Namespace) -> None:
    openers = [talk.turns[0] for talk in ConversationReader(SAMPLE)]
    wanted = [options.only] if options.only else ["together", "turns", "queue", "cancel"]
    limits = httpx2.Limits(max_connections=None)
    async with httpx2.AsyncClient(timeout=600, limits=limits) as client:
        with ours(path, stop, options.quantize) as own:
            await ready(client, own)
            if {"together", "turns"} & {*wanted}:
                with theirs(path, stop) as other:
                    await ready(client, other)
                    for server in (own, other):  # the model is loaded at the first request
                        await ask(client, server, say(openers[0]), options.tokens)
                    if "together" in wanted:
                        await together(client, [own, other], openers, options)
                    if "turns" in wanted:
                        await turns(client, [own, other], openers, options)
            if "queue" in wanted:
                await queue(client, own, openers)
            if "cancel" in wanted:
                await cancel(client, own, openers)


async def together(
    client: httpx2.AsyncClient, servers: Sequence[Server], openers: Sequence[str], options: argparse.Namespace
) -> None:
    speeds: dict[tuple[str, int], list[float]] = {}
    firsts: dict[tuple[str, int], list[float]] = {}
    number = 0
    for _ in range(options.rounds):
        for server in servers:
            for count in (1, options.clients):
                asked = [say(openers[(number + index) % len(openers)]) for index in range(count)]
                number += count
                begin = time.perf_counter()
                told = await asyncio.gather(*(ask(client, server, each, options.tokens) for each in asked))
                seconds = time.perf_counter() - begin
                speeds.setdefault((server.name, count), []).append(count * options.tokens / seconds)
                firsts.setdefault((server.name, count), []).append(max(each.first for each in told))
    for (name, count), each in speeds.items():
        print(
            f"{name}, {count} at once: {statistics.median(each):.1f} tokens/s ({min(each):.1f} to {max(each):.1f}), "
            f"slowest first token {statistics.median(firsts[name, count]):.3f} s"
        )
    middle = {key: statistics.median(each) for key, each in speeds.items()}
    own, other = (server.name for server in servers)
    all_of_us = middle[own, options.clients]
    print(f"{options.clients} clients together get {all_of_us / middle[own, 1]:.2f} times one client's tokens/s")
    print(f"and {all_of_us / middle[other, options.clients]:.2f} times what {other} gives them")


async def turns(
    client: httpx2.AsyncClient, servers: Sequence[Server], openers: Sequence[str], options: argparse.Namespace
) -> None:
    seconds: dict[str, list[float]] = {server.name: [] for server in servers}
    for number in range(options.rounds):
        for server in servers:
            messages: list[dict[str, str]] = []
            for turn in range(TURNS // 2):
                messages += say(openers[(number * TURNS + turn) % len(openers)])
                told = await ask(client, server, messages, options.tokens)
                messages.append({"role": "assistant", "content": told.text or "."})
            seconds[server.name].append(told.first)
    for name, each in seconds.items():
        middle = statistics.median(each)
        print(f"{name}, turn {TURNS}: first token after {middle:.3f} s ({min(each):.3f} to {max(each):.3f})")
    own, other = (statistics.median(seconds[server.name]) for server in servers)
    print(f"{own / other:.2f} of theirs")


async def queue(client: httpx2.AsyncClient, server: Server, openers: Sequence[str]) -> None:
    before = resident(server)
    peak = before

    async def watch() -> None:
        nonlocal peak
        while True:
            peak = max(peak, resident(server))
            await asyncio.sleep(0.05)

    for number in (1, 2, 3):
        watching = asyncio.ensure_future(watch())
        begin = time.perf_counter()
        told = await asyncio.gather(
            *(ask(client, server, say(openers[index % len(openers)] + f" {index}"), 16) for index in range(AT_ONCE))
        )
        seconds = time.perf_counter() - begin
        watching.cancel()
        answered = [each for each in told if each.status == 200 and each.text]
        refused = sum(each.status == 429 for each in told)
        firsts = sorted(each.first for each in answered)
        lost = AT_ONCE - len(answered) - refused
        print(
            f"{AT_ONCE} at once, round {number}: {len(answered)} answered, {refused} refused with 429, {lost} lost; "
            f"{seconds:.1f} s; first token: median {statistics.median(firsts):.2f} s, p95 "
            f"{firsts[int(0.95 * len(firsts))]:.2f} s; memory {before} MiB before, {peak} most, {resident(server)} now"
        )


async def cancel(client: httpx2.AsyncClient, server: Server, openers: Sequence[str]) -> None:
    steps: list[float] = []
    freed: list[float] = []
    for number in range(10):
        others = [asyncio.ensure_future(ask(client, server, say(openers[index]), 200)) for index in range(7)]
        times: list[float] = []
        async with client.stream("POST", server.url, json=server.body(say(openers[number]), 200)) as response:
            async for line in response.aiter_lines():
                if '"content":"' in line:
                    times.append(time.perf_counter())
                if len(times) == 20:
                    break
            steps += [after - before for before, after in pairwise(times[5:])]
            known = await cancelled(client, server)
            left = time.perf_counter()
        while await cancelled(client, server) == known:
            await asyncio.sleep(0.005)  # asking all the time would take a core from the steps
        freed.append(time.perf_counter() - left)
        for each in others:
            each.cancel()
        await asyncio.gather(*others, return_exceptions=True)
        await asyncio.sleep(0.3)
    step = statistics.median(steps)
    print(
        f"a step of 8 responses takes {1000 * step:.0f} ms; a disconnected client is dropped after "
        f"{1000 * statistics.median(freed):.0f} ms, at most {1000 * max(freed):.0f} (asked: {1000 * step + 50:.0f})"
    )


async def cancelled(client: httpx2.AsyncClient, server: Server) -> float:
    text = (await client.get(server.url.replace("/v1/chat/completions", "/metrics"))).text
    found = re.search(r'convmodel_generations_total\{.*outcome="cancelled"\} ([\d.]+)', text)
    return float(found[1]) if found else 0.0


async def ask(client: httpx2.AsyncClient, server: Server, messages: Sequence[dict[str, str]], tokens: int) -> Told:
    begin = time.perf_counter()
    async with client.stream("POST", server.url, json=server.body(messages, tokens)) as response:
        told = Told(response.status_code)
        async for line in response.aiter_lines():
            if not line.startswith("data: {"):
                continue
            choices = json.loads(line[6:]).get("choices")
            text = choices[0]["delta"].get("content") if choices else None
            if text:
                told.text += text
                told.last = time.perf_counter() - begin
                told.first = told.first or told.last
    return told


def say(text: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": text}]


async def ready(client: httpx2.AsyncClient, server: Server) -> None:
    place = "/ready" if server.name == "convmodel" else "/health"
    for _ in range(600):
        assert server.process.poll() is None, f"{server.name} has ended: see {server.name.split()[0]}.log"
        try:
            if (await client.get(server.url.replace("/v1/chat/completions", place))).status_code == 200:
                return
        except httpx2.TransportError:
            pass
        await asyncio.sleep(0.2)
    raise TimeoutError(server.name)


@contextmanager
def ours(path: str, stop: Sequence[int], quantize: str | None) -> Iterator[Server]:
    more = ["--quantize", quantize] if quantize else []
    with program("convmodel", [sys.executable, "-m", "convmodel", "serve", f"m={path}", *more, "--port"]) as (
        process,
        url,
    ):
        yield Server("convmodel", url, "m", process, stop)


@contextmanager
def theirs(path: str, stop: Sequence[int]) -> Iterator[Server]:
    command = [
        str(Path(sys.executable).parent / "transformers"),
        "serve",
        path,
        "--device",
        "cpu",
        "--dtype",
        "float32",
    ]
    with program("transformers", [*command, "--port"]) as (process, url):
        yield Server("transformers serve", url, path, process, stop)


@contextmanager
def program(name: str, command: Sequence[str]) -> Iterator[tuple[Any, str]]:
    with socket.create_server(("127.0.0.1", 0)) as found:
        port = found.getsockname()[1]
    place = Path(tempfile.gettempdir()) / f"benchmark-{name}.log"
    with place.open("w") as log:
        process = subprocess.Popen(
            [*command, str(port)], stdout=log, stderr=log, env=os.environ | {"HF_HUB_OFFLINE": "1"}
        )
        try:
            yield process, f"http://127.0.0.1:{port}/v1/chat/completions"
        finally:
            process.terminate()
            process.wait(60)


def resident(server: Server) -> int:
    """Memory of a server's process, in MiB."""
    status = Path(f"/proc/{server.process.pid}/status").read_text()
    return int(re.search(r"VmRSS:\s+(\d+)", status)[1]) // 1024  # type: ignore[index]


if __name__ == "__main__":
    main()
