"""The token layout: the positions of markers, types and labels in a sequence of token ids.

Owns: sequences, prompts, whose turns are supervised, and leaving out whole turns. Knows token ids only, no text and no
model. `docs/token-layout.md` shows the layout position by position.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import accumulate, pairwise
from typing import NamedTuple

from convmodel.conversation import Conversation
from convmodel.errors import ConfigError, ContextTooLongError
from convmodel.layout.markers import ASSISTANT, START, TOOL, Markers

IGNORED = -100
"""The label of a position that is not a target, which PyTorch's cross entropy ignores by default."""

LOSS_ON = ("all", "responses", "last")
"""The values of `loss_on` that are not speakers' names."""

LossOn = str | Sequence[str]
"""Whose turns are supervised: `all`, `responses`, `last`, a speaker's name, or several names."""


@dataclass(frozen=True, slots=True)
class EncodedTurn:
    """One turn as token ids, without markers."""

    ids: Sequence[int]
    type: int  # the speaker's index
    role: str = ""  # for the markers around it
    text_bytes: int = 0  # of the text in UTF-8
    pinned: bool = False  # whether it stays when older turns are left out
    supervised: bool = False  # whether its tokens and the one that ends it are targets
    weight: float = 1.0  # of these targets in the loss


@dataclass(frozen=True, slots=True)
class Prompt:
    """The encoded context that a response continues.

    Attributes:
        input_ids: One id per position: markers, turn, ..., and the markers that open the response.
        types: The speaker's index at each position; the last one is the responder's.
        left_out: How many of the oldest turns were left out to make room.
        cut: How many tokens were cut from the beginning of the newest turn.
        spans: The positions of each turn's tokens, [start, end); ignored by comparisons.
        lead: What the decoded response begins with and what is not part of its text: a space, for some templates.
    """

    input_ids: list[int]
    types: list[int]
    left_out: int = 0
    cut: int = 0
    spans: list[tuple[int, int]] = field(default_factory=list, compare=False)
    lead: str = ""


@dataclass(frozen=True, slots=True)
class Window:
    """One training sequence: unsupervised context turns, then supervised turns.

    Attributes:
        input_ids: One id per position.
        types: The speaker's index at each position.
        labels: The position's id if it is a target, else -100; not shifted.
        text_bytes: UTF-8 bytes of the supervised turns' text.
        cut: How many targets of a turn that is longer than a window were left out, including the one that ends it.
        weights: The weight of each position in the loss: its turn's weight if it is a target, else 0.0; None if every
            target has weight 1.
        source: The conversation's id, for messages; ignored by comparisons.
        context_cut: How many tokens were cut from the beginning of the turn before the first supervised one; None if
            such a turn was left out, since a supervised one of no more than a window fills it. For counts; ignored by
            comparisons.
        spans: The positions of each turn's tokens, [start, end); empty if read from disk; ignored by comparisons.
        dropped: How many first turns of the conversation were left out, in its first window; ignored by comparisons.
    """

    input_ids: list[int]
    types: list[int]
    labels: list[int]
    text_bytes: int = 0
    cut: int = 0
    weights: list[float] | None = None
    source: str = field(default="", compare=False)
    context_cut: int | None = field(default=0, compare=False)
    spans: Sequence[tuple[int, int]] = field(default=(), compare=False)
    dropped: int = field(default=0, compare=False)

    @property
    def supervised_tokens(self) -> int:
        """How many positions are targets."""
        return sum(label != IGNORED for label in self.labels)


def named_speakers(loss_on: LossOn) -> list[str]:
    """Returns the speakers that `loss_on` names; nobody if it is one of the keywords.

    Raises:
        ConfigError: If it is neither one of the keywords nor speakers' names.
    """
    if loss_on in LOSS_ON:
        return []
    chosen = [loss_on] if isinstance(loss_on, str) else loss_on
    if not isinstance(chosen, Sequence) or not chosen or not all(isinstance(n, str) and n.strip() for n in chosen):
        raise ConfigError(f"loss_on is {loss_on!r}: use {', '.join(LOSS_ON)}, or speakers' names")
    return list(chosen)


def supervised_turns(conversation: Conversation, loss_on: LossOn, roles: Mapping[str, str] | None = None) -> list[bool]:
    """Returns for each turn whether it is supervised; pinned turns, turns of weight 0 and of tools never are.

    `responses` are the turns of the assistant if speakers have `roles`, else those of every second speaker, in the
    order in which speakers appear after the pinned turns.

    Raises:
        ConfigError: If `loss_on` is neither one of the keywords nor speakers' names.

    Example:
        >>> supervised_turns(Conversation(["Hi", "Hello", "Well?"]), "responses")
        [False, True, False]
    """
    speakers, pinned = conversation.turn_speakers, conversation.pinned
    first, names = pinned, set(speakers) - {TOOL}
    if loss_on == "last":
        first = max(pinned, len(speakers) - 1)
    elif loss_on == "responses":
        second = list(dict.fromkeys(speakers[pinned:]))[1::2]
        names &= {name for name, role in roles.items() if role == ASSISTANT} if roles else set(second)
    elif loss_on != "all":
        names = set(named_speakers(loss_on))
    weights = conversation.turn_weights
    return [i >= first and name in names and weights[i] > 0 for i, name in enumerate(speakers)]


def encoded_turns(
    conversation: Conversation,
    ids: Iterable[Sequence[int]],
    roles: Mapping[str, str],
    supervised: Sequence[bool] | None = None,
) -> list[EncodedTurn]:
    """Returns a conversation's turns with their token ids, taking as many from `ids` as there are turns.

    `roles` are the speakers' roles; where one has none, the markers depend on no role.
    """
    index = {name: number for number, name in enumerate(conversation.speaker_names)}
    chosen = supervised or [False] * len(conversation.turns)
    weights = conversation.turn_weights
    # `ids` comes last, so that `zip` takes no more of them than there are turns.
    turns = zip(conversation.turn_speakers, conversation.turns, ids, strict=False)
    return [
        EncodedTurn(
            turn_ids,
            index[speaker],
            roles.get(speaker, ""),
            len(turn.encode()),
            i < conversation.pinned,
            chosen[i],
            weights[i],
        )
        for i, (speaker, turn, turn_ids) in enumerate(turns)
    ]


class LaidOut(NamedTuple):
    """A sequence of turns: ids and types, one per position, and each turn's positions, [start, end)."""

    ids: list[int]
    types: list[int]
    spans: list[tuple[int, int]]


def lay_out(turns: Sequence[EncodedTurn], markers: Markers, *, is_whole: bool = True) -> LaidOut:
    """Returns turns with the markers before each, which have its type.

    In a sequence that `is_whole`, no turn follows, so that a last turn of the assistant is a response.

    Example:
        >>> from convmodel.layout.markers import SeparatorMarkers
        >>> lay_out([EncodedTurn([7], 0), EncodedTurn([8, 9], 1)], SeparatorMarkers(5))[:2]
        ([5, 7, 5, 8, 9], [0, 0, 1, 1, 1])
        >>> lay_out([EncodedTurn([7], 0)], SeparatorMarkers(5, bos=2))
        LaidOut(ids=[2, 5, 7], types=[0, 0, 0], spans=[(2, 3)])
    """
    ids: list[int] = []
    types: list[int] = []
    spans: list[tuple[int, int]] = []
    before, last = START, len(turns) - is_whole
    for number, turn in enumerate(turns):
        opening = markers.opening(before, turn.role, is_last=number == last)
        begin = len(ids) + len(opening)
        ids += (*opening, *turn.ids)
        types += [turn.type] * (len(ids) - len(types))
        spans.append((begin, len(ids)))
        before = turn.role
    return LaidOut(ids, types, spans)


class Lengths:
    """The lengths of sequences of consecutive turns, each in constant time; pinned turns come first in all of them.

    Attributes:
        pinned: The pinned turns.
        free: The other turns, which a sequence may have from any to any.
    """

    def __init__(self, turns: Sequence[EncodedTurn], markers: Markers, *, is_whole: bool = True) -> None:
        """Adds up the lengths of turns with the markers before them; `is_whole` as in `lay_out`."""
        self.pinned = [turn for turn in turns if turn.pinned]
        self.free = [turn for turn in turns if not turn.pinned]
        before = self.pinned[-1].role if self.pinned else START
        openings = [len(markers.opening(*pair)) for pair in pairwise([START, *(turn.role for turn in self.pinned)])]
        self.taken = sum(openings) + sum(len(turn.ids) for turn in self.pinned)
        roles = [turn.role for turn in self.free]
        self._heads = [len(markers.opening(before, r)) if markers.follows(before, r) else None for r in roles]
        pairs = list(pairwise([before, *roles]))
        self._openings = [len(markers.opening(*pair)) if markers.follows(*pair) else 0 for pair in pairs]
        costs = [len(turn.ids) + opening for turn, opening in zip(self.free, self._openings, strict=True)]
        self._sums = [0, *accumulate(costs)]
        self._extras = [0] * len(roles)
        if is_whole and markers.reopens:
            whole = [len(markers.opening(*pair, is_last=True)) if markers.follows(*pair) else 0 for pair in pairs]
            self._extras = [last - length for last, length in zip(whole, self._openings, strict=True)]

    def begins(self, start: int) -> bool:
        """Returns whether a sequence may begin with this turn, after the pinned ones."""
        return self._heads[start] is not None

    def head(self, start: int) -> int:
        """Returns how many tokens come before a sequence's first turn, those of the pinned turns included."""
        head = self._heads[start]
        return self.taken + (self._openings[start] if head is None else head)

    def opening(self, index: int) -> int:
        """Returns how many markers come before a turn that is not the first."""
        return self._openings[index]

    def extra(self, index: int) -> int:
        """Returns by how many more tokens a turn is opened if it is the last one."""
        return self._extras[index]

    def cost(self, start: int, end: int) -> int:
        """Returns how many tokens turns and the markers before them take, in the middle of a sequence."""
        return self._sums[end] - self._sums[start]

    def of(self, start: int, end: int) -> int:
        """Returns how many tokens a sequence of the turns [start, end) has, without markers after its last one."""
        first = len(self.free[start].ids) + self.head(start)
        return first + self.cost(start + 1, end) + self._extras[end - 1]


def begin_turn(ids: Sequence[int], role: str, markers: Markers) -> Prompt:
    """Returns the prompt for continuing the text of a first turn."""
    laid_out = lay_out([EncodedTurn(ids, 0, role)], markers)
    return Prompt(laid_out.ids, laid_out.types, spans=laid_out.spans)


def build_prompt(
    turns: Sequence[EncodedTurn],
    markers: Markers,
    responder: EncodedTurn,
    *,
    budget: int | None = None,
    cut: bool = False,
    spare: float = 0.0,
) -> Prompt:
    """Lays out a context for the responder, leaving out its oldest whole turns until it fits.

    Args:
        turns: The context's turns; at least one.
        markers: The markers around turns.
        responder: The response to come, without ids.
        budget: The limit of the prompt in tokens; None for no limit.
        cut: Whether to cut the beginning of a newest turn that alone is too long; otherwise it is an error.
        spare: When turns must be left out, leave out enough to free this share of the budget. Then the prompts of a
            growing conversation share a prefix for many turns, which a prefix cache needs.

    Raises:
        ContextTooLongError: If the pinned turns and the newest turn do not fit.

    Example:
        >>> from convmodel.layout.markers import SeparatorMarkers
        >>> turns = [EncodedTurn([7], 0), EncodedTurn([8, 9], 1)]
        >>> build_prompt(turns, SeparatorMarkers(5), EncodedTurn([], 0), budget=4).input_ids
        [5, 8, 9, 5]
    """
    opening = markers.opening(turns[-1].role, responder.role, is_last=True)
    kept, cut_tokens = list(turns), 0
    if budget is not None:
        lengths = Lengths(turns, markers, is_whole=False)
        first = _first_kept(lengths, budget - len(opening), spare)
        if lengths.free and not lengths.begins(first):
            raise ContextTooLongError(
                f"the newest turn does not fit in a prompt of {budget} tokens with the turn before it, which this "
                "model's chat template requires",
                "shorten them, or request fewer new tokens",
            )
        kept = lengths.pinned + lengths.free[first:]
        length = lengths.of(first, len(lengths.free)) if lengths.free else lengths.taken
        cut_tokens = max(0, length + len(opening) - budget)
    if cut_tokens:
        if not cut or cut_tokens >= len(kept[-1].ids):
            pinned_part = f" with {lengths.taken} tokens of pinned turns" if lengths.pinned and lengths.free else ""
            or_cut = "" if cut else ", or cut its beginning (cut_long_turn=True)"
            raise ContextTooLongError(
                f"the newest turn has {len(kept[-1].ids)} tokens, {cut_tokens} more than fit in a prompt of "
                f"{budget}{pinned_part}",
                f"shorten it, request fewer new tokens{or_cut}",
            )
        kept[-1] = replace(kept[-1], ids=kept[-1].ids[cut_tokens:])
    ids, types, spans = lay_out(kept, markers, is_whole=False)
    types += [responder.type] * len(opening)
    return Prompt([*ids, *opening], types, left_out=len(turns) - len(kept), cut=cut_tokens, spans=spans)


def _first_kept(lengths: Lengths, room: int, spare: float) -> int:
    """Returns the index of the first turn in the prompt, as if the conversation had grown turn by turn."""
    first, spared = 0, lengths.taken + (room - lengths.taken) * (1 - spare)
    for newest in range(len(lengths.free)):
        limit: float = room if lengths.of(first, newest + 1) <= room else spared
        # The turn before the newest leaves only if it does not fit, not to free spare room.
        while first < newest and (
            (used := lengths.of(first, newest + 1)) > room
            or (used > limit and first < newest - 1)
            or not lengths.begins(first)
        ):
            first += 1
    return first
