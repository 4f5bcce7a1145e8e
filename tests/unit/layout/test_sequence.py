"""Where separators and types stand: prompts, truncation, whose turns are supervised. Token ids only, by hand."""

import itertools
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from convmodel.conversation import Conversation
from convmodel.errors import ConfigError, ContextTooLongError
from convmodel.layout.markers import SeparatorMarkers
from convmodel.layout.sequence import (
    EncodedTurn,
    build_prompt,
    lay_out,
    supervised_turns,
)

SEP = 9
MARKERS = SeparatorMarkers(SEP)


def cost(turn: EncodedTurn) -> int:
    """The length of a turn and of the separator before it."""
    return 1 + len(turn.ids)


def by(type_: int) -> EncodedTurn:
    """The response to come, of a speaker."""
    return EncodedTurn([], type_)


def turn(ids: Sequence[int], type_: int = 0, **options: Any) -> EncodedTurn:
    return EncodedTurn(ids, type_, supervised=options.pop("supervised", True), **options)


# Costs 3, 2, 4 and 2.
FOUR = [turn([1, 2], 0), turn([3], 1), turn([4, 5, 6], 0), turn([7], 1)]


@pytest.mark.parametrize(
    ("speakers", "pinned", "loss_on", "expected"),
    [
        ("uaua", 0, "all", "1111"),
        ("uaua", 0, "responses", "0101"),
        ("uaua", 0, "last", "0001"),
        ("uaua", 0, "u", "1010"),
        ("uaua", 0, ["u", "a"], "1111"),
        ("uaua", 0, ("a",), "0101"),
        ("uaua", 0, "z", "0000"),
        ("uaua", 0, ["z", "a"], "0101"),
        ("uuaa", 0, "responses", "0011"),
        ("uaab", 0, "responses", "0110"),
        ("uabc", 0, "responses", "0101"),
        ("u", 0, "responses", "0"),
        ("sua", 1, "all", "011"),
        ("sua", 1, "responses", "001"),
        ("sua", 1, "last", "001"),
        ("sua", 1, "s", "000"),
        ("s", 1, "last", "0"),
        ("sus", 1, "s", "001"),
    ],
)
def test_loss_on_chooses_whose_turns(speakers: str, pinned: int, loss_on: Any, expected: str) -> None:
    conversation = Conversation(["x"] * len(speakers), list(speakers), pinned=pinned)
    assert supervised_turns(conversation, loss_on) == [mark == "1" for mark in expected]


@pytest.mark.parametrize("loss_on", ["", "  ", [], [""], [1], ["u", None], None, 5])
def test_loss_on_that_names_nobody_is_refused(loss_on: Any) -> None:
    with pytest.raises(ConfigError, match="use all, responses, last, or speakers' names"):
        supervised_turns(Conversation(["Hi"]), loss_on)


@pytest.mark.parametrize(
    ("turns", "closing_type", "ids", "types"),
    [
        ([([1], 0)], 1, [9, 1, 9], [0, 0, 1]),
        ([([1, 2], 0), ([3], 1)], 0, [9, 1, 2, 9, 3, 9], [0, 0, 0, 1, 1, 0]),
        ([([1], 0), ([2], 0), ([3], 1)], 0, [9, 1, 9, 2, 9, 3, 9], [0, 0, 0, 0, 1, 1, 0]),
        ([([1], 0), ([2], 1), ([3], 2)], 1, [9, 1, 9, 2, 9, 3, 9], [0, 0, 1, 1, 2, 2, 1]),
    ],
)
def test_a_separator_has_the_type_of_the_turn_it_opens(
    turns: list[tuple[list[int], int]], closing_type: int, ids: list[int], types: list[int]
) -> None:
    prompt = build_prompt([EncodedTurn(*each) for each in turns], MARKERS, by(closing_type))
    assert (prompt.input_ids, prompt.types) == (ids, types)


@pytest.mark.parametrize(
    ("budget", "ids", "types", "left_out"),
    [
        (None, [9, 1, 2, 9, 3, 9, 4, 5, 6, 9, 7, 9], [0, 0, 0, 1, 1, 0, 0, 0, 0, 1, 1, 0], 0),
        (12, [9, 1, 2, 9, 3, 9, 4, 5, 6, 9, 7, 9], [0, 0, 0, 1, 1, 0, 0, 0, 0, 1, 1, 0], 0),
        (11, [9, 3, 9, 4, 5, 6, 9, 7, 9], [1, 1, 0, 0, 0, 0, 1, 1, 0], 1),
        (9, [9, 3, 9, 4, 5, 6, 9, 7, 9], [1, 1, 0, 0, 0, 0, 1, 1, 0], 1),
        (8, [9, 4, 5, 6, 9, 7, 9], [0, 0, 0, 0, 1, 1, 0], 2),
        (7, [9, 4, 5, 6, 9, 7, 9], [0, 0, 0, 0, 1, 1, 0], 2),
        (6, [9, 7, 9], [1, 1, 0], 3),
        (3, [9, 7, 9], [1, 1, 0], 3),
    ],
)
def test_oldest_turns_are_left_out_whole_and_types_stay(
    budget: int | None, ids: list[int], types: list[int], left_out: int
) -> None:
    prompt = build_prompt(FOUR, MARKERS, by(0), budget=budget)
    assert (prompt.input_ids, prompt.types, prompt.left_out, prompt.cut) == (ids, types, left_out, 0)


@pytest.mark.parametrize(
    ("budget", "ids", "types"),
    [
        (12, [9, 8, 9, 1, 2, 9, 3, 9], [0, 0, 1, 1, 1, 2, 2, 1]),
        (7, [9, 8, 9, 3, 9], [0, 0, 2, 2, 1]),
        (5, [9, 8, 9, 3, 9], [0, 0, 2, 2, 1]),
    ],
)
def test_a_pinned_turn_stays(budget: int, ids: list[int], types: list[int]) -> None:
    turns = [turn([8], 0, pinned=True), turn([1, 2], 1), turn([3], 2)]
    prompt = build_prompt(turns, MARKERS, by(1), budget=budget)
    assert (prompt.input_ids, prompt.types) == (ids, types)


@pytest.mark.parametrize("budget", [None, 12, 9, 6, 3])
def test_with_bos_a_prompt_is_that_of_one_position_less(budget: int | None) -> None:
    plain = build_prompt(FOUR, MARKERS, by(0), budget=budget, cut=True)
    prompt = build_prompt(FOUR, SeparatorMarkers(SEP, bos=2), by(0), budget=budget and budget + 1, cut=True)
    assert (prompt.input_ids, prompt.types) == ([2, *plain.input_ids], [plain.types[0], *plain.types])
    assert (prompt.left_out, prompt.cut) == (plain.left_out, plain.cut)


@pytest.mark.parametrize("cut", [False, True])
@pytest.mark.parametrize("turns", [[turn([1, 2, 3, 4])], [turn([8], pinned=True), turn([1, 2])]])
def test_a_newest_turn_that_cannot_fit_is_an_error(turns: list[EncodedTurn], cut: bool) -> None:
    budget = 2 if cut else 4
    with pytest.raises(ContextTooLongError, match=f"more than fit in a prompt of {budget}"):
        build_prompt(turns, MARKERS, by(1), budget=budget, cut=cut)


def test_the_error_counts_tokens_and_names_the_cure() -> None:
    problem = "the newest turn has 4 tokens, 2 more than fit in a prompt of 4"
    with pytest.raises(ContextTooLongError, match=f"^{problem}; .*cut_long_turn") as caught:
        build_prompt([turn([8, 8]), turn([1, 2, 3, 4])], MARKERS, by(1), budget=4)
    assert caught.value.problem == problem


@pytest.mark.parametrize(
    ("turns", "budget", "ids", "left_out", "cut"),
    [
        ([turn([1, 2, 3, 4])], 6, [9, 1, 2, 3, 4, 9], 0, 0),
        ([turn([1, 2, 3, 4])], 5, [9, 2, 3, 4, 9], 0, 1),
        ([turn([1, 2, 3, 4])], 3, [9, 4, 9], 0, 3),
        ([turn([8], 1), turn([1, 2, 3, 4])], 4, [9, 3, 4, 9], 1, 2),
        ([turn([8], 1, pinned=True), turn([7], 1), turn([1, 2, 3, 4])], 5, [9, 8, 9, 4, 9], 1, 3),
    ],
)
def test_a_cut_turn_keeps_its_end(
    turns: list[EncodedTurn], budget: int, ids: list[int], left_out: int, cut: int
) -> None:
    prompt = build_prompt(turns, MARKERS, by(1), budget=budget, cut=True)
    assert (prompt.input_ids, prompt.left_out, prompt.cut) == (ids, left_out, cut)


@given(
    lengths=st.lists(st.integers(1, 12), min_size=1, max_size=10),
    pinned=st.integers(0, 2),
    budget=st.integers(3, 60),
)
def test_a_prompt_is_the_longest_run_of_newest_turns_that_fits(lengths: list[int], pinned: int, budget: int) -> None:
    turns = [turn([100 * n + i for i in range(x)], n % 3, pinned=n < pinned) for n, x in enumerate(lengths)]
    pinned_cost = sum(cost(each) for each in turns[:-1] if each.pinned)
    assume(pinned_cost + cost(turns[-1]) + 1 <= budget)
    prompt = build_prompt(turns, MARKERS, by(1), budget=budget)

    free = [each for each in turns[:-1] if not each.pinned]
    kept = free[prompt.left_out :]
    expected = [*(each for each in turns[:-1] if each.pinned), *kept, turns[-1]]
    laid_out = lay_out(expected, MARKERS)
    assert (prompt.input_ids, prompt.types) == ([*laid_out.ids, SEP], [*laid_out.types, 1])
    assert prompt.spans == laid_out.spans
    assert len(prompt.input_ids) <= budget
    if prompt.left_out:
        assert len(prompt.input_ids) + cost(free[prompt.left_out - 1]) > budget


@given(lengths=st.lists(st.integers(1, 12), min_size=1, max_size=40), budget=st.integers(20, 60))
def test_with_room_to_spare_the_first_turn_changes_seldom(lengths: list[int], budget: int) -> None:
    turns = [turn([1] * x, n % 2) for n, x in enumerate(lengths)]
    prompts = (build_prompt(turns[:n], MARKERS, by(1), budget=budget, spare=0.5) for n in range(1, len(turns) + 1))
    firsts = [prompt.left_out for prompt in prompts]

    assert firsts == sorted(firsts)
    for n, (before, after) in enumerate(itertools.pairwise(firsts), start=1):
        fits = sum(cost(each) for each in turns[before : n + 1]) + 1 <= budget
        assert (after == before) == fits
        if not fits:
            # The turn just before the newest stays where it can.
            newest_two = sum(cost(each) for each in turns[n - 1 : n + 1])
            least = newest_two if newest_two + 1 <= budget else cost(turns[n])
            assert sum(cost(each) for each in turns[after : n + 1]) <= max((budget - 1) / 2, least)


@pytest.mark.parametrize(
    ("loss_on", "expected"), [("all", "1011"), ("responses", "0001"), ("last", "0001"), ("a", "0001"), ("u", "1010")]
)
def test_a_turn_of_weight_0_is_not_supervised(loss_on: str, expected: str) -> None:
    conversation = Conversation(["x"] * 4, list("uaua"), weights=[1, 0, 0.5, 2])
    assert supervised_turns(conversation, loss_on) == [mark == "1" for mark in expected]
