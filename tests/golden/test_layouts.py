"""The layout of whole conversations in GPT-2's real vocabulary, position by position, from a file written by hand."""

import json
from pathlib import Path
from typing import Any

import pytest

from convmodel.conversation import Conversation
from convmodel.layout.tokenizer import ConversationTokenizer

LAYOUTS = json.loads(Path(__file__).with_name("layouts.json").read_text(encoding="utf-8"))
VOCABULARY = Path(__file__).parents[1] / "data/gpt2-tokenizer/vocab.json"

each_layout = pytest.mark.parametrize("layout", LAYOUTS, ids=lambda layout: layout["name"])


@pytest.fixture(scope="module")
def tokenizers(gpt2_tokenizer: ConversationTokenizer) -> dict[bool, ConversationTokenizer]:
    """The tokenizer with token types and without."""
    return {True: gpt2_tokenizer, False: gpt2_tokenizer.with_layout(use_token_types=False)}


def conversation_of(layout: dict[str, Any]) -> Conversation:
    return Conversation(layout["turns"], layout.get("speakers"), pinned=layout.get("pinned", 0))


def test_the_file_agrees_with_the_vocabulary() -> None:
    vocabulary = json.loads(VOCABULARY.read_text(encoding="utf-8"))
    for layout in LAYOUTS:
        assert [vocabulary[piece] for piece in layout["pieces"]] == layout["input_ids"]


@each_layout
def test_prompt(layout: dict[str, Any], tokenizers: dict[bool, ConversationTokenizer]) -> None:
    tokenizer = tokenizers[layout.get("use_token_types", True)]
    encoding = tokenizer(conversation_of(layout), reply_as=layout.get("reply_as"))
    expected = {key: layout[key] for key in ("input_ids", "token_type_ids")}
    if not layout.get("use_token_types", True):
        del expected["token_type_ids"]
    assert encoding == expected | {"attention_mask": [1] * len(layout["input_ids"])}


@pytest.mark.parametrize(
    ("layout", "loss_on"),
    [
        pytest.param(layout, loss_on, id=f"{layout['name']}-{loss_on}")
        for layout in LAYOUTS
        for loss_on in layout.get("labels", ())
    ],
)
def test_labels(layout: dict[str, Any], loss_on: str, tokenizers: dict[bool, ConversationTokenizer]) -> None:
    tokenizer = tokenizers[layout.get("use_token_types", True)]
    labels = layout["labels"][loss_on]
    # A window ends with the separator that closes its last supervised turn; what comes after teaches nothing.
    end = max((position + 1 for position, label in enumerate(labels) if label != -100), default=0)
    windows = tokenizer.windows(conversation_of(layout), max_length=1024, loss_on=loss_on)
    assert [window.labels for window in windows] == [labels[:end]] * bool(end)
    for window in windows:
        assert window.input_ids == layout["input_ids"][:end]
        if tokenizer.layout.use_token_types:
            assert window.types == layout["token_type_ids"][:end]
