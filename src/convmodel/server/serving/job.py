"""A request that is being answered, between the engine's thread and the server's event loop.

Owns: delivering its new pieces of text in order, and its times.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field

from convmodel.generation.engine.request import Request
from convmodel.generation.output import Chunk, FinishReason
from convmodel.generation.response_text import ResponseText
from convmodel.server.errors import ApiError, api_error


@dataclass(frozen=True, slots=True)
class Piece:
    """A new piece of one response.

    Attributes:
        index: The index of the response among those of the request.
        text: The text to append; never a part of a character.
        ids: The new tokens.
        log_probabilities: The log-probability of each token, in nats.
        alternatives: The likeliest tokens at the position of each, as pairs of id and nats, if requested.
        finish_reason: Why the response ended; None in all pieces but the last.
    """

    index: int
    text: str
    ids: tuple[int, ...] = ()
    log_probabilities: tuple[float, ...] = ()
    alternatives: tuple[list[tuple[int, float]], ...] = ()
    finish_reason: FinishReason | None = None


@dataclass(eq=False)
class Job:
    """A request of the engine, the texts of its responses, and the queue to whoever waits for them.

    Attributes:
        request: The engine's request.
        texts: The text of each response.
        left_out: How many of the oldest turns the prompt leaves out.
        cut: How many tokens were cut from the newest turn.
        arrived: When it was submitted, by `time.monotonic`.
        first_at: When its first token was generated.
        ended_at: When its last response ended.
    """

    request: Request
    texts: list[ResponseText]
    left_out: int = 0
    cut: int = 0
    arrived: float = field(default_factory=time.monotonic)
    first_at: float | None = None
    ended_at: float | None = None

    def __post_init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._news: asyncio.Queue[Piece | Exception | None] = asyncio.Queue()
        self._open = set(range(len(self.texts)))
        self._sent = [0] * len(self.texts)

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
        after_first = self.completion_tokens - len(self.texts)
        return after_first / (self.ended_at - self.first_at) if after_first > 0 else None

    def cancel(self) -> None:
        """Ends the request, because nobody waits for it any more."""
        self.request.cancelled = True

    async def next(self) -> Piece | None:
        """Waits for the next piece; None after the last.

        Raises:
            ApiError: If the request failed.
        """
        news = await self._news.get()
        if isinstance(news, Exception):
            raise api_error(news) from news
        return news

    # Called by the engine's thread.

    def new_pieces(self, now: float) -> list[Piece | Exception | None]:
        """Returns what is new since the last call: pieces, then an error or, after the last piece, None."""
        news: list[Piece | Exception | None] = []
        for index in sorted(self._open):
            chunk = self.texts[index].next()
            if self.request.rows[index].tokens and self.first_at is None:
                self.first_at = now
            if chunk is not None:
                news.append(self._piece(index, chunk))
                if chunk.finish_reason is not None:
                    self._open.discard(index)
        if self.request.error is not None:
            news.append(self.request.error)
        elif not self._open:
            self.ended_at = now
            news.append(None)
        elif self.request.cancelled:
            news.append(ApiError(499, "the client disconnected"))
        return news

    def tell(self, news: list[Piece | Exception | None]) -> None:
        """Delivers new pieces to whoever waits; called on the event loop."""
        for each in news:
            self._news.put_nowait(each)

    @property
    def loop(self) -> asyncio.AbstractEventLoop:
        """The event loop of whoever waits."""
        return self._loop

    def _piece(self, index: int, chunk: Chunk) -> Piece:
        begin = self._sent[index]
        self._sent[index] = end = begin + len(chunk.token_ids)
        others = tuple(self.request.rows[index].alternatives[begin:end]) if self.request.alternatives else ()
        return Piece(index, chunk.text, chunk.token_ids, chunk.log_probabilities, others, chunk.finish_reason)


async def pieces_of(
    jobs: Sequence[Job], *, ping_seconds: float | None = None
) -> AsyncIterator[tuple[int, Piece] | None]:
    """Yields the pieces of several jobs, each with the index of its response among all; None after silence.

    Raises:
        ApiError: If one of the jobs failed.
    """
    firsts = [sum(len(job.texts) for job in jobs[:number]) for number in range(len(jobs))]
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
