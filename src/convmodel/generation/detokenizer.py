"""Token ids to text, incrementally: whole characters only, and nothing of a stop string.

Owns: decoding in pieces whose join is the decoded whole.
"""

from collections.abc import Callable, Iterable, Sequence

from convmodel.layout.text_codec import REPLACEMENT

_WINDOW = 32


class Detokenizer:
    """Turns the ids of one response into text, piece by piece.

    Attributes:
        ids: The ids so far.
        stopped: Whether a stop string has ended the text.
        hidden: How many characters at the end of the decoded text are held back, or belong to a stop string.

    Example:
        >>> from convmodel import ConversationTokenizer
        >>> tokenizer = ConversationTokenizer.from_pretrained("gpt2")
        >>> detokenizer = Detokenizer(tokenizer.decode)
        >>> [detokenizer.add(index) for index in tokenizer.encode("Hi 😀")], detokenizer.finish()
        (['Hi', ' ', '😀'], '')
    """

    def __init__(
        self, decode: Callable[[Sequence[int]], str], stop_strings: Iterable[str] = (), *, lead: str = ""
    ) -> None:
        """Starts an empty response.

        Args:
            decode: Turns ids into text.
            stop_strings: Texts that end the response and are not part of it.
            lead: What the text of the first id begins with, if it does, and what is not part of the response.
        """
        self.ids: list[int] = []
        self.stopped = False
        self.hidden = 0
        self._decode = decode
        self._lead = lead
        self._stop_strings = [text for text in stop_strings if text]
        # Ids from `_base` on are decoded; their text up to `_shown` characters has been read.
        self._base = 0
        self._shown = 0
        self._held = ""

    def add(self, index: int) -> str:
        """Adds one id and returns the text that later ids can no longer change, possibly none."""
        self.ids.append(index)
        if self.stopped:
            return ""
        new = self._read()
        if new:
            new, self._lead = new.removeprefix(self._lead), ""
        return self._release(new, last=False)

    def finish(self) -> str:
        """Ends the response and returns what was held back; bytes that make no whole character are left out."""
        return "" if self.stopped else self._release("", last=True)

    def _read(self) -> str:
        """Decodes what is new and certain, in a window that restarts now and then, so that the cost stays linear."""
        text = self._decode(self.ids[self._base :]).rstrip(REPLACEMENT)
        new = text[self._shown :]
        self._shown = max(self._shown, len(text))
        if new and len(self.ids) - self._base > _WINDOW:
            # Restart at an id that is whole by itself: the first id may lose its leading space or half a character.
            overlap = self._decode(self.ids[-1:])
            if overlap and REPLACEMENT not in overlap:
                self._base, self._shown = len(self.ids) - 1, len(overlap)
        return new

    def _release(self, new: str, *, last: bool) -> str:
        text = self._held + new
        positions = [position for stop in self._stop_strings if (position := text.find(stop)) >= 0]
        if positions:
            self.stopped = True
            self._held = ""
            self.hidden = len(text) - min(positions)
            return text[: min(positions)]
        keep = 0 if last else self._possible_stop(text)
        self.hidden = keep
        self._held = text[len(text) - keep :]
        return text[: len(text) - keep]

    def _possible_stop(self, text: str) -> int:
        """Returns how many characters at the end could begin a stop string."""
        longest = max((len(stop) - 1 for stop in self._stop_strings), default=0)
        for size in range(min(longest, len(text)), 0, -1):
            if any(stop.startswith(text[-size:]) for stop in self._stop_strings):
                return size
        return 0
