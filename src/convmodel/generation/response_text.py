"""The text of one response in work, as it comes.

Owns: which part of it is certain, and that a stop string ends the row that it is found in.
"""

from collections.abc import Sequence

from convmodel.generation.detokenizer import Detokenizer
from convmodel.generation.engine.request import Row
from convmodel.generation.output import Chunk, FinishReason
from convmodel.layout.tokenizer import ConversationTokenizer


class RowText:
    """The text of one response in work, which ends where a stop string does."""

    def __init__(
        self, row: Row, tokenizer: ConversationTokenizer, stop_strings: Sequence[str], *, only_said: bool = False
    ) -> None:
        """Starts with an empty text.

        Args:
            row: The response.
            tokenizer: Turns its tokens into text.
            stop_strings: Texts that end it and are not part of it.
            only_said: Whether tokens of a stop string, or of what could become one, are in no chunk either.
        """
        self._only_said = only_said
        self.detokenizer = Detokenizer(tokenizer.decode, stop_strings)
        self._decode = tokenizer.decode
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
        end = self._certain() if self._only_said else len(self.detokenizer.ids)
        part = slice(self._said, end)
        self._said = part.stop
        return tuple(self._row.tokens[part]), tuple(self._row.log_probabilities[part])

    def _certain(self) -> int:
        """Counts the tokens without those of a stop string, or of what could become one."""
        end, unsaid = len(self.detokenizer.ids), self.detokenizer.unsaid
        while unsaid > 0 and end > self._said:
            end -= 1
            unsaid -= len(self._decode([self.detokenizer.ids[end]]))
        return end

    def finish(self) -> str:
        """Returns what was held back."""
        return self.detokenizer.finish()
