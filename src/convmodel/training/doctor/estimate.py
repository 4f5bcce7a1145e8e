"""What a run will take: time, measured on a few batches, and memory.

Owns: the measurements and the sums made of them. Leaves the model as it was found.
"""

import os
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from convmodel.data.windows.collate import pack, pad
from convmodel.data.windows.encoding import WindowSet
from convmodel.data.windows.order import grouped_order, packed_order
from convmodel.hf_model.lm_head import LOGITS_AT_ONCE
from convmodel.layout.sequence import Window
from convmodel.layout.tokenizer import ConversationTokenizer
from convmodel.training.doctor.checks import Check
from convmodel.training.doctor.run_plan import RunPlan
from convmodel.training.step.forward import prepared
from convmodel.training.step.runtime import PRECISIONS, choose_precision
from convmodel.training.units import size

if TYPE_CHECKING:
    from transformers import PreTrainedModel

MEASURED = 3
"""Batches that are timed: one from the long windows, one from the middle, one from the short ones."""

PATIENCE = 20.0
"""Seconds after which no further batch is timed."""

_FLOAT = 4  # bytes; weights, gradients and moments are float32
_MOMENTS = 2  # AdamW keeps two numbers a weight
_COPIES = 3  # of the logits that are held at once: themselves, their probabilities, and the gradient
_PROBE = 1 << 20  # weights of the trial update


@dataclass(frozen=True, slots=True)
class Estimate:
    """What a run will take.

    Attributes:
        steps: Updates.
        tokens: Tokens that will be learned from or read as context, over the whole run.
        padded_tokens: The same with the padding, which takes time too.
        seconds: How long the updates will take; validation and saving come on top.
        memory_bytes: Weights, gradients, AdamW's moments and activations.
        activation_bytes: The activations' part of it.
        available_bytes: What the device has for all of it; None where it does not tell.
    """

    steps: int
    tokens: int
    padded_tokens: int
    seconds: float
    memory_bytes: int
    activation_bytes: int
    available_bytes: int | None


def estimate(
    hf_model: "PreTrainedModel", tokenizer: ConversationTokenizer, train: WindowSet, plan: RunPlan
) -> Estimate:
    """Measures a few forward and backward passes on the model itself, and multiplies.

    Time: batches from the long, the middle and the short windows give seconds a padded token, and a trial update of
    other numbers gives AdamW's seconds a weight. The loss and the precision are those of training, while the dtype is
    the model's as it is; training makes it float32. Dropout is off, so nothing random happens. Batches whose memory is
    not there are timed one window at a time.

    Memory: weights, gradients and AdamW's two moments (Loshchilov & Hutter, "Decoupled weight decay regularization",
    2019) are counted, 4 bytes each, for what is trained. The activations are what autograd keeps of one window as long
    as the longest, counted while it is computed, times the windows in a batch; the head's gradient and the chunk of
    logits that are there at once come on top. What Python and the libraries take, and what an allocator rounds up, is
    not in it. LoRA and adafactor, which need less, are not looked at.

    Args:
        hf_model: The model; its weights, gradients and modes are left as they were found.
        tokenizer: Its layout.
        train: What is to be learned from.
        plan: What the run is going to do.
    """
    rows = _rows(train, plan)
    lengths = np.array([sum(int(train.lengths[index]) for index in row) for row in rows])
    tokens, padded = _tokens(lengths, plan)
    longest_first = [rows[index] for index in np.argsort(-lengths, kind="stable")]
    with _untouched(hf_model), prepared(hf_model, 0.0, plan.gradient_checkpointing), _precise(hf_model, plan):
        longest = _batch(hf_model, tokenizer, _representative(train, longest_first[:1], 1)[0], packed=plan.packing)
        activations = _activation_bytes(hf_model, longest, plan.batch_size)
        memory = _state_bytes(hf_model) + activations
        available = available_bytes(hf_model)
        together = plan.batch_size if available is None or memory < available else 1
        timed = _representative(train, longest_first, together)
        per_token = _seconds_per_token(hf_model, tokenizer, timed, packed=plan.packing)
        seconds = per_token * padded + plan.steps * _seconds_per_update(hf_model)
    return Estimate(plan.steps, tokens, padded, seconds, memory, activations, available)


def check_memory(found: Estimate, *, smaller: bool = False) -> Check:
    """Warns if the run needs more memory than the device has.

    Args:
        found: What the run needs, and what there is.
        smaller: Whether the settings ask for LoRA or another optimizer, which need less than is counted.
    """
    needed = f"about {size(found.memory_bytes)} are needed, {size(found.activation_bytes)} of it for activations"
    if smaller:
        needed += " (counted for AdamW on all weights; lora and adafactor take less)"
    if found.available_bytes is None:
        return Check("memory", "pass", f"{needed}; how much there is, this machine does not tell")
    finding = f"{needed}; {size(found.available_bytes)} are available"
    if found.memory_bytes > found.available_bytes:
        cure = (
            "lower batch_size and raise gradient_accumulation_steps alike, or lower max_length, or take a smaller model"
        )
        return Check("memory", "warn", finding, cure)
    return Check("memory", "pass", finding)


def available_bytes(hf_model: "PreTrainedModel") -> int | None:
    """Returns the memory that is free on the model's device, and what the model's weights take of it already."""
    own = sum(parameter.numel() * parameter.element_size() for parameter in hf_model.parameters())
    if hf_model.device.type == "cuda":
        return int(torch.cuda.mem_get_info(hf_model.device)[0]) + own
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
        free = next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:"))
        return free + own
    except (OSError, StopIteration):
        pass
    try:  # all there is, where nothing says how much of it is free
        return int(os.sysconf("SC_PHYS_PAGES")) * int(os.sysconf("SC_PAGE_SIZE"))
    except (AttributeError, OSError, ValueError):
        return None


def _rows(train: WindowSet, plan: RunPlan) -> list[tuple[int, ...]]:
    """Returns the windows of each row of an epoch's batches, in order: one, or those that are packed together."""
    if plan.packing:
        return list(packed_order(train.lengths, plan.max_length, seed=0, epoch=0))
    per_update = plan.batch_size * plan.gradient_accumulation_steps
    return [(index,) for index in grouped_order(train.lengths, per_update, seed=0, epoch=0).tolist()]


def _tokens(lengths: "np.ndarray[Any, Any]", plan: RunPlan) -> tuple[int, int]:
    """Counts the run's tokens without and with padding, from the lengths of the first epoch's rows in their order."""
    per_update = plan.batch_size * plan.gradient_accumulation_steps
    starts = np.arange(0, len(lengths), plan.batch_size)
    sizes = np.diff([*starts, len(lengths)])
    padded = int((np.maximum.reduceat(lengths, starts) * sizes).sum())
    passes = plan.steps / -(-len(lengths) // per_update)
    return round(int(lengths.sum()) * passes), round(padded * passes)


def _state_bytes(hf_model: "PreTrainedModel") -> int:
    """Counts weights, and for those that are trained their gradients and moments."""
    weights = sum(parameter.numel() for parameter in hf_model.parameters())
    trained = [parameter.numel() for parameter in hf_model.parameters() if parameter.requires_grad]
    return _FLOAT * (weights + (1 + _MOMENTS) * sum(trained))


@contextmanager
def _untouched(hf_model: "PreTrainedModel") -> Iterator[None]:
    """Puts gradients aside and the model into training mode inside the block, and brings back what was there."""
    gradients = [(parameter, parameter.grad) for parameter in hf_model.parameters()]
    modes = [(module, module.training) for module in hf_model.modules()]
    for parameter, _ in gradients:
        parameter.grad = None
    try:
        with torch.enable_grad():
            hf_model.train()
            yield
    finally:
        for module, mode in modes:
            module.training = mode
        for parameter, gradient in gradients:
            parameter.grad = gradient


def _batch(
    hf_model: "PreTrainedModel", tokenizer: ConversationTokenizer, rows: Sequence[Sequence[Window]], *, packed: bool
) -> dict[str, torch.Tensor]:
    types, pad_id = tokenizer.layout.use_token_types, tokenizer.pad_token_id
    windows = [window for row in rows for window in row]
    batch = pack(rows, pad_id, use_token_types=types) if packed else pad(windows, pad_id, use_token_types=types)
    return {name: tensor.to(hf_model.device) for name, tensor in batch.items()}


@contextmanager
def _precise(hf_model: "PreTrainedModel", plan: RunPlan) -> Iterator[None]:
    """Computes products inside the block in what training computes them in."""
    chosen = PRECISIONS[choose_precision(plan.precision, hf_model.device)]
    with torch.autocast(hf_model.device.type, chosen, enabled=chosen != torch.float32):
        yield


def _loss(hf_model: "PreTrainedModel", batch: dict[str, torch.Tensor]) -> torch.Tensor:
    loss: torch.Tensor = hf_model(**batch, total_weight=1.0)
    return loss


def _activation_bytes(hf_model: "PreTrainedModel", batch: dict[str, torch.Tensor], together: int) -> int:
    """Counts what autograd keeps of so many batches of one row, each storage once, without the weights.

    What has the size of a weight is one in another precision, or the gradient of the head's: there once whatever the
    number of rows. It warms the device up too.
    """
    weights = {parameter.untyped_storage().data_ptr() for parameter in hf_model.parameters()}
    shapes = {parameter.shape for parameter in hf_model.parameters() if parameter.dim() > 1}
    shapes |= {shape[::-1] for shape in shapes}  # as products of half precision keep them
    # Kept alive while counting: a storage that was freed could lend its address to another.
    kept: dict[int, tuple[torch.UntypedStorage, bool]] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = storage, tensor.shape in shapes
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        loss = _loss(hf_model, batch)
    once = sum(storage.nbytes() for storage, of_weight in kept.values() if of_weight)
    each = sum(storage.nbytes() for storage, of_weight in kept.values() if not of_weight)
    kept.clear()
    loss.backward()
    hf_model.zero_grad(set_to_none=True)
    embedding: Any = hf_model.get_input_embeddings()
    logits = min(LOGITS_AT_ONCE, int(embedding.weight.shape[0]) * batch["input_ids"].numel() * together)
    return once + each * together + _COPIES * _FLOAT * logits


def _representative(train: WindowSet, rows: Sequence[tuple[int, ...]], together: int) -> list[list[list[Window]]]:
    """Chooses batches from the middle of each third of the rows, which are sorted by length."""
    together = min(together, len(rows))
    places = [min((2 * part + 1) * len(rows) // (2 * MEASURED), len(rows) - together) for part in range(MEASURED)]
    return [
        [[train.windows[index] for index in row] for row in rows[place : place + together]]
        for place in dict.fromkeys(places)
    ]


def _seconds_per_token(
    hf_model: "PreTrainedModel",
    tokenizer: ConversationTokenizer,
    batches: Sequence[Sequence[Sequence[Window]]],
    *,
    packed: bool,
) -> float:
    tokens, spent = 0, 0.0
    for rows in batches:
        batch = _batch(hf_model, tokenizer, rows, packed=packed)
        spent += _timed(hf_model, lambda batch=batch: _loss(hf_model, batch).backward())
        hf_model.zero_grad(set_to_none=True)
        tokens += batch["input_ids"].numel()
        if spent > PATIENCE:
            break
    return spent / tokens


def _seconds_per_update(hf_model: "PreTrainedModel") -> float:
    """Times AdamW on numbers of its own, and scales to the weights that are trained."""
    trained = sum(parameter.numel() for parameter in hf_model.parameters() if parameter.requires_grad)
    trial = torch.zeros(min(_PROBE, max(1, trained)), device=hf_model.device, requires_grad=True)
    trial.grad = torch.ones_like(trial)
    optimizer = torch.optim.AdamW([trial])
    optimizer.step()  # makes the moments
    return _timed(hf_model, optimizer.step) * trained / trial.numel()


def _timed(hf_model: "PreTrainedModel", work: Any) -> float:
    """Returns the seconds that some work takes on the model's device, which may still be busy when the call returns."""
    wait: Any = torch.cuda.synchronize if hf_model.device.type == "cuda" else lambda: None
    wait()
    begin = time.perf_counter()
    work()
    wait()
    return time.perf_counter() - begin
