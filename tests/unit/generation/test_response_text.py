"""Tokens to text, while they arrive: chunks join to the whole, and stop strings end responses."""

from collections.abc import Callable, Generator
from typing import Any

import pytest

from convmodel import ConversationTokenizer
from convmodel.generation.engine.request import Request, Row
from convmodel.generation.engine.sampling import Sampler
from convmodel.generation.response_text import ResponseText, join_chunks, read_chunks

TEXT = "Hello there, 友達 😀 see you soon"


@pytest.fixture(scope="module")
def tokenizer(gpt2_folder: Any) -> ConversationTokenizer:
    return ConversationTokenizer.from_pretrained(gpt2_folder)


@pytest.fixture
def row(tokenizer: ConversationTokenizer) -> Row:
    samplers = [Sampler({}, [1], [])]
    stop_ids = frozenset([tokenizer.sep_token_id])
    return Request([1], [], samplers, stop_ids=stop_ids, max_new_tokens=99).rows[0]


def steps(row: Row, ids: list[int]) -> Generator[None]:
    """Adds a token per step, until the row ends."""
    for number, index in enumerate(ids):
        if row.finish_reason is None:
            row.add(index, -float(number))
            yield


Chunks = Callable[..., list[Any]]


@pytest.fixture
def chunks(tokenizer: ConversationTokenizer, row: Row) -> Chunks:
    def run(text: str, *stop_strings: str) -> list[Any]:
        ids = [*tokenizer.encode(text), tokenizer.sep_token_id]
        return [chunk for _, chunk in read_chunks([row], steps(row, ids), tokenizer, stop_strings)]

    return run


def test_chunks_join_to_the_text_and_only_the_last_has_a_reason(chunks: Chunks, row: Row) -> None:
    found = chunks(TEXT)
    assert "".join(chunk.text for chunk in found) == TEXT
    assert all("\N{REPLACEMENT CHARACTER}" not in chunk.text for chunk in found)
    assert [chunk.finish_reason for chunk in found] == [None] * (len(found) - 1) + ["stop"]
    assert [index for chunk in found for index in chunk.token_ids] == row.tokens
    assert [value for chunk in found for value in chunk.log_probabilities] == row.log_probabilities
    assert found[-1].tokens_per_second > 0


def test_a_stop_string_ends_the_row_and_is_no_part_of_the_text(chunks: Chunks, row: Row) -> None:
    found = chunks(TEXT, "see", "never")
    assert "".join(chunk.text for chunk in found) == TEXT[: TEXT.index("see")]
    assert row.finish_reason == found[-1].finish_reason == "stop"
    assert row.tokens[-1] not in (row.request.stop_ids)


def test_what_only_began_like_a_stop_string_is_text(chunks: Chunks) -> None:
    assert "".join(chunk.text for chunk in chunks("so long", "long ago")) == "so long"


def test_tokens_of_a_stop_string_can_be_hidden(tokenizer: ConversationTokenizer, row: Row) -> None:
    text = ResponseText(row, tokenizer, ["see you"], hide_stop_tokens=True)
    before, stop = tokenizer.encode("Hello there"), tokenizer.encode(" see you soon")
    shown: list[int] = []
    for index in [*before, *stop]:
        row.add(index, 0.0)
        if chunk := text.next():
            shown += chunk.token_ids
    assert text.next() is None
    assert shown == [*before, stop[0]][: len(shown)]
    assert len(shown) <= len(before) + 1


def test_the_reason_is_read_before_the_tokens(tokenizer: ConversationTokenizer, row: Row) -> None:
    """Another thread may add the last token and the reason at any time: no token may be lost."""
    text, ids = ResponseText(row, tokenizer, []), tokenizer.encode("Hello there")

    class Tokens(list[int]):
        def __getitem__(self, part: Any) -> Any:
            read = super().__getitem__(part)
            if row.finish_reason is None:
                row.tokens = [*ids]
                row.finish_reason = "length"
            return read

    row.tokens = Tokens(ids[:1])
    first, last = text.next(), text.next()
    assert first is not None
    assert last is not None
    assert (first.text + last.text, last.finish_reason) == ("Hello there", "length")


def test_responses_are_joined_in_the_order_of_their_rows(tokenizer: ConversationTokenizer) -> None:
    request = Request([1], [], [Sampler({}, [1], [])] * 2, stop_ids=frozenset([0]), max_new_tokens=2)
    one, other = tokenizer.encode("Hello there"), tokenizer.encode("How are")

    def both() -> Generator[None]:
        for pair in zip(one, other, strict=True):
            for row, index in zip(request.rows, pair, strict=True):
                row.add(index)
            yield

    responses = join_chunks(request.rows, read_chunks(request.rows, both(), tokenizer, []))
    assert [(response.text, response.finish_reason) for response in responses] == [
        ("Hello there", "length"),
        ("How are", "length"),
    ]
    assert [response.ids for response in responses] == [one, other]


def test_ctrl_c_while_chunks_are_joined_closes_the_generation(tokenizer: ConversationTokenizer, row: Row) -> None:
    closed = []

    def until_closed() -> Generator[None]:
        try:
            yield from steps(row, tokenizer.encode(TEXT))
        finally:
            closed.append(True)

    chunks = read_chunks([row], until_closed(), tokenizer, [])
    with pytest.raises(KeyError):  # stands for an error between two chunks
        join_chunks([], chunks)
    assert closed
