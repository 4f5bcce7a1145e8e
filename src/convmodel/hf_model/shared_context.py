"""What windows begin with alike, read by the model once.

Owns: how much they share, and when that is worth it.
"""

import copy
import inspect
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import takewhile
from typing import TYPE_CHECKING, Any

import torch
from transformers.cache_utils import DynamicCache

from convmodel.data.windows.collate import pad
from convmodel.hf_model.caching import cache_argument, can_be_cached
from convmodel.hf_model.eval_mode import evaluation_mode
from convmodel.layout.sequence import IGNORED, Window
from convmodel.layout.tokenizer import ConversationTokenizer

if TYPE_CHECKING:
    from transformers import PreTrainedModel

_WORTH_READING_ONCE = 64
"""From how many tokens on, that would otherwise be read again, the beginning that windows share is read alone."""


@dataclass(frozen=True, slots=True, eq=False)
class SharedContext:
    """Keys and values of the tokens that some windows begin with."""

    cache: DynamicCache
    length: int

    @classmethod
    def read(cls, hf_model: "PreTrainedModel", tokenizer: ConversationTokenizer, window: Window) -> "SharedContext":
        """Runs the model on a window."""
        batch = pad([window], tokenizer.pad_token_id, use_token_types=tokenizer.layout.use_token_types)
        del batch["labels"]
        inputs: dict[str, Any] = {name: tensor.to(hf_model.device) for name, tensor in batch.items()}
        cache = DynamicCache()  # without a config, so that layers with a window keep all: continuations may be longer
        with evaluation_mode(hf_model), torch.inference_mode():
            hf_model.base_model(**inputs, use_cache=True, **_with(hf_model, cache))
        return cls(cache, len(window.input_ids))

    def arguments(self, hf_model: "PreTrainedModel", mask: torch.Tensor) -> dict[str, Any]:
        """Returns the arguments with which a model continues it in rows that have a mask of their own."""
        rows, new = mask.shape
        cache = copy.deepcopy(self.cache)
        cache.batch_repeat_interleave(rows)
        ends = torch.arange(self.length, self.length + new, device=mask.device).expand(rows, new)
        positions = {"position_ids": ends} if "position_ids" in inspect.signature(hf_model.forward).parameters else {}
        whole = torch.cat([mask.new_ones(rows, self.length), mask], dim=1)
        return {"attention_mask": whole, "use_cache": True} | positions | _with(hf_model, cache)


def _with(hf_model: "PreTrainedModel", cache: DynamicCache) -> dict[str, DynamicCache]:
    """Returns a cache as an argument of a model that takes one."""
    name = cache_argument(hf_model)
    assert name is not None
    return {name: cache}


def read_shared(
    hf_model: "PreTrainedModel", tokenizer: ConversationTokenizer, windows: Sequence[Window]
) -> tuple[SharedContext | None, Sequence[Window]]:
    """Reads the tokens that windows begin with alike, and returns them and the windows without them.

    If they are few, or the model keeps no keys and values, nothing is read and the windows stay whole.
    """
    shared = shared_beginning(windows)
    if shared * (len(windows) - 1) < _WORTH_READING_ONCE or not can_be_cached(hf_model):
        return None, windows
    context = SharedContext.read(hf_model, tokenizer, _part(windows[0], slice(shared)))
    return context, [_part(window, slice(shared, None)) for window in windows]


def shared_beginning(windows: Sequence[Window]) -> int:
    """Returns how many tokens all windows begin with, without the one before the first target, and with their types.

    Example:
        >>> one, other = (Window([5, 6, 7, index], [0, 0, 0, 1], [-100, -100, -100, index]) for index in (8, 9))
        >>> shared_beginning([one, other])
        2
    """
    columns = zip(
        *(zip(window.input_ids, window.types, window.labels, strict=True) for window in windows), strict=False
    )
    same = takewhile(lambda column: len(set(column)) == 1 and column[0][2] == IGNORED, columns)
    return max(0, sum(1 for _ in same) - 1)


def _part(window: Window, part: slice) -> Window:
    return Window(window.input_ids[part], window.types[part], window.labels[part])
