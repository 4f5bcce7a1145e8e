"""Text comes out whole: no half characters, no lost ones, nothing of a stop string."""

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from convmodel import ConversationTokenizer
from convmodel.generation.detokenizer import Detokenizer
from convmodel.layout.text_codec import REPLACEMENT

CHARACTERS = st.text(st.characters(exclude_categories=["Cs"], exclude_characters=REPLACEMENT), max_size=60)
WORDS = st.lists(
    st.sampled_from(
        [
            "😀",
            "👩‍👩‍👧",
            "🇯🇵",
            "日本語",
            "の、",
            "龍",
            "é",
            "n̈",
            "𝄞",
            "한글",
            " the",
            "cat",
            " ",
            "  ",
            "\n",
            "\t",
            ". ",
            "<sep>",
            "▁",
            "0x41",
        ]
    ),
    max_size=150,
).map("".join)
TEXTS = st.one_of(CHARACTERS, WORDS)

few = settings(max_examples=30)  # for each family of tokenizers

LONG_TEXTS = [
    "😀" * 60,
    "🙂🙃" * 40 + " end",
    "日本語の文章です。とても長いです。" * 20,
    "naïve café 😀, it's  a long\n\nstory… " * 20,
    "a  b   c " * 40,
    "x",
]


@pytest.fixture(scope="module")
def tokenizers(zoo_folders: dict[str, Path]) -> dict[str, ConversationTokenizer]:
    return {family: ConversationTokenizer.from_pretrained(folder) for family, folder in zoo_folders.items()}


@pytest.fixture(scope="module", params=["gpt2", "bytelevel", "unigram", "smollm2"])
def tokenizer(request: pytest.FixtureRequest, tokenizers: dict[str, ConversationTokenizer]) -> ConversationTokenizer:
    return tokenizers[request.param]


@pytest.fixture(scope="module")
def gpt2(tokenizers: dict[str, ConversationTokenizer]) -> ConversationTokenizer:
    return tokenizers["gpt2"]


def chunks(tokenizer: ConversationTokenizer, ids: list[int], *stop_strings: str) -> list[str]:
    detokenizer = Detokenizer(tokenizer.decode, stop_strings)
    return [*(detokenizer.add(index) for index in ids), detokenizer.finish()]


@few
@given(text=TEXTS)
def test_joined_chunks_are_the_decoded_text(tokenizer: ConversationTokenizer, text: str) -> None:
    ids = tokenizer.encode(text)
    assert "".join(chunks(tokenizer, ids)) == tokenizer.decode(ids)


@pytest.mark.parametrize("text", LONG_TEXTS, ids=lambda text: text[:6].strip())
def test_long_texts_stay_whole_however_often_the_window_restarts(tokenizer: ConversationTokenizer, text: str) -> None:
    ids = tokenizer.encode(text)
    joined = "".join(chunks(tokenizer, ids))
    assert joined == tokenizer.decode(ids)
    assert REPLACEMENT not in joined


@few
@given(text=TEXTS)
def test_no_chunk_of_a_valid_text_holds_half_a_character(tokenizer: ConversationTokenizer, text: str) -> None:
    shown = ""
    for chunk in chunks(tokenizer, tokenizer.encode(text)):
        assert REPLACEMENT not in chunk
        shown += chunk
        assert tokenizer.decode(tokenizer.encode(text)).startswith(shown)


@few
@given(text=TEXTS, cut=st.integers(0, 200))
def test_any_prefix_of_valid_ids_gives_a_prefix_of_the_text(
    tokenizer: ConversationTokenizer, text: str, cut: int
) -> None:
    ids = tokenizer.encode(text)
    shown = "".join(chunks(tokenizer, ids[:cut]))
    assert tokenizer.decode(ids).startswith(shown)


def test_a_long_text_is_decoded_in_short_windows(gpt2: ConversationTokenizer) -> None:
    lengths = []

    def decode(ids: list[int]) -> str:
        lengths.append(len(ids))
        return gpt2.decode(ids)

    detokenizer = Detokenizer(decode)
    for index in gpt2.encode("It was a dark and stormy night. " * 50):
        detokenizer.add(index)

    assert len(detokenizer.ids) > 400
    assert max(lengths) < 50


def test_text_appears_as_soon_as_it_is_certain(gpt2: ConversationTokenizer) -> None:
    assert chunks(gpt2, gpt2.encode("Good thank you")) == ["Good", " thank", " you", ""]


def test_inner_and_leading_spaces_of_metaspace_pieces_are_kept(tokenizers: dict[str, ConversationTokenizer]) -> None:
    unigram = tokenizers["unigram"]
    text = "I am fine,  thank you. And you? " * 8
    pieces = chunks(unigram, unigram.encode(text))
    assert "".join(pieces) == text
    assert any(piece.startswith(" ") for piece in pieces)


def test_bytes_that_never_complete_are_left_out_at_the_end(tokenizer: ConversationTokenizer) -> None:
    ids = tokenizer.encode("Hi ☃")
    broken = next(ids[:end] for end in range(len(ids), 0, -1) if tokenizer.decode(ids[:end]).endswith(REPLACEMENT))
    assert "".join(chunks(tokenizer, broken)).rstrip() == "Hi"


def test_a_whole_character_is_kept_though_its_token_ends_in_half_of_another(gpt2: ConversationTokenizer) -> None:
    index = 49149
    assert gpt2.decode([index]) == f"の{REPLACEMENT}"
    assert "".join(chunks(gpt2, [*gpt2.encode("Hi"), index])) == "Hiの"


def test_whole_characters_are_kept_before_bytes_that_never_complete(tokenizer: ConversationTokenizer) -> None:
    half = tokenizer.encode("☃")[:-1]
    while half and not tokenizer.decode(half).endswith(REPLACEMENT):
        half = half[:-1]
    assert half
    assert "".join(chunks(tokenizer, [*tokenizer.encode("Hello there"), *half])).rstrip() == "Hello there"


def test_what_follows_broken_bytes_is_shown(gpt2: ConversationTokenizer) -> None:
    half = gpt2.encode("😀")[:-1]
    joined = "".join(chunks(gpt2, [*half, *gpt2.encode(" fine")]))
    assert joined.endswith(" fine")
    assert joined == gpt2.decode([*half, *gpt2.encode(" fine")])


def test_special_tokens_have_no_text(gpt2: ConversationTokenizer) -> None:
    assert chunks(gpt2, [50256, *gpt2.encode("Hi"), 50256, *gpt2.encode(" you")]) == ["", "Hi", "", " you", ""]


def test_no_ids_make_no_text(gpt2: ConversationTokenizer) -> None:
    assert chunks(gpt2, []) == [""]


@few
@given(text=TEXTS, data=st.data())
def test_a_stop_string_ends_the_text_before_it_and_never_leaks(
    tokenizer: ConversationTokenizer, text: str, data: st.DataObject
) -> None:
    ids = tokenizer.encode(text)
    whole = tokenizer.decode(ids)
    begin = data.draw(st.integers(0, len(whole)))
    stop = whole[begin : begin + data.draw(st.integers(1, 8))] or "STOP"
    expected = whole[: whole.index(stop)] if stop in whole else whole

    shown = ""
    for chunk in chunks(tokenizer, ids, stop):
        shown += chunk
        assert expected.startswith(shown)
    assert shown == expected


@few
@given(text=TEXTS, data=st.data())
def test_of_several_stop_strings_none_leaks(tokenizer: ConversationTokenizer, text: str, data: st.DataObject) -> None:
    ids = tokenizer.encode(text)
    whole = tokenizer.decode(ids)
    begins = data.draw(st.lists(st.integers(0, len(whole)), min_size=2, max_size=4))
    stops = [whole[begin : begin + 3] or "STOP" for begin in begins]

    shown = "".join(chunks(tokenizer, ids, *stops))

    assert not any(stop in shown for stop in stops)
    assert whole.startswith(shown)
    if shown != whole:
        assert any(whole[len(shown) :].startswith(stop) for stop in stops)


def test_a_stop_string_split_over_tokens_is_held_back_and_dropped(gpt2: ConversationTokenizer) -> None:
    ids = [*gpt2.encode("Fine\n"), *gpt2.encode("Us"), *gpt2.encode("er"), *gpt2.encode(": you")]
    detokenizer = Detokenizer(gpt2.decode, ["\nUser:"])
    assert [detokenizer.add(index) for index in ids] == ["Fine", "", "", "", "", ""]
    assert detokenizer.stopped
    assert detokenizer.finish() == ""


def test_what_only_began_like_a_stop_string_is_released(gpt2: ConversationTokenizer) -> None:
    detokenizer = Detokenizer(gpt2.decode, ["\nUser:"])
    pieces = [detokenizer.add(index) for index in gpt2.encode("Fine\nUs two")]
    assert "".join(pieces) == "Fine\nUs two"
    assert not detokenizer.stopped


def test_what_was_held_back_comes_at_the_end(gpt2: ConversationTokenizer) -> None:
    assert "".join(chunks(gpt2, gpt2.encode("Fine\nUser"), "\nUser:")) == "Fine\nUser"


def test_the_earliest_of_several_stop_strings_counts(gpt2: ConversationTokenizer) -> None:
    assert "".join(chunks(gpt2, gpt2.encode("one two three four"), "four", "two", "three")) == "one "


def test_the_earliest_counts_of_several_stop_strings_in_one_token() -> None:
    detokenizer = Detokenizer(lambda ids: "one two three four " * len(ids), ["four", "two", "three"])
    assert detokenizer.add(0) == "one "


@pytest.mark.parametrize(
    ("text", "shown"), [(" Yes. No", "Yes. No"), ("  Yes", " Yes"), ("Yes. No", "Yes. No"), (" ", "")]
)
def test_what_stands_before_a_response_is_dropped_once(gpt2: ConversationTokenizer, text: str, shown: str) -> None:
    detokenizer = Detokenizer(gpt2.decode, lead=" ")
    assert "".join(detokenizer.add(index) for index in gpt2.encode(text)) + detokenizer.finish() == shown


def test_nothing_is_shown_after_a_stop_string(gpt2: ConversationTokenizer) -> None:
    assert "".join(chunks(gpt2, gpt2.encode("Yes. No. Yes. No."), " No")) == "Yes."


def test_ids_are_counted_even_where_no_text_comes(gpt2: ConversationTokenizer) -> None:
    detokenizer = Detokenizer(gpt2.decode)
    for index in gpt2.encode("😀"):
        detokenizer.add(index)
    assert detokenizer.ids == gpt2.encode("😀")
