"""Continuous batching: prompts are prefilled in chunks, and all active responses decode one token per step.

Owns: which requests share a step, joining and leaving between steps, cancellation, and the prefix cache. Knows token
ids only: no text, no turns. It has no thread of its own: a thread that waits for a token runs the next step for all
requests. Yu et al. 2022, "Orca: A Distributed Serving System for Transformer-Based Generative Models", section 3.1.
"""

import copy
import threading
from collections.abc import Callable, Generator, Sequence
from typing import TYPE_CHECKING, Any

import torch

from convmodel.errors import ConfigError
from convmodel.generation.engine.batch import Batch, decode
from convmodel.generation.engine.kv_cache import KVCache
from convmodel.generation.engine.prefill import ROOM, Prefill
from convmodel.generation.engine.prefix_cache import LEAST_BYTES, SHARE_OF_WEIGHTS, PrefixCache
from convmodel.generation.engine.request import Request, Row
from convmodel.generation.engine.runner import Runner
from convmodel.hf_model.fingerprint import weights_version
from convmodel.layout.architecture import positions

if TYPE_CHECKING:
    from transformers import PreTrainedModel

MAX_ROWS = 32
"""How many responses are generated together; further requests wait."""

MIN_ACTIVE_BYTES = 2**30
"""Memory that the KV caches of active requests may take in any case, in bytes; a single request may take more."""

_PART_BYTES = 4 * 2**20  # that are loaded in the time that another part of a forward pass takes

_CHUNK = 512  # prompt tokens that are prefilled before active responses decode their next token


class Engine:
    """Generates tokens with one model, for any number of callers at the same time.

    Attributes:
        hf_model: The model.
        caches: KV caches of earlier requests.
        max_rows: How many responses are generated together.
        runner: Runs the model and chooses tokens.

    Example:
        >>> from convmodel import ConversationModel
        >>> from convmodel.generation.engine.sampling import Sampler
        >>> model = ConversationModel.from_pretrained("model")
        >>> greedy, stop_ids = Sampler({}, [2, 7, 2], [2]), frozenset([2])
        >>> request = Request([2, 7, 2], [0, 0, 1], [greedy], stop_ids=stop_ids, max_new_tokens=4)
        >>> for _ in Engine(model.hf_model).follow(request):
        ...     pass
        >>> len(request.rows[0].tokens) <= 4
        True
    """

    def __init__(
        self, hf_model: "PreTrainedModel", *, max_rows: int = MAX_ROWS, cache_bytes: int | None = None
    ) -> None:
        """Creates an idle engine.

        Args:
            hf_model: The model.
            max_rows: How many responses are generated together.
            cache_bytes: Memory for KV caches of earlier requests; by default a quarter of the weights' size, at least
                64 MiB.
        """
        self.hf_model, self.max_rows, self._cache_bytes = hf_model, max_rows, cache_bytes
        self._weight_bytes = sum(weight.nbytes for weight in hf_model.parameters())
        limit = max(LEAST_BYTES, int(self._weight_bytes * SHARE_OF_WEIGHTS)) if cache_bytes is None else cache_bytes
        self.caches = PrefixCache(limit)
        self.runner = Runner(hf_model)
        self._prefill = Prefill(self.caches)
        self._batches: list[Batch] = []
        self._position_bytes = 0  # of one position of one row; 0 until the first prompt has been processed
        self._version: Any = None
        self._changed = threading.Condition()
        self._stepper: int | None = None  # the thread that is running a step
        self._prefilled = False  # whether the latest step processed prompts

    def __deepcopy__(self, memo: dict[int, Any]) -> "Engine":
        return Engine(copy.deepcopy(self.hf_model, memo), max_rows=self.max_rows, cache_bytes=self._cache_bytes)

    @property
    def load(self) -> tuple[int, int]:
        """How many responses are active, and how many requests wait for their first token."""
        active = sum(row.request.prefilled for row in self._rows())
        return active, len(self._prefill.waiting) + len(self._prefill.unread)

    # Called by any thread

    def add(self, requests: Sequence[Request]) -> None:
        """Adds requests, which advance with every step, whichever thread runs it."""
        version = weights_version(self.hf_model)
        with self._changed:
            if version != self._version:  # keys and values of other weights are invalid
                self._version = version
                self.caches.clear()
                for request in self._requests():
                    request.remember = False
            self.runner.refresh(version)
            self._prefill.waiting.extend(requests)

    def step(self) -> bool:
        """Runs one step for all requests; for a dedicated thread that does not follow any of them.

        Returns:
            Whether any request is left.
        """
        self._step_unless(lambda: False)
        return bool(self._requests())

    def follow(self, request: Request) -> Generator[None]:
        """Adds a request, and yields whenever its responses in `rows` have new tokens.

        Closing the iterator cancels the request.

        Raises:
            Exception: If a logits processor or the model raised it.
        """
        yield from self.follow_all([request])
        if request.error is not None:
            raise request.error

    def follow_all(self, requests: Sequence[Request]) -> Generator[None]:
        """Adds requests, and yields whenever any of their responses has new tokens.

        Closing the iterator cancels them. If a request fails, its `error` is set, and the others continue.
        """

        def progress() -> int:
            return sum(request.progress + request.done for request in requests)

        def is_new() -> bool:
            return progress() > seen

        seen = progress()  # before they are added, since another thread may advance them at once
        try:
            self.add(requests)
            while is_new() or not all(request.done for request in requests):
                while not is_new():
                    self._step_unless(is_new)
                seen = progress()
                yield
        finally:
            for request in requests:
                request.cancelled |= not request.done
            self.settle()

    def settle(self) -> None:
        """Frees the memory of finished requests, unless a step is running, which does so at its end."""
        with self._changed:
            if self._stepper is None:
                self._release_done()

    def _step_unless(self, skip: Callable[[], bool]) -> None:
        """Runs a step as soon as no other thread runs one, unless `skip` returns True by then."""
        thread = threading.get_ident()
        if self._stepper == thread:
            raise ConfigError("a logits processor or a hook must not generate with the same model")
        try:
            with self._changed:
                self._changed.wait_for(lambda: self._stepper is None or skip())
                if skip():
                    return
                self._stepper = thread
            self._step()
        finally:
            if self._stepper == thread:
                with self._changed:
                    try:
                        self._release_done()  # requests may have been cancelled meanwhile
                    finally:
                        self._stepper = None
                        self._changed.notify_all()

    # One step

    @torch.inference_mode()
    def _step(self) -> None:
        """Prefills a chunk or decodes one token, alternately, so that neither delays the other for long."""
        self._release_done()
        may_prefill = not self._prefilled or all(row.request.patient for row in self._rows() if row.request.prefilled)
        self._prefilled = may_prefill and self._prefill_chunk()
        if not self._prefilled:
            self._join()
            decode(self._batches, self.runner)
            self._release_done()

    def _prefill_chunk(self) -> bool:
        """Processes up to `_CHUNK` prompt tokens; returns whether there were any."""
        remaining = _CHUNK
        while remaining > 0:
            with self._changed:  # since `add` may clear the prefix cache
                while self._prefill.waiting and self._has_room(self._prefill.waiting[0]):
                    self._prefill.start_next(self.runner)
            if not self._prefill.unread:
                break
            remaining -= self._prefill.read(self.runner, remaining)
            for request in self._prefill.started[:1] if not self._position_bytes else ():
                self._position_bytes = request.cache.position_bytes if request.cache else 0
        return remaining < _CHUNK

    def _has_room(self, request: Request) -> bool:
        """Returns whether a request may start: always if none is active, otherwise if rows and memory suffice."""
        rows = self._rows()
        needed = sum(len(row.request.ids) + min(row.request.max_new_tokens, ROOM) for row in [*rows, *request.rows])
        limit = max(MIN_ACTIVE_BYTES, 2 * self._weight_bytes)
        fits = len(rows) + len(request.rows) <= self.max_rows
        return not rows or (fits and 0 < needed * self._position_bytes <= limit)

    def _join(self) -> None:
        """Moves requests whose prompts have been processed into batches.

        A shorter sequence in a batch loads padding, too, and another batch is another part of the forward pass.
        """
        joined = {row.request for batch in self._batches for row in batch.rows}  # if Ctrl-C interrupted a call
        plan: dict[Batch, list[tuple[Request, KVCache]]] = {batch: [] for batch in self._batches}
        ready = [(request, request.cache) for request in self._prefill.started if request.prefilled and request.cache]
        for request, cache in sorted(ready, key=lambda pair: -pair[1].length):
            if request not in joined:
                with self._changed:  # since `add` may clear the prefix cache
                    if request.remember and len(request.rows) > 1:
                        self.caches.put(request.ids, request.types, cache, scope=request.scope)
                plan.setdefault(self._best_batch(plan, request, cache), []).append((request, cache))
        for batch, pairs in plan.items():
            try:
                if pairs:
                    batch.join(pairs)
            except Exception as error:  # out of memory
                for request, _ in pairs:
                    request.error = error
        self._batches = [*plan]
        self._prefill.started = self._prefill.unread
        for request, _ in ready:
            request.cache = None
        self._release_done()  # responses that ended with their first token

    def _best_batch(self, plan: dict[Batch, list[tuple[Request, KVCache]]], request: Request, cache: KVCache) -> Batch:
        """Returns the batch that a request joins with the least padding; a new one if that is too much."""
        cost = _PART_BYTES if self.runner.forward.shares_weights else self._weight_bytes
        best, least = Batch(positions(self.hf_model.config)), cost / cache.position_bytes
        for batch, pairs in plan.items():
            lengths = [joining.length for owner, joining in [*pairs, (request, cache)] for _ in owner.rows]
            if (padding := batch.padding(lengths)) <= least:
                best, least = batch, padding
        return best

    # Leaving

    def _release_done(self) -> None:
        """Frees the memory of finished requests, and keeps their KV caches for conversations that continue."""
        with self._changed:  # since `add` may clear the prefix cache
            for request in self._prefill.pop_done():
                cache, request.cache = request.cache, None
                if cache and request.remember and request.error is None:
                    self.caches.put(request.ids, request.types, cache, scope=request.scope)
            for batch in self._batches:
                for row, cache in batch.pop_done():
                    request = row.request
                    self.caches.put(request.ids + row.tokens, request.types_of(row), cache, scope=request.scope)
            self._batches = [batch for batch in self._batches if batch.rows]

    def _requests(self) -> list[Request]:
        return [*self._prefill.waiting, *dict.fromkeys(row.request for row in self._rows())]

    def _rows(self) -> list[Row]:
        """The responses to started requests that take up room: those that ended too, until they are released."""
        in_prefill = [row for request in self._prefill.started for row in request.rows]
        return in_prefill + [row for batch in self._batches for row in batch.rows]
