"""Windows: where conversations are split, their context, labels and weights. Token ids only, by hand."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from convmodel.conversation import Conversation
from convmodel.errors import ContextTooLongError
from convmodel.layout.markers import SeparatorMarkers, TemplateMarkers
from convmodel.layout.sequence import (
    IGNORED,
    EncodedTurn,
    Window,
    encoded_turns,
    supervised_turns,
)
from convmodel.layout.windows import make_windows, required_length

SEP = 9
MARKERS = SeparatorMarkers(SEP)


def cost(turn: EncodedTurn) -> int:
    """The length of a turn and of the separator before it."""
    return 1 + len(turn.ids)


def turn(ids: Sequence[int], type_: int = 0, **options: Any) -> EncodedTurn:
    return EncodedTurn(ids, type_, supervised=options.pop("supervised", True), **options)


# Costs 3, 2, 4 and 2.
FOUR = [turn([1, 2], 0), turn([3], 1), turn([4, 5, 6], 0), turn([7], 1)]

# Costs 2 each; a turn's id is its number.
EIGHT = [turn([number], number % 2) for number in range(1, 9)]


def turns_of(windows: Sequence[Window]) -> list[list[int]]:
    """What each window says, without separators."""
    return [[i for i in window.input_ids if i != SEP] for window in windows]


def test_a_whole_conversation_is_one_window_where_it_fits() -> None:
    [window] = make_windows(FOUR, MARKERS, 0, max_length=12)
    assert window.input_ids == [9, 1, 2, 9, 3, 9, 4, 5, 6, 9, 7, 9]
    assert window.types == [0, 0, 0, 1, 1, 0, 0, 0, 0, 1, 1, 0]
    assert window.labels == [IGNORED, 1, 2, 9, 3, 9, 4, 5, 6, 9, 7, 9]
    assert (window.supervised_tokens, window.cut) == (11, 0)


def test_windows_position_by_position() -> None:
    ignored = IGNORED
    windows = list(make_windows(FOUR, MARKERS, 0, max_length=8))
    assert [window.input_ids for window in windows] == [
        [9, 1, 2, 9, 3, 9],
        [9, 3, 9, 4, 5, 6, 9],
        [9, 4, 5, 6, 9, 7, 9],
    ]
    # A window's last separator has the type of whoever speaks next in the conversation, in it or not.
    assert [window.types for window in windows] == [
        [0, 0, 0, 1, 1, 0],
        [1, 1, 0, 0, 0, 0, 1],
        [0, 0, 0, 0, 1, 1, 0],
    ]
    assert [window.labels for window in windows] == [
        [ignored, 1, 2, 9, 3, 9],
        [ignored, ignored, ignored, 4, 5, 6, 9],
        [ignored, ignored, ignored, ignored, ignored, 7, 9],
    ]


def test_a_separator_between_turns_is_a_target_of_the_turn_it_closes_only() -> None:
    turns = [turn([1], 0, supervised=False), turn([2], 1), turn([3], 0, supervised=False), turn([4], 1)]
    [window] = make_windows(turns, MARKERS, 0, max_length=20)
    assert window.input_ids == [9, 1, 9, 2, 9, 3, 9, 4, 9]
    assert window.labels == [IGNORED, IGNORED, IGNORED, 2, 9, IGNORED, IGNORED, 4, 9]


def test_turns_after_the_last_supervised_one_teach_nothing_and_are_left_out() -> None:
    turns = [turn([1], 0), turn([2], 1, supervised=False)]
    [window] = make_windows(turns, MARKERS, 0, max_length=20)
    assert (window.input_ids, window.types) == ([9, 1, 9], [0, 0, 1])


def test_no_supervised_turn_makes_no_window() -> None:
    assert list(make_windows([turn([1], supervised=False)], MARKERS, 1, max_length=20)) == []


def test_a_separator_among_the_tokens_of_a_turn_is_a_label_like_any_other() -> None:
    # Labels come from spans: with a pad or end token of the same id nothing is masked by comparison.
    [window] = make_windows([turn([SEP, 1]), turn([SEP], 1)], MARKERS, 0, max_length=20)
    assert window.labels == [IGNORED, 9, 1, 9, 9, 9]


@pytest.mark.parametrize(
    ("share", "expected"),
    [
        (0.5, [[1, 2, 3, 4], [3, 4, 5, 6], [5, 6, 7, 8]]),
        # The turn just before comes along even where there is no share for it; the last window fills its room.
        (0.0, [[1, 2, 3, 4], [4, 5, 6, 7], [5, 6, 7, 8]]),
        (1.0, [[1, 2, 3, 4], [2, 3, 4, 5], [3, 4, 5, 6], [4, 5, 6, 7], [5, 6, 7, 8]]),
    ],
)
def test_context_takes_its_share_of_a_window(share: float, expected: list[list[int]]) -> None:
    windows = list(make_windows(EIGHT, MARKERS, 0, max_length=9, context_share=share))
    assert turns_of(windows) == expected


@pytest.mark.parametrize("max_length", [4, 5, 8, 12])
def test_with_bos_windows_are_those_of_one_position_less(max_length: int) -> None:
    turns = [*FOUR, turn([1, 2, 3, 4, 5, 6], 0, weight=0.5)]
    plain = list(make_windows(turns, MARKERS, 1, max_length=max_length))
    windows = list(make_windows(turns, SeparatorMarkers(SEP, bos=2), 1, max_length=max_length + 1))
    assert len(windows) == len(plain)
    for window, other in zip(windows, plain, strict=True):
        assert (window.input_ids, window.types) == ([2, *other.input_ids], [other.types[0], *other.types])
        assert window.labels == [IGNORED, *other.labels]
        assert window.weights == (other.weights and [0.0, *other.weights])
        assert (window.cut, window.context_cut, window.text_bytes) == (other.cut, other.context_cut, other.text_bytes)


def test_pinned_turns_open_every_window_and_are_never_targets() -> None:
    turns = [turn([8, 8], 2, pinned=True, supervised=False), *FOUR]
    windows = list(make_windows(turns, MARKERS, 0, max_length=9))
    for window in windows:
        assert (window.input_ids[:4], window.types[:3]) == ([9, 8, 8, 9], [2, 2, 2])
        assert window.labels[:4] == [IGNORED] * 4
    targets = [label for window in windows for label in window.labels if label not in (IGNORED, SEP)]
    assert targets == [1, 2, 3, 4, 5, 6, 7]


def test_a_window_without_room_for_a_turn_is_an_error() -> None:
    with pytest.raises(ContextTooLongError, match="a window of 2 tokens has no room for a turn: raise max_length"):
        list(make_windows([turn([1])], MARKERS, 1, max_length=2))


@pytest.mark.parametrize("length", [3, 4, 5])
def test_pinned_turns_that_leave_no_room_are_an_error(length: int) -> None:
    turns = [turn([8, 8], pinned=True, supervised=False), turn([1])]
    with pytest.raises(ContextTooLongError, match=f"pinned turns take 3 tokens of a window of {length}"):
        list(make_windows(turns, MARKERS, 1, max_length=length))


def test_a_turn_longer_than_a_window_keeps_its_beginning_and_is_not_closed() -> None:
    turns = [turn([1], 1), turn([2, 3, 4, 5, 6, 7], 0), turn([8], 1)]
    windows = list(make_windows(turns, MARKERS, 0, max_length=5))
    assert [window.input_ids for window in windows] == [[9, 1, 9], [9, 2, 3, 4, 5], [9, 7, 9, 8, 9]]
    assert [window.labels for window in windows] == [
        [IGNORED, 1, 9],
        [IGNORED, 2, 3, 4, 5],
        [IGNORED, IGNORED, IGNORED, 8, 9],
    ]
    assert windows[1].types == [0] * 5
    assert windows[1].cut > 0


@pytest.mark.parametrize(
    ("context", "ids", "context_cut"),
    [
        ([2, 3, 4, 5], [9, 2, 3, 4, 5, 9, 6, 7, 9], 0),  # both fit exactly
        ([1, 2, 3, 4, 5], [9, 2, 3, 4, 5, 9, 6, 7, 9], 1),
        ([1] * 90 + [2, 3, 4, 5], [9, 2, 3, 4, 5, 9, 6, 7, 9], 90),
    ],
)
def test_of_a_context_that_does_not_fit_the_end_is_kept(context: list[int], ids: list[int], context_cut: int) -> None:
    turns = [turn([8], supervised=False), turn(context, 1, supervised=False), turn([6, 7], 0), turn([1], 1)]
    window, last = make_windows(turns, MARKERS, 0, max_length=9)
    assert (window.input_ids, window.types) == (ids, [1, 1, 1, 1, 1, 0, 0, 0, 1])
    assert window.labels == [IGNORED] * 6 + [6, 7, 9]
    assert window.context_cut == context_cut
    assert last.context_cut == 0  # its context is whole


def test_a_pinned_turn_stays_before_the_end_of_a_context() -> None:
    turns = [turn([8], 2, pinned=True, supervised=False), turn([1, 2, 3, 4], supervised=False), turn([5], 1)]
    [window] = make_windows(turns, MARKERS, 0, max_length=8)
    assert (window.input_ids, window.types) == ([9, 8, 9, 3, 4, 9, 5, 9], [2, 2, 0, 0, 0, 1, 1, 0])


def test_a_turn_that_fills_a_window_has_no_context_which_is_counted() -> None:
    for ids in ([1, 2, 3], [1, 2, 3, 4]):
        [window] = make_windows([turn([8], supervised=False), turn(ids, 1)], MARKERS, 0, max_length=6 if ids[3:] else 5)
        assert window.input_ids == [9, *ids, 9]
        assert window.context_cut is None
    assert [window.context_cut for window in make_windows([turn([1, 2, 3])], MARKERS, 1, max_length=5)] == [0]


def test_a_turn_that_loses_only_its_separator_is_counted_as_cut() -> None:
    # Nothing is left out silently: the separator is a target too, the one that teaches a model to stop.
    [window] = make_windows([turn([1, 2, 3, 4])], MARKERS, 1, max_length=5)
    assert window.input_ids == [9, 1, 2, 3, 4]
    assert window.cut == 1


def test_text_bytes_are_those_of_supervised_turns() -> None:
    turns = [turn([1], text_bytes=10, supervised=False), turn([2], 1, text_bytes=200), turn([3], text_bytes=3000)]
    [window] = make_windows(turns, MARKERS, 1, max_length=20)
    assert window.text_bytes == 3200


def test_text_bytes_of_a_cut_turn_are_those_of_what_is_left() -> None:
    [window] = make_windows([turn([1, 2, 3, 4, 5, 6], text_bytes=600)], MARKERS, 1, max_length=4, text_bytes=sum)
    assert window.text_bytes == 1 + 2 + 3


@st.composite
def cases(draw: st.DrawFn) -> tuple[list[EncodedTurn], int]:
    """Turns whose every token is another id, some of them pinned, and how long a window may be."""
    lengths = draw(st.lists(st.integers(1, 12), min_size=1, max_size=12))
    pinned = draw(st.integers(0, min(2, len(lengths))))
    supervised = draw(st.lists(st.booleans(), min_size=len(lengths), max_size=len(lengths)))
    types = draw(st.lists(st.integers(0, 2), min_size=len(lengths), max_size=len(lengths)))
    turns = [
        EncodedTurn(
            range(100 * n + 100, 100 * n + 100 + length),
            types[n],
            pinned=n < pinned,
            supervised=supervised[n] and n >= pinned,
        )
        for n, length in enumerate(lengths)
    ]
    least = 3 + sum(cost(each) for each in turns[:pinned])
    return turns, draw(st.integers(least, least + 30))


def segments(window: Window) -> list[tuple[list[int], set[int]]]:
    """A window's turns: their ids, and the types of the ids and of the separator before them."""
    found: list[tuple[list[int], set[int]]] = []
    for index, type_ in zip(window.input_ids, window.types, strict=True):
        if index == SEP:
            found.append(([], {type_}))
        else:
            found[-1][0].append(index)
            found[-1][1].add(type_)
    return found


@given(case=cases(), share=st.floats(0, 1))
def test_every_supervised_turn_is_supervised_exactly_once(case: tuple[list[EncodedTurn], int], share: float) -> None:
    turns, max_length = case
    room = max_length - 1 - sum(cost(each) for each in turns if each.pinned)
    windows = list(make_windows(turns, MARKERS, 0, max_length=max_length, context_share=share))

    supervised = [each for each in turns if each.supervised]
    labels = [label for window in windows for label in window.labels if label != IGNORED]
    expected = [i for each in supervised for i in each.ids[: room if cost(each) > room else None]]
    assert [label for label in labels if label != SEP] == expected
    assert labels.count(SEP) == sum(cost(each) <= room for each in supervised)
    for window in windows:
        assert 0 < len(window.input_ids) <= max_length
        assert len(window.input_ids) == len(window.types) == len(window.labels)
        assert window.labels[0] == IGNORED
        assert window.supervised_tokens > 0
        assert all(label in (IGNORED, i) for i, label in zip(window.input_ids, window.labels, strict=True))


@given(case=cases(), share=st.floats(0, 1))
def test_the_separator_after_a_supervised_turn_is_a_target(case: tuple[list[EncodedTurn], int], share: float) -> None:
    turns, max_length = case
    for window in make_windows(turns, MARKERS, 0, max_length=max_length, context_share=share):
        for position in range(1, len(window.input_ids)):
            if window.input_ids[position] == SEP:
                before = window.labels[position - 1] != IGNORED
                assert window.labels[position] == (SEP if before else IGNORED)


@given(case=cases(), share=st.floats(0, 1), closing_type=st.integers(0, 2))
def test_windows_hold_pinned_turns_and_then_turns_in_order_of_which_only_the_first_may_be_an_end(
    case: tuple[list[EncodedTurn], int], share: float, closing_type: int
) -> None:
    turns, max_length = case
    pinned = sum(each.pinned for each in turns)
    for window in make_windows(turns, MARKERS, closing_type, max_length=max_length, context_share=share):
        *found, (last_ids, last_types) = segments(window)
        if last_ids:  # a turn longer than a window, so nothing closes it
            found.append((last_ids, last_types))
        numbers = [ids[0] // 100 - 1 for ids, _ in found]
        assert numbers == [*range(pinned), *range(numbers[pinned], numbers[-1] + 1)]
        for number, (ids, types) in zip(numbers, found, strict=True):
            assert types == {turns[number].type}
            cut = (window.context_cut or 0) if number == numbers[pinned] else 0
            if not (last_ids and number == numbers[-1]):
                assert ids == list(turns[number].ids)[cut:]
            if cut:
                assert len(numbers) == pinned + 2
                assert len(window.input_ids) == max_length
        if last_ids:
            assert last_ids == list(turns[numbers[-1]].ids)[: len(last_ids)]
            assert len(window.input_ids) == max_length
        else:
            following = turns[numbers[-1] + 1].type if numbers[-1] + 1 < len(turns) else closing_type
            assert last_types == {following}


@given(case=cases(), share=st.floats(0, 1))
def test_what_is_cut_is_counted_to_the_token(case: tuple[list[EncodedTurn], int], share: float) -> None:
    turns, max_length = case
    windows = list(make_windows(turns, MARKERS, 0, max_length=max_length, context_share=share))
    targets = sum(cost(each) for each in turns if each.supervised)  # as many as its tokens and the closing separator
    assert sum(window.supervised_tokens + window.cut for window in windows) == targets


def test_weights_stand_where_the_targets_of_their_turn_stand() -> None:
    turns = [turn([1, 2], weight=0.5), turn([3], 1, supervised=False, weight=7), turn([4], weight=3)]
    [window] = make_windows(turns, MARKERS, 1, max_length=20)
    assert window.input_ids == [SEP, 1, 2, SEP, 3, SEP, 4, SEP]
    assert window.weights == [0, 0.5, 0.5, 0.5, 0, 0, 3, 3]
    assert window.supervised_tokens == 5


def test_a_turn_too_long_for_a_window_keeps_its_weight() -> None:
    [window] = make_windows([turn([1, 2, 3, 4, 5, 6], weight=0.5)], MARKERS, 1, max_length=4)
    assert window.labels == [IGNORED, 1, 2, 3]
    assert window.weights == [0, 0.5, 0.5, 0.5]


def test_only_windows_with_a_target_of_another_weight_than_1_have_weights() -> None:
    turns = [turn([1, 2, 3]), turn([4, 5], 1, supervised=False, weight=0), turn([6, 7, 8], weight=2)]
    first, second = make_windows(turns, MARKERS, 1, max_length=8)
    assert (first.weights, second.weights) == (None, [0, 0, 0, 0, 2, 2, 2, 2])


LOSS_ON = st.sampled_from(["all", "responses", "last", "Ann"])


@st.composite
def talks(draw: st.DrawFn, weights: st.SearchStrategy[float]) -> Conversation:
    """A conversation of up to ten turns of two speakers; what they say does not matter."""
    speakers = draw(st.lists(st.sampled_from(["Ann", "Bob"]), min_size=1, max_size=10))
    given_weights = draw(st.lists(weights, min_size=len(speakers), max_size=len(speakers)))
    return Conversation(["x"] * len(speakers), speakers, draw(st.integers(0, 1)), weights=given_weights)


def windows_batch(conversation: Conversation, supervised: list[bool], max_length: int) -> list[Window]:
    """Windows in which the ids of turn n are n hundreds and some."""
    ids = [range(100 * n + 100, 100 * n + 101 + n % 3) for n in range(len(conversation.turns))]
    return list(make_windows(encoded_turns(conversation, ids, {}, supervised), MARKERS, 0, max_length=max_length))


@given(talk=talks(st.sampled_from([0, 1])), loss_on=LOSS_ON, max_length=st.integers(6, 40))
def test_weights_of_0_and_1_are_those_turns_masked(talk: Conversation, loss_on: str, max_length: int) -> None:
    unweighted = replace(talk, weights=None)
    chosen = supervised_turns(unweighted, loss_on)
    masked = [one and weight == 1 for one, weight in zip(chosen, talk.turn_weights, strict=True)]

    windows = windows_batch(talk, supervised_turns(talk, loss_on), max_length)

    assert windows == windows_batch(unweighted, masked, max_length)
    assert all(window.weights is None for window in windows)


@given(talk=talks(st.floats(0.1, 9)), loss_on=LOSS_ON, max_length=st.integers(6, 40))
def test_every_target_has_the_weight_of_its_turn(talk: Conversation, loss_on: str, max_length: int) -> None:
    supervised = supervised_turns(talk, loss_on)
    windows = windows_batch(talk, supervised, max_length)

    plain = windows_batch(replace(talk, weights=None), supervised, max_length)
    assert [replace(window, weights=None) for window in windows] == plain
    for window in windows:
        weights = window.weights or [float(label != IGNORED) for label in window.labels]
        turns = [index // 100 - 1 if index != SEP else None for index in window.input_ids]
        for place, label in enumerate(window.labels):
            number = turns[place] if turns[place] is not None else turns[place - 1]
            expected = 0 if label == IGNORED or number is None else talk.turn_weights[number]
            assert weights[place] == expected


USER_FIRST = TemplateMarkers(
    {
        "start": {"user": (20, 21), "system": (20, 22)},
        "system": {"user": (23, 21)},
        "user": {"assistant": (23, 24, 25), "response": (23, 24, 25)},
        "assistant": {"user": (23, 26, 21)},
    },
    {"user": 23, "assistant": 23},
)
"""Markers with which no sequence begins with the assistant, and whose lengths depend on the roles."""


def roled(length: int, role: str, **options: Any) -> EncodedTurn:
    return turn([1] * length, int(role == "assistant"), role=role, **options)


def test_a_user_turn_has_the_context_with_which_a_window_may_begin() -> None:
    turns = [roled(20, "user", supervised=False), roled(3, "assistant", supervised=False), roled(4, "user")]
    [window] = make_windows(turns, USER_FIRST, 0, max_length=40, context_share=0.25)
    assert [end - start for start, end in window.spans] == [20, 3, 4]  # more than its share, rather than none
    [window] = make_windows(turns, USER_FIRST, 0, max_length=30)
    assert ([end - start for start, end in window.spans], window.context_cut) == ([4], None)


@settings(max_examples=60)
@given(
    lengths=st.lists(st.integers(1, 20), min_size=1, max_size=9),
    pinned=st.booleans(),
    supervised=st.sampled_from([("user",), ("assistant",), ("user", "assistant")]),
    max_length=st.integers(8, 60),
    share=st.sampled_from([0.0, 0.5, 1.0]),
)
def test_windows_of_a_template_begin_with_the_user_and_fit(
    lengths: list[int], pinned: bool, supervised: tuple[str, ...], max_length: int, share: float
) -> None:
    roles = [("user", "assistant")[number % 2] for number in range(len(lengths))]
    turns = [roled(length, role, supervised=role in supervised) for length, role in zip(lengths, roles, strict=True)]
    system = [roled(4, "system", pinned=True, supervised=False)] if pinned else []
    try:
        windows = list(make_windows([*system, *turns], USER_FIRST, 0, max_length=max_length, context_share=share))
    except ContextTooLongError:
        return
    first = (20, 22) if pinned else (20, 21)
    assert all(tuple(window.input_ids[:2]) == first and len(window.input_ids) <= max_length for window in windows)
    targets = sum(turn.supervised and len(turn.ids) + 1 for turn in turns)
    assert sum(window.supervised_tokens + window.cut for window in windows) == targets


WITH_TOOLS = TemplateMarkers(
    {
        "start": {"user": (20, 21), "system": (20, 22)},
        "system": {"user": (23, 21)},
        "user": {"assistant": (23, 24), "response": (23, 24)},
        "assistant": {"user": (23, 21), "tool": (23, 27)},
        "tool": {"assistant": (23, 24), "response": (23, 24)},
    },
    {"user": 23, "assistant": 23},
)


def test_what_a_window_must_have_is_counted() -> None:
    assert required_length(FOUR, MARKERS) == 0
    assert required_length([turn([8, 8], pinned=True, supervised=False), *FOUR], MARKERS) == 3
    call = [roled(4, "user"), roled(3, "assistant"), roled(9, "tool", supervised=False), roled(5, "assistant")]
    assert required_length(call, WITH_TOOLS) == 2 + 4 + 2 + 3 + 2 + 9 + 2 + 5
    assert required_length(call[:2], WITH_TOOLS) == 0


@settings(max_examples=60)
@given(
    lengths=st.lists(st.integers(1, 30), min_size=2, max_size=9),
    calls=st.lists(st.booleans(), min_size=9, max_size=9),
    pinned=st.integers(0, 40),
)
def test_longer_windows_than_what_they_must_have_have_room(lengths: list[int], calls: list[bool], pinned: int) -> None:
    roles = ["user"]
    for is_call in calls:
        following = {"user": "assistant", "assistant": "tool" if is_call else "user", "tool": "assistant"}
        roles.append(following[roles[-1]])
    turns = [roled(length, role, supervised=role != "tool") for length, role in zip(lengths, roles, strict=False)]
    if pinned:
        turns.insert(0, roled(pinned, "system", supervised=False, pinned=True))
    required = required_length(turns, WITH_TOOLS)

    assert list(make_windows(turns, WITH_TOOLS, 0, max_length=required + 8))
    if required:
        with pytest.raises(ContextTooLongError):
            list(make_windows(turns, WITH_TOOLS, 0, max_length=required))
