"""Splits encoded conversations into windows, the training sequences.

Owns: where a long conversation is split, how much context a window has, and the labels.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

from convmodel.errors import ContextTooLongError
from convmodel.layout.markers import ASSISTANT, Markers
from convmodel.layout.sequence import IGNORED, EncodedTurn, Lengths, Window, lay_out

CONTEXT_SHARE = 0.5
"""The fraction of a window that unsupervised context turns may take."""


def make_windows(
    turns: Sequence[EncodedTurn],
    markers: Markers,
    closing_type: int,
    *,
    max_length: int,
    context_share: float = CONTEXT_SHARE,
    text_bytes: Callable[[Sequence[int]], int] = len,
) -> Iterator[Window]:
    """Splits an encoded conversation into windows such that every supervised turn is supervised exactly once.

    A window has the pinned turns, earlier turns as context, and then as many turns as fit. The turn before the first
    supervised one is included; if both do not fit, only its end, and the window ends with the supervised one. Still
    earlier turns are never cut, and take up to `context_share` of the window; at the end of the conversation they also
    fill the room that is left. Of a turn that is longer than a window only the beginning is kept, without an end,
    because the text does not end there. Where the markers open a response differently once another turn follows, a
    window ends with its first supervised response, so that each is learned as it will be generated.

    Args:
        turns: The turns of one conversation.
        markers: The markers around turns.
        closing_type: The token type of the marker that ends the conversation.
        max_length: The maximum length of a window in tokens.
        context_share: The fraction of a window that unsupervised context turns may take.
        text_bytes: Counts the UTF-8 bytes of tokens, for a turn that is cut.

    Raises:
        ContextTooLongError: If a window has no room for a turn, beside the pinned turns and those that must precede it.
    """
    whole = _whole_window(turns, markers, closing_type, max_length)
    if whole is not None:
        yield whole
        return
    lengths = Lengths(turns, markers)
    pinned, free = lengths.pinned, lengths.free
    room = max_length - 1  # for the end of the last turn
    if free and min(map(lengths.head, range(len(free)))) >= room:
        raise _no_room(lengths, max_length)
    end = 0
    for first, turn in enumerate(free):
        if first < end or not turn.supervised:
            continue
        start, end = _window_span(lengths, first, room, context_share, reopens=markers.reopens)
        next_type = free[end].type if end < len(free) else closing_type
        context = [replace(turn, supervised=False) for turn in free[start:first]]
        if context or not first:
            context_cut: int | None = 0
            available = max_length - lengths.of(start, first + 1) + len(turn.ids)
        else:
            context, context_cut = _end_of(lengths, first, room, context_share)
            available = max_length - lengths.extra(first)
            if context:
                available -= lengths.head(first - 1) + len(context[0].ids) + lengths.opening(first)
            else:
                available -= lengths.head(first)
        if len(turn.ids) < available:
            window = _window([*pinned, *context, *free[first:end]], markers, next_type)
            yield replace(window, context_cut=context_cut)
        elif available < 1:
            raise _no_room(lengths, max_length)
        else:
            window = _cut_window([*pinned, *context, turn], markers, available, text_bytes)
            yield replace(window, context_cut=context_cut or 0)


def required_length(turns: Sequence[EncodedTurn], markers: Markers) -> int:
    """Returns how many tokens of a window are taken, before there is room for further turns of a conversation.

    Pinned turns take them, and the longest supervised turn with those before it that the template requires.

    Example:
        >>> from convmodel.layout.markers import SeparatorMarkers
        >>> turns = [EncodedTurn([7, 8], 0, pinned=True), EncodedTurn([9], 1, supervised=True)]
        >>> required_length(turns, SeparatorMarkers(5))
        3
    """
    lengths = Lengths(turns, markers)
    required = lengths.taken
    for first, turn in enumerate(lengths.free):
        if turn.supervised and first and not lengths.begins(first) and not lengths.begins(first - 1):
            required = max(required, lengths.of(_nearest_beginning(lengths, first), first + 1))
    return required


def _whole_window(turns: Sequence[EncodedTurn], markers: Markers, closing_type: int, max_length: int) -> Window | None:
    """Returns the one window of a conversation that fits in it, up to the last supervised turn; None if it has others.

    Most conversations fit, and are laid out faster so.
    """
    end = next((number for number in range(len(turns), 0, -1) if turns[number - 1].supervised), 0)
    if not end or markers.reopens or sum(len(turn.ids) for turn in turns[:end]) >= max_length:
        return None
    window = _window(turns[:end], markers, turns[end].type if end < len(turns) else closing_type)
    return window if len(window.input_ids) <= max_length else None


def _no_room(lengths: Lengths, max_length: int) -> ContextTooLongError:
    if not lengths.pinned:
        return ContextTooLongError(f"a window of {max_length} tokens has no room for a turn: raise max_length")
    return ContextTooLongError(
        f"the pinned turns take {lengths.taken} tokens of a window of {max_length}, which leaves no room "
        "for another turn: raise max_length"
    )


def _window_span(lengths: Lengths, first: int, room: int, share: float, *, reopens: bool) -> tuple[int, int]:
    """Returns the turns of the window whose first supervised turn is `first`, as a range [start, end)."""
    turns, start = lengths.free, first
    while start > 0 and lengths.of(start - 1, first + 1) <= room:
        if start < first and lengths.cost(start - 1, first) > share * (room - lengths.taken):
            break
        start -= 1
    start = _beginning(lengths, start, first)
    end = last = first + 1
    if start == first and first and not lengths.begins(first - 1):
        start = _required_start(lengths, first, room)
    elif start == first and first and (_room_before(lengths, first, room) >= 1 or not lengths.begins(first)):
        return first, end  # the end of the turn before takes the room that is left
    is_last = reopens and turns[first].role == ASSISTANT
    while not is_last and last < len(turns) and lengths.of(start, last + 1) <= room:
        last += 1
        if turns[last - 1].supervised:
            end, is_last = last, reopens and turns[last - 1].role == ASSISTANT
    while start > 0 and lengths.of(start - 1, end) <= room:
        start -= 1
    return _beginning(lengths, start, first), end


def _beginning(lengths: Lengths, start: int, first: int) -> int:
    """Returns the earliest turn from `start` to `first` with which a window may begin, or `first`."""
    return next((index for index in range(start, first) if lengths.begins(index)), first)


def _nearest_beginning(lengths: Lengths, first: int) -> int:
    """Returns the last turn before `first` with which a window may begin, or `first`."""
    return next((index for index in reversed(range(first)) if lengths.begins(index)), first)


def _required_start(lengths: Lengths, first: int, room: int) -> int:
    """Returns where a window may begin if not with the turn before `first`: earlier if that fits, else with `first`.

    Raises:
        ContextTooLongError: If it must be earlier.
    """
    start = _nearest_beginning(lengths, first)
    if lengths.of(start, first + 1) <= room:
        return start
    if lengths.begins(first):
        return first
    raise ContextTooLongError(
        f"a window of {room + 1} tokens has no room for a turn with those before it, which this model's chat template "
        "requires: raise max_length"
    )


def _room_before(lengths: Lengths, first: int, room: int) -> int:
    """Returns for how many tokens of the turn before it a turn leaves room."""
    return room - lengths.head(first - 1) - lengths.cost(first, first + 1) - lengths.extra(first)


def _end_of(lengths: Lengths, first: int, room: int, share: float) -> tuple[list[EncodedTurn], int | None]:
    """Returns the end of the turn before a supervised one, and how many tokens are cut.

    Nothing if there is no room, or if no window can begin with that turn.
    """
    if not lengths.begins(first - 1):
        return [], None
    before, size = lengths.free[first - 1], _room_before(lengths, first, room)
    if not lengths.begins(first):  # the turn before is required, so that this one may have to be cut
        size = max(size, min(len(before.ids), max(1, int(share * room) - lengths.head(first - 1))))
    if size < 1:
        return [], None
    cut = len(before.ids) - size
    return [replace(before, ids=before.ids[cut:], supervised=False)], cut


def _window(turns: Sequence[EncodedTurn], markers: Markers, closing_type: int) -> Window:
    ids, types, spans = lay_out(turns, markers)
    ids.append(markers.end(turns[-1].role))
    types.append(closing_type)
    labels = [IGNORED] * len(ids)
    weights = [0.0] * len(ids) if any(turn.supervised and turn.weight != 1 for turn in turns) else None
    for turn, (begin, end) in zip(turns, spans, strict=True):
        if turn.supervised:  # the token after its text ends it
            labels[begin : end + 1] = ids[begin : end + 1]
            if weights:
                weights[begin : end + 1] = [turn.weight] * (end + 1 - begin)
    text_bytes = sum(turn.text_bytes for turn in turns if turn.supervised)
    return Window(ids, types, labels, text_bytes, weights=weights, spans=spans)


def _cut_window(
    turns: Sequence[EncodedTurn], markers: Markers, room: int, text_bytes: Callable[[Sequence[int]], int]
) -> Window:
    """Lays out turns of which the last is too long for a window: its beginning, without an end."""
    whole = turns[-1]
    cut = replace(whole, ids=whole.ids[:room], text_bytes=text_bytes(whole.ids[:room]))
    window = _window([*turns[:-1], cut], markers, whole.type)
    for values in (window.input_ids, window.types, window.labels, window.weights or [0.0]):
        values.pop()
    return replace(window, cut=len(whole.ids) + 1 - len(cut.ids))
