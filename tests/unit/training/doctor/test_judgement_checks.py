"""The doctor's checks of judgements: each recognises the fault that was planted for it, and only that."""

from typing import Any

import pytest

from convmodel import Conversation, ConversationModel, ConversationTokenizer
from convmodel.data.judgements.judgement import Judgement
from convmodel.data.judgements.reader import JudgementReader, JudgementSummary
from convmodel.hf_model.fingerprint import model_fingerprint
from convmodel.training.config import FitConfig
from convmodel.training.doctor.judgement_checks import (
    check_amount,
    check_contradictions,
    check_fit,
    check_identical,
    check_leaks,
    check_length,
    check_models,
    check_used,
    check_ways,
    examine_judgements,
    sign_test,
)
from convmodel.training.fit_data import Sources
from convmodel.training.improvement import MIN_JUDGEMENTS

GOOD = "Good morning to you, too!"


def judgement(chosen: str | None, rejected: str | None = None, context: Any = "Hello", **more: Any) -> Judgement:
    turns = [context] if isinstance(context, str) else context
    return Judgement(Conversation(turns), "assistant", chosen, rejected, **({"id": f"f:{chosen}"} | more))


def counted(*rows: dict[str, Any]) -> JudgementSummary:
    reader = JudgementReader([{"context": ["Hello"]} | row for row in rows])
    list(reader)
    return reader.summary


UP, DOWN, EDIT = (
    {"chosen": "Hi", "kind": "thumb"},
    {"rejected": "Go", "kind": "thumb"},
    {"chosen": "a", "rejected": "b"},
)


def test_few_judgements_are_a_warning() -> None:
    few, enough = check_amount(counted(*[UP] * (MIN_JUDGEMENTS - 1))), check_amount(counted(*[UP] * MIN_JUDGEMENTS))

    assert (few.status, enough.status) == ("warn", "pass")
    assert few.fix.startswith("collect 20 or more")
    assert (enough.finding, enough.fix) == ("20 judgements (20 thumb): 20 liked only", "")


def test_what_is_left_out_is_reported() -> None:
    assert check_used(counted(UP)).status == "pass"
    check = check_used(counted(UP, {"tie": ["a", "b"], "kind": "vote"}, {"chosen": "x", "rejected": "x "}))

    assert check.status == "warn"
    assert check.finding == "left out: 1 undecided between two responses; 1 with two equal responses"
    assert check_identical(counted(UP)).status == "pass"
    assert check_identical(counted(UP, {"chosen": "x", "rejected": "x "})).finding.startswith("1 pairs have a chosen")


@pytest.mark.parametrize(
    ("rows", "status", "fix"),
    [
        ([UP] * 10, "warn", "judge bad responses too"),
        ([DOWN] * 10, "warn", "judge good responses too"),
        ([UP] * 97 + [DOWN] * 3, "warn", "judge bad responses too"),
        ([UP] * 9 + [DOWN], "pass", ""),
        ([UP] * 10 + [EDIT], "pass", ""),
    ],
)
def test_thumbs_all_one_way_are_a_warning(rows: list[dict[str, Any]], status: str, fix: str) -> None:
    check = check_ways(counted(*rows))

    assert check.status == status
    assert check.fix.startswith(fix)


@pytest.mark.parametrize(
    ("one", "other", "contradicts"),
    [
        (judgement("A", "B"), judgement("B ", " A"), True),
        (judgement("A"), judgement(None, "A"), True),
        (judgement("A", "B"), judgement("B", "A", context="Bye"), False),
        (judgement("A", "B"), judgement("B", "C"), False),
        (judgement("A", "B"), judgement("A", "B"), False),
        (judgement("A"), judgement("B"), False),
    ],
)
def test_opposites_in_one_context_contradict_each_other(one: Judgement, other: Judgement, contradicts: bool) -> None:
    check = check_contradictions([one, judgement("x", "y"), other])

    assert check.status == ("warn" if contradicts else "pass")
    assert not contradicts or check.finding.endswith(f"of the same context: {other.id} and {one.id}")


@pytest.mark.parametrize(
    ("longer", "shorter", "status", "word"),
    [(20, 0, "warn", "longer"), (0, 20, "warn", "shorter"), (11, 9, "pass", "longer"), (3, 0, "pass", "longer"),
     (540, 460, "pass", "longer"), (1400, 600, "warn", "longer")],
)  # fmt: skip
def test_length_that_leaks_is_a_warning(longer: int, shorter: int, status: str, word: str) -> None:
    pairs = [judgement("one two three", "one")] * longer + [judgement("one", "one two three")] * shorter

    check = check_length(pairs)

    assert check.status == status
    assert f"the chosen one is {word} in {max(longer, shorter):,} of {longer + shorter:,} pairs" in check.finding
    assert bool(check.fix) == (status == "warn")


def test_lengths_without_pairs_are_only_shown() -> None:
    check = check_length([judgement("one two"), judgement(None, "one two three four")])

    assert (check.status, check.finding) == (
        "pass",
        "chosen responses have 2.0 words, rejected responses have 4.0 words",
    )
    assert check_length([judgement("one", "two")]).status == "pass"


def test_the_sign_test_is_that_of_the_binomial_distribution() -> None:
    assert sign_test(10, 10) == sign_test(0, 10) == pytest.approx(2 / 1024)
    assert sign_test(8, 10) == pytest.approx(2 * (45 + 10 + 1) / 1024)
    assert sign_test(5, 10) == 1
    assert sign_test(560, 1001) == pytest.approx(sign_test(560, 1000) * 1.0, rel=0.2)  # normal, and exact


def test_judgements_of_other_models_are_a_warning() -> None:
    mine, others = judgement("a", fingerprint="x", model="mine"), judgement("b", fingerprint="y", model="other")

    assert check_models([mine, judgement("c")], "x").status == "pass"
    assert check_models([mine, judgement("c")], None).status == "pass"
    known = check_models([mine, others, judgement("c")], "x")
    assert known.status == "warn"
    assert (
        known.finding == "2 of 3 judgements name the model that wrote the response; 1 are about another model (other)"
    )
    assert "they are about 2 models (mine, other)" in check_models([mine, others], None).finding


def test_contexts_in_validation_are_a_warning_and_their_responses_a_failure() -> None:
    judged = [judgement(GOOD, context=["Hello", "Hi", "How are you?"]), judgement(None, "Go")]
    clean = Conversation(["Is it far?", "No"])

    assert check_leaks(judged, [clean]).status == "pass"
    assert check_leaks(judged, [Conversation(["Hello"]), clean]).status == "pass"  # nothing follows it
    context = check_leaks(judged, [Conversation(["Hello ", "Welcome"]), clean])
    assert (context.status, context.finding[:6]) == ("warn", "1 of 2")
    whole = check_leaks(judged, [Conversation(["Hello", "Hi", "How are you?", GOOD, "Bye"])])
    assert whole.status == "fail"
    assert "chosen response included" in whole.finding


def test_what_does_not_fit_is_a_warning_and_a_failure_if_nothing_does(gpt2_tokenizer: ConversationTokenizer) -> None:
    short, long = judgement("Hi"), judgement("word " * 60)

    assert check_fit([short], gpt2_tokenizer, 32).status == "pass"
    some = check_fit([short, long], gpt2_tokenizer, 32)
    assert (some.status, some.finding) == ("warn", f"of 2 examined, 1 do not fit in 32 tokens, the first {long.id}")
    assert check_fit([long], gpt2_tokenizer, 32).status == "fail"


def test_what_cannot_be_laid_out_is_reported(bytelevel_tokenizer: ConversationTokenizer) -> None:
    three = Judgement(Conversation(["a", "b"], ["Ann", "Bob"]), "Cem", "c", id="f:1")

    check = check_fit([judgement("Hi"), three], bytelevel_tokenizer, 64)

    assert (check.status, "1 cannot be laid out for this model, the first f:1: " in check.finding) == ("warn", True)


def test_without_a_model_only_the_texts_are_examined() -> None:
    rows = [judgement(f"a{number}", f"b{number}") for number in range(MIN_JUDGEMENTS)]
    reader = JudgementReader(rows)

    examination = examine_judgements(list(reader), reader.summary)

    assert [check.name for check in examination.checks] == [
        "judgements", "used", "identical", "both ways", "contradictions", "length of responses", "model"
    ]  # fmt: skip
    assert {check.status for check in examination.checks} == {"pass"}
    assert (examination.failed, examination.statistics) == (False, None)


def test_with_a_model_and_validation_everything_is(served_models: dict[str, ConversationModel]) -> None:
    model = served_models["tiny"]
    mine = model_fingerprint(model.hf_model)
    reader = JudgementReader([judgement("a", "b", fingerprint=mine), judgement("c", fingerprint=mine)])

    config = FitConfig(objective="kto", max_length=64, batch_size=2, max_steps=3)
    valid, parts = [Conversation(["Hello", "a"])], (model.hf_model, model.tokenizer)
    examination = examine_judgements(
        list(reader), reader.summary, valid, parts, config, run=Sources(list(reader), valid, valid)
    )

    checks = {check.name: check.status for check in examination.checks}
    assert (checks["model"], checks["leakage"], checks["fit"]) == ("pass", "fail", "pass")
    assert examination.failed
    assert examination.statistics is not None
    assert examination.statistics.conversations == 3  # each response in its context
    assert examination.estimate is not None
    assert (examination.estimate.steps, checks["memory"]) == (3, "pass")


def test_what_cannot_be_trained_on_is_not_measured(served_models: dict[str, ConversationModel]) -> None:
    model = served_models["tiny"]
    reader = JudgementReader([judgement("a")])
    config = FitConfig(objective="dpo", max_length=64)
    parts = (model.hf_model, model.tokenizer)

    examination = examine_judgements(list(reader), reader.summary, None, parts, config, run=Sources(list(reader)))

    checks = {check.name: check for check in examination.checks}
    assert checks["objective"].status == "fail"
    assert checks["objective"].finding == "dpo can use 0 of 1: the others have only one response"
    assert (examination.estimate, "memory" in checks) == (None, False)
