"""The token layout: where separators, types and labels stand in a sequence of token ids.

Owns: prompts, windows, labels, and leaving out whole turns. Knows token ids only, no text and no model.
`docs/token-layout.md` shows it position by position.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace

from convmodel.conversation import Conversation
from convmodel.errors import ConfigError, ContextTooLongError, ConversationError

IGNORED = -100
"""The label of a position that is not a target; the value that PyTorch's cross entropy leaves out."""

CONTEXT_SHARE = 0.5
"""How much of a window its unsupervised context turns may take, as a share of the window's length."""

LossOn = str | Sequence[str]
"""Whose turns are supervised: `all`, `responses`, `last`, a speaker's name, or several names."""


@dataclass(frozen=True, slots=True)
class EncodedTurn:
    """One turn as token ids, without its separator.

    Attributes:
        ids: The text's tokens.
        type: The speaker's index, which is the token type.
        text_bytes: Length of the text in UTF-8 bytes.
        pinned: Whether the turn stays when older turns are left out.
        supervised: Whether its tokens and the separator that closes it are targets.
        weight: How much each of these targets counts in the loss.
    """

    ids: Sequence[int]
    type: int
    text_bytes: int = 0
    pinned: bool = False
    supervised: bool = False
    weight: float = 1.0

    @property
    def cost(self) -> int:
        """Its length in a sequence: the separator that opens it and its tokens."""
        return 1 + len(self.ids)


@dataclass(frozen=True, slots=True)
class Prompt:
    """The encoded context that a response continues.

    Attributes:
        input_ids: Separator, turn, ..., separator; one id a position.
        types: The speaker's index at each position; the last one is the responder's.
        left_out: How many of the oldest turns were left out to make room.
        cut: How many tokens were cut off the beginning of the newest turn.
    """

    input_ids: list[int]
    types: list[int]
    left_out: int = 0
    cut: int = 0


@dataclass(frozen=True, slots=True)
class Window:
    """One training sequence: unsupervised context turns, then supervised turns.

    Attributes:
        input_ids: One id a position.
        types: The speaker's index at each position.
        labels: The id where the position is a target, `IGNORED` elsewhere; not shifted.
        text_bytes: UTF-8 bytes of the supervised turns' text.
        cut: Targets of a turn longer than a whole window that this window had to leave out, its closing separator
            included.
        weights: How much each position counts in the loss: its turn's weight where it is a target, 0.0 elsewhere; None
            where every target counts 1.
        source: The conversation it comes from, for messages about it; it does not matter to equality.
    """

    input_ids: list[int]
    types: list[int]
    labels: list[int]
    text_bytes: int = 0
    cut: int = 0
    weights: list[float] | None = None
    source: str = field(default="", compare=False)

    @property
    def supervised_tokens(self) -> int:
        """How many positions are targets."""
        return sum(label != IGNORED for label in self.labels)


def supervised_turns(conversation: Conversation, loss_on: LossOn) -> list[bool]:
    """Tells for each turn whether it is supervised; pinned turns and those of weight 0 never are.

    `responses` are the turns of every second speaker, in the order in which speakers appear after the pinned turns.

    Raises:
        ConfigError: If `loss_on` is neither a known word nor names.

    Example:
        >>> supervised_turns(Conversation(["Hi", "Hello", "Well?"]), "responses")
        [False, True, False]
    """
    who, pinned = conversation.who, conversation.pinned
    free = range(pinned, len(who))
    if loss_on == "all":
        chosen = set(free)
    elif loss_on == "last":
        chosen = {len(who) - 1}
    elif loss_on == "responses":
        responders = list(dict.fromkeys(who[pinned:]))[1::2]
        chosen = {i for i in free if who[i] in responders}
    else:
        names = [loss_on] if isinstance(loss_on, str) else loss_on
        if not isinstance(names, Sequence) or not names or any(not _is_name(name) for name in names):
            raise ConfigError(f"loss_on is {loss_on!r}: use all, responses, last, or speakers' names")
        chosen = {i for i in free if who[i] in names}
    return [i in chosen and i >= pinned and weight > 0 for i, weight in enumerate(conversation.turn_weights)]


def _is_name(value: object) -> bool:
    return isinstance(value, str) and bool(value.strip())


def require_two_speakers(names: Sequence[str]) -> None:
    """Checks that a model without token types can tell the speakers apart, which it does by turns alone.

    Raises:
        ConversationError: If there are more than two.
    """
    speakers = dict.fromkeys(names)
    if len(speakers) > 2:
        raise ConversationError(
            f"{len(speakers)} speakers ({', '.join(speakers)}), but this model takes no token types, so it can "
            "tell only two apart, by turns: use an architecture with token types (GPT-2), or merge speakers"
        )


def encoded_turns(
    conversation: Conversation, ids: Iterable[Sequence[int]], supervised: Sequence[bool] | None = None
) -> list[EncodedTurn]:
    """Joins a conversation's turns with their token ids, of which it takes as many as there are turns.

    Without `supervised` no turn is.
    """
    index = {name: number for number, name in enumerate(conversation.names)}
    chosen = supervised or [False] * len(conversation.turns)
    weights = conversation.turn_weights
    # The ids come last: `zip` asks for no more of them than there are turns.
    return [
        EncodedTurn(turn_ids, index[speaker], len(turn.encode()), i < conversation.pinned, chosen[i], weights[i])
        for i, (speaker, turn, turn_ids) in enumerate(zip(conversation.who, conversation.turns, ids, strict=False))
    ]


def lay_out(turns: Sequence[EncodedTurn], separator: int, closing_type: int) -> tuple[list[int], list[int]]:
    """Lays turns out as ids and types: each turn after a separator of its own type, one more separator at the end.

    Example:
        >>> lay_out([EncodedTurn([7], 0), EncodedTurn([8, 9], 1)], separator=5, closing_type=0)
        ([5, 7, 5, 8, 9, 5], [0, 0, 1, 1, 1, 0])
    """
    ids: list[int] = []
    types: list[int] = []
    for turn in turns:
        ids += (separator, *turn.ids)
        types += [turn.type] * turn.cost
    return [*ids, separator], [*types, closing_type]


def make_prompt(
    turns: Sequence[EncodedTurn],
    separator: int,
    responder: int,
    *,
    budget: int | None = None,
    cut: bool = False,
) -> Prompt:
    """Lays out a context for the responder, leaving out its oldest whole turns until it fits.

    Args:
        turns: The context's turns; at least one.
        separator: The separator's id.
        responder: The responding speaker's index.
        budget: How many tokens the prompt may have; None for any number.
        cut: Whether a newest turn that alone is too long loses its beginning; otherwise it is an error.

    Raises:
        ContextTooLongError: If the pinned turns and the newest turn alone are too long.

    Example:
        >>> make_prompt([EncodedTurn([7], 0), EncodedTurn([8, 9], 1)], 5, 0, budget=4).input_ids
        [5, 8, 9, 5]
    """
    kept = list(turns)
    over = 1 + sum(turn.cost for turn in kept) - budget if budget is not None else 0
    while over > 0:
        oldest = next((i for i, turn in enumerate(kept[:-1]) if not turn.pinned), None)
        if oldest is None:
            break
        over -= kept.pop(oldest).cost
    cut_tokens = max(0, over)
    if cut_tokens:
        if not cut or cut_tokens >= len(kept[-1].ids):
            pinned = sum(turn.cost for turn in kept[:-1])
            others = f" beside {pinned} of pinned turns" if pinned else ""
            cure = "" if cut else ", or cut its beginning (cut_long_turn=True)"
            raise ContextTooLongError(
                f"the newest turn has {len(kept[-1].ids)} tokens, {cut_tokens} more than fit in a prompt of "
                f"{budget}{others}; shorten it, ask for fewer new tokens{cure}"
            )
        kept[-1] = replace(kept[-1], ids=kept[-1].ids[cut_tokens:])
    ids, types = lay_out(kept, separator, responder)
    return Prompt(ids, types, left_out=len(turns) - len(kept), cut=cut_tokens)


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
