"""Encoded conversations to windows: the sequences that are trained on.

Owns: where a long conversation is cut, how much context a window has, and labels.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

from convmodel.errors import ContextTooLongError
from convmodel.layout.sequence import IGNORED, EncodedTurn, Window, lay_out

CONTEXT_SHARE = 0.5
"""How much of a window its unsupervised context turns may take, as a share of the window's length."""


def make_windows(
    turns: Sequence[EncodedTurn],
    separator: int,
    closing_type: int,
    *,
    max_length: int,
    context_share: float = CONTEXT_SHARE,
    text_bytes: Callable[[Sequence[int]], int] = len,
) -> Iterator[Window]:
    """Cuts an encoded conversation into windows in which every supervised turn is supervised exactly once.

    A window holds the pinned turns, earlier turns as context, and then as many turns as fit. Context turns are whole:
    the turn just before always comes along where both fit, further ones within `context_share`, and whatever room is
    left at the end of the conversation goes to context too. A turn longer than a window keeps its beginning, and its
    closing separator is no target, since the text does not end there.

    Args:
        turns: The whole conversation.
        separator: The separator's id.
        closing_type: The type of the separator that ends the conversation.
        max_length: The longest window, in tokens.
        context_share: How much of a window its context may take, between 0 and 1.
        text_bytes: Measures the text of some tokens in UTF-8 bytes; asked only about a turn that is cut.

    Raises:
        ContextTooLongError: If the pinned turns leave no room for any other.
    """
    pinned = [turn for turn in turns if turn.pinned]
    free = [turn for turn in turns if not turn.pinned]
    room = max_length - 1 - sum(turn.cost for turn in pinned)
    if room < 2:
        raise ContextTooLongError(
            f"the pinned turns take {max_length - 1 - room} tokens of a window of {max_length}, which leaves no room "
            "for another turn: raise max_length"
        )
    targets = (i for i, turn in enumerate(free) if turn.supervised)
    end = 0
    for first in targets:
        if first < end:
            continue
        start, end = _window_span(free, first, room, context_share)
        span = [replace(turn, supervised=False) for turn in free[start:first]] + free[first:end]
        after = free[end].type if end < len(free) else closing_type
        if free[first].cost > room:
            yield _cut_window([*pinned, *span], separator, room, text_bytes)
        else:
            yield _window([*pinned, *span], separator, after)


def _window_span(turns: Sequence[EncodedTurn], first: int, room: int, share: float) -> tuple[int, int]:
    """Chooses the turns of a window whose first supervised turn is given: [start, end)."""
    start, used, context = first, min(turns[first].cost, room), 0
    while start > 0:
        cost = turns[start - 1].cost
        if used + cost > room or (context and context + cost > share * room):
            break
        start, used, context = start - 1, used + cost, context + cost
    end = last = first + 1
    total = used
    while last < len(turns) and total + turns[last].cost <= room:
        total += turns[last].cost
        last += 1
        if turns[last - 1].supervised:
            end, used = last, total
    while start > 0 and used + turns[start - 1].cost <= room:
        start, used = start - 1, used + turns[start - 1].cost
    return start, end


def _window(turns: Sequence[EncodedTurn], separator: int, closing_type: int) -> Window:
    ids, types = lay_out(turns, separator, closing_type)
    labels = [IGNORED] * len(ids)
    weights = [0.0] * len(ids) if any(turn.supervised and turn.weight != 1 for turn in turns) else None
    position = 0
    for turn in turns:
        begin, position = position + 1, position + turn.cost
        if turn.supervised:
            labels[begin : position + 1] = ids[begin : position + 1]
            if weights:
                weights[begin : position + 1] = [turn.weight] * turn.cost
    return Window(ids, types, labels, sum(turn.text_bytes for turn in turns if turn.supervised), weights=weights)


def _cut_window(
    turns: Sequence[EncodedTurn], separator: int, room: int, text_bytes: Callable[[Sequence[int]], int]
) -> Window:
    """Lays out pinned turns and one turn too long for any window: its beginning, and no closing separator."""
    long = turns[-1]
    kept = replace(long, ids=long.ids[:room], text_bytes=text_bytes(long.ids[:room]))
    whole = _window([*turns[:-1], kept], separator, long.type)
    return Window(
        whole.input_ids[:-1],
        whole.types[:-1],
        whole.labels[:-1],
        whole.text_bytes,
        cut=long.cost - len(kept.ids),
        weights=whole.weights and whole.weights[:-1],
    )
