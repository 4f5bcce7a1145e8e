"""A request that is being answered, between the engine's thread and the server's event loop.

Owns: delivering its new pieces of text in order, and its times.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field, replace

from convmodel.generation.engine.request import Request
from convmodel.generation.output import Chunk, FinishReason
from convmodel.generation.response_text import ResponseText
from convmodel.server.errors import ApiError, api_error


@dataclass(frozen=True, slots=True)
class Piece:
    """A new piece of one response."""

    index: int  # of the response among those of the request
    text: str  # what to append; never a part of a character
    ids: tuple[int, ...] = ()
    log_probabilities: tuple[float, ...] = ()  # of each token, in nats
    alternatives: tuple[list[tuple[int, float]], ...] = ()  # the likeliest tokens at each position, if requested
    finish_reason: FinishReason | None = None  # None in all pieces but the last


Updates = list[Piece | Exception | None]
"""New pieces of a job, then an error or, after the last piece, None."""


@dataclass(eq=False)
class Job:
    """A request of the engine, the texts of its responses, and the queue of the route that waits for them."""

    request: Request
    texts: list[ResponseText]
    choose: Callable[[], int] | None = None  # returns which text is the response, if all are candidates
    left_out: int = 0  # how many of the oldest turns the prompt leaves out
    cut: int = 0  # how many tokens were cut from the newest turn
    arrived: float = field(default_factory=time.monotonic)
    first_at: float | None = None  # when its first token was generated, by the same clock
    ended_at: float | None = None  # when its last response ended

    def __post_init__(self) -> None:
        self.loop = asyncio.get_running_loop()
        self._updates: asyncio.Queue[Piece | Exception | None] = asyncio.Queue()
        self._open = set(range(len(self.texts)))
        self._sent = [0] * len(self.texts)
        self._held: list[Piece] = []  # of candidates, until the best is known
        self.responses = 1 if self.choose else len(self.texts)

    @property
    def begun_at(self) -> float | None:
        """When the engine began to read the prompt; None while the request waits."""
        return self.request.begun_at

    @property
    def completion_tokens(self) -> int:
        """Tokens of all responses so far, without those that ended them."""
        return sum(len(text.ids) for text in self.texts)

    @property
    def tokens_per_second(self) -> float | None:
        """The speed after the first token; None for a single token."""
        if self.first_at is None or self.ended_at is None or self.ended_at <= self.first_at:
            return None
        after_first = self.completion_tokens - self.responses
        return after_first / (self.ended_at - self.first_at) if after_first > 0 else None

    def cancel(self) -> None:
        """Ends the request, because no client waits for it any more."""
        self.request.cancelled = True

    async def next(self) -> Piece | None:
        """Waits for the next piece; None after the last. Raises an `ApiError` if the request failed."""
        update = await self._updates.get()
        if isinstance(update, Exception):
            raise api_error(update) from update
        return update

    def deliver(self, updates: Updates) -> None:
        """Passes updates to the waiting route; called on the event loop."""
        for update in updates:
            self._updates.put_nowait(update)

    def new_updates(self, now: float) -> Updates:
        """Returns the updates since the last call; called by the engine's thread."""
        updates: Updates = []
        for index in sorted(self._open):
            chunk = self.texts[index].next()
            if self.request.rows[index].tokens and self.first_at is None:
                self.first_at = now
            if chunk is not None:
                (self._held if self.choose else updates).append(self._piece(index, chunk))
                if chunk.finish_reason is not None:
                    self._open.discard(index)
        if self.request.error is not None:
            updates.append(self.request.error)
        elif not self._open:
            self.ended_at = now
            updates += [*self._chosen(), None]
        elif self.request.cancelled:
            updates.append(ApiError(499, "the client disconnected"))
        return updates

    def _chosen(self) -> list[Piece]:
        """Returns the pieces of the best candidate, if the response is one; drops the others."""
        if self.choose is None or not self._held:
            return []
        best = self.choose()
        self.texts = [self.texts[best]]
        pieces = [replace(piece, index=0) for piece in self._held if piece.index == best]
        self._held = []
        return pieces

    def _piece(self, index: int, chunk: Chunk) -> Piece:
        begin = self._sent[index]
        self._sent[index] = end = begin + len(chunk.token_ids)
        alternatives = tuple(self.request.rows[index].alternatives[begin:end]) if self.request.alternatives else ()
        return Piece(index, chunk.text, chunk.token_ids, chunk.log_probabilities, alternatives, chunk.finish_reason)


async def pieces_of(
    jobs: Sequence[Job], *, ping_seconds: float | None = None
) -> AsyncIterator[tuple[int, Piece] | None]:
    """Yields the pieces of several jobs, each with the index of its response among all; None after silence."""
    firsts = [sum(job.responses for job in jobs[:number]) for number in range(len(jobs))]
    waiting = {asyncio.ensure_future(job.next()): number for number, job in enumerate(jobs)}
    try:
        while waiting:
            ready, _ = await asyncio.wait(waiting, timeout=ping_seconds, return_when=asyncio.FIRST_COMPLETED)
            if not ready:
                yield None
            for task in ready:
                number = waiting.pop(task)
                if (piece := task.result()) is not None:
                    waiting[asyncio.ensure_future(jobs[number].next())] = number
                    yield firsts[number] + piece.index, piece
    finally:
        for task in waiting:
            task.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)
