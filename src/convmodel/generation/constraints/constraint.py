"""A response that matches a grammar to its last token.

Owns: which tokens are allowed next, and completing the response within `max_new_tokens`: after every token it knows
a closing, tokens that complete a valid response and fit in those that are left. A token after which no closing is
found is replaced by the first token of the last closing. Does not use probabilities.
"""

import threading
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from contextlib import suppress
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary

import torch

from convmodel.errors import ConfigError
from convmodel.generation.constraints.checking import CHECKER, Checked
from convmodel.generation.constraints.closing import Steps, find_closing
from convmodel.generation.constraints.grammar import Grammar
from convmodel.generation.constraints.matching import is_json, make_matcher
from convmodel.generation.constraints.vocabulary import Vocabulary, vocabulary_of
from convmodel.layout.tokenizer import ConversationTokenizer

_KEPT = 16  # compiled grammars of a tokenizer

_STEPS = 100
"""How many steps the search for another closing may take after a token."""

_RESPONSE_STEPS, _TOKEN_STEPS = 1000, 20
"""The steps of all searches of a response, and how many more per token; afterwards it follows the last closing.

A count and not a time, since the same seed must give the same text on every machine. A step takes 0.05 to 0.4 ms.
"""

CALL_SPACE = " \t\r\n"
"""The white space that may come before an optional call; what reads the call skips it, too."""

_BITS = torch.arange(8, dtype=torch.uint8)


class Constraint:
    """A grammar compiled for a vocabulary, which the responses of several requests can share.

    Attributes:
        grammar: The grammar.
        closing: Tokens that match it, without the end.
    """

    def __init__(self, grammar: Grammar, vocabulary: Vocabulary, checked: Checked) -> None:
        """Compiles a grammar that has been checked.

        Raises:
            ConfigError: If the vocabulary cannot write a response that matches it.
        """
        self.grammar, self.vocabulary, self._literals = grammar, vocabulary, checked.literals
        self._is_json = is_json(grammar.text)
        closing = self.verified(self.matcher(), vocabulary.split(checked.closing))
        if closing is None:
            raise ConfigError(f"{grammar.option} cannot be used: the vocabulary has no tokens for a response")
        self.closing = closing

    def matcher(self) -> Any:
        """Returns a matcher at the start of a response.

        It is compiled for this response alone: copies share one lexer, whose number of states is limited, so that other
        responses would use up a part of this one's limit.
        """
        return make_matcher(self.vocabulary.tokenizer, self.grammar.text)

    def verified(self, matcher: Any, closing: Sequence[int] | None) -> list[int] | None:
        """Returns tokens if they are a closing from the matcher's state, else None."""
        if not closing:  # `validate_tokens` does not accept the end alone after a complete match
            return [] if closing is not None and matcher.is_accepting() else None
        with_end = [*closing, self.vocabulary.end_id]
        return [*closing] if matcher.validate_tokens(with_end) == len(with_end) else None

    def closing_after(self, matcher: Any, closing: Sequence[int], token: int) -> list[int] | None:
        """Returns the rest of a closing after a token; None if it is no longer valid."""
        if closing and closing[0] == token:
            return [*closing[1:]]
        if (same := self.verified(matcher, closing)) is not None:  # as within a JSON string
            return same
        pieces = self.vocabulary.pieces
        content = b"".join(pieces[index] for index in closing)
        if not content.startswith(pieces[token]):
            return None
        return self.verified(matcher, self.vocabulary.split(content[len(pieces[token]) :]))

    def find_closing(self, matcher: Any, limit: int, steps: Steps) -> list[int] | None:
        """Returns at most `limit` tokens that complete what a matcher has read; None if none were found."""
        content = find_closing(
            matcher,
            self.vocabulary.byte_ids,
            limit=limit * 8,
            literals=self._literals,
            most=_STEPS,
            steps=steps,
            is_json=self._is_json,
        )
        return None if content is None else self.verified(matcher, self.vocabulary.split(content))


class _State(NamedTuple):
    """What is known after some tokens."""

    length: int  # of the response, in tokens
    matcher: Any  # None if it has reached a limit of its own; the closing follows
    closing: list[int]  # tokens that complete it, without the end
    steps: int  # that searches may still take


class ConstrainedResponse:
    """The legal tokens of one response."""

    def __init__(self, constraint: Constraint, stop_ids: Iterable[int], max_new_tokens: int) -> None:
        """Starts a response of at most `max_new_tokens` tokens, the end included.

        Raises:
            ConfigError: If no response that matches fits in them.
        """
        self._constraint, self._stop_ids, self._most = constraint, [*stop_ids], max_new_tokens
        needed = len(constraint.closing) + 1
        if needed > max_new_tokens:
            raise ConfigError(
                f"max_new_tokens is {max_new_tokens}: a short response that matches {constraint.grammar.option} has "
                f"{needed} tokens: raise max_new_tokens"
            )
        self._state = _State(0, constraint.matcher(), constraint.closing, _RESPONSE_STEPS)
        self._before = self._state

    def legal(self, length: int, size: int) -> torch.Tensor:
        """Returns which of `size` ids may follow the first `length` tokens of the response, (size,)."""
        state = self._at(length)
        mask = torch.zeros(size, dtype=torch.bool)
        if state.matcher is not None:
            bits = torch.frombuffer(bytearray(state.matcher.compute_bitmask()), dtype=torch.uint8)
            if not state.matcher.is_error():
                text = (bits[:, None] >> _BITS & 1).flatten()[: len(self._constraint.vocabulary.is_text)].bool()
                text &= self._constraint.vocabulary.is_text[: len(text)]
                mask[: len(text)] = text[:size]
                mask[self._stop_ids] = state.matcher.is_accepting()
                if mask.any():
                    return mask
            self._state = state._replace(matcher=None)
        mask[self.forced(length)] = True
        return mask

    def forced(self, length: int) -> int:
        """Returns the token of the known way to the end."""
        state = self._at(length)
        return state.closing[0] if state.closing else self._stop_ids[0]

    def accept(self, length: int, token: int) -> int:
        """Takes the token after the first `length` ones; returns the one that follows, another if it left no room."""
        state = self._at(length)
        if token in self._stop_ids:
            return token
        left, steps = self._most - length - 1, Steps(state.steps + _TOKEN_STEPS)
        following = self._after(state, token, left, steps)
        if following is None:
            token = self.forced(length)
            following = None if token in self._stop_ids else self._forced_after(state)
        if following is not None:
            self._before, self._state = state, following._replace(steps=steps.left)
        return token

    def _at(self, length: int) -> _State:
        """Returns the state after some tokens: the step before is repeated if it was interrupted."""
        if self._state.length != length:
            self._state = self._before
        assert self._state.length == length
        return self._state

    def _after(self, state: _State, token: int, left: int, steps: Steps) -> _State | None:
        """Returns the state after a token; None if then no way to the end is known that fits."""
        constraint = self._constraint
        if state.matcher is None:
            return None
        matcher = state.matcher.deep_copy()
        if not matcher.consume_token(token):
            return None
        closing = constraint.closing_after(matcher, state.closing, token)
        if closing is None:
            closing = constraint.find_closing(matcher, left, steps)
        if closing is None or len(closing) + 1 > left:
            return None
        return _State(state.length + 1, matcher, closing, steps.left)

    def _forced_after(self, state: _State) -> _State:
        matcher = None if state.matcher is None else state.matcher.deep_copy()
        if matcher is not None and not matcher.consume_token(state.closing[0]):
            matcher = None
        return _State(state.length + 1, matcher, state.closing[1:], state.steps)


class OptionalCall:
    """The legal tokens of a response that is either free text or, if it begins with a brace, matches a grammar.

    White space before the brace does not count, in its token or in one of its own: SentencePiece's vocabularies begin
    each turn with a space, which decoders drop, and other models learned to begin with a newline. After more tokens of
    white space no brace is legal.
    """

    def __init__(self, constraint: Constraint, stop_ids: Sequence[int], max_new_tokens: int) -> None:
        """Starts a response; see `ConstrainedResponse`."""
        self._constraint, self._stop_ids, self._most = constraint, stop_ids, max_new_tokens
        self._responses = {0: ConstrainedResponse(constraint, stop_ids, max_new_tokens)}  # by where they begin
        pieces, space = constraint.vocabulary.pieces, CALL_SPACE.encode()
        self._begins = torch.tensor([piece.lstrip(space).startswith(b"{") for piece in pieces])
        self._begins_late = torch.tensor([not piece.startswith(b"{") for piece in pieces]) & self._begins
        self._is_blank = torch.tensor([bool(piece) and not piece.strip(space) for piece in pieces])
        self._start: int | None = None  # of the call
        self._blanks = 0  # how many tokens of white space come first

    def legal(self, length: int, size: int) -> torch.Tensor:
        """Returns which of `size` ids may follow the first `length` tokens of the response, (size,)."""
        if self._start is not None and length > self._start:
            return self._responses[self._start].legal(length - self._start, size)
        legal = torch.ones(size, dtype=torch.bool)
        if length <= self._blanks:
            legal[: len(self._begins)] = ~self._begins[:size]
            if length in self._responses:
                legal |= self._responses[length].legal(0, size)
                legal[: len(self._begins)] |= self._begins_late[:size]
        return legal

    def forced(self, length: int) -> int:
        """Returns a token that may follow in any case."""
        if self._start is None or length <= self._start:
            return self._stop_ids[0]
        return self._responses[self._start].forced(length - self._start)

    def accept(self, length: int, token: int) -> int:
        """Takes the token after the first `length` ones; returns the one that follows, possibly another one."""
        if length <= self._blanks:  # a step may be repeated
            self._begin(length, token)
            if self._start == length and self._begins_late[token]:
                token = self._responses[length].forced(0)
        return token if self._start is None else self._responses[self._start].accept(length - self._start, token)

    def _begin(self, length: int, token: int) -> None:
        """Takes a token before which there is only white space."""
        is_text = token < len(self._begins)
        self._start = length if is_text and self._begins[token] and length in self._responses else None
        self._blanks = length + bool(is_text and self._is_blank[token])
        if self._blanks == 1 and 1 not in self._responses:
            with suppress(ConfigError):  # it no longer fits
                self._responses[1] = ConstrainedResponse(self._constraint, self._stop_ids, self._most - 1)


def legal_tokens(
    constraint: Constraint, stop_ids: Sequence[int], max_new_tokens: int, *, optional: bool
) -> ConstrainedResponse | OptionalCall:
    """Returns the legal tokens of one response; see `ConstrainedResponse` for the error."""
    kind = OptionalCall if optional else ConstrainedResponse
    return kind(constraint, stop_ids, max_new_tokens)


_CONSTRAINTS: "WeakKeyDictionary[ConversationTokenizer, OrderedDict[str, Constraint]]" = WeakKeyDictionary()
_lock = threading.Lock()


def constraint_of(tokenizer: ConversationTokenizer, grammar: Grammar) -> Constraint:
    """Returns a grammar compiled for a tokenizer; the latest ones are kept, as long as the tokenizer exists.

    Raises:
        ConfigError: If it cannot be used.
    """
    vocabulary = vocabulary_of(tokenizer)
    with _lock:
        kept = _CONSTRAINTS.setdefault(tokenizer, OrderedDict())
        if grammar.text in kept and kept[grammar.text].vocabulary is vocabulary:
            kept.move_to_end(grammar.text)
            return kept[grammar.text]
    constraint = Constraint(grammar, vocabulary, CHECKER.check(grammar))
    with _lock:
        kept[grammar.text] = constraint
        while len(kept) > _KEPT:
            kept.popitem(last=False)
    return constraint
