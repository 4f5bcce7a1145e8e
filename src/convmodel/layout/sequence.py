"""The token layout: the positions of separators, types and labels in a sequence of token ids.

Owns: sequences, prompts, whose turns are supervised, and leaving out whole turns. Knows token ids only, no text and no
model. `docs/token-layout.md` shows the layout position by position.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace

from convmodel.conversation import Conversation
from convmodel.errors import ConfigError, ContextTooLongError, ConversationError

IGNORED = -100
"""The label of a position that is not a target, which PyTorch's cross entropy ignores by default."""

LOSS_ON = ("all", "responses", "last")
"""The values of `loss_on` that are not speakers' names."""

LossOn = str | Sequence[str]
"""Whose turns are supervised: `all`, `responses`, `last`, a speaker's name, or several names."""


@dataclass(frozen=True, slots=True)
class EncodedTurn:
    """One turn as token ids, without its separator."""

    ids: Sequence[int]
    type: int  # the speaker's index
    text_bytes: int = 0  # of the text in UTF-8
    pinned: bool = False  # whether it stays when older turns are left out
    supervised: bool = False  # whether its tokens and its closing separator are targets
    weight: float = 1.0  # of these targets in the loss

    @property
    def cost(self) -> int:
        """The turn's length in a sequence: its opening separator and its tokens."""
        return 1 + len(self.ids)


@dataclass(frozen=True, slots=True)
class Prompt:
    """The encoded context that a response continues.

    Attributes:
        input_ids: Separator, turn, ..., separator; one id per position.
        types: The speaker's index at each position; the last one is the responder's.
        left_out: How many of the oldest turns were left out to make room.
        cut: How many tokens were cut from the beginning of the newest turn.
    """

    input_ids: list[int]
    types: list[int]
    left_out: int = 0
    cut: int = 0


@dataclass(frozen=True, slots=True)
class Window:
    """One training sequence: unsupervised context turns, then supervised turns.

    Attributes:
        input_ids: One id per position.
        types: The speaker's index at each position.
        labels: The position's id if it is a target, else -100; not shifted.
        text_bytes: UTF-8 bytes of the supervised turns' text.
        cut: How many targets of a turn that is longer than a window were left out, including its closing separator.
        weights: The weight of each position in the loss: its turn's weight if it is a target, else 0.0; None if every
            target has weight 1.
        source: The conversation's id, for messages; ignored by comparisons.
        context_cut: How many tokens were cut from the beginning of the turn before the first supervised one; None if
            such a turn was left out, since a supervised one of no more than a window fills it. For counts; ignored by
            comparisons.
    """

    input_ids: list[int]
    types: list[int]
    labels: list[int]
    text_bytes: int = 0
    cut: int = 0
    weights: list[float] | None = None
    source: str = field(default="", compare=False)
    context_cut: int | None = field(default=0, compare=False)

    @property
    def supervised_tokens(self) -> int:
        """How many positions are targets."""
        return sum(label != IGNORED for label in self.labels)


def supervised_turns(conversation: Conversation, loss_on: LossOn) -> list[bool]:
    """Returns for each turn whether it is supervised; pinned turns and turns of weight 0 never are.

    `responses` are the turns of every second speaker, in the order in which speakers appear after the pinned turns.

    Raises:
        ConfigError: If `loss_on` is neither one of the keywords nor speakers' names.

    Example:
        >>> supervised_turns(Conversation(["Hi", "Hello", "Well?"]), "responses")
        [False, True, False]
    """
    speakers, pinned = conversation.turn_speakers, conversation.pinned
    first, names = pinned, set(speakers)
    if loss_on == "last":
        first = max(pinned, len(speakers) - 1)
    elif loss_on == "responses":
        names = set(list(dict.fromkeys(speakers[pinned:]))[1::2])
    elif loss_on != "all":
        chosen = [loss_on] if isinstance(loss_on, str) else loss_on
        if not isinstance(chosen, Sequence) or not chosen or not all(isinstance(n, str) and n.strip() for n in chosen):
            raise ConfigError(f"loss_on is {loss_on!r}: use {', '.join(LOSS_ON)}, or speakers' names")
        names = set(chosen)
    weights = conversation.turn_weights
    return [i >= first and name in names and weights[i] > 0 for i, name in enumerate(speakers)]


def joined_for_two(conversation: Conversation) -> Conversation:
    """Joins consecutive turns of a speaker, for a model without token types, which relies on alternating turns."""
    _require_two(conversation.turn_speakers[conversation.pinned :])
    return conversation.joined()


def require_alternation(context: Conversation, responder: str) -> None:
    """Raises a `ConversationError` if a model without token types cannot represent who responds."""
    _require_two((*context.turn_speakers[context.pinned :], responder))
    if responder == context.turn_speakers[-1]:
        raise ConversationError(
            f"{responder!r} spoke last and is to respond, but this model does not distinguish speakers: "
            "add to the turn, or let another speaker respond"
        )


def _require_two(names: Sequence[str]) -> None:
    speakers = dict.fromkeys(names)
    if len(speakers) > 2:
        raise ConversationError(
            f"{len(speakers)} speakers ({', '.join(speakers)}), but this model has no token types, so it supports "
            "only two speakers who alternate: use an architecture with token types (GPT-2), or merge speakers"
        )


def encoded_turns(
    conversation: Conversation, ids: Iterable[Sequence[int]], supervised: Sequence[bool] | None = None
) -> list[EncodedTurn]:
    """Returns a conversation's turns with their token ids, taking as many from `ids` as there are turns."""
    index = {name: number for number, name in enumerate(conversation.speaker_names)}
    chosen = supervised or [False] * len(conversation.turns)
    weights = conversation.turn_weights
    # `ids` comes last, so that `zip` takes no more of them than there are turns.
    turns = zip(conversation.turn_speakers, conversation.turns, ids, strict=False)
    return [
        EncodedTurn(turn_ids, index[speaker], len(turn.encode()), i < conversation.pinned, chosen[i], weights[i])
        for i, (speaker, turn, turn_ids) in enumerate(turns)
    ]


def lay_out(
    turns: Sequence[EncodedTurn], separator: int, closing_type: int, *, bos: int | None = None
) -> tuple[list[int], list[int]]:
    """Returns ids and types: each turn after a separator of the same type, and one more separator at the end.

    A beginning-of-text token, if any, comes once before all of them, with the type of the first turn.

    Example:
        >>> lay_out([EncodedTurn([7], 0), EncodedTurn([8, 9], 1)], separator=5, closing_type=0)
        ([5, 7, 5, 8, 9, 5], [0, 0, 1, 1, 1, 0])
        >>> lay_out([EncodedTurn([7], 0)], separator=5, closing_type=1, bos=2)
        ([2, 5, 7, 5], [0, 0, 0, 1])
    """
    ids: list[int] = [] if bos is None else [bos]
    types: list[int] = [turn.type for turn in turns[: len(ids)]]
    for turn in turns:
        ids += (separator, *turn.ids)
        types += [turn.type] * turn.cost
    return [*ids, separator], [*types, closing_type]


def frame_length(bos: int | None) -> int:
    """Returns how many tokens of a sequence belong to no turn: the last separator and the beginning-of-text token."""
    return 1 if bos is None else 2


def begin_turn(ids: Sequence[int], separator: int, *, bos: int | None = None) -> Prompt:
    """Returns the prompt for continuing the text of a first turn."""
    laid_out, types = lay_out([EncodedTurn(ids, 0)], separator, 0, bos=bos)
    return Prompt(laid_out[:-1], types[:-1])


def build_prompt(
    turns: Sequence[EncodedTurn],
    separator: int,
    responder: int,
    *,
    bos: int | None = None,
    budget: int | None = None,
    cut: bool = False,
    spare: float = 0.0,
) -> Prompt:
    """Lays out a context for the responder, leaving out its oldest whole turns until it fits.

    Args:
        turns: The context's turns; at least one.
        separator: The separator's id.
        responder: The responding speaker's index.
        bos: The id of the beginning-of-text token; None for none.
        budget: The limit of the prompt in tokens; None for no limit.
        cut: Whether to cut the beginning of a newest turn that alone is too long; otherwise it is an error.
        spare: When turns must be left out, leave out enough to free this share of the budget. Then the prompts of a
            growing conversation share a prefix for many turns, which a prefix cache needs.

    Raises:
        ContextTooLongError: If the pinned turns and the newest turn do not fit.

    Example:
        >>> build_prompt([EncodedTurn([7], 0), EncodedTurn([8, 9], 1)], 5, 0, budget=4).input_ids
        [5, 8, 9, 5]
    """
    kept, cut_tokens = list(turns), 0
    if budget is not None:
        pinned_turns = [turn for turn in turns if turn.pinned]
        free = [turn for turn in turns if not turn.pinned]
        room = budget - frame_length(bos) - sum(turn.cost for turn in pinned_turns)
        kept = pinned_turns + free[_first_kept([turn.cost for turn in free], room, spare) :]
        cut_tokens = max(0, frame_length(bos) + sum(turn.cost for turn in kept) - budget)
    if cut_tokens:
        if not cut or cut_tokens >= len(kept[-1].ids):
            pinned = sum(turn.cost for turn in kept[:-1])
            pinned_part = f" with {pinned} tokens of pinned turns" if pinned else ""
            or_cut = "" if cut else ", or cut its beginning (cut_long_turn=True)"
            raise ContextTooLongError(
                f"the newest turn has {len(kept[-1].ids)} tokens, {cut_tokens} more than fit in a prompt of "
                f"{budget}{pinned_part}",
                f"shorten it, request fewer new tokens{or_cut}",
            )
        kept[-1] = replace(kept[-1], ids=kept[-1].ids[cut_tokens:])
    ids, types = lay_out(kept, separator, responder, bos=bos)
    return Prompt(ids, types, left_out=len(turns) - len(kept), cut=cut_tokens)


def _first_kept(costs: Sequence[int], room: int, spare: float) -> int:
    """Returns the index of the first turn in the prompt, as if the conversation had grown turn by turn."""
    first = used = 0
    for newest, cost in enumerate(costs):
        used += cost
        limit = room if used <= room else room * (1 - spare)
        # The turn before the newest leaves only if it does not fit, not to free spare room.
        while (used > room and first < newest) or (used > limit and first < newest - 1):
            used -= costs[first]
            first += 1
    return first
