"""Matchers of llguidance: which bytes or tokens may come next.

Owns: how they are made, with which limits, and what their errors become. Shared by the process that checks a grammar
first, so nothing here imports torch.
"""

from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

from convmodel.errors import ConfigError
from convmodel.generation.constraints.grammar import llguidance

_LIMITS = {
    "max_items_in_row": 2000,
    "initial_lexer_fuel": 1_000_000,
    "step_lexer_fuel": 200_000,
    "step_max_items": 50_000,
    "max_lexer_states": 20_000,  # 1 to 2 kB each
    "max_grammar_size": 200_000,
    "verbose_errors": False,  # a state may contain a part of a conversation
}
_JSON = '{"grammars":[{"name":"json_schema"'  # as llguidance writes it
_LONGEST_ERROR = 300  # characters


Encode: TypeAlias = Callable[[bytes], Sequence[int] | None]


class _Source:
    """What llguidance reads of a tokenizer."""

    bos_token_id = None

    def __init__(self, tokens: Sequence[bytes], end_id: int, encode: Encode) -> None:
        self.tokens, self._encode = tokens, encode
        self.eos_token_id = end_id
        self.special_token_ids = [end_id]

    def __call__(self, text: str | bytes) -> Sequence[int]:
        """Encodes the text that a grammar requires; all of it, since the next mask is that after the text."""
        ids = self._encode(text.encode() if isinstance(text, str) else text)
        if ids is None:
            raise ValueError("the vocabulary cannot write this text")  # which ends the matcher with an error
        return ids


def make_tokenizer(tokens: Sequence[bytes], end_id: int, encode: Encode) -> Any:
    """Returns llguidance's form of a vocabulary.

    Args:
        tokens: The bytes of each token, empty for those that are never legal.
        end_id: The id that stands for the end.
        encode: Returns the tokens of some bytes, or None if there are none.
    """
    library = llguidance()
    tokens = [b"<end>" if index == end_id else token for index, token in enumerate(tokens)]
    return library.LLTokenizer(library.TokenizerWrapper(_Source(tokens, end_id, encode)), eos_token=[end_id])


def make_matcher(tokenizer: Any, grammar: str) -> Any:
    """Returns a matcher at the start of a grammar.

    Raises:
        ConfigError: If llguidance refuses the grammar.
    """
    library = llguidance()
    matcher = library.LLMatcher(tokenizer, grammar, log_level=0, limits=library.LLParserLimits(**_LIMITS))
    if matcher.is_error():
        raise ConfigError(shortened(matcher.get_error()))
    return matcher


def shortened(message: str) -> str:
    r"""Returns an error message of llguidance in one line.

    Examples:
        >>> shortened("at 1(8): unclosed group\n   1 | start: /(/\n<non-verbose/>")
        'at 1(8): unclosed group; 1 | start: /(/'
    """
    lines = [line.strip() for line in message.splitlines()]
    text = "; ".join(line for line in lines if line.strip("^") and line != "<non-verbose/>")
    return text if len(text) <= _LONGEST_ERROR else text[: _LONGEST_ERROR - 1] + "…"


def is_json(grammar: str) -> bool:
    """Returns whether a grammar is a JSON schema."""
    return grammar.startswith(_JSON)
