"""What training and chatting cost each other on one machine: `convmodel serve --train`, with the built-in model.

    python benchmarks/fine_tuning_service.py [--chats 20] [--seconds 40] [--rounds 2] [--pause 5]

One client chats, with a pause after each response, in which a person would read and type: 5 seconds are short for
that, 1 second is typical of a program. Printed are the median time to the first token without a job and while one
trains, and the speed of training, by the steps that it reports, while nobody chats and while that client does. Phases
of training alternate; ratios are of their medians.
"""

import argparse
import json
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from openai import APIConnectionError, APIStatusError, OpenAI

SAMPLE = Path(__file__).parents[1] / "src/convmodel/assets/sample"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--chats", type=int, default=20)
    parser.add_argument("--seconds", type=float, default=40, help="of each phase of training")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--pause", type=float, default=5, help="seconds from a response to the next message")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, served(Path(folder)) as client:
        openers = [json.loads(line)["turns"][0] for line in (SAMPLE / "test.jsonl").open(encoding="utf-8")]
        first_token(client, openers[0])
        idle = [first_token(client, opener) for opener in openers[: options.chats]]
        job = start_job(client)
        while not losses(client, job):
            time.sleep(1)
        speeds: dict[str, list[float]] = {"alone": [], "chatting": []}
        busy: list[float] = []
        for number in range(2 * options.rounds):
            phase = ("alone", "chatting")[number % 2]
            begin, steps = time.perf_counter(), len(losses(client, job))
            while time.perf_counter() - begin < options.seconds:
                if phase == "chatting":
                    busy.append(first_token(client, openers[len(busy) % len(openers)]))
                time.sleep(options.pause)
            tokens = [event.data["tokens_per_second"] for event in losses(client, job)[steps:]]
            assert tokens, "no step ended in this phase: give more --seconds"
            speeds[phase].append(statistics.median(tokens))
        assert client.fine_tuning.jobs.retrieve(job).status == "running", "the job has ended: give fewer --seconds"
        client.fine_tuning.jobs.cancel(job)
    without, training = statistics.median(idle), statistics.median(busy)
    print(f"first token: {1000 * without:.0f} ms without a job, {1000 * training:.0f} ms while one trains")
    print(f"that is {training / without:.2f} times as long")
    alone, chatting = (statistics.median(speeds[phase]) for phase in ("alone", "chatting"))
    print(f"training: {alone:.0f} tokens/s while nobody chats, {chatting:.0f} while one person does")
    print(f"that is {100 * (1 - chatting / alone):.0f} % less")


@contextmanager
def served(folder: Path) -> Iterator[OpenAI]:
    """Runs a server until the end of the block."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = str(free.getsockname()[1])
    line = [sys.executable, "-m", "convmodel", "serve", "builtin:chitchat", "--port", port, "--train", str(folder)]
    process = subprocess.Popen(line, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=dict(os.environ))
    try:
        with OpenAI(base_url=f"http://127.0.0.1:{port}/v1", api_key="none", max_retries=0) as client:
            while True:
                try:
                    client.models.list()
                    break
                except (APIConnectionError, APIStatusError):
                    assert process.poll() is None, "the server has ended"
                    time.sleep(0.5)
            yield client
    finally:
        process.terminate()
        process.wait()


def start_job(client: OpenAI) -> str:
    """Starts a job that takes longer than the measurement."""
    lines = []
    for line in (SAMPLE / "train.jsonl").open(encoding="utf-8"):
        turns = enumerate(json.loads(line)["turns"])
        messages = [{"role": ("user", "assistant")[at % 2], "content": text} for at, text in turns]
        lines.append(json.dumps({"messages": messages}) + "\n")
    file = client.files.create(file=("sample.jsonl", "".join(lines).encode()), purpose="fine-tune")
    options: Any = {"n_epochs": 50}
    return client.fine_tuning.jobs.create(model="chitchat", training_file=file.id, hyperparameters=options).id


def losses(client: OpenAI, job: str) -> list[Any]:
    """The reports of training so far, the oldest first."""
    events = client.fine_tuning.jobs.list_events(job, limit=1000)
    return [event for event in [*events][::-1] if event.type == "metrics" and "train_loss" in event.data]


def first_token(client: OpenAI, text: str) -> float:
    """Chats once; returns the seconds to the first token of the response."""
    begin, first = time.perf_counter(), 0.0
    stream = client.chat.completions.create(
        model="chitchat", messages=[{"role": "user", "content": text}], max_completion_tokens=32, stream=True
    )
    for chunk in stream:
        if not first and chunk.choices and chunk.choices[0].delta.content:
            first = time.perf_counter() - begin
    return first or time.perf_counter() - begin


if __name__ == "__main__":
    main()
