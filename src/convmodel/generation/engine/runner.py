"""One forward pass, and the next token of each row.

Owns: the tensors that a forward pass takes, and turning its logits into the next token of each row. Knows nothing about
which requests share a pass.
"""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import torch

from convmodel.generation.engine.forward import Forward, ForwardChoice
from convmodel.generation.engine.kv_cache import KVCache
from convmodel.generation.engine.lean import NewTokens
from convmodel.generation.engine.request import Row
from convmodel.hf_model.kernels import log_sums
from convmodel.hf_model.log_probs import logits_error
from convmodel.hf_model.threads import THREADS

if TYPE_CHECKING:
    from transformers import PreTrainedModel


class Part(NamedTuple):
    """The next tokens of the rows of a cache.

    Attributes:
        ids: Token ids, the same number for each row. Empty rows are unused: they get zeros at position 0, since the
            cache's next position may be past the model's last.
        types: Token types; empty for a model without them.
        cache: Keys and values of the earlier tokens; those of the new tokens are appended.
    """

    ids: Sequence[Sequence[int]]
    types: Sequence[Sequence[int]]
    cache: KVCache


class Runner:
    """Runs a model on new tokens and chooses the tokens that follow.

    Attributes:
        forward: The forward pass.
    """

    def __init__(self, hf_model: "PreTrainedModel") -> None:
        self._hf_model = hf_model
        self._choice = ForwardChoice(hf_model)
        self.forward: Forward  # set by `refresh`: models that are only trained need not be supported

    def refresh(self, version: object) -> None:
        """Makes the forward pass use the model's current weights; `version` differs when their values do."""
        self.forward = self._choice.forward(version)

    def read(self, parts: Sequence[Part]) -> torch.Tensor:
        """Runs the model on the next tokens of some caches, all in one forward pass.

        If it raises, the caches are as they were.

        Returns:
            The logits after the last token of each row, (rows of all parts, vocabulary).

        Raises:
            RuntimeError: If the model does not append to the caches.
        """
        lengths = [part.cache.length for part in parts]
        try:
            with THREADS.step():
                logits = self.forward([self._tensors(part) for part in parts])
            ends = [length + max(map(len, part.ids)) for length, part in zip(lengths, parts, strict=True)]
            if [part.cache.length for part in parts] != ends:
                raise RuntimeError("this model does not append keys and values to the cache: pass use_cache=False")
        except BaseException:  # Ctrl-C, too, maybe between two layers
            for part, length in zip(parts, lengths, strict=True):
                part.cache.keep(length)
            raise
        return logits

    def _tensors(self, part: Part) -> NewTokens:
        ids, types, cache = part
        new = max(map(len, ids))
        begins = [cache.length - start if row else None for row, start in zip(ids, cache.starts, strict=True)]
        positions = [[0] * new if begin is None else [*range(begin, begin + new)] for begin in begins]
        given_types = self._tensor(types, new) if any(types) else None
        return NewTokens(self._tensor(ids, new), given_types, self._tensor(positions, new), cache)

    def choose(self, rows: Sequence[Row], logits: torch.Tensor) -> None:
        """Chooses the next token of each row from logits, (rows, vocabulary).

        An error of a logits processor ends only its request, and so do logits that are not numbers.
        """
        logits = logits.float()
        sums, places = log_sums(logits)
        totals, tokens = sums.tolist(), places.tolist()
        for number, row in enumerate(rows):
            try:
                if not math.isfinite(totals[number]):
                    raise logits_error(self._hf_model)
                if not row.sampler.is_plain:
                    tokens[number] = row.sampler.choose(row.ids, logits[number : number + 1])
            except Exception as error:
                row.request.error = error
        scores = logits.gather(1, torch.tensor(tokens, device=logits.device)[:, None])[:, 0].tolist()
        top = [_likeliest(row_logits, row.request.alternatives) for row, row_logits in zip(rows, logits, strict=True)]
        # Without other work in between, so that Ctrl-C leaves either all rows or none with the new token.
        for row, token, score, total, best in zip(rows, tokens, scores, totals, top, strict=True):
            if row.request.error is None:
                row.add(token, score - total, [(index, value - total) for index, value in best])
        for request in dict.fromkeys(row.request for row in rows):
            request.progress += 1

    def _tensor(self, rows: Sequence[Sequence[int]], length: int) -> torch.Tensor:
        return torch.tensor([row or [0] * length for row in rows], device=self._hf_model.device)


def _likeliest(logits: torch.Tensor, count: int) -> list[tuple[int, float]]:
    """Returns the ids and logits of the likeliest tokens."""
    if not count:  # the usual case: `topk` with k=0 takes time in every step
        return []
    values, ids = logits.topk(count)
    return [*zip(ids.tolist(), values.tolist(), strict=True)]
