"""What tests of fine-tuning share: conversations, and watching what a run does."""

import json
import os
import resource
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from transformers import TrainerCallback

from convmodel import ConversationModel

TALKS = [
    ["Hello, how are you today?", "I am fine, thank you. And you?"],
    ["Is it still raining outside?", "Yes, it has rained since 7 o'clock.", "Then let's stay at home and read."],
    ["Good morning!"],
    ["Do you like living in the city?", "I do, but I miss the mountains in summer."],
    ["Yes"],
    ["Have you ever been to Japan?", "No, but I'd love to go there one day!", "Me too", "When?", "Soon"],
    ["Which book are you reading now?", "It's about a lighthouse keeper and his 3 cats."],
    ["Can I ask you something?", "Of course, what would you like to know?"],
    ["How many people live there?", "About 2,750,000, if I remember it right."],
    ["友達と映画を見に行きます。", "どんな映画が好きですか。"],
    ["Thank you very much, see you soon."],
]
"""Eleven windows of very different lengths, so that the last update of an epoch is a short one."""


class Recorder(TrainerCallback):
    """Copies the gradients of each update, and counts what happens."""

    def __init__(self) -> None:
        self.gradients: list[dict[str, torch.Tensor]] = []
        self.events: list[str] = []

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any) -> None:
        self.gradients.append({name: value.grad.clone() for name, value in model.named_parameters()})

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.events.append("begin")

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.events.append(f"step {state.global_step}")

    def on_evaluate(self, args: Any, state: Any, control: Any, metrics: Any = None, **kwargs: Any) -> None:
        assert metrics["eval_perplexity"] > 1
        self.events.append(f"evaluate {state.global_step}")

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.events.append("end")


class Signalled(TrainerCallback):
    """Sends a signal to this process in the middle of an update."""

    def __init__(self, step: int, number: int = signal.SIGTERM) -> None:
        self._step = step
        self._number = number

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step == self._step - 1:
            os.kill(os.getpid(), self._number)


def measured(folder: Path) -> list[dict[str, Any]]:
    """The lines of a run's metrics, but times and settings that change nothing."""
    lines = (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    timed = ("seconds", "time", "tokens_per_second", "config")
    return [{name: value for name, value in json.loads(line).items() if name not in timed} for line in lines]


def weights(model: ConversationModel) -> dict[str, torch.Tensor]:
    return {name: value.detach().clone() for name, value in model.hf_model.state_dict().items()}


@contextmanager
def fed(model: ConversationModel) -> Iterator[list[list[list[int]]]]:
    """Records the token ids of each training batch, padding included."""
    batches: list[list[list[int]]] = []

    def record(module: Any, args: Any, inputs: dict[str, Any]) -> None:
        if module.training:
            batches.append(inputs["input_ids"].tolist())

    hook = model.hf_model.register_forward_pre_hook(record, with_kwargs=True)
    yield batches
    hook.remove()


@contextmanager
def no_file_larger_than(size: int) -> Iterator[None]:
    """Makes this process fail where a full disk would, in the libraries' own code."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
