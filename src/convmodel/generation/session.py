"""A conversation with a model, turn by turn.

Owns: the turns so far, and what `regenerate` and `undo` mean. Encoding is the tokenizer's, decoding generation's.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from convmodel.conversation import DEFAULT_SPEAKERS, Conversation, ConversationLike
from convmodel.errors import ConversationError
from convmodel.generation.engine.engine import Engine
from convmodel.generation.options import GenerationOptions, read_options
from convmodel.generation.output import Chunk, FinishReason
from convmodel.generation.respond import make_prompt, stream
from convmodel.layout.tokenizer import ConversationTokenizer


class Session(ABC):
    """Turns said so far, and something that responds to them.

    Attributes:
        left_out: How many of the oldest turns the newest response could no longer see.
        finish_reason: Why the newest response ended; None before any, or when it was interrupted.
    """

    def __init__(self, start: Conversation | None, user: str, responder: str) -> None:
        """Opens a session.

        Args:
            start: Turns before it.
            user: Who speaks to it.
            responder: Who responds.
        """
        self.left_out = 0
        self.finish_reason: FinishReason | None = None
        # With a seed, another response to the same turn needs another seed.
        self._attempts = 0
        self._start = self._conversation = start
        self._user, self._responder = user, responder

    @abstractmethod
    def _begin(self, asked: Conversation) -> tuple[int, Iterator[Chunk]]:
        """Returns how many turns the response will not see, and the response; raises what is wrong with the turns."""

    @property
    def conversation(self) -> Conversation | None:
        """The conversation so far; None before its first turn."""
        return self._conversation

    @property
    def turns(self) -> list[str]:
        """All turns so far, those that no longer fit in the context included."""
        return list(self._conversation.turns) if self._conversation else []

    def respond(self, text: str) -> str:
        """Takes the user's turn and returns the model's response; both become turns.

        Raises:
            ConversationError: If the text is empty; the session is unchanged.
            ContextTooLongError: If the text alone is too long; the session is unchanged.
        """
        return "".join(self.stream(text))

    def stream(self, text: str) -> Iterator[str]:
        """Takes the user's turn and yields the response as it comes, never half a character.

        Closing the iterator early ends the response, and what was said of it becomes the turn. Raises what `respond`
        raises, at the call.
        """
        if self._conversation is None:
            asked = Conversation([text], [self._user])
        else:
            asked = self._conversation.with_turn(text, self._user)
        self._attempts = 0
        return self._stream(asked, unanswered=asked)

    def regenerate(self) -> str:
        """Replaces the newest response by another one, and returns it.

        Raises:
            ConversationError: If there is nothing to respond to.
        """
        return "".join(self.stream_again())

    def stream_again(self) -> Iterator[str]:
        """Yields another response in place of the newest, which is kept until the new one says something.

        Raises:
            ConversationError: If there is nothing to respond to.
        """
        now = self._conversation
        asked = _without_last(now, self._responder) if now and now != self._start else None
        if asked is None:
            raise ConversationError("there is no response to replace yet: say something first")
        self._attempts += 1
        return self._stream(asked, unanswered=now)

    def undo(self) -> str:
        """Takes back the user's newest turn and the response to it, and returns what the user had said.

        Raises:
            ConversationError: If the user has said nothing yet.
        """
        asked = _without_last(self._conversation, self._responder) if self._conversation else None
        if asked is None or asked == self._start or self._conversation == self._start:
            raise ConversationError("there is no turn to take back")
        self._conversation = _without_last(asked, self._user)
        self.left_out, self.finish_reason = min(self.left_out, len(self.turns)), None
        return asked.turns[-1]

    def reset(self) -> None:
        """Goes back to the context that the session was opened with."""
        self._conversation = self._start
        self.left_out, self.finish_reason = 0, None

    def _stream(self, asked: Conversation, *, unanswered: Conversation | None) -> Iterator[str]:
        """Streams a response and makes a turn of it; the session stays `unanswered` where nothing was said."""
        left_out, chunks = self._begin(asked)
        return self._follow(asked, left_out, chunks, unanswered=unanswered)

    def _follow(
        self, asked: Conversation, left_out: int, chunks: Iterator[Chunk], *, unanswered: Conversation | None
    ) -> Iterator[str]:
        before, text = self._conversation, ""
        self.left_out, self.finish_reason = left_out, None
        try:
            for chunk in chunks:
                text += chunk.text
                self.finish_reason = chunk.finish_reason
                if chunk.text:
                    yield chunk.text
        except Exception:
            unanswered = before
            raise
        finally:
            self._conversation = asked.with_turn(text, self._responder) if text.strip() else unanswered


class ChatSession(Session):
    """Turns said so far, and a model that responds to them.

    Whole oldest turns leave the context when it is full; they stay in `turns`.

    Attributes:
        left_out: How many of the oldest turns the newest response could no longer see.
        finish_reason: Why the newest response ended; None before any, or when it was interrupted.

    Example:
        >>> from convmodel import ConversationModel
        >>> session = ConversationModel.from_pretrained("model").session()
        >>> response = session.respond("Hello")
        >>> session.turns == ["Hello", response]
        True
    """

    def __init__(
        self,
        engine: Engine,
        tokenizer: ConversationTokenizer,
        context: ConversationLike = (),
        **generation_options: Any,
    ) -> None:
        """Opens a session; `ConversationModel.session` is the usual way.

        Args:
            engine: What generates its responses.
            tokenizer: Its layout.
            context: Turns before the session, maybe with a pinned system turn.
            **generation_options: Options of `generate` for all responses of the session.

        Raises:
            ConfigError: If an option does not exist or makes no sense.
        """
        # A response of no tokens is no turn, so the first token may not end it.
        options = read_options(engine.hf_model, tokenizer, {"min_new_tokens": 1} | generation_options)
        empty = not isinstance(context, Conversation) and not context
        start = None if empty else Conversation.of(context)
        user, responder = _who_is_who(start, options.reply_as)
        super().__init__(start, user, responder)
        self._engine = engine
        self._tokenizer = tokenizer
        self._options: GenerationOptions = replace(options, reply_as=responder)

    def _begin(self, asked: Conversation) -> tuple[int, Iterator[Chunk]]:
        options = self._options
        prompt = make_prompt(self._tokenizer, asked, options)
        if options.seed is not None:
            options = replace(options, seed=options.seed + self._attempts)
        return prompt.left_out, stream(self._engine, self._tokenizer, prompt, options)


def _who_is_who(start: Conversation | None, reply_as: str | None) -> tuple[str, str]:
    """Names the user and the responder; they keep their names for the whole session."""
    if start is None:
        user, responder = DEFAULT_SPEAKERS
    else:
        user = start.next_speaker()
        responder = start.with_turn("-", user).next_speaker()
    if reply_as == user:
        user, responder = responder, user
    return user, reply_as or responder


def _without_last(conversation: Conversation, speaker: str) -> Conversation | None:
    """Returns the conversation without its newest turn if that is the speaker's; None if nothing is left."""
    if conversation.turn_speakers[-1] != speaker:
        return conversation
    if len(conversation.turns) == 1:
        return None
    return Conversation(
        conversation.turns[:-1],
        conversation.turn_speakers[:-1],
        pinned=min(conversation.pinned, len(conversation.turns) - 1),
        id=conversation.id,
    )
