"""Requests to tokens: prompts are read, then all responses in work go on together, one token a step.

Owns: which requests share a step, joining and leaving between steps, cancelling, and the cache that requests share.
Knows token ids only: no text, no turns. It has no thread of its own: whoever waits for a token makes the next step, for
all. Yu et al. 2022, "Orca: A Distributed Serving System for Transformer-Based Generative Models", section 3.1.
"""

import copy
import threading
from collections import deque
from collections.abc import Generator
from typing import TYPE_CHECKING, Any

import torch

from convmodel.errors import ConfigError
from convmodel.generation.forward import Forward, HFForward, read_tokens, weights_version
from convmodel.generation.kv_cache import KVCache
from convmodel.generation.lean_gpt2 import LeanGPT2, supports
from convmodel.generation.prefix_cache import LEAST_BYTES, SHARE_OF_WEIGHTS, PrefixCache
from convmodel.generation.request import Request, Row

if TYPE_CHECKING:
    from transformers import PreTrainedModel

MAX_ROWS = 32
"""How many responses are generated together; more wait."""

_ROOM = 256  # positions that a response finds at first; it gets more where it needs them
_PIECE = 512  # tokens of prompts that are read before the responses in work go on


class Engine:
    """Generates tokens with one model, for any number of callers at the same time.

    Attributes:
        hf_model: The model.
        caches: What is kept of earlier requests.

    Example:
        >>> from convmodel import ConversationModel
        >>> from convmodel.generation.sampling import Sampler
        >>> model = ConversationModel.from_pretrained("model")
        >>> greedy, ends = Sampler({}, [2, 7, 2], [2]), frozenset([2])
        >>> request = Request([2, 7, 2], [0, 0, 1], [greedy], stop_ids=ends, max_new_tokens=4)
        >>> for _ in Engine(model.hf_model).follow(request):
        ...     pass
        >>> len(request.rows[0].tokens) <= 4
        True
    """

    def __init__(
        self, hf_model: "PreTrainedModel", *, max_rows: int = MAX_ROWS, cache_bytes: int | None = None
    ) -> None:
        """Makes an engine that has nothing to do.

        Args:
            hf_model: The model.
            max_rows: How many responses are generated together.
            cache_bytes: Memory for what is kept of earlier requests; by default a quarter of the weights', at least 64
                MiB.
        """
        self.hf_model = hf_model
        self._cache_bytes = cache_bytes
        weights = sum(weight.nbytes for weight in hf_model.parameters())
        limit = max(LEAST_BYTES, int(weights * SHARE_OF_WEIGHTS)) if cache_bytes is None else cache_bytes
        self.caches = PrefixCache(limit)
        self._max_rows = max_rows
        self._waiting: deque[Request] = deque()
        self._reading: tuple[Request, KVCache] | None = None
        self._joining: list[tuple[Request, KVCache]] = []  # whose prompts have been read
        self._rows: list[Row | None] = []  # None where a row of the cache is of no more use
        self._cache: KVCache | None = None
        self._changed = threading.Condition()
        self._stepping = False
        self._leader = 0  # the thread that makes the steps
        self._has_read = False
        self._version: Any = None
        self._forward: Forward

    def follow(self, request: Request) -> Generator[None]:
        """Adds a request, and yields whenever its responses have gone on; they are in its `rows`.

        Closing the iterator cancels the request.

        Raises:
            Exception: What a logits processor or the model raised.
        """
        self._check_weights()
        with self._changed:
            self._waiting.append(request)
        seen = 0
        try:
            while request.error is None and (request.progress > seen or not request.done):
                self._advance(request, seen)
                if request.progress > seen:
                    seen = request.progress
                    yield
        finally:
            request.cancelled |= not request.done
            self._settle()
        if request.error is not None:
            raise request.error

    def __deepcopy__(self, memo: dict[int, Any]) -> "Engine":
        return Engine(copy.deepcopy(self.hf_model, memo), max_rows=self._max_rows, cache_bytes=self._cache_bytes)

    @property
    def load(self) -> tuple[int, int]:
        """How many responses are in work, and how many requests wait."""
        joining = sum(len(request.rows) for request, _ in self._joining)
        in_work = sum(row is not None for row in self._rows) + joining
        return in_work, len(self._waiting) + (self._reading is not None)

    def _check_weights(self) -> None:
        """Forgets what was computed with other weights."""
        version = weights_version(self.hf_model)
        with self._changed:
            if version != self._version:
                self._version = version
                self.caches.clear()
                for request in self._all_requests():
                    request.remember = False  # what it has read was read with the weights of before
            self._forward = LeanGPT2(self.hf_model) if supports(self.hf_model) else HFForward(self.hf_model)

    def _advance(self, request: Request, seen: int) -> None:
        """Waits until there is something new of a request, and makes the steps if nobody else does."""

        def is_new() -> bool:
            return request.progress > seen or request.done

        with self._changed:
            if self._stepping and self._leader == threading.get_ident():
                raise ConfigError("a logits processor or a hook must not generate with the model that it works for")
            self._changed.wait_for(lambda: is_new() or not self._stepping)
            if is_new():
                return
            self._stepping, self._leader = True, threading.get_ident()
        try:
            while not is_new():
                self._step()
                with self._changed:
                    self._changed.notify_all()
        finally:
            with self._changed:
                try:
                    self._leave()  # for those that were closed meanwhile
                finally:
                    self._stepping = False
                    self._changed.notify_all()

    def _settle(self) -> None:
        """Lets go of what is over, unless a step is being made, which does it then."""
        with self._changed:
            if not self._stepping:
                self._leave()

    @torch.inference_mode()
    def _step(self) -> None:
        self._leave()
        # In turn, so that first tokens come out at once and nobody waits for more than a piece of a prompt.
        self._has_read = (not self._has_read or self._is_patient()) and self._read()
        if not self._has_read:
            self._decode()

    def _is_patient(self) -> bool:
        return all(row.request.patient for row in self._rows if row) and all(new.patient for new, _ in self._joining)

    # Reading prompts

    def _read(self) -> bool:
        """Reads prompts, up to some number of tokens; those read to the end join the responses in work.

        Returns:
            Whether there was anything to read.
        """
        left = _PIECE
        while left > 0 and (reading := self._reading or self._next()):
            request, cache = self._reading = reading
            before = cache.length
            piece = slice(before, before + left)
            try:
                logits = self._run([request.ids[piece]], [request.types[piece]], cache)
                left -= cache.length - before
                if cache.length == len(request.ids):
                    self._choose(request.rows, logits.expand(len(request.rows), -1))
                    self._reading = None
                    self._joining.append(reading)
            except Exception as error:
                self._reading, request.error = None, error
            except BaseException:  # Ctrl-C, maybe between two layers
                cache.keep(before)
                raise
        return left < _PIECE

    def _next(self) -> tuple[Request, KVCache] | None:
        """Takes the next request that waits, if there is room for it."""
        while self._waiting:
            in_work = self.load[0]
            if in_work and in_work + len(self._waiting[0].rows) > self._max_rows:
                return None
            request, cache = self._waiting[0], None
            if not request.done:
                room = len(request.ids) + min(request.max_new_tokens, _ROOM)
                try:
                    cache = self.caches.take(request.ids, request.types, room=room)
                    cache = cache or KVCache(self._forward.layers, room=room)
                    request.cached_tokens = cache.length
                except Exception as error:
                    request.error = error
            # Not before, so that Ctrl-C loses no request of another thread.
            self._waiting.popleft()
            if cache is not None and request.error is None:
                return request, cache
        return None

    def _join(self) -> None:
        """Makes one batch of the responses in work and of those whose prompts have been read."""
        parts = [] if self._cache is None else [(self._cache, [i for i, row in enumerate(self._rows) if row])]
        rows: list[Row | None] = [row for row in self._rows if row]
        for request, cache in self._joining:
            if request.remember and len(request.rows) > 1:
                self.caches.put(request.ids, request.types, cache)
            parts.append((cache, [0] * len(request.rows)))
            rows += request.rows
        try:
            self._cache, self._rows, self._joining = KVCache.merge(parts), rows, []
        except Exception as error:  # no memory for all of them
            for request, _ in self._joining:
                request.error = error
        self._leave()

    # Responses in work

    def _decode(self) -> None:
        """Lets all responses go on by one token."""
        if self._joining:
            self._join()
        if self._cache is None:
            return
        cache, before = self._cache, self._cache.length
        try:
            logits = self._run(
                [[row.tokens[-1] if row else 0] for row in self._rows],
                [row.request.types[-1:] if row else [] for row in self._rows],
                cache,
            )
            live = [i for i, row in enumerate(self._rows) if row]
            self._choose([row for row in self._rows if row], logits[live])
        except Exception as error:
            for row in self._rows:
                if row:
                    row.request.error = error
            self._rows, self._cache = [], None
        except BaseException:
            cache.keep(before)
            raise
        self._leave()

    def _choose(self, rows: list[Row], logits: torch.Tensor) -> None:
        """Chooses the next token of each row; what a processor raises ends its request only."""
        logits = logits.float()
        totals = logits.logsumexp(-1).tolist()
        chosen: list[int] = logits.argmax(-1).tolist()
        for number, row in enumerate(rows):
            if not row.sampler.is_plain:
                try:
                    chosen[number] = row.sampler.choose(row.ids, logits[number : number + 1])
                except Exception as error:
                    row.request.error = error
        found = logits.gather(1, torch.tensor(chosen, device=logits.device)[:, None])[:, 0].tolist()
        # All at once, so that Ctrl-C finds either none or all of them a token further.
        for row, index, score, total in zip(rows, chosen, found, totals, strict=True):
            if row.request.error is None:
                row.add(index, score - total)
        for request in dict.fromkeys(row.request for row in rows):
            request.progress += 1

    def _leave(self) -> None:
        """Lets go of rows that ended; what they computed is kept for conversations that go on."""
        if self._reading and self._reading[0].done:
            request, cache = self._reading
            self._reading = None
            self._remember(request, request.ids, request.types, cache)
        for request, cache in [each for each in self._joining if each[0].done]:
            self._joining.remove((request, cache))
            self._remember(request, request.ids, request.types, cache)
        for request in [each for each in self._waiting if each.done]:
            self._waiting.remove(request)
        if self._cache is None:
            return
        for number, row in enumerate(self._rows):
            if row and not row.live:
                self._rows[number] = None
                if len(row.request.rows) == 1 and row.request.remember and row.request.error is None:
                    cache = KVCache.merge([(self._cache, [number])])
                    self._remember(row.request, row.request.ids + row.tokens, row.request.types_of(row), cache)
        live = [i for i, row in enumerate(self._rows) if row]
        if not live:
            self._rows, self._cache = [], None
        elif len(live) <= len(self._rows) // 2:
            self._cache = KVCache.merge([(self._cache, live)])
            self._rows = [self._rows[i] for i in live]

    def _remember(self, request: Request, ids: list[int], types: list[int], cache: KVCache) -> None:
        if request.remember and request.error is None:
            self.caches.put(ids, types, cache)

    def _all_requests(self) -> list[Request]:
        read = [request for request, _ in [*self._joining, *([self._reading] if self._reading else [])]]
        return [*self._waiting, *read, *(row.request for row in self._rows if row)]

    def _run(self, ids: list[list[int]], types: list[list[int]], cache: KVCache) -> torch.Tensor:
        """Reads the next tokens of each row; returns the logits at the last, (rows, vocabulary)."""
        live = [row is not None for row in self._rows] if cache is self._cache else [True]
        return read_tokens(self._forward, ids, types, cache, live=live, device=self.hf_model.device)
