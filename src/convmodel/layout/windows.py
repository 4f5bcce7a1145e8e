"""Splits encoded conversations into windows, the training sequences.

Owns: where a long conversation is split, how much context a window has, and the labels.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

from convmodel.errors import ContextTooLongError
from convmodel.layout.sequence import IGNORED, EncodedTurn, Window, frame_length, lay_out

CONTEXT_SHARE = 0.5
"""The fraction of a window that unsupervised context turns may take."""

_SHORTEST_END = 2  # the cost of a separator and a token


def make_windows(
    turns: Sequence[EncodedTurn],
    separator: int,
    closing_type: int,
    *,
    max_length: int,
    bos: int | None = None,
    context_share: float = CONTEXT_SHARE,
    text_bytes: Callable[[Sequence[int]], int] = len,
) -> Iterator[Window]:
    """Splits an encoded conversation into windows such that every supervised turn is supervised exactly once.

    A window has the pinned turns, earlier turns as context, and then as many turns as fit. The turn before the first
    supervised one is included; if both do not fit, only its end, and the window ends with the supervised one. Still
    earlier turns are never cut, and take up to `context_share` of the window; at the end of the conversation they also
    fill the room that is left. Of a turn that is longer than a window only the beginning is kept, without a closing
    separator, because the text does not end there.

    Args:
        turns: The turns of one conversation.
        separator: The id of the separator.
        closing_type: The token type of the separator that ends the conversation.
        max_length: The maximum length of a window in tokens.
        bos: The id of the beginning-of-text token, with which each window begins; None for none.
        context_share: The fraction of a window that unsupervised context turns may take.
        text_bytes: Counts the UTF-8 bytes of tokens, for a turn that is cut.

    Raises:
        ContextTooLongError: If a window, beside the pinned turns, has no room for a turn.
    """
    pinned = [turn for turn in turns if turn.pinned]
    free = [turn for turn in turns if not turn.pinned]
    taken = sum(turn.cost for turn in pinned)
    room = max_length - frame_length(bos) - taken
    if room < 2:
        if not pinned:
            raise ContextTooLongError(f"a window of {max_length} tokens has no room for a turn: raise max_length")
        raise ContextTooLongError(
            f"the pinned turns take {taken} tokens of a window of {max_length}, which leaves no room "
            "for another turn: raise max_length"
        )
    end = 0
    for first, turn in enumerate(free):
        if first < end or not turn.supervised:
            continue
        start, end = _window_span(free, first, room, context_share)
        if turn.cost > room:
            yield _cut_window([*pinned, turn], separator, room, text_bytes, bos)
            continue
        context = [replace(turn, supervised=False) for turn in free[start:first]]
        context_cut: int | None = 0
        if first and not context:
            context, context_cut = _end_of(free[first - 1], room - turn.cost)
        next_type = free[end].type if end < len(free) else closing_type
        window = _window([*pinned, *context, *free[first:end]], separator, next_type, bos)
        yield replace(window, context_cut=context_cut)


def _window_span(turns: Sequence[EncodedTurn], first: int, room: int, share: float) -> tuple[int, int]:
    """Returns the turns of the window whose first supervised turn is `first`, as a range [start, end)."""
    start, used, context = first, min(turns[first].cost, room), 0
    while start > 0:
        cost = turns[start - 1].cost
        if used + cost > room or (context and context + cost > share * room):
            break
        start, used, context = start - 1, used + cost, context + cost
    end = last = first + 1
    if not context and first and room - used >= _SHORTEST_END:
        return first, end  # the end of the turn before takes the room that is left
    total = used
    while last < len(turns) and total + turns[last].cost <= room:
        total += turns[last].cost
        last += 1
        if turns[last - 1].supervised:
            end, used = last, total
    while start > 0 and used + turns[start - 1].cost <= room:
        start, used = start - 1, used + turns[start - 1].cost
    return start, end


def _end_of(turn: EncodedTurn, cost: int) -> tuple[list[EncodedTurn], int | None]:
    """Returns the end of a context turn, of this cost, and how many tokens are cut; nothing if there is no room."""
    if cost < _SHORTEST_END:
        return [], None
    cut = turn.cost - cost
    return [replace(turn, ids=turn.ids[cut:], supervised=False)], cut


def _window(turns: Sequence[EncodedTurn], separator: int, closing_type: int, bos: int | None) -> Window:
    ids, types = lay_out(turns, separator, closing_type, bos=bos)
    labels = [IGNORED] * len(ids)
    weights = [0.0] * len(ids) if any(turn.supervised and turn.weight != 1 for turn in turns) else None
    position = frame_length(bos) - 1
    for turn in turns:
        begin, position = position + 1, position + turn.cost
        if turn.supervised:
            labels[begin : position + 1] = ids[begin : position + 1]
            if weights:
                weights[begin : position + 1] = [turn.weight] * turn.cost
    return Window(ids, types, labels, sum(turn.text_bytes for turn in turns if turn.supervised), weights=weights)


def _cut_window(
    turns: Sequence[EncodedTurn],
    separator: int,
    room: int,
    text_bytes: Callable[[Sequence[int]], int],
    bos: int | None,
) -> Window:
    """Lays out pinned turns and the beginning of a turn that is too long for a window, without closing separator."""
    whole = turns[-1]
    cut = replace(whole, ids=whole.ids[:room], text_bytes=text_bytes(whole.ids[:room]))
    window = _window([*turns[:-1], cut], separator, whole.type, bos)
    for values in (window.input_ids, window.types, window.labels, window.weights or [0.0]):
        values.pop()
    return replace(window, cut=whole.cost - len(cut.ids))
