"""The separator of a Hugging Face tokenizer, and the chat template built on it.

Owns: which token separates turns, and rendering the layout for plain transformers. Knows no conversations.
"""

import logging
from collections.abc import Mapping, Sequence
from typing import Any

logger = logging.getLogger(__name__)

SEPARATOR = "<sep>"
"""The separator of a tokenizer that has none of its own."""

PROBE = (
    {"role": "user", "content": "Hello there"},
    {"role": "assistant", "content": "How are you?\n 你好 Ünïcode"},
    {"role": "user", "content": "Fine"},
)
"""Messages that show whether a chat template gives the layout's ids."""


def choose_separator(hf_tokenizer: Any) -> tuple[str, int, bool]:
    """Chooses the separator's token and id, and tells whether it had to be added to the vocabulary.

    Sets the Hugging Face tokenizer's `sep_token` to the token that has the id, so that a saved tokenizer comes back
    with the same id: saved as `<sep>`, GPT-2's would come back as a new token beyond the embedding.
    """
    if hf_tokenizer.sep_token is not None:
        return str(hf_tokenizer.sep_token), int(hf_tokenizer.sep_token_id), False
    vocabulary = hf_tokenizer.get_vocab()
    if SEPARATOR in vocabulary:
        hf_tokenizer.add_special_tokens({"sep_token": SEPARATOR})  # its id stays; text no longer becomes it
        return SEPARATOR, int(vocabulary[SEPARATOR]), False
    if hf_tokenizer.unk_token is not None and hf_tokenizer.unk_token == hf_tokenizer.eos_token:
        hf_tokenizer.sep_token = hf_tokenizer.eos_token
        return SEPARATOR, int(hf_tokenizer.eos_token_id), False
    hf_tokenizer.add_special_tokens({"sep_token": SEPARATOR})
    return SEPARATOR, int(hf_tokenizer.sep_token_id), True


def chat_template(
    hf_tokenizer: Any, messages: Sequence[Mapping[str, str]], ids: Sequence[int], *, joins: bool
) -> str | None:
    """Returns a template that renders the layout for role/content messages; None where no template can.

    A tokenizer that marks only the beginning of a whole text (Metaspace with `prepend_scheme="first"`) needs a space
    where each turn, encoded on its own, has its mark.

    Args:
        hf_tokenizer: The tokenizer that will carry the template.
        messages: A probe.
        ids: What the layout makes of the probe.
        joins: Whether consecutive turns of one speaker are joined.
    """
    for prefix in ("", " "):
        template = _template(prefix, joins=joins)
        rendered = hf_tokenizer.apply_chat_template(messages, chat_template=template, tokenize=True, return_dict=False)
        if list(rendered) == list(ids):
            return template
    logger.warning("no chat template can give this tokenizer's layout, so none is saved")
    return None


def _template(prefix: str, *, joins: bool) -> str:
    opening = f"sep_token + '{prefix}'" if prefix else "sep_token"
    if joins:
        same = "not loop.first and message['role'] == loop.previtem['role']"
        opening = f"('\\n' if {same} else {opening})"
    return "{%- for message in messages -%}{{- " + opening + " + message['content'] -}}{%- endfor -%}{{- sep_token -}}"
