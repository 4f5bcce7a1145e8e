"""Everything of one model: the parts in order, on conversations that are the same for every model."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from convmodel import Conversation, ConversationModel
from convmodel.errors import ContextTooLongError
from convmodel.generation.options import warn_once
from convmodel.report.evaluation.evaluate import choose_contexts, evaluate_model, generate_exchanges, identity_of
from convmodel.report.evaluation.html_report import report_page
from convmodel.report.evaluation.markdown_report import report_markdown
from convmodel.report.evaluation.model_evaluation import Settings
from convmodel.report.evaluation.results import make_report

TALKS = [
    Conversation(["Hello", "How are you", "Good thank you"]),
    Conversation(["Hi"]),
    Conversation(["One", "Two", "Three", "Four"]),
    Conversation(["When does the next train leave?", "At 10"]),
    Conversation(["Hello?", "Anyone?"], ["user", "user"]),
]
ALL = Settings(distractors=2, responses=10, self_chats=2, generation={"max_new_tokens": 4}, seed=3)


@pytest.fixture
def model(unigram_folder: Path) -> ConversationModel:
    return ConversationModel.from_pretrained(unigram_folder, device="cpu")


def values(model: ConversationModel, settings: Settings) -> dict[str, float]:
    found = evaluate_model(model, "A", TALKS, settings, training=TALKS)
    return {metric.name: metric.estimate().value for metric in found.metrics}


def test_likelihood_alone_unless_more_is_asked_for(model: ConversationModel) -> None:
    found = evaluate_model(model, "A", TALKS, Settings())

    assert found.likelihood == model.evaluate(TALKS)
    assert {metric.name for metric in found.metrics} == {
        "perplexity", "loss", "bits_per_byte", "token_accuracy", "stop_probability", "false_stop_rate", "ended_early"
    }  # fmt: skip
    assert found.metrics[0].estimate().value == pytest.approx(found.likelihood.perplexity)
    assert (found.exchanges, found.copies, found.signatures) == ([], [], {})


def test_all_of_it_twice_is_the_same(model: ConversationModel) -> None:
    drawn = Settings(responses=10, self_chats=2, generation={"do_sample": True, "max_new_tokens": 4}, seed=3)

    assert values(model, ALL) == pytest.approx(values(model, ALL), nan_ok=True)
    assert values(model, drawn) == pytest.approx(values(model, drawn), nan_ok=True)
    assert {"mrr", "bleu", "chrf", "f1", "loops", "copied", "references_copied"} <= values(model, ALL).keys()


def test_none_stands_for_an_option_that_is_not_given(model: ConversationModel) -> None:
    long = [Conversation(["Hello " * 400, "Good"])]  # whose context must be cut
    drawn = Settings(generation={"do_sample": True, "max_new_tokens": 4}, seed=3)
    none = replace(drawn, generation=drawn.generation | dict.fromkeys(["seed", "cut_long_turn", "top_k"]))
    expected, exchanges = (generate_exchanges(model, long, [0], settings)[0] for settings in (drawn, none))
    assert exchanges == expected


@pytest.mark.slow
def test_a_model_that_samples_by_itself_is_seeded_or_greedy(
    model: ConversationModel, caplog: pytest.LogCaptureFixture
) -> None:
    greedy = replace(ALL, generation={"max_new_tokens": 4, "do_sample": False})
    expected = values(model, greedy)
    model.hf_model.generation_config.do_sample = True
    warn_once.cache_clear()

    assert values(model, greedy) == pytest.approx(expected, nan_ok=True)
    assert values(model, ALL) == pytest.approx(values(model, ALL), nan_ok=True)
    assert values(model, ALL) != pytest.approx(values(model, replace(ALL, seed=4)), nan_ok=True)
    model.hf_model.generation_config.do_sample = False
    values(model, ALL)
    assert "seed changes nothing" not in caplog.text


def test_responses_are_what_generate_says(model: ConversationModel) -> None:
    found = evaluate_model(model, "A", TALKS, ALL)

    assert [each.number for each in found.exchanges] == [1, 3, 4]
    for each in found.exchanges:
        assert each.response == model.generate(each.context, max_new_tokens=4).responses[0]
        assert (*each.context.turns, each.reference) == TALKS[each.number - 1].turns
    assert found.speed["generated"] > 0


@pytest.mark.parametrize("talks", [TALKS[:1], [TALKS[1]], [TALKS[0], TALKS[0]], TALKS[:2]])
def test_what_too_few_conversations_do_not_allow_is_left_out_and_noted(
    model: ConversationModel, talks: list[Conversation]
) -> None:
    found = evaluate_model(model, "A", talks, ALL, training=TALKS)

    assert found.notes[0] == (
        "next turns were not ranked: ranking next turns needs at least two conversations with different last turns"
    )
    assert bool(found.exchanges) == (len(found.notes) == 1) == ("generated" in found.speed)
    report = make_report([found, found], talks, ALL, data={"name": "test.jsonl", "skipped": 0})
    assert report.comparisons[0].verdict() == "A compared with A: too few conversations to tell."
    assert "Next turns were not ranked" in report_page(report)
    assert "Next turns were not ranked" in report_markdown(report)
    assert json.loads(json.dumps(report.to_dict(), allow_nan=False))["models"][0]["notes"] == found.notes


def test_what_does_not_fit_is_left_out_of_all_parts_and_counted(model: ConversationModel) -> None:
    long = Conversation(["rule " * 200, "Hello", "How are you"], ["system", "user", "assistant"], pinned=1)
    talks = [TALKS[0], long, *TALKS[2:4]]
    with pytest.raises(ContextTooLongError):
        evaluate_model(model, "A", talks, ALL, training=talks)
    found = evaluate_model(model, "A", talks, replace(ALL, on_error="skip"), training=TALKS)

    assert found.likelihood is not None
    assert found.likelihood.skipped == 1
    assert found.requested == [1, 2, 3, 4]
    assert [each.number for each in found.exchanges] == [1, 3, 4]
    rows = {metric.name: metric.is_measured.tolist() for metric in found.metrics if metric.definition.resampled}
    assert rows["mrr"] == rows["perplexity"] == rows["f1"] == [True, False, True, True]
    without = evaluate_model(model, "A", [TALKS[0], *TALKS[2:4]], ALL, training=TALKS)
    ours, theirs = ({each.name: each.value for each in one.metrics} for one in (found, without))
    assert ours["mrr"] == theirs["mrr"]
    assert ours["f1"] == theirs["f1"]


def test_only_answered_conversations_are_chosen_and_no_more_than_asked_for() -> None:
    assert choose_contexts(TALKS, 10, seed=0) == [0, 2, 3]
    chosen = [tuple(choose_contexts(TALKS, 2, seed)) for seed in range(10)]
    assert all(len(each) == 2 and list(each) == sorted(each) for each in chosen)
    assert len(set(chosen)) > 1
    assert choose_contexts(TALKS, 2, 1) == list(chosen[1])


def test_a_vocabulary_is_known_by_its_tokens(model: ConversationModel, bytelevel_folder: Path) -> None:
    other = ConversationModel.from_pretrained(bytelevel_folder, device="cpu")

    assert identity_of(model)["tokenizer"] != identity_of(other)["tokenizer"]


def test_a_model_is_known_by_its_weights(model: ConversationModel) -> None:
    before = identity_of(model)
    model.hf_model.transformer.wte.weight.data[0, 0] += 1.0

    assert before["vocabulary"] == len(model.tokenizer.hf_tokenizer)
    assert before["parameters"] == sum(each.numel() for each in model.hf_model.parameters())
    assert identity_of(model)["weights"] != before["weights"]
