"""Hours in short: memory stays flat while people talk, leave and err. CONVMODEL_SOAK_SECONDS says for how long."""

import asyncio
import gc
import itertools
import os
import random
import threading
import time
from pathlib import Path
from typing import Any

import openai
import pytest
from serving import Serving, serving, wait_until

from convmodel import ConversationModel

pytestmark = pytest.mark.loopback

CLIENTS = 12
MIB = 2**20


def memory() -> int:
    """Bytes of this program that are in memory."""
    gc.collect()
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


async def talk(client: openai.AsyncOpenAI, choose: random.Random, numbers: itertools.count) -> str:  # type: ignore[type-arg]
    """One conversation, whose client may leave or err at any moment; returns what it did."""
    said: list[Any] = [{"role": "user", "content": f"Hello, I am number {next(numbers)} {choose.random()}"}]
    for _ in range(choose.randint(1, 5)):
        asked: dict[str, Any] = {"model": "tiny", "messages": said, "max_tokens": choose.randint(1, 24)}
        kind = choose.choice(["stream", "whole", "leave", "leave early", "err"])
        try:
            if kind == "err":
                await client.chat.completions.create(**asked, temperature=9)
            elif kind == "leave early":
                async with asyncio.timeout(choose.random() / 50):
                    await client.chat.completions.create(**asked)
            elif kind == "whole":
                whole = await client.chat.completions.create(**asked)
                text = whole.choices[0].message.content or "."
                said += [
                    {"role": "assistant", "content": text if text.strip() else "."},
                    {"role": "user", "content": "Go on"},
                ]
            else:
                async with await client.chat.completions.create(**asked, stream=True) as stream:
                    async for chunk in stream:
                        if kind == "leave" and chunk.choices[0].delta.content:
                            return kind
        except openai.BadRequestError:
            return kind
        except openai.RateLimitError:
            await asyncio.sleep(0.05)
        except (TimeoutError, openai.APITimeoutError):
            return kind
    return "end"


async def soak(own: Serving, seconds: float) -> tuple[int, list[int]]:
    """Talks for some time; returns how many conversations there were, and the memory at ten moments."""
    begin, numbers, measured, counted = time.monotonic(), itertools.count(), [], 0

    async def one(client: openai.AsyncOpenAI, number: int) -> None:
        nonlocal counted
        choose = random.Random(number)
        while time.monotonic() - begin < seconds:
            await talk(client, choose, numbers)
            counted += 1

    async def measure() -> None:
        for _ in range(10):
            await asyncio.sleep(seconds / 10)
            measured.append(memory())

    async with openai.AsyncOpenAI(base_url=f"{own.url}/v1", api_key="none", max_retries=0) as client:
        await asyncio.gather(measure(), *(one(client, number) for number in range(CLIENTS)))
    return counted, measured


def check(served_models: dict[str, ConversationModel], seconds: float, most: int) -> None:
    with serving({"tiny": served_models["tiny"]}, cache_bytes=2 * MIB, max_queue=6) as own:
        own.engine().max_rows = 4
        counted, measured = asyncio.run(soak(own, seconds))
        print(f"{counted} conversations; MiB: {[round(each / MIB) for each in measured]}")
        wait_until(own.is_idle)
        wait_until(lambda: not own.server.server_state.tasks)
        assert own.engine().caches.nbytes <= 2 * MIB
        assert own.chat(max_tokens=1).status == 200
        assert counted > seconds
        assert threading.active_count() < 25
    # The first moments are left out: libraries load, and allocators grow to what they need.
    assert max(measured[5:]) - min(measured[3:6]) < most, [round(each / MIB) for each in measured]


@pytest.mark.slow
def test_memory_is_flat_for_a_moment(served_models: dict[str, ConversationModel]) -> None:
    check(served_models, 1.5, 24 * MIB)


@pytest.mark.soak
@pytest.mark.timeout(0)
def test_memory_is_flat_for_ten_minutes(served_models: dict[str, ConversationModel]) -> None:
    check(served_models, float(os.environ.get("CONVMODEL_SOAK_SECONDS", "600")), 16 * MIB)
