"""Time and memory estimate of a run, measured on a few batches.

Owns: the measurements, and how a run's time and memory follow from them. Leaves the model unchanged, and does not know
how the estimate is shown.
"""

import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import torch

from convmodel.data.windows.collate import pack, pad
from convmodel.data.windows.encoding import WindowSet
from convmodel.data.windows.order import grouped_order, packed_order
from convmodel.hf_model.devices import synchronize
from convmodel.hf_model.int8_layers import count_rows
from convmodel.hf_model.lm_head import LOGITS_AT_ONCE
from convmodel.layout.sequence import Window
from convmodel.layout.tokenizer import ConversationTokenizer
from convmodel.training.doctor.checks import Check
from convmodel.training.doctor.run_plan import RunPlan
from convmodel.training.step.forward import prepared
from convmodel.training.step.fused import converted_bytes
from convmodel.training.step.runtime import PRECISIONS, choose_precision
from convmodel.training.units import size

if TYPE_CHECKING:
    from transformers import PreTrainedModel

MEASURED = 3
"""Number of batches that are timed: one of long windows, one of middle ones, one of short ones."""

PATIENCE = 20.0
"""Seconds after which no more batches are timed."""

T = TypeVar("T")

_FLOAT = 4  # bytes; weights, gradients and moments are float32
_MOMENTS = 2  # AdamW keeps two per weight
_COPIES = 3  # of the logits in memory at once: themselves, their probabilities, and the gradient
_PROBE = 1 << 20  # weights of the trial step


@dataclass(frozen=True, slots=True)
class Estimate:
    """Time and memory of a run."""

    steps: int  # the most, if the run may end early; so is what follows from them
    tokens: int  # of the whole run, supervised or context
    padded_tokens: int  # the same with padding, which takes time too
    seconds: float  # of the steps, without saving, and without validation unless the run is on judgements
    memory_bytes: int  # of weights, gradients, AdamW's moments and activations
    activation_bytes: int
    available_bytes: int | None  # what the device has for the run; None if unknown
    at_most: bool = False  # whether the run may end early
    parameters: int = 0  # of the model
    weight_bytes: int = 0  # of the model as it was loaded

    def largest_models(self) -> dict[str, int]:
        """Returns how many parameters a model may have at most to be trained in the available memory.

        By what is trained, with this run's windows and batches. Activations are taken to grow with the parameters,
        while those of wider models grow less.

        Example:
            >>> costs = Estimate(1, 1, 1, 1.0, 180, 20, 8000, parameters=10, weight_bytes=20)
            >>> costs.largest_models()
            {'all weights': 444, 'lora': 2000, 'lora and quantize int8': 2666}
        """
        if self.available_bytes is None or not self.parameters:
            return {}
        activations = self.activation_bytes / self.parameters
        weights = {
            "all weights": _FLOAT * (2 + _MOMENTS),
            "lora": self.weight_bytes / self.parameters,
            "lora and quantize int8": 1,
        }
        return {name: int(self.available_bytes / (each + activations)) for name, each in weights.items()}


def estimate(
    hf_model: "PreTrainedModel", tokenizer: ConversationTokenizer, train: WindowSet, plan: RunPlan
) -> Estimate:
    """Measures a few forward and backward passes of the model, which is left unchanged, and extrapolates to the run.

    Time: batches of long, middle and short windows give the seconds per padded token, and a trial step on other
    weights gives AdamW's seconds per weight. Loss and precision are those of training; the dtype is the model's, while
    training makes it float32. Dropout is off, so nothing is random. Batches that do not fit into memory are timed one
    window at a time.

    Memory: weights, gradients and AdamW's two moments (Loshchilov & Hutter, "Decoupled weight decay regularization",
    2019) take 4 bytes each for every trained weight. The activations are what autograd keeps of one window of the
    greatest length, counted while it is computed, times the windows in a batch, plus the head's gradient and one chunk
    of logits. The memory of Python and the libraries, and an allocator's rounding, are not included. LoRA and
    adafactor, which need less, are not taken into account.
    """
    rows = _rows(train, plan)
    lengths = np.array([sum(int(train.lengths[index]) for index in row) for row in rows])
    tokens, padded = _tokens(lengths, plan)
    longest_first = [rows[index] for index in np.argsort(-lengths, kind="stable")]
    dtype = PRECISIONS[choose_precision(plan.precision, hf_model.device)]
    precise = torch.autocast(hf_model.device.type, dtype, enabled=dtype != torch.float32)
    with untouched(hf_model), prepared(hf_model, 0.0, plan.gradient_checkpointing), precise:
        longest = _batch(hf_model, tokenizer, _representative(train, longest_first[:1], 1)[0], packed=plan.packing)
        activations = activation_bytes(
            hf_model, lambda: hf_model(**longest, total_weight=1.0), longest["input_ids"].numel(), plan.batch_size
        )
        memory = state_bytes(hf_model) + activations
        available = available_bytes(hf_model)
        together = plan.batch_size if available is None or memory < available else 1
        timed = _representative(train, longest_first, together)
        per_token = _seconds_per_token(hf_model, tokenizer, timed, packed=plan.packing)
        seconds = per_token * padded + plan.steps * seconds_per_step(hf_model)
    return Estimate(
        plan.steps,
        tokens,
        padded,
        seconds,
        memory,
        activations,
        available,
        plan.may_end_early,
        hf_model.num_parameters(),
        weight_bytes(hf_model),
    )


def check_memory(costs: Estimate, *, smaller: bool = False) -> Check:
    """Warns if the run needs more memory than the device has; `smaller`: LoRA or adafactor will need less."""
    needed = f"about {size(costs.memory_bytes)} are needed, {size(costs.activation_bytes)} of it for activations"
    if smaller:
        needed += " (counted for AdamW on all weights; lora and adafactor take less)"
    if costs.available_bytes is None:
        return Check("memory", "pass", f"{needed}; the available memory is unknown")
    finding = f"{needed}; {size(costs.available_bytes)} are available"
    if costs.memory_bytes > costs.available_bytes:
        fix = "lower batch_size and raise gradient_accumulation_steps alike, lower max_length, or use a smaller model"
        return Check("memory", "warn", finding, fix)
    return Check("memory", "pass", finding)


def available_bytes(hf_model: "PreTrainedModel") -> int | None:
    """Returns the memory of the model's device that this process can still use, plus that of the model's weights.

    None if unknown. Memory that torch keeps for its next tensors is free for this process, and the driver counts it as
    used.
    """
    weights, device = weight_bytes(hf_model), hf_model.device
    if device.type == "cuda":
        kept = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return int(torch.cuda.mem_get_info(device)[0]) + kept + weights
    if device.type == "mps":  # a part of the machine's memory
        return int(torch.mps.recommended_max_memory() - torch.mps.current_allocated_memory()) + weights
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
        free = next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:"))
        return free + weights
    except (OSError, StopIteration):
        pass
    try:  # the total, if the free part is unknown
        return int(os.sysconf("SC_PHYS_PAGES")) * int(os.sysconf("SC_PAGE_SIZE"))
    except (AttributeError, OSError, ValueError):
        return None


def weight_bytes(hf_model: "PreTrainedModel") -> int:
    """Counts the bytes of all weights, in their precision."""
    return sum(parameter.nbytes for parameter in hf_model.parameters())


def _rows(train: WindowSet, plan: RunPlan) -> list[tuple[int, ...]]:
    """Returns the windows of each row of an epoch's batches, in order: one, or several that are packed together."""
    if plan.packing:
        return list(packed_order(train.lengths, plan.max_length, seed=0, epoch=0))
    per_step = plan.batch_size * plan.gradient_accumulation_steps
    return [(index,) for index in grouped_order(train.lengths, per_step, seed=0, epoch=0).tolist()]


def _tokens(lengths: "np.ndarray[Any, Any]", plan: RunPlan) -> tuple[int, int]:
    """Counts the run's tokens without and with padding, from the lengths of the first epoch's rows in their order."""
    per_step = plan.batch_size * plan.gradient_accumulation_steps
    starts = np.arange(0, len(lengths), plan.batch_size)
    sizes = np.diff([*starts, len(lengths)])
    padded = int((np.maximum.reduceat(lengths, starts) * sizes).sum())
    passes = plan.steps / -(-len(lengths) // per_step)
    return round(int(lengths.sum()) * passes), round(padded * passes)


def state_bytes(hf_model: "PreTrainedModel") -> int:
    """Counts the bytes of all weights, and of gradients and moments of the trained ones."""
    return _FLOAT * (hf_model.num_parameters() + (1 + _MOMENTS) * hf_model.num_parameters(only_trainable=True))


@contextmanager
def untouched(hf_model: "PreTrainedModel") -> Iterator[None]:
    """Removes gradients and sets training mode inside the block, and restores both afterwards."""
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
    batch = pack(rows, use_token_types=types) if packed else pad(windows, pad_id, use_token_types=types)
    return {name: tensor.to(hf_model.device) for name, tensor in batch.items()}


def activation_bytes(hf_model: "PreTrainedModel", loss: Callable[[], torch.Tensor], tokens: int, times: int = 1) -> int:
    """Counts the bytes that autograd keeps of a batch, times a number; each storage once, without weights.

    A tensor of a weight's shape is a copy in another precision, or the head's gradient: it is kept once, whatever the
    number. The call also warms the device up.

    Args:
        hf_model: The model; afterwards it has no gradients.
        loss: Computes the loss of the batch.
        tokens: The batch's tokens, with padding.
        times: How often the batch comes at once.
    """
    weights = {parameter.untyped_storage().data_ptr() for parameter in hf_model.parameters()}
    shapes = {parameter.shape for parameter in hf_model.parameters() if parameter.dim() > 1}
    shapes |= {shape[::-1] for shape in shapes}  # as products of half precision keep them
    # Kept alive while counting: the address of a freed storage could be reused.
    kept: dict[int, tuple[torch.UntypedStorage, bool]] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = storage, tensor.shape in shapes
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        computed = loss()
    once = sum(storage.nbytes() for storage, of_weight in kept.values() if of_weight) + converted_bytes(hf_model)
    per_batch = sum(storage.nbytes() for storage, of_weight in kept.values() if not of_weight)
    kept.clear()
    computed.backward()
    hf_model.zero_grad(set_to_none=True)
    logits = min(LOGITS_AT_ONCE, count_rows(hf_model.get_input_embeddings()) * tokens * times)
    return once + per_batch * times + _COPIES * _FLOAT * logits


def middles(sorted_by_length: Sequence[T], together: int = 1) -> list[T]:
    """Returns the elements in the middle of each third, none of the last `together - 1` and none twice.

    Example:
        >>> middles([*range(12)]), middles([1, 2])
        ([2, 6, 10], [1, 2])
    """
    count = len(sorted_by_length)
    places = [min((2 * part + 1) * count // (2 * MEASURED), count - together) for part in range(MEASURED)]
    return [sorted_by_length[place] for place in dict.fromkeys(places)]


def _representative(train: WindowSet, rows: Sequence[tuple[int, ...]], together: int) -> list[list[list[Window]]]:
    """Chooses batches from the middle of each third of the rows, which are sorted by length."""
    together = min(together, len(rows))
    return [
        [[train.windows[index] for index in row] for row in rows[place : place + together]]
        for place in middles(range(len(rows)), together)
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
        spent += timed(hf_model, lambda batch=batch: hf_model(**batch, total_weight=1.0).backward())
        hf_model.zero_grad(set_to_none=True)
        tokens += batch["input_ids"].numel()
        if spent > PATIENCE:
            break
    return spent / tokens


def seconds_per_step(hf_model: "PreTrainedModel") -> float:
    """Times AdamW on a trial tensor, and scales to the trained weights."""
    trained = hf_model.num_parameters(only_trainable=True)
    trial = torch.zeros(min(_PROBE, max(1, trained)), device=hf_model.device, requires_grad=True)
    trial.grad = torch.ones_like(trial)
    optimizer = torch.optim.AdamW([trial])
    optimizer.step()  # makes the moments
    return timed(hf_model, optimizer.step) * trained / trial.numel()


def timed(hf_model: "PreTrainedModel", work: Any) -> float:
    """Returns the seconds that work takes on the model's device, which may still be busy when the call returns."""
    synchronize(hf_model.device)
    begin = time.perf_counter()
    work()
    synchronize(hf_model.device)
    return time.perf_counter() - begin
