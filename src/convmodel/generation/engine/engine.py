"""Requests to tokens: prompts are read, then all responses in work go on together, one token a step.

Owns: which requests share a step, joining and leaving between steps, cancelling, and the cache that requests share.
Knows token ids only: no text, no turns. It has no thread of its own: whoever waits for a token makes the next step, for
all. Yu et al. 2022, "Orca: A Distributed Serving System for Transformer-Based Generative Models", section 3.1.
"""

import copy
import threading
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch

from convmodel.errors import ConfigError
from convmodel.generation.engine.batch import Batch
from convmodel.generation.engine.forward import Forward, HFForward, read_tokens
from convmodel.generation.engine.kv_cache import KVCache
from convmodel.generation.engine.lean_gpt2 import LeanGPT2, supports
from convmodel.generation.engine.prefill import ROOM, Prompts, Steps
from convmodel.generation.engine.prefix_cache import LEAST_BYTES, SHARE_OF_WEIGHTS, PrefixCache
from convmodel.generation.engine.request import Request, Row
from convmodel.hf_model.fingerprint import weights_version

if TYPE_CHECKING:
    from transformers import PreTrainedModel

MAX_ROWS = 32
"""How many responses are generated together; more wait."""

LEAST_IN_WORK = 2**30
"""Bytes that the caches of requests in work may take whatever the model's size; the first may take more."""

_PIECE = 512  # tokens of prompts that are read before the responses in work go on


class Engine:
    """Generates tokens with one model, for any number of callers at the same time.

    Attributes:
        hf_model: The model.
        caches: What is kept of earlier requests.
        max_rows: How many responses are generated together.

    Example:
        >>> from convmodel import ConversationModel
        >>> from convmodel.generation.engine.sampling import Sampler
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
        self._weight_bytes = weights
        self._position_bytes = 0  # not known before a first prompt was read
        self.max_rows = max_rows
        self._prompts = Prompts(self.caches)
        self._joining: list[tuple[Request, KVCache]] = []  # whose prompts have been read
        self._batches: list[Batch] = []
        self._changed = threading.Condition()
        self._stepping = False
        self._leader = 0  # the thread that makes the steps
        self._has_read = False
        self._version: Any = None
        self._forward: Forward

    def add(self, requests: Sequence[Request]) -> None:
        """Adds requests, which go on with every step, whoever makes it."""
        self._check_weights()
        with self._changed:
            self._prompts.waiting.extend(requests)

    def step(self) -> bool:
        """Makes one step for all requests; for a thread that does nothing else, and follows none of them.

        Returns:
            Whether any request goes on.
        """
        with self._leading(lambda: False):
            self._step()
        return bool(self._all_requests())

    def follow(self, request: Request) -> Generator[None]:
        """Adds a request, and yields whenever its responses have gone on; they are in its `rows`.

        Closing the iterator cancels the request.

        Raises:
            Exception: What a logits processor or the model raised.
        """
        yield from self.follow_all([request])
        if request.error is not None:
            raise request.error

    def follow_all(self, requests: Sequence[Request]) -> Generator[None]:
        """Adds requests, and yields whenever responses to any of them have gone on.

        Closing the iterator cancels them. What goes wrong with one stays in its `error`, and the others go on.
        """

        def progress() -> int:
            return sum(request.progress + request.done for request in requests)

        def is_new() -> bool:
            return progress() > seen

        self.add(requests)
        seen = progress()
        try:
            while is_new() or not all(request.done for request in requests):
                self._advance(is_new)
                seen = progress()
                yield
        finally:
            for request in requests:
                request.cancelled |= not request.done
            self.settle()

    def __deepcopy__(self, memo: dict[int, Any]) -> "Engine":
        return Engine(copy.deepcopy(self.hf_model, memo), max_rows=self.max_rows, cache_bytes=self._cache_bytes)

    @property
    def load(self) -> tuple[int, int]:
        """How many responses are in work, and how many requests wait."""
        return len(self._in_work()), len(self._prompts.waiting) + len(self._prompts.reading)

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

    def _advance(self, is_new: Callable[[], bool]) -> None:
        """Waits until there is something new, and makes the steps if nobody else does."""
        with self._leading(is_new) as leads:
            while leads and not is_new():
                self._step()
                with self._changed:
                    self._changed.notify_all()

    @contextmanager
    def _leading(self, needless: Callable[[], bool]) -> Generator[bool]:
        """Waits until nobody makes steps, and tells whether to make them: not where that has become needless."""
        with self._changed:
            if self._stepping and self._leader == threading.get_ident():
                raise ConfigError("a logits processor or a hook must not generate with the model that it works for")
            self._changed.wait_for(lambda: needless() or not self._stepping)
            leads = not needless()
            if leads:
                self._stepping, self._leader = True, threading.get_ident()
        try:
            yield leads
        finally:
            if leads:
                with self._changed:
                    try:
                        self._leave()  # for those that were closed meanwhile
                    finally:
                        self._stepping = False
                        self._changed.notify_all()

    def settle(self) -> None:
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
        return all(row.request.patient for row in self._in_work())

    def _read(self) -> bool:
        """Reads prompts, up to some number of tokens; those read to the end join the responses in work."""
        return self._prompts.read(_PIECE, Steps(self._forward.layers, self._read_piece, self._has_room, self._begin))

    def _read_piece(self, request: Request, cache: KVCache, piece: slice) -> torch.Tensor:
        logits = self._run([request.ids[piece]], [request.types[piece]], cache, [True])
        self._position_bytes = cache.position_bytes
        return logits

    def _begin(self, request: Request, cache: KVCache, logits: torch.Tensor) -> None:
        self._choose(request.rows, logits.expand(len(request.rows), -1))
        self._joining.append((request, cache))

    def _has_room(self, request: Request) -> bool:
        """Tells whether a request may begin: the first always, others as long as rows and memory are left."""
        rows = [*self._in_work(), *self._prompts.rows]
        positions = sum(len(row.request.ids) + min(row.request.max_new_tokens, ROOM) for row in [*rows, *request.rows])
        most = max(LEAST_IN_WORK, 2 * self._weight_bytes)
        few = len(rows) + len(request.rows) <= self.max_rows
        return not rows or (few and 0 < positions * self._position_bytes <= most)

    # Responses in work

    def _join(self) -> None:
        """Puts the responses whose prompts have been read into batches.

        A batch of its own costs a response reading the weights once more, a batch of longer ones reading its padding.
        """
        plan: dict[Batch, list[tuple[Request, KVCache]]] = {batch: [] for batch in self._batches}
        joined = {row.request for batch in self._batches for row in batch.rows}  # where Ctrl-C came in between
        joining = [each for each in self._joining if each[0] not in joined]
        for request, cache in sorted(joining, key=lambda each: -each[1].length):
            if request.remember and len(request.rows) > 1:
                self.caches.put(request.ids, request.types, cache)
            best, padding = Batch(), self._weight_bytes / self._position_bytes
            for batch, others in plan.items():
                lengths = [its.length for each, its in [*others, (request, cache)] for _ in each.rows]
                if (found := batch.padding(lengths)) <= padding:
                    best, padding = batch, found
            plan.setdefault(best, []).append((request, cache))
        for batch, others in plan.items():
            try:
                if others:
                    batch.join(others)
            except Exception as error:  # no memory for all of them
                for request, _ in others:
                    request.error = error
        self._batches, self._joining = [*plan], []
        self._leave()

    def _decode(self) -> None:
        """Lets all responses go on by one token."""
        if self._joining:
            self._join()
        for batch in self._batches:
            batch.step(self._run, self._choose)
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
        likeliest = [_likeliest(row.request.alternatives, scores) for row, scores in zip(rows, logits, strict=True)]
        # All at once, so that Ctrl-C finds either none or all of them a token further.
        for row, index, score, total, others in zip(rows, chosen, found, totals, likeliest, strict=True):
            if row.request.error is None:
                row.add(index, score - total, [(other, its - total) for other, its in others])
        for request in dict.fromkeys(row.request for row in rows):
            request.progress += 1

    def _leave(self) -> None:
        """Lets go of rows that ended; what they computed is kept for conversations that go on."""
        self._prompts.leave(lambda request, cache: self._remember(request, request.ids, request.types, cache))
        for request, cache in [each for each in self._joining if each[0].done]:
            self._joining.remove((request, cache))
            self._remember(request, request.ids, request.types, cache)
        for batch in self._batches:
            batch.leave(self._remember_row)
        self._batches = [batch for batch in self._batches if batch.rows]

    def _remember_row(self, row: Row, cache: KVCache) -> None:
        self._remember(row.request, row.request.ids + row.tokens, row.request.types_of(row), cache)

    def _remember(self, request: Request, ids: list[int], types: list[int], cache: KVCache) -> None:
        if request.remember and request.error is None:
            self.caches.put(ids, types, cache)

    def _in_work(self) -> list[Row]:
        joining = [row for request, _ in self._joining for row in request.rows]
        return [row for batch in self._batches for row in batch.rows] + joining

    def _all_requests(self) -> list[Request]:
        rows = [*self._prompts.rows, *self._in_work()]
        return [*self._prompts.waiting, *(row.request for row in rows)]

    def _run(self, ids: list[list[int]], types: list[list[int]], cache: KVCache, live: list[bool]) -> torch.Tensor:
        """Reads the next tokens of each row; returns the logits at the last, (rows, vocabulary)."""
        return read_tokens(self._forward, ids, types, cache, live=live, device=self.hf_model.device)


def _likeliest(count: int, scores: torch.Tensor) -> list[tuple[int, float]]:
    """Returns the ids and logits of the likeliest tokens."""
    if not count:
        return []
    values, ids = scores.topk(count)
    return [*zip(ids.tolist(), values.tolist(), strict=True)]
