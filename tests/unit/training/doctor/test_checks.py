"""The doctor's checks: each recognises the fault that was planted for it, and only that."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from convmodel import Conversation, ConversationTokenizer
from convmodel.data.windows.encoding import EncodingSummary, WindowSet, encode_windows
from convmodel.layout.sequence import IGNORED, Window
from convmodel.training.doctor.checks import (
    Check,
    check_cut,
    check_end_of_turn,
    check_length,
    check_separator,
    check_speakers,
    check_steps,
    check_supervised,
    check_text,
    check_unknown,
    check_used,
    check_vocabulary,
    fast_checks,
    sample,
    tokens_by_speaker,
)
from convmodel.training.doctor.run_plan import RunPlan

ENGLISH = ["Hello, how are you today?", "I am fine, thank you. And you?", "Good morning! Did you sleep well?"]
JAPANESE = ["こんにちは、今日の調子はどうですか。", "市場に行って母にりんごを買いました。"]
PLAN = RunPlan(100, 5, 8, 1, 3.0, 64, "all")


def encoded(tokenizer: ConversationTokenizer, *talks: list[str], **options: Any) -> WindowSet:
    return encode_windows(map(Conversation, talks), tokenizer, **({"max_length": 64, "loss_on": "all"} | options))


def window(*ids: int, learned: str = "", cut: int = 0) -> Window:
    """A window of one speaker's; `learned` has an x for each target."""
    marks = learned.ljust(len(ids))
    labels = [index if mark == "x" else IGNORED for index, mark in zip(ids, marks, strict=True)]
    return Window(list(ids), [0] * len(ids), labels, cut=cut)


def test_a_good_check_needs_no_cure_and_a_bad_one_has_one(gpt2_tokenizer: ConversationTokenizer) -> None:
    good, bad = check_cut(EncodingSummary(tokens=10)), check_cut(EncodingSummary(tokens=10, cut=1))

    assert (good.status, good.fix) == ("pass", "")
    assert bad.status == "warn"
    assert bad.fix


def test_every_family_has_a_good_separator(family: ConversationTokenizer) -> None:
    assert check_separator(family).status == "pass"


@pytest.mark.parametrize(("index", "word"), [(0, "!"), (15496, "Hello"), (262, " the"), (198, "\n")])
def test_a_separator_that_is_a_word_fails(gpt2_tokenizer: ConversationTokenizer, index: int, word: str) -> None:
    check = check_separator(gpt2_tokenizer.with_layout(separator_id=index))

    assert check.status == "fail"
    assert f"token {index}, which is the word {word!r}" in check.finding


def test_a_separator_that_is_part_of_a_character_fails(gpt2_tokenizer: ConversationTokenizer) -> None:
    [*_, last] = gpt2_tokenizer.encode("🦜")

    assert check_separator(gpt2_tokenizer.with_layout(separator_id=last)).status == "fail"


def test_a_separator_that_unknown_characters_become_fails(
    gpt2_tokenizer: ConversationTokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    separator = gpt2_tokenizer.sep_token_id
    monkeypatch.setattr(ConversationTokenizer, "encode", lambda self, text: [1] if text.isascii() else [1, separator])

    check = check_separator(gpt2_tokenizer)

    assert check.status == "fail"
    assert "is also the unknown token" in check.finding


@pytest.mark.parametrize(
    ("rows", "added", "ids", "status", "said"),
    [
        (50257, 0, [5, 50256], "pass", "50,257 tokens, and the embedding has 50,257 rows"),
        (50300, 0, [5], "pass", "50,300 rows"),
        (50257, 2, [5], "warn", "2 added tokens have no row"),
        (50000, 0, [5], "fail", "token 50,256 occurs, but the embedding has 50,000 rows"),
        (50257, 0, [60000], "fail", "token 60,000 occurs"),
    ],
)
def test_the_embedding_has_a_row_for_every_token(
    gpt2_tokenizer: ConversationTokenizer,
    monkeypatch: pytest.MonkeyPatch,
    rows: int,
    added: int,
    ids: list[int],
    status: str,
    said: str,
) -> None:
    monkeypatch.setattr(ConversationTokenizer, "__len__", lambda self: 50257 + added)

    check = check_vocabulary(rows, gpt2_tokenizer, [window(*ids)])

    assert check.status == status
    assert said in check.finding


def test_a_vocabulary_of_another_model_fails(bytelevel_tokenizer: ConversationTokenizer) -> None:
    early = bytelevel_tokenizer.with_layout(separator_id=3, bos_id=None)

    check = check_vocabulary(100, early, [window(1, 2)])

    assert check.status == "fail"
    assert check.finding.endswith("tokens, but the embedding has 100 rows")


@pytest.mark.parametrize("loss_on", ["all", "responses", "last"])
@pytest.mark.parametrize("max_length", [8, 12, 64])
def test_windows_as_they_are_made_end_their_turns(family: ConversationTokenizer, loss_on: str, max_length: int) -> None:
    made = encoded(family, ENGLISH, ENGLISH[:2], max_length=max_length, loss_on=loss_on)

    assert check_end_of_turn(made.windows, family.end_ids).status == "pass"


@pytest.mark.parametrize(
    ("windows", "status", "said"),
    [
        ([window(9, 1, 9, 2, 9, learned="   xx")], "pass", "1 supervised turns"),
        ([window(9, 1, 9, 2, 9, learned=" xxxx")], "pass", "2 supervised turns"),
        ([window(9, 1, 2, learned=" xx", cut=3)], "pass", "1 supervised turns"),
        ([window(9, 1, 2, learned=" xx")], "fail", "1 of 1 supervised turns are not closed"),
        ([window(9, 1, 9, 2, 9, learned="   x ")], "fail", "1 of 1 supervised turns are not closed"),
        ([window(9, 1, 9, 2, 9, learned=" x xx")], "fail", "1 of 2 supervised turns are not closed"),
        ([window(9, 1, 9, 2, 8, learned=" x  x", cut=3)], "fail", "1 of 2 supervised turns are not closed"),
        ([Window([9, 1, 9], [0, 0, 0], [IGNORED, 2, 9])], "fail", "1 of 1 windows have labels of other tokens"),
    ],
)
def test_a_turn_is_learned_with_its_end(windows: list[Window], status: str, said: str) -> None:
    check = check_end_of_turn(windows, {9})

    assert check.status == status
    assert said in check.finding


@pytest.mark.parametrize(
    ("windows", "unsupervised", "status", "said"),
    [
        ([window(9, 1, 9, learned=" xx")], 0, "pass", "2 supervised tokens"),
        ([window(9, 1, 9, learned=" xx")], 3, "warn", "3 of 7 conversations have no supervised turn"),
        ([window(9, 1, 9, learned=" xx"), window(9, 1, 9)], 0, "fail", "1 of 2 windows have nothing to learn"),
        ([window(9, 1, 9, learned="x")], 0, "fail", "1 of 1 windows have nothing to learn"),
        ([], 0, "fail", "0 of 0 windows"),
    ],
)
def test_there_is_something_to_learn(windows: list[Window], unsupervised: int, status: str, said: str) -> None:
    check = check_supervised(windows, EncodingSummary(conversations=7, unsupervised=unsupervised, tokens=2))

    assert check.status == status
    assert said in check.finding


def test_what_was_left_out_is_told() -> None:
    assert check_used(EncodingSummary(conversations=7)) == Check("used", "pass", "all 7 conversations are used")

    check = check_used(EncodingSummary(conversations=7, skipped=2, first_skipped="talks.jsonl:3: turn 1 is empty"))

    assert check.status == "warn"
    assert check.finding.startswith("2 rows")
    assert check.finding.endswith("talks.jsonl:3: turn 1 is empty")


@pytest.mark.parametrize(
    ("cut", "status", "said"),
    [
        (0, "pass", "no turn"),
        (5, "warn", "5 tokens (4.8%)"),
        (25, "warn", "(20.0%)"),
        (26, "fail", "26 tokens (20.6%)"),
    ],
)
def test_cut_tokens_are_counted(cut: int, status: str, said: str) -> None:
    check = check_cut(EncodingSummary(tokens=100, cut=cut))

    assert check.status == status
    assert said in check.finding


def test_long_turns_are_found_in_real_windows(gpt2_tokenizer: ConversationTokenizer) -> None:
    assert check_cut(encoded(gpt2_tokenizer, ["Hi " * 70, "Yes"]).summary).status == "warn"
    assert check_cut(encoded(gpt2_tokenizer, ["Hi " * 300, "Yes"]).summary).status == "fail"


def test_a_vocabulary_that_knows_the_language_passes(gpt2_tokenizer: ConversationTokenizer) -> None:
    check = check_text(encoded(gpt2_tokenizer, ENGLISH).windows, gpt2_tokenizer)

    assert check == Check("text", "pass", "0.28 tokens per character, 3.5 bytes per token")


@pytest.mark.parametrize(
    "talk", [JAPANESE, ["Привет, как дела сегодня?"], ["안녕하세요, 오늘 어떠세요?"]], ids=["ja", "ru", "ko"]
)
def test_a_vocabulary_of_another_language_is_a_warning(gpt2_tokenizer: ConversationTokenizer, talk: list[str]) -> None:
    check = check_text(encoded(gpt2_tokenizer, talk).windows, gpt2_tokenizer)

    assert check.status == "warn"
    assert "hardly covers this language" in check.finding


def test_a_vocabulary_of_whole_characters_is_no_fault(
    gpt2_tokenizer: ConversationTokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ConversationTokenizer, "decode", lambda self, ids: "市" * len(ids))

    check = check_text([window(9, 1, 2, 3)], gpt2_tokenizer)

    assert check == Check("text", "pass", "1.00 tokens per character, 3.0 bytes per token")


@pytest.mark.parametrize(
    ("unknown", "status", "said"),
    [
        (0, "pass", "0 of 2,000 tokens"),
        (1, "warn", "1 of 2,001 tokens are unknown (0.05%)"),
        (3, "fail", "3 of 2,003 tokens are unknown (0.15%)"),
    ],
)
def test_unknown_tokens_are_counted(zoo_folders: dict[str, Any], unknown: int, status: str, said: str) -> None:
    tokenizer = ConversationTokenizer.from_pretrained(zoo_folders["unigram"])
    index = tokenizer.hf_tokenizer.unk_token_id

    check = check_unknown([window(*[9] * 2000, *[index] * unknown, tokenizer.sep_token_id)], tokenizer)

    assert check.status == status
    assert said in check.finding


def test_the_beginning_of_text_is_not_counted(bytelevel_tokenizer: ConversationTokenizer) -> None:
    plain = bytelevel_tokenizer.with_layout(bos_id=None)
    for check in (check_text, check_unknown):
        windows = [encoded(tokenizer, ENGLISH).windows for tokenizer in (bytelevel_tokenizer, plain)]
        assert check(windows[0], bytelevel_tokenizer) == check(windows[1], plain)


def test_a_separator_that_is_the_unknown_token_too_is_not_counted(gpt2_tokenizer: ConversationTokenizer) -> None:
    assert gpt2_tokenizer.hf_tokenizer.unk_token_id == gpt2_tokenizer.sep_token_id
    assert check_unknown(encoded(gpt2_tokenizer, ENGLISH).windows, gpt2_tokenizer).status == "pass"


@pytest.mark.parametrize(
    ("tokens", "status", "said"),
    [
        ({"Ann": 60, "Bob": 40}, "pass", "supervised tokens: Ann 60%, Bob 40%"),
        ({"Ann": 0, "Bob": 40}, "pass", "supervised tokens: Bob 100%"),
        ({"Ann": 90, "Bob": 10}, "pass", "Ann 90%"),
        ({"Ann": 9, "Bob": 91}, "warn", "supervised tokens: Bob 91%, Ann 9%"),
        ({"Ann": 100}, "warn", "Ann is the only speaker"),
        (dict.fromkeys("ABCDEFG", 1), "pass", ", 2 more"),
    ],
)
def test_speakers_share_what_is_learned(tokens: dict[str, int], status: str, said: str) -> None:
    check = check_speakers(tokens)

    assert check.status == status
    assert said in check.finding


def test_windows_tell_who_says_how_much(gpt2_tokenizer: ConversationTokenizer) -> None:
    talk = ["Hello", "How are you", "Hello"]
    separator = gpt2_tokenizer.sep_token_id

    assert tokens_by_speaker(encoded(gpt2_tokenizer, talk).windows, {separator}) == {"speaker 1": 2, "speaker 2": 3}
    responses = encoded(gpt2_tokenizer, talk, loss_on="responses")
    assert tokens_by_speaker(responses.windows, {separator}) == {"speaker 1": 0, "speaker 2": 3}
    assert tokens_by_speaker(encoded(gpt2_tokenizer, talk[:1]).windows, {separator}) == {"speaker 1": 1}


@pytest.mark.parametrize(
    ("steps", "warmup", "status", "said"),
    [
        (100, 5, "pass", "100 steps, 5 of them warm-up"),
        (20, 1, "pass", "20 steps"),
        (19, 0, "warn", "hardly enough to learn"),
        (100, 100, "fail", "warmup_steps is 100, but the run has 100 steps: the learning rate would never peak"),
        (10, 12, "fail", "never peak"),
    ],
)
def test_the_run_is_long_enough(steps: int, warmup: int, status: str, said: str) -> None:
    check = check_steps(replace(PLAN, steps=steps, warmup_steps=warmup))

    assert check.status == status
    assert said in check.finding


@pytest.mark.parametrize(
    ("max_length", "limit", "status", "said"),
    [
        (64, 128, "pass", "3 windows, the median 20 and the longest 40 tokens long of 64; 25% of them context"),
        (64, None, "pass", "3 windows"),
        (64, 32, "fail", "windows of up to 64 tokens, but the model has 32 positions"),
        (30, 32, "fail", "windows of up to 40 tokens, but the model has 32 positions"),
        (30, 128, "fail", "the longest window has 40 tokens, more than max_length, which is 30"),
    ],
)
def test_windows_fit(max_length: int, limit: int | None, status: str, said: str) -> None:
    windows = WindowSet([], np.array([20, 40, 20], np.int32), EncodingSummary(tokens=60))

    check = check_length(windows, replace(PLAN, max_length=max_length), limit)

    assert check.status == status
    assert said in check.finding


def test_a_sample_is_spread_over_all() -> None:
    assert sample(range(3)) == [0, 1, 2]  # type: ignore[type-var]
    assert sample([]) == []
    chosen = sample(range(10_000))
    assert (chosen[0], chosen[-1], len(set(chosen))) == (0, 9999, 1000)


@pytest.fixture(scope="module")
def tiny(gpt2_folder: Any) -> Any:
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(gpt2_folder)


Fast = Callable[..., dict[str, Check]]


@pytest.fixture
def fast(tiny: Any, gpt2_tokenizer: ConversationTokenizer) -> Fast:
    def fast(train: WindowSet, valid: WindowSet | None = None, **changed: Any) -> dict[str, Check]:
        found = fast_checks(tiny, gpt2_tokenizer, train, valid, replace(PLAN, **changed))
        return {check.name: check for check in found}

    return fast


def test_good_data_passes_every_quick_check(fast: Fast, gpt2_tokenizer: ConversationTokenizer) -> None:
    found = fast(encoded(gpt2_tokenizer, ENGLISH), encoded(gpt2_tokenizer, ENGLISH[:2]))

    assert {check.status for check in found.values()} == {"pass"}
    assert len(found) == 11


def test_validation_data_is_looked_at_too(fast: Fast, gpt2_tokenizer: ConversationTokenizer) -> None:
    good, bad = encoded(gpt2_tokenizer, ENGLISH), encoded(gpt2_tokenizer, ["Hi " * 90])
    bad.windows[0].labels[-1] = 7

    found = fast(good, bad)

    assert found["cut"].status == "fail"
    assert found["end of turn"].status == "fail"
    assert found["text"].status == found["speakers"].status == "pass"
    assert good.summary.cut == 0  # what was looked at is not changed


def test_counts_say_which_data_they_include(fast: Fast, gpt2_tokenizer: ConversationTokenizer) -> None:
    train = encoded(gpt2_tokenizer, ENGLISH)
    both = {name: check.finding for name, check in fast(train, encoded(gpt2_tokenizer, ENGLISH[:2])).items()}
    alone = [check.finding for check in fast(train).values()]

    assert "supervised turns in the training and validation data, each" in both["end of turn"]
    assert "supervised tokens in the training and validation data; every" in both["supervised"]
    assert "conversations in the training and validation data are used" in both["used"]
    assert "windows in the training data, the median" in both["length"]
    assert not any("the training data" in finding for finding in alone)


def test_names_are_used_where_somebody_counted(tiny: Any, gpt2_tokenizer: ConversationTokenizer) -> None:
    train = encoded(gpt2_tokenizer, ENGLISH)

    found = fast_checks(tiny, gpt2_tokenizer, train, None, PLAN, {"Ann": 99, "Bob": 1})

    assert next(check for check in found if check.name == "speakers").finding == "supervised tokens: Ann 99%, Bob 1%"
