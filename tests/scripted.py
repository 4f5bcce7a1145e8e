"""Models that say what a test wants, and models that show what they are fed.

Owns: replacing and watching a real forward pass. Caches, token types and `generate` itself stay real.
"""

import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from transformers import PreTrainedModel

from convmodel import ConversationModel
from convmodel.generation.engine.kv_cache import KVCache
from convmodel.generation.engine.request import Row
from convmodel.hf_model.caching import cache_among


@dataclass
class Script:
    """What a scripted model was asked.

    Attributes:
        prompts: The ids of each prompt.
        steps: Forward passes, prompts included.
    """

    prompts: list[list[int]] = field(default_factory=list)
    steps: int = 0


def drawing_once(model: ConversationModel) -> ConversationModel:
    """Makes a model draw a single response in chats, so that a script has one reply for each."""
    model.hf_model.generation_config.chat = None
    return model


@contextmanager
def scripted(
    model: ConversationModel, *replies: str | Sequence[int], otherwise: int = 0, seconds: float = 0.0
) -> Iterator[Script]:
    """Makes a model say the replies, one a prompt (and one a row of it), each followed by the separator.

    Args:
        model: Uses its caches while it is scripted.
        *replies: Texts, or token ids.
        otherwise: The second choice at each step, taken where the first is forbidden.
        seconds: How long a forward pass takes at least.
    """
    queue = [model.tokenizer.encode(reply) if isinstance(reply, str) else list(reply) for reply in replies]
    script, engine = Script(), model.engine
    row_scripts: dict[Row, list[int]] = {}
    choose = engine.runner.choose
    said, in_generate = 0, [[]]

    def say(logits: Any, number: int, words: list[int], position: int) -> None:
        logits[number] = 0.0
        logits[number, otherwise] = 50.0
        logits[number, words[position] if position < len(words) else model.tokenizer.sep_token_id] = 100.0

    def choose_scripted(rows: list[Row], logits: Any) -> None:
        logits = logits.clone()
        for number, row in enumerate(rows):
            if row not in row_scripts:
                if row is row.request.rows[0]:
                    script.prompts.append(row.request.ids)
                row_scripts[row] = queue.pop(0)
            say(logits, number, row_scripts[row], len(row.tokens))
        choose(rows, logits)

    def speak(module: Any, args: Any, inputs: dict[str, Any], output: Any) -> Any:
        nonlocal said, in_generate
        time.sleep(seconds)
        script.steps += 1
        if isinstance(cache_among(inputs), KVCache):
            return output
        # In transformers' `generate`, which begins with the whole prompt.
        said += 1
        ids = inputs["input_ids"]
        if ids.shape[1] > 1:
            script.prompts.append(ids[0].tolist())
            in_generate, said = [queue.pop(0) for _ in range(len(ids))], 0
        for number, words in enumerate(in_generate):
            say(output.logits[:, -1], number, words, said)
        return output

    handle = model.hf_model.register_forward_hook(speak, with_kwargs=True)
    engine.runner.choose = choose_scripted  # type: ignore[method-assign]
    try:
        yield script
    finally:
        engine.runner.choose = choose  # type: ignore[method-assign]
        handle.remove()


@contextmanager
def halted(model: Any, steps: int = 0) -> Iterator[threading.Event]:
    """Lets a model compute so many steps, and no more until the event is set; the end of the block sets it, too."""
    go_on, left = threading.Event(), [None] * steps

    def wait(*_: Any) -> None:
        if left:
            left.pop()
        else:
            go_on.wait(30)

    handle = model.hf_model.register_forward_pre_hook(wait)
    try:
        yield go_on
    finally:
        go_on.set()
        handle.remove()


@dataclass
class Fed:
    """What one forward pass of a GPT-2 was fed, row by row."""

    ids: list[list[int]]
    types: list[list[int]]
    positions: list[list[int]]


@contextmanager
def watched(model: ConversationModel) -> Iterator[list[Fed]]:
    """Records what the embeddings of a GPT-2 with token types are asked, one entry a forward pass.

    Nothing is remembered at first, so that whole prompts are read.
    """
    model.engine.caches.clear()
    gpt2: Any = model.hf_model
    tokens: list[list[list[int]]] = []
    positions: list[list[list[int]]] = []
    passes: list[Fed] = []

    def finish(*_: Any) -> None:
        ids, types = tokens[-2:]
        passes.append(Fed(ids, types, positions[-1]))

    transformer = gpt2.transformer
    handles = [
        transformer.wte.register_forward_pre_hook(lambda _, args: tokens.append(args[0].tolist())),
        transformer.wpe.register_forward_pre_hook(lambda _, args: positions.append(args[0].tolist())),
        gpt2.register_forward_hook(finish),
    ]
    try:
        yield passes
    finally:
        for handle in handles:
            handle.remove()


def enliven(hf_model: PreTrainedModel, factor: float = 10.0) -> PreTrainedModel:
    """Makes a small random model's responses vary with everything it is fed, by scaling its matrices.

    As it is, it repeats one token whatever came before, and would hide wrong types, positions and caches.
    """
    with torch.no_grad():
        for name, parameter in hf_model.named_parameters():
            if parameter.ndim == 2 and (".h." in name or ".layers." in name or "wpe" in name):
                parameter.mul_(factor)
    return hf_model
