"""Conversations as the model sees them: token by token, window by window.

Owns: how each token is displayed, so that none of its characters is invisible. Knows no colours and no screen.
"""

import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass
from functools import partial

from convmodel.conversation import Conversation
from convmodel.layout.markers import ASSISTANT, START, SYSTEM, USER
from convmodel.layout.sequence import IGNORED, LossOn
from convmodel.layout.text_codec import REPLACEMENT
from convmodel.layout.token_bytes import SPACE_MARK, byte_level_bytes, fallback_byte, is_byte_level
from convmodel.layout.tokenizer import ConversationTokenizer

_MARKS = {" ": "·", "\n": "↵", "\r": "␍", "\t": "⇥"}


@dataclass(frozen=True, slots=True)
class ShownToken:
    """One position of a window, for display."""

    text: str  # with spaces, line ends and lone bytes made visible
    id: int
    speaker: str  # of its turn; for a marker, of the turn that it opens
    supervised: bool
    is_marker: bool


def token_view(
    tokenizer: ConversationTokenizer, conversation: Conversation, *, max_length: int, loss_on: LossOn
) -> list[list[ShownToken]]:
    """Returns the tokens of each window of a conversation; no window if no turn is supervised.

    Example:
        >>> tokenizer = ConversationTokenizer.from_pretrained("gpt2")
        >>> conversation = Conversation(["Hello", "How are"])
        >>> [window] = token_view(tokenizer, conversation, max_length=64, loss_on="responses")
        >>> [(token.text, token.speaker, token.supervised) for token in window][3:]
        [('How', 'assistant', True), ('·are', 'assistant', True), ('<sep>', 'user', True)]
    """
    arranged = tokenizer.arrange(conversation, loss_on).conversation
    names = list(dict.fromkeys((*arranged.speaker_names, arranged.next_speaker())))
    shown = []
    for window in tokenizer.windows(conversation, max_length=max_length, loss_on=loss_on):
        text_places = {place for span in window.spans for place in range(*span)}
        columns = zip(window.input_ids, window.types, window.labels, strict=True)
        shown.append(
            [
                ShownToken(
                    token_text(tokenizer, index) if place in text_places else marker_text(tokenizer, index),
                    index,
                    names[kind],
                    label != IGNORED,
                    place not in text_places,
                )
                for place, (index, kind, label) in enumerate(columns)
            ]
        )
    return shown


def layout_rows(tokenizer: ConversationTokenizer) -> list[tuple[str, str]]:
    """Describes a layout in rows of a name and a text: what stands before each turn and ends it, and why.

    Example:
        >>> tokenizer = ConversationTokenizer.from_pretrained("gpt2")
        >>> layout_rows(tokenizer)[1:3]
        [('first turn, user', '<sep>'), ('user, response', '<sep>')]
    """
    layout, markers = tokenizer.layout, tokenizer.layout.markers

    def shown(ids: Iterable[int]) -> str:
        return "".join(marker_text(tokenizer, index) for index in ids) or "nothing"

    rows = [("token layout", tokenizer.describe_layout())]
    pairs = [(START, SYSTEM), (SYSTEM, USER)] if layout.takes_system else []
    pairs += [(START, USER), (USER, ASSISTANT), (ASSISTANT, USER)]
    for before, role in pairs:
        name = "first turn" if before == START else before
        if role == ASSISTANT:
            rows.append((f"{name}, response", shown(markers.opening(before, role, is_last=True))))
        if role != ASSISTANT or markers.reopens:
            past = " (once another turn follows)" if role == ASSISTANT else ""
            rows.append((f"{name}, {role}{past}", shown(markers.opening(before, role))))
    rows.append(("ends a response", ", ".join(map(partial(marker_text, tokenizer), tokenizer.stop_token_ids))))
    if not layout.takes_system:
        rows.append(("system turns", "none in the template" if layout.template else "not in the training data"))
    trimmed = sorted(role for role, how in (layout.template.trims if layout.template else {}).items() if how)
    return rows + ([("spaces around the text are removed", ", ".join(trimmed))] if trimmed else [])


def marker_text(tokenizer: ConversationTokenizer, index: int) -> str:
    """Returns one token of the layout for display."""
    layout = tokenizer.layout
    return (
        layout.separator_token
        if layout.separator_token and index == layout.separator_id
        else token_text(tokenizer, index)
    )


def token_text(tokenizer: ConversationTokenizer, index: int) -> str:
    """Returns one token for display: its text made visible, or its bytes if it is only a part of a character.

    Example:
        >>> tokenizer = ConversationTokenizer.from_pretrained("gpt2")
        >>> [token_text(tokenizer, index) for index in tokenizer.encode(" you 🦜")]
        ['·you', '·⟨F09F⟩', '⟨A6⟩', '⟨9C⟩']
    """
    token = tokenizer.hf_tokenizer.convert_ids_to_tokens(index)
    if token is None:
        return f"⟨token {index}⟩"
    content = _bytes_of(tokenizer, str(token))
    text = str(tokenizer.hf_tokenizer.decode([index], clean_up_tokenization_spaces=False))
    if content is not None and REPLACEMENT in text:
        whole = content.decode("utf-8", "backslashreplace")
        if "\\x" not in whole:
            return visible(whole)
        start = next(i for i, byte in enumerate(content) if byte >= 0x80)  # leading ASCII is text
        return visible(content[:start].decode()) + f"⟨{content[start:].hex().upper()}⟩"
    if str(token).startswith(SPACE_MARK):  # decoding it alone would drop the space
        return visible(str(token).replace(SPACE_MARK, " "))
    return visible(text or str(token))


def token_bytes(tokenizer: ConversationTokenizer, index: int) -> bytes:
    """Returns the bytes of one token's text."""
    token = str(tokenizer.hf_tokenizer.convert_ids_to_tokens(index))
    content = _bytes_of(tokenizer, token)
    return content if content is not None else token.replace(SPACE_MARK, " ").encode()


def visible(text: str) -> str:
    r"""Replaces all characters that are invisible or that reorder the text around them.

    Example:
        >>> visible("Hi\tyou\n\u202e")
        'Hi⇥you↵⟨U+202E⟩'
    """
    return "".join(_MARKS.get(character) or _shown(character) for character in text)


def visible_line(text: str) -> str:
    """Replaces the same characters as `visible`, except spaces."""
    return " ".join(visible(word) for word in text.split(" "))


def _shown(character: str) -> str:
    """Returns a printable character, or the code point of any other: controls, separators, surrogates, private use."""
    if unicodedata.category(character)[0] not in "CZ":
        return character
    return f"⟨U+{ord(character):04X}⟩"


def _bytes_of(tokenizer: ConversationTokenizer, token: str) -> bytes | None:
    """Returns the bytes of a token of a byte-level vocabulary, or of a byte-fallback token like <0xE3>; else None."""
    fallback = fallback_byte(token)
    if fallback is None and is_byte_level(tokenizer.hf_tokenizer):  # SentencePiece's letters are letters, also "é"
        return byte_level_bytes(token)
    return fallback
