"""Attention of new tokens to those before them and to themselves, with torch.

Owns: which positions a token attends to, in layers with a window and in batches with padding.
"""

from dataclasses import dataclass

import torch
from torch.nn import functional

from convmodel.generation.engine.kv_cache import KVCache


@dataclass(frozen=True, slots=True)
class View:
    """Which positions the new tokens attend to, in layers with the same window.

    Attributes:
        first: The first position that any of them attends to.
        mask: Whether each attends to each position from there, (rows or 1, 1, new or 1, positions); None if all do.
        is_causal: Whether, instead of a mask, each attends to those before it and itself.
    """

    first: int
    mask: torch.Tensor | None
    is_causal: bool

    @classmethod
    def of(cls, cache: KVCache, new: int, window: int | None, device: torch.device) -> "View":
        """Returns the view of `new` tokens on the positions of a cache and their own."""
        end, padding = cache.length + new, cache.mask(new)
        first = 0 if window is None else max(0, cache.length + 1 - window)
        is_limited = window is not None and window < end
        if new > 1 and not cache.length and padding is None and not is_limited:
            return cls(0, None, is_causal=True)
        mask = None if padding is None else padding.bool()[:, None, None, first:]
        if new > 1:
            positions = torch.arange(first, end, device=device)
            own = torch.arange(cache.length, end, device=device)[:, None]
            causal = positions <= own
            if window is not None and is_limited:
                causal &= positions > own - window
            mask = causal if mask is None else causal & mask
        return cls(first, mask, is_causal=False)

    def attend(
        self, query: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, scale: float, cap: float | None
    ) -> torch.Tensor:
        """Computes attention, where consecutive heads may share keys and values (arXiv:2305.13245).

        The query has the shape (rows, heads, new, size), keys and values (rows, shared heads, positions, size).
        """
        if self.first:
            keys, values = keys[:, :, self.first :], values[:, :, self.first :]
        rows, heads, new, size = query.shape
        shared = keys.shape[1]
        if cap is not None:
            scores = query.reshape(rows, shared, -1, size) @ keys.transpose(2, 3) * scale
            scores = capped(scores, cap).view(rows, heads, new, -1)
            if new > 1 and self.mask is None:
                scores = scores.masked_fill(scores.new_ones(new, new, dtype=torch.bool).triu(1), -torch.inf)
            elif self.mask is not None:
                scores = scores.masked_fill(~self.mask, -torch.inf)
            weights = scores.softmax(-1, dtype=torch.float32).to(query.dtype).view(rows, shared, -1, keys.shape[2])
            return (weights @ values).view(rows, heads, new, size)
        if new == 1:  # the queries that share keys are as if they were of several tokens: nothing is copied
            query = query.reshape(rows, shared, heads // shared, size)
        attended = functional.scaled_dot_product_attention(
            query, keys, values, self.mask, is_causal=self.is_causal, scale=scale, enable_gqa=new > 1 and heads > shared
        )
        return attended.view(rows, heads, new, size) if new == 1 else attended


def capped(values: torch.Tensor, cap: float | None) -> torch.Tensor:
    """Limits values softly to a cap, if there is one."""
    return values if cap is None else torch.tanh(values / cap) * cap
