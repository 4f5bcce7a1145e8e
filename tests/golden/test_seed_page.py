"""The page that the layout comes from: what it prints, and its two tables column by column."""

from pathlib import Path

import pytest

from convmodel import ConversationTokenizer

CONTEXT = ["Hello", "How are you"]

PRINTED = (
    "{'input_ids': [50256, 15496, 50256, 2437, 389, 345, 50256], 'token_type_ids': [0, 0, 1, 1, 1, 1, 0], "
    "'attention_mask': [1, 1, 1, 1, 1, 1, 1]}"
)

PROMPT_TABLE = r"""
| position | 0 | 1 | 2 | 3 | 4 | 5 | 6 |
| --- | --- | --- | --- | --- | --- | --- | --- |
| word | \<sep\> | Hello | \<sep\> | How | are | you | \<sep\> |
| input_ids | 50256 | 15496 | 50256 | 2437 | 389 | 345 | 50256 |
| token_type_ids | 0 | 0 | 1 | 1 | 1 | 1 | 0 |
| attention_mask | 1 | 1 | 1 | 1 | 1 | 1 | 1 |
"""

RESPONSE_TABLE = r"""
| position | 0 | 1 | 2 | 3 | 4 | 5 | 6 | 7 | 8 | 9 |
| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |
| word | \<sep\> | Hello | \<sep\> | How | are | you | \<sep\> | Good | thank | you |
| input_ids | 50256 | 15496 | 50256 | 2437 | 389 | 345 | 50256 | 10248 | 5875 | 345 |
| token_type_ids | 0 | 0 | 1 | 1 | 1 | 1 | 0 | 0 | 0 | 0 |
| attention_mask | 1 | 1 | 1 | 1 | 1 | 1 | 1 | 1 | 1 | 1 |
| | | | | | | | ↓ | ↓ | ↓ | ↓ |
| generated word | - | - | - | - | - | - | Good | thank | you | \<sep\> |
"""


def rows(table: str) -> dict[str, list[str]]:
    """The cells of each row by the row's name."""
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in table.strip().splitlines()]
    return {name: values for name, *values in cells}


def words(tokenizer: ConversationTokenizer, ids: list[int]) -> list[str]:
    """What the page shows of each token."""
    return [r"\<sep\>" if i == tokenizer.sep_token_id else tokenizer.decode([i]).strip() for i in ids]


def test_the_printed_dictionary(gpt2_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(gpt2_folder.parent)
    tokenizer = ConversationTokenizer.from_pretrained("gpt2")
    assert str(tokenizer(CONTEXT)) == PRINTED


def test_the_separator_is_shown_as_on_the_page(gpt2_tokenizer: ConversationTokenizer) -> None:
    assert (gpt2_tokenizer.sep_token, gpt2_tokenizer.sep_token_id) == ("<sep>", 50256)


def test_the_prompt_table(gpt2_tokenizer: ConversationTokenizer) -> None:
    table = rows(PROMPT_TABLE)
    encoding = gpt2_tokenizer(CONTEXT)
    for name, values in encoding.items():
        assert [str(value) for value in values] == table[name]
    assert words(gpt2_tokenizer, encoding["input_ids"]) == table["word"]


def test_the_response_table(gpt2_tokenizer: ConversationTokenizer) -> None:
    table = rows(RESPONSE_TABLE)
    [window] = gpt2_tokenizer.windows([*CONTEXT, "Good thank you"], max_length=1024, loss_on="last")
    ids, types = window.input_ids[:-1], window.types[:-1]
    assert [str(i) for i in ids] == table["input_ids"]
    assert [str(i) for i in types] == table["token_type_ids"]
    assert words(gpt2_tokenizer, ids) == table["word"]
    # What is generated at a position is the target of training there: the label one further on.
    targets = ["-" if label == -100 else words(gpt2_tokenizer, [label])[0] for label in window.labels[1:]]
    assert targets == table["generated word"]
