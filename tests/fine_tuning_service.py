"""A server that fine-tunes, for tests: with a stand-in for `convmodel`, or the real one."""

import json
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fake_convmodel import command
from openai import OpenAI
from serving import PATIENCE, Serving, serving_loaded, wait_until

from convmodel import ConversationModel
from convmodel.server.fine_tuning.service import FineTuning
from convmodel.server.settings import TrainingLimits

TALK = {"messages": [{"role": "user", "content": "Hello"}, {"role": "assistant", "content": "How are you?"}]}
PAIR = {
    "input": {"messages": [{"role": "user", "content": "Hello"}]},
    "preferred_output": [{"role": "assistant", "content": "How are you?"}],
    "non_preferred_output": [{"role": "assistant", "content": "Go away"}],
}


def lines(*records: Mapping[str, Any], times: int = 1) -> bytes:
    """Records as JSON lines."""
    return b"".join(json.dumps(record).encode() + b"\n" for record in records) * times


def multipart(*parts: tuple[str, str | None, bytes], boundary: str = "boundary") -> bytes:
    """A form of parts, each with its name, the name of its file if it is one, and its content."""
    body = b""
    for name, filename, content in parts:
        head = f'form-data; name="{name}"' + ("" if filename is None else f'; filename="{filename}"')
        body += f"--{boundary}\r\nContent-Disposition: {head}\r\n\r\n".encode() + content + b"\r\n"
    return body + f"--{boundary}--\r\n".encode()


FORM = {"Content-Type": "multipart/form-data; boundary=boundary"}


@dataclass
class Tuning:
    """A server that fine-tunes, and OpenAI's client for it."""

    served: Serving
    service: FineTuning
    client: OpenAI

    def upload(self, content: bytes | None = None, name: str = "talks.jsonl") -> str:
        """Uploads a file, and returns its id."""
        content = lines(TALK, times=10) if content is None else content
        return self.client.files.create(file=(name, content), purpose="fine-tune").id

    def status(self, id: str) -> str:
        return self.client.fine_tuning.jobs.retrieve(id).status

    def wait(self, id: str, *statuses: str, seconds: float = PATIENCE) -> Any:
        """Waits until a job has a status, and returns it."""
        wait_until(lambda: self.status(id) in statuses, seconds)
        return self.client.fine_tuning.jobs.retrieve(id)

    def train(self, **options: Any) -> Any:
        """Creates a job on `tiny` and waits for its end."""
        options = {"model": "tiny", "training_file": options.get("training_file") or self.upload()} | options
        job = self.client.fine_tuning.jobs.create(**options)
        return self.wait(job.id, "succeeded", "failed", "cancelled")

    def messages(self, id: str) -> list[str]:
        """What the events of a job say, the oldest first."""
        events = [*self.client.fine_tuning.jobs.list_events(id, limit=100)]
        return [event.message for event in reversed(events)]

    def step(self, id: str) -> int:
        """How many steps a job has reported."""
        return sum(message.startswith("Step ") for message in self.messages(id))


Tune = Callable[..., AbstractContextManager[Tuning]]


def make_tune(folder: Path, model: Path, *, real: Sequence[str] | None = None) -> Tune:
    """Returns what starts a server that fine-tunes `tiny`; a second one finds what the first one left."""

    @contextmanager
    def tune(
        settings: Mapping[str, Any] | None = None, limits: TrainingLimits | None = None, **options: Any
    ) -> Iterator[Tuning]:
        def load(source: str) -> ConversationModel:
            return ConversationModel.from_pretrained(source, device="cpu")

        run = command(**options) if real is None else real
        service = FineTuning(folder / "tuned", {"tiny": str(model)}, load, limits, command=run)
        with serving_loaded(lambda: {"tiny": load(str(model))}, fine_tuning=service, **settings or {}) as served:
            wait_until(lambda: served.registry.state == "ready")
            with OpenAI(base_url=f"{served.url}/v1", api_key=served.key or "none", max_retries=0) as client:
                yield Tuning(served, service, client)

    return tune


def soon() -> None:
    """Waits a moment in which something could happen that must not."""
    time.sleep(0.3)


def exists(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
