"""Telling next turns from others: what is learned, whatever the order, and how often it is right."""

import random
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from convmodel import Conversation, ConversationModel
from convmodel.errors import ConfigError, ConversationError, ModelLoadError
from convmodel.hf_model.next_turn import (
    FILE,
    NextTurnHead,
    choose_negatives,
    features,
    fit_next_turn_head,
    next_turn_hits,
)

COLOURS = ["blue", "white", "brown", "pink", "grey", "yellow"]  # as many tokens each


def asked(colours: list[str]) -> list[Conversation]:
    return [Conversation([f"What is {colour} in your language", f"{colour} is what I say"]) for colour in colours]


@pytest.fixture(scope="module")
def model(unigram_folder: Path) -> ConversationModel:
    """Has learned that the answer has the colour of the question."""
    model = ConversationModel.from_pretrained(unigram_folder, device="cpu")
    model.fit(asked(COLOURS), epochs=100, learning_rate=1e-2, batch_size=6, weight_decay=0.0)
    return model


def learn(model: ConversationModel, conversations: list[Conversation], **options: int) -> tuple[NextTurnHead, float]:
    head, hits = fit_next_turn_head(model.hf_model, model.tokenizer, conversations, **options)
    return head, hits.head


def test_what_the_context_makes_likelier_comes_first(model: ConversationModel) -> None:
    head, hits = fit_next_turn_head(model.hf_model, model.tokenizer, asked(COLOURS), negatives=5)

    assert (hits.head, hits.chance, hits.conversations, hits.left_out) == (1.0, pytest.approx(1 / 6), 6, 0)
    assert head.weights[3] == 0.0  # all turns have as many tokens
    measured = next_turn_hits(head, model.hf_model, model.tokenizer, asked(COLOURS[:3]), negatives=9)
    assert (measured.head, measured.chance) == (1.0, pytest.approx(1 / 3))


def test_a_model_that_knows_nothing_is_right_by_chance(gpt2_folder: Path) -> None:
    untaught = ConversationModel.from_pretrained(gpt2_folder, device="cpu")
    with torch.no_grad():
        untaught.hf_model.transformer.wte.weight.zero_()  # every token is as likely as every other
    talks = asked(COLOURS)
    _, hits = fit_next_turn_head(untaught.hf_model, untaught.tokenizer, talks, negatives=5)

    assert hits.head <= 0.34
    assert hits.likelihood == 0.0  # ties are no hits


def test_neither_the_order_nor_what_is_computed_together_matters(
    model: ConversationModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The loss is convex, and the others of a turn are chosen from all the same."""
    talks = [*asked(COLOURS), Conversation(["Hi", "Hello there"]), Conversation(["Bye", "See you"])]
    head, _ = learn(model, talks, negatives=7)
    shuffled = random.Random(1).sample(talks, len(talks))
    monkeypatch.setattr("convmodel.hf_model.log_probs.BATCH_SIZE", 1)
    other, _ = learn(model, shuffled, negatives=7)

    assert other.weights == pytest.approx(head.weights, rel=1e-3, abs=1e-3)


def test_conversations_without_a_next_turn_are_counted(model: ConversationModel) -> None:
    talks = [*asked(COLOURS[:3]), Conversation(["Alone"]), Conversation(["Rules", "Alone"], pinned=1)]
    _, hits = fit_next_turn_head(model.hf_model, model.tokenizer, talks)

    assert (hits.conversations, hits.left_out) == (3, 2)


def test_a_turn_longer_than_a_window_loses_its_end(model: ConversationModel) -> None:
    talks = [*asked(COLOURS[:3]), Conversation(["Tell me", "all " * 2000])]
    _, hits = fit_next_turn_head(model.hf_model, model.tokenizer, talks)

    assert hits.conversations == 4


def test_the_model_is_left_as_it_was(model: ConversationModel) -> None:
    before = [weight.clone() for weight in model.hf_model.parameters()]
    state = torch.get_rng_state()
    learn(model, asked(COLOURS))

    assert all(torch.equal(one, other) for one, other in zip(before, model.hf_model.parameters(), strict=True))
    assert torch.equal(state, torch.get_rng_state())
    assert all(weight.grad is None for weight in model.hf_model.parameters())


# The others.


@given(st.lists(st.text(alphabet="abAB ", min_size=1).filter(str.strip), min_size=1, max_size=12), st.integers(1, 5))
def test_others_say_something_else_and_none_twice(turns: list[str], count: int) -> None:
    def plain(turn: str) -> str:
        return " ".join(turn.casefold().split())

    different = {plain(turn) for turn in turns}
    if len(different) < 2:
        with pytest.raises(ConversationError, match="two conversations"):
            choose_negatives(turns, count, 0)
        return
    for turn, others in zip(turns, choose_negatives(turns, count, 0), strict=True):
        said = [plain(other) for other in others]
        assert plain(turn) not in said
        assert len(set(said)) == len(said) == min(count, len(different) - 1)
        assert set(others) <= set(turns)


def test_a_seed_chooses_them(model: ConversationModel) -> None:
    turns = [f"turn {number}" for number in range(30)]
    assert choose_negatives(turns, 4, 1) == choose_negatives(turns, 4, 1) != choose_negatives(turns, 4, 2)
    with pytest.raises(ConfigError, match="negatives"):
        choose_negatives(turns, 0, 1)


# The head.


def test_the_score_is_a_weighted_sum() -> None:
    head = NextTurnHead((2.0, 3.0, 5.0, 7.0), "m")

    assert features(-6.0, -10.0, 1) == (4.0, 4.0, -6.0, 0.0)
    assert head.score(-6.0, -10.0, 1) == 2 * 4 + 3 * 4 - 5 * 6


def test_it_is_saved_and_belongs_to_its_model(model: ConversationModel, gpt2_folder: Path, tmp_path: Path) -> None:
    head, _ = learn(model, asked(COLOURS))
    with pytest.raises(ModelLoadError, match="next-turn` makes one"):
        NextTurnHead.load(tmp_path, model.hf_model)
    head.save(tmp_path)

    assert NextTurnHead.load(tmp_path, model.hf_model) == head
    other = ConversationModel.from_pretrained(gpt2_folder, device="cpu")
    with pytest.raises(ModelLoadError, match="other weights"):
        NextTurnHead.load(tmp_path, other.hf_model)
    (tmp_path / FILE).write_text("[]")
    with pytest.raises(ModelLoadError, match="can be read"):
        NextTurnHead.load(tmp_path, model.hf_model)


def test_it_ranks_responses(model: ConversationModel) -> None:
    head, _ = learn(model, asked(COLOURS), negatives=5)
    context = asked(["blue"])[0].turns[:1]
    options = {"do_sample": True, "temperature": 3.0, "num_return_sequences": 6, "seed": 0, "max_new_tokens": 6}

    output = model.generate(context, rerank=head, **options)
    backwards = model.generate(context, rerank=replace(head, weights=tuple(-w for w in head.weights)), **options)

    assert output.scores == sorted(output.scores or [], reverse=True)
    assert len(set(output.scores)) > 1
    assert backwards.responses[0] == output.responses[-1]
    assert [-score for score in reversed(backwards.scores or [])] == pytest.approx(output.scores)
