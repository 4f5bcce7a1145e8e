"""The text of one response in work, as it comes.

Owns: which part of it is certain, and that a stop string ends the row that it is found in.
"""

from collections.abc import Sequence

from convmodel.generation.detokenizer import Detokenizer
from convmodel.generation.output import Chunk, FinishReason
from convmodel.generation.request import Row
from convmodel.tokenizer import ConversationTokenizer


class RowText:
    """The text of one response in work, which ends where a stop string does."""

    def __init__(self, row: Row, tokenizer: ConversationTokenizer, stop_strings: Sequence[str]) -> None:
        self.detokenizer = Detokenizer(tokenizer.decode, stop_strings)
        self._row = row
        self._said = 0

    @property
    def finish_reason(self) -> FinishReason | None:
        """Why the response ended; a stop string may do that after the engine's row has gone on."""
        return "stop" if self.detokenizer.stopped else self._row.finish_reason

    def new(self) -> Chunk:
        """Returns what is new and certain; the tokens of what is not come with a later chunk."""
        text = ""
        read = len(self.detokenizer.ids)
        for index in self._row.tokens[read:]:
            text += self.detokenizer.add(index)
            if self.detokenizer.stopped:
                self._row.finish_reason = "stop"
                break
        return Chunk(text, None, *self.held()) if text else Chunk("")

    def held(self) -> tuple[tuple[int, ...], tuple[float, ...]]:
        """Returns the tokens, and their log-probabilities, that no chunk has had."""
        part = slice(self._said, len(self.detokenizer.ids))
        self._said = len(self.detokenizer.ids)
        return tuple(self._row.tokens[part]), tuple(self._row.log_probabilities[part])

    def finish(self) -> str:
        """Returns what was held back."""
        return self.detokenizer.finish()
