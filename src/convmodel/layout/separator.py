"""The control tokens of the layout in a Hugging Face tokenizer, and the chat template built on them.

Owns: which token separates turns, which one begins every sequence, and a template that renders the layout in plain
transformers. Knows no conversations.
"""

import logging
from collections.abc import Mapping, Sequence
from itertools import product
from typing import Any

logger = logging.getLogger(__name__)

SEPARATOR = "<sep>"
"""The separator for a tokenizer without a `sep_token`."""

PROBE = (
    {"role": "user", "content": "Hello there"},
    {"role": "assistant", "content": "How are you?\n 你好 Ünïcode"},
    {"role": "user", "content": "Fine"},
)
"""Messages to check that a chat template renders the layout's ids."""


def choose_separator(hf_tokenizer: Any) -> tuple[str, int, bool]:
    """Returns the separator's token, its id, and whether it had to be added to the vocabulary.

    Sets the Hugging Face tokenizer's `sep_token` to the token that has this id, so that it survives saving and loading:
    if GPT-2's were saved as `<sep>`, it would be loaded as a new token past the end of the embedding.
    """
    if hf_tokenizer.sep_token is not None:
        return str(hf_tokenizer.sep_token), int(hf_tokenizer.sep_token_id), False
    vocabulary = hf_tokenizer.get_vocab()
    if SEPARATOR in vocabulary:
        hf_tokenizer.add_special_tokens({"sep_token": SEPARATOR})  # keeps its id; text no longer encodes to it
        return SEPARATOR, int(vocabulary[SEPARATOR]), False
    if hf_tokenizer.unk_token is not None and hf_tokenizer.unk_token == hf_tokenizer.eos_token:
        hf_tokenizer.sep_token = hf_tokenizer.eos_token
        return SEPARATOR, int(hf_tokenizer.eos_token_id), False
    hf_tokenizer.add_special_tokens({"sep_token": SEPARATOR})
    return SEPARATOR, int(hf_tokenizer.sep_token_id), True


def choose_bos(hf_tokenizer: Any, separator_id: int) -> int | None:
    """Returns the id of the beginning-of-text token if the tokenizer puts one in front of texts by default; else None.

    A model whose tokenizer does (Gemma, Llama) was pretrained with it in front of every text. If it is the separator,
    the layout begins with it anyway.
    """
    index = hf_tokenizer.bos_token_id
    return index if index != separator_id and list(hf_tokenizer("")["input_ids"][:1]) == [index] else None


def chat_template(
    hf_tokenizer: Any, messages: Sequence[Mapping[str, str]], ids: Sequence[int], *, joins: bool, bos: bool
) -> str | None:
    """Returns a chat template that renders the layout for role/content messages; None if no template can.

    Templates are tried on `messages`, whose ids in the layout are `ids`; `joins`: whether consecutive turns of one
    speaker are joined; `bos`: whether the layout begins with the beginning-of-text token.

    A tokenizer that adds a space mark only at the beginning of a text (Metaspace with
    `prepend_scheme="first"`) needs a space before each turn, because the layout encodes each turn on its own.
    """
    for prefix in ("", " "):
        template = _template(prefix, joins=joins, bos=bos)
        rendered = hf_tokenizer.apply_chat_template(messages, chat_template=template, tokenize=True, return_dict=False)
        if list(rendered) == list(ids):
            return template
    logger.warning("no chat template renders this tokenizer's layout, so none is saved")
    return None


def is_own_template(template: object) -> bool:
    """Returns whether a chat template is one of the separator layout's."""
    options = product(("", " "), (False, True), (False, True))
    return template in [_template(prefix, joins=joins, bos=bos) for prefix, joins, bos in options]


def _template(prefix: str, *, joins: bool, bos: bool) -> str:
    opening = f"sep_token + '{prefix}'" if prefix else "sep_token"
    if joins:
        same = "not loop.first and message['role'] == loop.previtem['role']"
        opening = f"('\\n' if {same} else {opening})"
    turns = "{%- for message in messages -%}{{- " + opening + " + message['content'] -}}{%- endfor -%}{{- sep_token -}}"
    return "{{- bos_token -}}" * bos + turns
