"""From tokens to text: the one loop that `generate`, `stream`, sessions and the server share.

Owns: which part of a response's text is certain, that a stop string ends the response it is found in, and putting
chunks together. Knows nothing about how the tokens are generated.
"""

import time
from collections.abc import Generator, Sequence
from contextlib import closing

from convmodel.generation.detokenizer import Detokenizer
from convmodel.generation.engine.request import Row
from convmodel.generation.output import Chunk, Response
from convmodel.layout.tokenizer import ConversationTokenizer


class ResponseText:
    """The text of one response while it is generated; it ends where a stop string does.

    Attributes:
        row: The response's tokens.
        ids: The tokens that were decoded.
    """

    def __init__(
        self, row: Row, tokenizer: ConversationTokenizer, stop_strings: Sequence[str], *, hide_stop_tokens: bool = False
    ) -> None:
        """Starts with an empty text.

        Args:
            row: The response's tokens.
            tokenizer: Decodes them.
            stop_strings: Texts that end it and are not part of it.
            hide_stop_tokens: Whether chunks leave out the tokens of a stop string, and hold back those that may become
                one, as they do with its text.
        """
        self.row = row
        self._tokenizer = tokenizer
        self._detokenizer = Detokenizer(tokenizer.decode, stop_strings, lead=row.request.lead)
        self._hide_stop_tokens = hide_stop_tokens
        self._sent = 0  # tokens that chunks have had
        self._started: float | None = None
        self._ended = False

    @property
    def ids(self) -> list[int]:
        """The tokens that were decoded."""
        return self._detokenizer.ids

    def next(self) -> Chunk | None:
        """Returns the text that is new and certain, or None; the chunk with a finish reason is the last."""
        if self._ended:
            return None
        reason, text = self.row.finish_reason, ""  # the reason first: another thread may add tokens, then a reason
        for token in self.row.tokens[len(self.ids) :]:
            self._started = self._started or time.perf_counter()
            text += self._detokenizer.add(token)
            if self._detokenizer.stopped:
                self.row.finish_reason = reason = "stop"
                break
        if reason is None:
            return Chunk(text, None, *self._new_tokens()) if text else None
        self._ended = True
        text += self._detokenizer.finish()
        return Chunk(text, reason, *self._new_tokens(), tokens_per_second=self._speed())

    def _new_tokens(self) -> tuple[tuple[int, ...], tuple[float, ...]]:
        """Returns the tokens that no chunk has had, and their log-probabilities."""
        end = self._shown_tokens() if self._hide_stop_tokens else len(self.ids)
        new = slice(self._sent, end)
        self._sent = end
        return tuple(self.row.tokens[new]), tuple(self.row.log_probabilities[new])

    def _shown_tokens(self) -> int:
        """Counts the tokens without those of a stop string or of what may become one."""
        end, hidden = len(self.ids), self._detokenizer.hidden
        while hidden > 0 and end > self._sent:
            end -= 1
            hidden -= len(self._tokenizer.decode([self.ids[end]]))
        return end

    def _speed(self) -> float | None:
        seconds = time.perf_counter() - self._started if self._started else 0.0
        return (len(self.ids) - 1) / seconds if len(self.ids) > 1 and seconds > 0 else None


def read_chunks(
    rows: Sequence[Row], steps: Generator[None], tokenizer: ConversationTokenizer, stop_strings: Sequence[str]
) -> Generator[tuple[Row, Chunk]]:
    """Turns the tokens of responses into text as they arrive.

    Args:
        rows: The responses.
        steps: Yields whenever any of them has new tokens; closed with this iterator.
        tokenizer: Decodes tokens.
        stop_strings: Texts that end a response.
    """
    texts = [ResponseText(row, tokenizer, stop_strings) for row in rows]
    with closing(steps):
        for _ in steps:
            for text in texts:
                if (chunk := text.next()) is not None:
                    yield text.row, chunk


def join_chunks(rows: Sequence[Row], chunks: Generator[tuple[Row, Chunk]]) -> list[Response]:
    """Puts the chunks of several responses together, in the order of their rows; closes `chunks`."""
    parts: dict[Row, list[Chunk]] = {row: [] for row in rows}
    with closing(chunks):  # else a traceback of Ctrl-C would keep it, and so the generation, alive
        for row, chunk in chunks:
            parts[row].append(chunk)
    return [
        Response(
            text="".join(chunk.text for chunk in row_chunks),
            ids=[index for chunk in row_chunks for index in chunk.token_ids],
            finish_reason=(row_chunks[-1].finish_reason if row_chunks else None) or "length",
        )
        for row_chunks in parts.values()
    ]
