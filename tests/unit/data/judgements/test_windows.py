"""Judgements as windows: the response and its end are the targets, and both responses of a pair have one context."""

from typing import Any

import pytest
from chat_templates import FORMS, make_tokenizer

from convmodel import Conversation
from convmodel.data.judgements.judgement import Judgement
from convmodel.data.judgements.windows import Example, encode_judgements
from convmodel.errors import ConversationError
from convmodel.layout.sequence import IGNORED
from convmodel.layout.tokenizer import ConversationTokenizer

LONG = ["one two three four five six seven", "eight nine ten", "eleven twelve thirteen"]


def judged(turns: list[str] | None = None, **fields: Any) -> Judgement:
    return Judgement(Conversation(turns or ["Hello", "Hi", "How are you?"]), "assistant", **fields)


def targets(labels: list[int]) -> list[int]:
    return [label for label in labels if label != IGNORED]


def test_only_the_response_and_its_end_are_targets(family: ConversationTokenizer) -> None:
    found = encode_judgements([judged(chosen="Fine, thanks.", rejected="Go.")], family, max_length=200)

    assert found.examples == [Example(0, 1)]
    for window, text in zip(found.windows.windows, ("Fine, thanks.", "Go."), strict=True):
        whole = family(["Hello", "Hi", "How are you?", text])["input_ids"]
        assert window.input_ids == whole
        assert targets(window.labels)[:-1] == family.encode(text)[-len(targets(window.labels)) + 1 :]
        assert window.labels[-1] == whole[-1]
    assert found.left_out == ""
    assert found.lengths().tolist() == [sum(found.windows.lengths)]


def test_single_responses_have_one_window(gpt2_tokenizer: ConversationTokenizer) -> None:
    found = encode_judgements([judged(chosen="Yes"), judged(rejected="No", weight=2.0)], gpt2_tokenizer, max_length=64)

    assert found.examples == [Example(0, None), Example(None, 1, 2.0)]
    assert found.examples[1].numbers == (1,)


def test_both_responses_of_a_pair_have_the_same_context(gpt2_tokenizer: ConversationTokenizer) -> None:
    long = "a response that has very many more tokens than the other one"
    found = encode_judgements([judged(LONG, chosen=long, rejected="No")], gpt2_tokenizer, max_length=24)

    contexts = [window.input_ids[: window.labels.index(next(t for t in window.labels if t != IGNORED))]
                for window in found.windows.windows]  # fmt: skip
    assert contexts[0] == contexts[1]
    assert len(contexts[0]) < len(gpt2_tokenizer(LONG)["input_ids"]) - 1  # whole turns were left out


def test_what_cannot_be_used_is_counted(gpt2_tokenizer: ConversationTokenizer) -> None:
    judgements = [
        judged(chosen="Yes", rejected="No"),
        judged(chosen="Yes"),
        judged(rejected="No"),
        judged(chosen="Yes", rejected="No", weight=0),
        judged(chosen="word " * 100, rejected="No"),
    ]
    found = encode_judgements(judgements, gpt2_tokenizer, max_length=40, pairs_only=True)

    assert len(found.examples) == 1
    assert found.left_out == (
        "2 of 5 judgements have only one response; 1 of 5 judgements have weight 0; "
        "1 of 5 judgements do not fit in windows of 40 tokens"
    )


def test_nothing_that_can_be_used_is_an_error_with_the_cure(gpt2_tokenizer: ConversationTokenizer) -> None:
    with pytest.raises(ConversationError, match="1 of 1 judgements have only one response; objective kto can learn"):
        encode_judgements([judged(chosen="Yes")], gpt2_tokenizer, max_length=40, pairs_only=True)
    with pytest.raises(ConversationError, match="no judgement can be used: there is none"):
        encode_judgements([], gpt2_tokenizer, max_length=40)


def test_a_context_that_cannot_be_laid_out_is_left_out_and_named(bytelevel_tokenizer: ConversationTokenizer) -> None:
    three = Judgement(Conversation(["a", "b", "c"], ["A", "B", "C"]), "A", chosen="d", id="feedback.jsonl:7")
    reason = "judgements cannot be laid out, the first because of: feedback.jsonl:7: "
    with pytest.raises(ConversationError, match=f"no judgement can be used: 1 of 1 {reason}"):
        encode_judgements([three], bytelevel_tokenizer, max_length=64)
    both = encode_judgements([three, judged(chosen="Yes")], bytelevel_tokenizer, max_length=64)

    assert both.left_out.startswith(f"1 of 2 {reason}")
    assert len(both.examples) == 1


def test_a_response_that_would_continue_the_turn_before_it_is_left_out_and_named() -> None:
    form = FORMS["chatml"]
    tokenizer = ConversationTokenizer(make_tokenizer(form.template, form.specials), names="prefix")
    context = Conversation(["Hi", "Hello", "Me too"], ["Ann", "Bob", "Cem"])
    judgements = [Judgement(context, name, chosen="Fine.", id=name) for name in ("Bob", "Ann")]

    found = encode_judgements(judgements, tokenizer, max_length=64)

    assert tokenizer.decode(targets(found.windows.windows[0].labels)) == "Fine."
    assert found.left_out.startswith("1 of 2 judgements cannot be laid out, the first because of: Ann: 'Ann' is to ")


def test_mismatched_windows_have_their_own_context_and_anothers_response(gpt2_tokenizer: ConversationTokenizer) -> None:
    judgements = [judged([f"Question {n}"], chosen=f"yes {n}", rejected=f"no {n}") for n in range(4)]
    found = encode_judgements(judgements, gpt2_tokenizer, max_length=64, mismatched=True)

    assert found.mismatched is not None
    texts = [gpt2_tokenizer.hf_tokenizer.decode(window.input_ids[1:-1]) for window in found.mismatched]
    separator = gpt2_tokenizer.hf_tokenizer.decode([gpt2_tokenizer.layout.separator_id])
    assert [text.split(separator) for text in texts] == [
        [f"Question {n}", f"{word} {(n + 2) % 4}"] for n in range(4) for word in ("yes", "no")
    ]


def test_responses_to_the_same_context_and_the_same_texts_are_no_mismatch(
    gpt2_tokenizer: ConversationTokenizer,
) -> None:
    judgements = [judged(["One"], chosen="yes"), judged(["One"], chosen="no"), judged(["Two"], chosen="yes")]
    found = encode_judgements(judgements, gpt2_tokenizer, max_length=64, mismatched=True)

    assert found.mismatched is not None
    texts = [gpt2_tokenizer.hf_tokenizer.decode(window.input_ids) for window in found.mismatched]
    supervised = [window.supervised_tokens > 0 for window in found.mismatched]
    assert supervised == [False, True, True]  # the other context has the first one's own text
    assert ["yes" in text for text in texts[1:]] == [True, False]


def test_one_judgement_alone_has_nothing_to_be_mismatched_with(gpt2_tokenizer: ConversationTokenizer) -> None:
    assert encode_judgements([judged(chosen="Yes")], gpt2_tokenizer, max_length=64, mismatched=True).mismatched is None
