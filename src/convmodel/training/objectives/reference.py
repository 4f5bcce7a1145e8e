"""The reference model: log-probabilities of the judged responses before the run.

Owns: computing them once, without adapters, and keeping them in the cache by what they depend on.
"""

import hashlib
import logging
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save

from convmodel.data.progress import ProgressBar
from convmodel.data.windows.collate import pad, segments
from convmodel.data.windows.store import cache_folder
from convmodel.errors import SaveError
from convmodel.files.atomic import staged
from convmodel.hf_model.eval_mode import evaluation_mode
from convmodel.hf_model.fingerprint import model_fingerprint
from convmodel.hf_model.lora import has_adapters
from convmodel.layout.sequence import Window
from convmodel.layout.tokenizer import ConversationTokenizer
from convmodel.training.fit_data import padding_multiple
from convmodel.training.step.runtime import PRECISIONS

if TYPE_CHECKING:
    from transformers import PreTrainedModel

logger = logging.getLogger(__name__)


class Reference:
    """ln p of each judged response under the first weights, or under those below adapters.

    Attributes:
        matched: In nats, one per window; zeros before `compute`.
        mismatched: The same of contexts with another judgement's response.
    """

    def __init__(
        self,
        hf_model: "PreTrainedModel",
        tokenizer: ConversationTokenizer,
        windows: Sequence[Window],
        mismatched: Sequence[Window] | None,
        *,
        precision: str,
        batch_size: int,
    ) -> None:
        self._hf_model = hf_model
        self._pad = partial(pad, pad_id=tokenizer.pad_token_id, use_token_types=tokenizer.layout.use_token_types)
        self._windows = [*windows, *(mismatched or ())]
        self._split = len(windows)
        self._precision = precision
        self._batch_size = batch_size
        self.matched = torch.zeros(self._split, dtype=torch.float64)
        self.mismatched = torch.zeros(len(self._windows) - self._split, dtype=torch.float64)

    def precision(self) -> AbstractContextManager[None]:
        """Computes products inside the block as the training step does: other rounding would look like learning."""
        if self._precision == "fp32":
            return nullcontext()
        return torch.autocast(self._hf_model.device.type, PRECISIONS[self._precision])

    def compute(self) -> None:
        """Computes the log-probabilities, or reads those of an earlier run of the same model on the same windows."""
        with without_adapters(self._hf_model):
            path = cache_folder() / "reference" / f"{self._key()}.safetensors"
            log_probs = _read(path, len(self._windows))
            if log_probs is None:
                log_probs = self._computed()
                try:
                    with staged(path.parent) as stage:
                        (stage / path.name).write_bytes(save({"log_probs": log_probs}))
                except SaveError as error:
                    logger.warning("the reference is not kept for the next start: %s", error)
        self.matched, self.mismatched = log_probs[: self._split], log_probs[self._split :]

    def _computed(self) -> torch.Tensor:
        log_probs = torch.zeros(len(self._windows), dtype=torch.float64)
        order = sorted(range(len(self._windows)), key=lambda number: -len(self._windows[number].input_ids))
        with (
            ProgressBar("reference", len(order), unit="responses") as bar,
            evaluation_mode(self._hf_model),
            torch.no_grad(),
            self.precision(),
        ):
            for start in range(0, len(order), self._batch_size):
                numbers = order[start : start + self._batch_size]
                windows = [self._windows[number] for number in numbers]
                batch = self._pad(windows, multiple=padding_multiple(len(windows[0].input_ids)))
                batch["segments"] = segments([[window] for window in windows], batch["input_ids"].shape[1])
                inputs = {name: value.to(self._hf_model.device) for name, value in batch.items()}
                log_probs[numbers] = self._hf_model(**inputs, count=len(numbers)).cpu().double()
                bar.update(start + len(numbers))
        return log_probs

    def _key(self) -> str:
        """Hashes what the log-probabilities depend on: the windows, the weights, the precision."""
        digest = hashlib.blake2b(f"{model_fingerprint(self._hf_model)} {self._precision}".encode(), digest_size=16)
        for window in self._windows:
            digest.update(repr((window.input_ids, window.types, window.labels)).encode())
        return digest.hexdigest()


def _read(path: Path, count: int) -> torch.Tensor | None:
    """Reads kept log-probabilities; None if there are none, or the file is damaged."""
    try:
        log_probs = load(path.read_bytes())["log_probs"]
    except (OSError, SafetensorError, KeyError):
        return None
    return log_probs if log_probs.shape == (count,) else None


@contextmanager
def without_adapters(hf_model: "PreTrainedModel") -> Iterator[None]:
    """Switches LoRA adapters off inside the block, if there are any."""
    if not has_adapters(hf_model):
        yield
        return
    flags = [(parameter, parameter.requires_grad) for parameter in hf_model.parameters()]
    hf_model.disable_adapters()
    try:
        yield
    finally:
        hf_model.enable_adapters()
        for parameter, wanted in flags:
            parameter.requires_grad_(wanted)
