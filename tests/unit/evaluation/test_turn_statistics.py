"""One pass over the tokens: each turn's sums are those of a plain loop over one conversation at a time."""

import copy
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from convmodel import Conversation, ConversationModel
from convmodel.errors import ConfigError, ConversationError, LogitsError
from convmodel.evaluation import turn_statistics
from convmodel.evaluation.likelihood import likelihood_of
from convmodel.evaluation.turn_statistics import (
    CorpusStatistics,
    TurnStatistics,
    calibrate,
    measure_turns,
)
from convmodel.hf_model.waiting import Waiting

TALKS = [
    ["Good morning! Did you sleep well?", "Not really, the neighbours had a party.", "Oh"],
    ["Yes"],
    ["今日はとても暑いですね。", "そうですね、海に行きたいです。"],
    ["Hi", "Hello"],
    ["One", "Two", "Three", "Four"],
]


@pytest.fixture(params=["unigram_folder", "bytelevel_folder"])
def model(request: pytest.FixtureRequest) -> ConversationModel:
    """A GPT-2 with token types, and a Llama without."""
    return ConversationModel.from_pretrained(request.getfixturevalue(request.param), device="cpu")


def measure(model: ConversationModel, talks: Any = TALKS, **options: Any) -> CorpusStatistics:
    given: dict[str, Any] = {"max_length": 128, "loss_on": "all"} | options
    return measure_turns(model.hf_model, model.tokenizer, map(Conversation.of, talks), **given)


def by_hand(model: ConversationModel, talk: list[str]) -> list[TurnStatistics]:
    separator = model.tokenizer.sep_token_id
    ids = model.tokenizer.prompt_to_continue("").input_ids  # what comes before the first turn
    types, owners = [0] * len(ids), [-1] * len(ids)
    for number, turn in enumerate(talk):
        tokens = model.tokenizer.encode(turn)
        ids += [*tokens, separator]
        types += [number % 2] * len(tokens) + [(number + 1) % 2]
        owners += [number] * (len(tokens) + 1)
    inputs = {"input_ids": torch.tensor([ids])}
    if model.tokenizer.layout.use_token_types:
        inputs["token_type_ids"] = torch.tensor([types])
    with torch.no_grad():
        logs = copy.deepcopy(model.hf_model).double()(**inputs).logits[0].log_softmax(-1)
    turns = []
    for number, turn in enumerate(talk):
        places = [place for place in range(1, len(ids)) if owners[place] == number]
        nats = [-logs[place - 1, ids[place]].item() for place in places]
        stops = [logs[place - 1, separator].exp().item() for place in places]
        turns.append(
            TurnStatistics(
                number=number + 1,
                speaker=("user", "assistant")[number % 2],
                tokens=len(places),
                nats=sum(nats),
                text_nats=sum(nats[:-1]),
                text_bytes=len(turn.encode()),
                correct=sum(logs[place - 1].argmax().item() == ids[place] for place in places),
                closed=True,
                stop=stops[-1],
                false_stop=sum(stops[:-1]),
                ended_early=1 - math.prod(1 - stop for stop in stops[:-1]),
            )
        )
    return turns


def assert_same(found: list[TurnStatistics], expected: list[TurnStatistics]) -> None:
    assert len(found) == len(expected)
    for one, other in zip(found, expected, strict=True):
        assert (one.number, one.speaker, one.tokens, one.text_bytes, one.correct, one.closed) == (
            other.number, other.speaker, other.tokens, other.text_bytes, other.correct, other.closed
        )  # fmt: skip
        numbers = ("nats", "text_nats", "stop", "false_stop", "ended_early")
        assert [getattr(one, name) for name in numbers] == pytest.approx(
            [getattr(other, name) for name in numbers], rel=1e-5
        )


def test_each_turn_has_the_sums_of_a_plain_loop(model: ConversationModel) -> None:
    found = measure(model)

    assert len(found.conversations) == len(TALKS)
    for talk, conversation in zip(TALKS, found.conversations, strict=True):
        assert_same(conversation.turns, by_hand(model, talk))


def test_they_add_up_to_what_evaluate_says(model: ConversationModel) -> None:
    expected = model.evaluate(TALKS, loss_on="all", max_length=128)

    assert likelihood_of(measure(model)).to_dict() == pytest.approx(expected.to_dict(), rel=1e-12)


@pytest.mark.parametrize("options", [{"batch_size": 1}, {"batch_size": 3}, {"batch_size": 100}])
def test_the_batch_size_does_not_matter(model: ConversationModel, options: dict[str, int]) -> None:
    for one, other in zip(measure(model, **options).conversations, measure(model).conversations, strict=True):
        assert_same(one.turns, other.turns)
        assert one.calibration == pytest.approx(other.calibration, rel=1e-5)


def test_the_order_does_not_matter(model: ConversationModel) -> None:
    for one, other in zip(measure(model, TALKS[::-1]).conversations[::-1], measure(model).conversations, strict=True):
        assert_same(one.turns, other.turns)


def test_windows_of_one_conversation_give_each_turn_once(model: ConversationModel) -> None:
    talk = [f"This is what was said in turn {number}" for number in range(9)]

    found = measure(model, [talk, TALKS[0]], max_length=64)

    assert found.windows > 2
    assert [turn.number for turn in found.conversations[0].turns] == list(range(1, 10))
    assert [turn.tokens for turn in found.conversations[0].turns] == [
        len(model.tokenizer.encode(turn)) + 1 for turn in talk
    ]
    assert_same(found.conversations[1].turns, by_hand(model, TALKS[0]))


def test_only_supervised_turns_are_measured_and_keep_their_numbers(model: ConversationModel) -> None:
    found = measure(model, loss_on="responses")

    assert [[turn.number for turn in each.turns] for each in found.conversations] == [[2], [], [2], [2], [2, 4]]
    assert found.summary.unsupervised == 1
    assert_same(found.conversations[4].turns, [by_hand(model, TALKS[4])[number] for number in (1, 3)])


def test_a_turn_that_was_cut_has_no_end(model: ConversationModel) -> None:
    [found] = measure(model, [["Thank you very much. " * 60]]).conversations

    [turn] = found.turns
    room = 128 - len(model.tokenizer.layout.control_ids)
    assert (turn.tokens, turn.closed, turn.stop) == (room, False, 0.0)
    assert turn.text_nats == turn.nats
    assert 0 < turn.text_bytes < 60 * 21
    targets, _, ends = found.calibration
    assert (targets.sum(), ends.sum()) == (room, 0)


def test_pinned_turns_shift_the_numbers(model: ConversationModel) -> None:
    talk = [{"role": role, "content": text} for role, text in (("system", "Be kind."), ("user", "Hi"), ("me", "Yes"))]

    [found] = measure(model, [talk]).conversations

    assert [(turn.number, turn.speaker) for turn in found.turns] == [(1, "user"), (2, "me")]


def test_turns_of_one_speaker_in_a_row_are_one_where_there_are_no_types(bytelevel_folder: Path) -> None:
    model = ConversationModel.from_pretrained(bytelevel_folder, device="cpu")

    [found] = measure(model, [Conversation(["Hi", "Anyone?", "Yes"], ["user", "user", "assistant"])]).conversations

    assert_same(found.turns, by_hand(model, ["Hi\nAnyone?", "Yes"]))


def test_the_tenths_hold_every_target_once(model: ConversationModel) -> None:
    for conversation in measure(model).conversations:
        turns = conversation.turns
        targets, probability, ends = conversation.calibration
        assert targets.sum() == sum(turn.tokens for turn in turns)
        assert ends.sum() == len(turns)
        assert probability.sum() == pytest.approx(sum(turn.stop + turn.false_stop for turn in turns))


def test_a_certain_end_is_in_the_last_tenth(model: ConversationModel) -> None:
    separator = model.tokenizer.sep_token_id
    hook = model.hf_model.get_output_embeddings().register_forward_hook(
        lambda *arguments: arguments[2].index_fill(2, torch.tensor([separator]), 1e4)
    )

    [found] = measure(model, [["Hi", "Hello"]]).conversations

    hook.remove()
    tokens = sum(turn.tokens for turn in found.turns)
    assert found.calibration[:, -1].tolist() == [tokens, tokens, 2]
    assert [turn.ended_early for turn in found.turns] == [1.0, 1.0]
    assert [turn.stop for turn in found.turns] == [1.0, 1.0]
    assert sum(turn.correct for turn in found.turns) == 2


def test_conversations_that_cannot_be_used_keep_their_place(model: ConversationModel) -> None:
    pinned = Conversation(["Be kind. " * 60, "Hi"], ["system", "user"], pinned=1)

    found = measure(model, [TALKS[0], pinned, TALKS[1]], on_error="skip")

    assert [len(each.turns) for each in found.conversations] == [3, 0, 1]
    assert (found.summary.skipped, found.summary.conversations) == (1, 3)


@pytest.mark.parametrize(
    ("error", "talks", "options"),
    [(ConfigError, TALKS, {"batch_size": 0}), (ConversationError, [["Yes"]], {"loss_on": "responses"})],
)
def test_what_makes_no_sense_is_refused(
    model: ConversationModel, error: type[Exception], talks: Any, options: dict[str, Any]
) -> None:
    with pytest.raises(error):
        measure(model, talks, **options)


def test_calibration_sorts_targets_by_tenths_and_adds_up() -> None:
    first = calibrate(np.array([0.05, 0.19, 0.11, 1.0]), np.array([False, True, False, True]))
    targets, probability, ends = first + calibrate(np.array([0.5]), np.array([False]))

    assert targets.tolist() == [1, 2, 0, 0, 0, 1, 0, 0, 0, 1]
    assert probability.tolist() == pytest.approx([0.05, 0.3, 0, 0, 0, 0.5, 0, 0, 0, 1])
    assert ends.tolist() == [0, 1, 0, 0, 0, 0, 0, 0, 0, 1]


def test_the_threads_look_after_each_batch(model: ConversationModel, monkeypatch: pytest.MonkeyPatch) -> None:
    waiting = Waiting()
    looks: list[int] = []
    monkeypatch.setattr(waiting, "look", lambda: looks.append(waiting._blocks))
    monkeypatch.setattr(turn_statistics, "WAITING", waiting)

    measure(model, batch_size=2)

    assert looks == [1, 1, 1]  # inside a block in which they adapt


def test_logits_that_are_not_numbers_are_an_error_that_names_the_conversation(model: ConversationModel) -> None:
    ids = [{index for turn in talk for index in model.tokenizer.encode(turn)} for talk in TALKS]
    only_there = sorted(ids[4] - set().union(*ids[:4]))
    head = model.hf_model.get_output_embeddings()
    head.weight = torch.nn.Parameter(head.weight.detach().clone())  # else all logits had that row
    with torch.no_grad():
        model.hf_model.get_input_embeddings().weight[only_there] = math.nan

    with pytest.raises(LogitsError, match=r"^the model's logits are not numbers in conversation 5; "):
        measure(model)
