"""A conversation with a model, turn by turn.

Owns: the turns so far, and what `regenerate`, `undo` and a change of the system turn or of the model mean.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

from convmodel.arguments.values import without_none
from convmodel.conversation import DEFAULT_SPEAKERS, Conversation, ConversationLike
from convmodel.errors import ConfigError, ConversationError
from convmodel.generation.chat_options import chat_options, chat_settings
from convmodel.generation.defaults import chat_sampling
from convmodel.generation.engine.engine import Engine
from convmodel.generation.options import check_names
from convmodel.generation.output import Chunk, FinishReason
from convmodel.generation.respond import make_prompt, stream
from convmodel.hf_model.generation_config import SAMPLING_OPTIONS
from convmodel.layout.tokenizer import ConversationTokenizer


class Session(ABC):
    """The turns so far, and something that responds to them; see `ChatSession`."""

    def __init__(self, start: Conversation | None, user: str, responder: str) -> None:
        """Opens a session after some turns, between two speakers by their names."""
        self.left_out = 0
        self.finish_reason: FinishReason | None = None
        # With a seed, another response to the same turn needs another seed.
        self._attempts = 0
        self._start = self._conversation = start
        self._user, self._responder = user, responder

    @property
    def takes_system(self) -> bool:
        """Whether the model was trained with system turns, or whoever serves it decides."""
        return True

    @property
    @abstractmethod
    def options(self) -> dict[str, Any]:
        """The options that were given for the responses."""

    @property
    @abstractmethod
    def settings(self) -> dict[str, Any]:
        """The values of the usual options and of those given, defaults included; None for one that has no effect."""

    @abstractmethod
    def setting(self, name: str) -> Any:
        """Returns the value of one option as `settings` does; None for one that is not among them.

        Raises:
            ConfigError: If the option does not exist.
        """

    @abstractmethod
    def set_options(self, **options: Any) -> None:
        """Changes options for all further responses; None restores an option's default.

        Raises:
            ConfigError: If an option does not exist or makes no sense; all stay as they were.
        """

    @abstractmethod
    def _begin(self, context: Conversation) -> tuple[int, Iterator[Chunk]]:
        """Starts a response; returns how many turns are left out of its context, and its chunks."""

    @property
    def conversation(self) -> Conversation | None:
        """The conversation so far; None before its first turn."""
        return self._conversation

    @property
    def turns(self) -> list[str]:
        """All turns so far, including those that no longer fit in the context."""
        return list(self._conversation.turns) if self._conversation else []

    def respond(self, text: str) -> str:
        """Adds the user's turn and the model's response, which it returns.

        Raises:
            ConversationError: If the text is empty; the session is unchanged.
            ContextTooLongError: If the text alone is too long; the session is unchanged.
        """
        return "".join(self.stream(text))

    def stream(self, text: str) -> Iterator[str]:
        """Adds the user's turn and yields the response as it is generated, never half a character.

        Closing the iterator early ends the response, and the text so far becomes the turn. Raises what `respond`
        raises, at the call.
        """
        if self._conversation is None:
            context = Conversation([text], [self._user])
        else:
            context = self._conversation.with_turn(text, self._user)
        self._attempts = 0
        return self._stream(context, without_response=context)

    def regenerate(self) -> str:
        """Replaces the newest response with another, and returns it.

        Raises:
            ConversationError: If there is nothing to respond to.
        """
        return "".join(self.stream_again())

    def stream_again(self) -> Iterator[str]:
        """Yields another response in place of the newest, which is kept until the new one has text.

        Raises:
            ConversationError: If there is nothing to respond to.
        """
        current = self._conversation
        context = _without_last(current, self._responder) if current and current != self._start else None
        if context is None:
            raise ConversationError("there is no response to replace yet: send a turn first")
        self._attempts += 1
        return self._stream(context, without_response=current)

    def undo(self) -> str:
        """Removes the user's newest turn and the response to it, and returns the text of that turn.

        Raises:
            ConversationError: If there is no turn of the user.
        """
        context = _without_last(self._conversation, self._responder) if self._conversation else None
        if context is None or context == self._start or self._conversation == self._start:
            raise ConversationError("there is no turn to take back")
        self._conversation = _without_last(context, self._user)
        self.left_out, self.finish_reason = min(self.left_out, len(self.turns)), None
        return context.turns[-1]

    def reset(self) -> None:
        """Restores the context that the session was opened with."""
        self._conversation = self._start
        self.left_out, self.finish_reason = 0, None

    def set_system(self, text: str) -> None:
        """Replaces the system turn, or adds one before all other turns; `reset` keeps it.

        Raises:
            ConversationError: If the text is empty; the session is unchanged.
        """
        start, current = (_with_system(text, turns) for turns in (self._start, self._conversation))
        self._start, self._conversation = start, current

    def continue_from(self, other: "Session") -> None:
        """Takes over the turns of another session, to continue it with another model."""
        self._start, self._conversation = other._start, other._conversation
        self._user, self._responder = other._user, other._responder

    def _stream(self, context: Conversation, *, without_response: Conversation | None) -> Iterator[str]:
        """Streams a response and adds it as a turn.

        Args:
            context: What it responds to.
            without_response: The conversation if the response has no text.
        """
        left_out, chunks = self._begin(context)  # raises at the call what is wrong with the turns
        return self._follow(context, left_out, chunks, without_response=without_response)

    def _follow(
        self, context: Conversation, left_out: int, chunks: Iterator[Chunk], *, without_response: Conversation | None
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
            without_response = before
            raise
        finally:
            self._conversation = context.with_turn(text, self._responder) if text.strip() else without_response


class ChatSession(Session):
    """The turns so far, and a model that responds to them.

    When the context is full, the oldest whole turns are left out of it; they stay in `turns`.

    Attributes:
        left_out: How many of the oldest turns no longer fitted in the context of the newest response.
        finish_reason: Why the newest response ended; None before the first, or if it was interrupted.

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
            engine: Generates the responses.
            tokenizer: Its layout.
            context: The turns before it, maybe with a pinned system turn.
            **generation_options: Options of `generate` for all responses of the session. Without `do_sample` and
                beams it samples as `convmodel chat` does; `do_sample=False` takes the most probable tokens.

        Raises:
            ConfigError: If an option does not exist or makes no sense.
        """
        options = chat_options(engine.hf_model, tokenizer, generation_options)
        empty = not isinstance(context, Conversation) and not context
        start = None if empty else Conversation.of(context)
        user, responder = _speaker_names(start, options.reply_as)
        super().__init__(start, user, responder)
        self._engine = engine
        self._tokenizer = tokenizer
        self._given = without_none(generation_options)
        self._options = options

    @property
    def takes_system(self) -> bool:
        """Whether the model was trained with system turns."""
        return self._tokenizer.layout.takes_system

    @property
    def options(self) -> dict[str, Any]:
        """The options that were given for the responses."""
        return dict(self._given)

    @property
    def settings(self) -> dict[str, Any]:
        """The values of the usual options, and of others that the caller or the model's config sets.

        Defaults are included; an option that has no effect is None.
        """
        return chat_settings(self._engine.hf_model, self._options, self._given)

    def setting(self, name: str) -> Any:
        """Returns the value of one option as `settings` does; None for one that is not among them.

        Raises:
            ConfigError: If the option does not exist.
        """
        check_names([name])
        return self.settings.get(name)

    def set_options(self, **options: Any) -> None:
        """Changes options for all further responses; None restores an option's default.

        An option of sampling, except `temperature=0`, ends `do_sample=False`, and `do_sample=False` drops the options
        of sampling.

        Raises:
            ConfigError: If an option does not exist or makes no sense; all stay as they were.
        """
        if "reply_as" in options:
            raise ConfigError("reply_as cannot change within a session: open another one")
        check_names(options)
        before = self._given
        if options.get("do_sample") is False:
            before = {name: value for name, value in before.items() if name not in SAMPLING_OPTIONS}
        elif before.get("do_sample") is False and _ask_for_sampling(options):
            before = {name: value for name, value in before.items() if (name, value) != ("temperature", 0)}
            options = {"do_sample": True, "top_k": chat_sampling(self._engine.hf_model)["top_k"]} | options
        given = without_none(before | options)
        self._options, self._given = chat_options(self._engine.hf_model, self._tokenizer, given), given

    def _begin(self, context: Conversation) -> tuple[int, Iterator[Chunk]]:
        options = replace(self._options, reply_as=self._responder)
        prompt = make_prompt(self._tokenizer, context, options)
        if options.seed is not None:
            options = replace(options, seed=options.seed + self._attempts)
        return prompt.left_out, stream(self._engine, self._tokenizer, prompt, options)


def _ask_for_sampling(options: Mapping[str, Any]) -> bool:
    """Returns whether options of sampling are given: None restores a default, and temperature 0 does not sample."""
    return options.get("temperature") != 0 and any(options.get(name) is not None for name in SAMPLING_OPTIONS)


def _with_system(text: str, conversation: Conversation | None) -> Conversation:
    """Returns a conversation with this system turn in the place of its pinned turns."""
    turns = conversation.turns[conversation.pinned :] if conversation else ()
    speakers = conversation.turn_speakers[conversation.pinned :] if conversation else ()
    return Conversation([text, *turns], ["system", *speakers], pinned=1, id=conversation.id if conversation else None)


def _speaker_names(start: Conversation | None, reply_as: str | None) -> tuple[str, str]:
    """Returns the names of the user and the responder, which stay the same for the whole session."""
    if start is None:
        user, responder = DEFAULT_SPEAKERS
    else:
        user = start.next_speaker()
        responder = start.with_turn("-", user).next_speaker()
    if reply_as == user:
        user, responder = responder, user
    return user, reply_as or responder


def _without_last(conversation: Conversation, speaker: str) -> Conversation | None:
    """Returns the conversation without its newest turn if it is the speaker's; None if nothing is left."""
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
