"""The token layout: where separators, types and labels stand in a sequence of token ids.

Owns: sequences, prompts, whose turns are supervised, and leaving out whole turns. Knows token ids only, no text and no
model. `docs/token-layout.md` shows it position by position.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace

from convmodel.conversation import Conversation
from convmodel.errors import ConfigError, ContextTooLongError, ConversationError

IGNORED = -100
"""The label of a position that is not a target; the value that PyTorch's cross entropy leaves out."""

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
    who, pinned = conversation.turn_speakers, conversation.pinned
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
    index = {name: number for number, name in enumerate(conversation.speaker_names)}
    chosen = supervised or [False] * len(conversation.turns)
    weights = conversation.turn_weights
    # The ids come last: `zip` asks for no more of them than there are turns.
    return [
        EncodedTurn(turn_ids, index[speaker], len(turn.encode()), i < conversation.pinned, chosen[i], weights[i])
        for i, (speaker, turn, turn_ids) in enumerate(
            zip(conversation.turn_speakers, conversation.turns, ids, strict=False)
        )
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


def begin_turn(ids: Sequence[int], separator: int) -> Prompt:
    """Lays out a first turn that has not ended.

    Example:
        >>> begin_turn([7, 8], separator=5)
        Prompt(input_ids=[5, 7, 8], types=[0, 0, 0], left_out=0, cut=0)
    """
    turn = EncodedTurn(ids, 0)
    laid_out, types = lay_out([turn], separator, 0)
    return Prompt(laid_out[:-1], types[:-1])


def build_prompt(
    turns: Sequence[EncodedTurn],
    separator: int,
    responder: int,
    *,
    budget: int | None = None,
    cut: bool = False,
    spare: float = 0.0,
) -> Prompt:
    """Lays out a context for the responder, leaving out its oldest whole turns until it fits.

    Args:
        turns: The context's turns; at least one.
        separator: The separator's id.
        responder: The responding speaker's index.
        budget: How many tokens the prompt may have; None for any number.
        spare: Whenever turns must go while a conversation grows, so many go that this share of the room becomes free.
            Prompts of a conversation then begin alike for many turns, which a cache needs.
        cut: Whether a newest turn that alone is too long loses its beginning; otherwise it is an error.

    Raises:
        ContextTooLongError: If the pinned turns and the newest turn alone are too long.

    Example:
        >>> build_prompt([EncodedTurn([7], 0), EncodedTurn([8, 9], 1)], 5, 0, budget=4).input_ids
        [5, 8, 9, 5]
    """
    kept = list(turns)
    over = 0
    if budget is not None:
        pinned_cost = sum(turn.cost for turn in turns if turn.pinned)
        free = [turn for turn in turns if not turn.pinned]
        first = _first_kept([turn.cost for turn in free], budget - 1 - pinned_cost, spare)
        kept = [turn for turn in turns if turn.pinned] + free[first:]
        over = 1 + sum(turn.cost for turn in kept) - budget
    cut_tokens = max(0, over)
    if cut_tokens:
        if not cut or cut_tokens >= len(kept[-1].ids):
            pinned = sum(turn.cost for turn in kept[:-1])
            others = f" beside {pinned} of pinned turns" if pinned else ""
            or_cut = "" if cut else ", or cut its beginning (cut_long_turn=True)"
            raise ContextTooLongError(
                f"the newest turn has {len(kept[-1].ids)} tokens, {cut_tokens} more than fit in a prompt of "
                f"{budget}{others}",
                f"shorten it, ask for fewer new tokens{or_cut}",
            )
        kept[-1] = replace(kept[-1], ids=kept[-1].ids[cut_tokens:])
    ids, types = lay_out(kept, separator, responder)
    return Prompt(ids, types, left_out=len(turns) - len(kept), cut=cut_tokens)


def _first_kept(costs: Sequence[int], room: int, spare: float) -> int:
    """Tells which turn is the first in the prompt, when the conversation has grown to all of them turn by turn."""
    first = used = 0
    for newest, cost in enumerate(costs):
        used += cost
        most = room if used <= room else room * (1 - spare)
        # To make room to spare, the turn just before the newest does not go.
        while (used > room and first < newest) or (used > most and first < newest - 1):
            used -= costs[first]
            first += 1
    return first
