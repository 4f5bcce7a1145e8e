"""Conversations for training, validation and test, with nothing said twice on two sides.

Owns: how the parts are chosen, and the check that they have nothing in common, whoever chose them: it looks each
conversation up in train, and knows nothing of groups.
"""

import math
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import accumulate, pairwise
from typing import Literal, TypeAlias, get_args

from convmodel.conversation import Conversation
from convmodel.data.importing.deduplication import NEAR, Duplicates, groups
from convmodel.errors import ConfigError, ConversationError

PARTS = ("train", "valid", "test")
"""The names of the parts, in order of time."""

SHARES = (0.9, 0.05, 0.05)
"""How much each part gets, unless told otherwise."""

SHOWN = 5
"""How many pairs an error names; it counts all."""

Shares: TypeAlias = Mapping[str, float] | Sequence[float]
"""How much of the conversations each part gets: three numbers, or numbers by name, that sum to 1."""

SplitBy: TypeAlias = Literal["auto", "time", "random"]
"""What decides where a conversation goes; `auto` is the time if every conversation has one."""


@dataclass(frozen=True, slots=True)
class Split:
    """Conversations in three parts, each in the order they came in.

    Attributes:
        train: What the model is trained on.
        valid: What choices about the training are made on.
        test: What the model is judged on, once.
        method: How they were split, as a sentence for the user.
    """

    train: list[Conversation]
    valid: list[Conversation]
    test: list[Conversation]
    method: str


@dataclass(frozen=True, slots=True)
class Leak:
    """A conversation of another part that repeats one of train.

    Attributes:
        part: The other part's name.
        id: The conversation's id; `conversation 3` if it has none.
        train_id: The id of the one in train that is most like it; `conversation 3` if it has none.
        similarity: The Jaccard similarity of their word triples; 1 for exact duplicates.
    """

    part: str
    id: str
    train_id: str
    similarity: float


def split(
    conversations: Sequence[Conversation],
    shares: Shares = SHARES,
    *,
    seed: int = 42,
    by: SplitBy = "auto",
    near: float | None = NEAR,
) -> Split:
    """Splits conversations into parts for training, validation and test.

    Conversations that repeat each other, exactly or nearly, go to one part as a whole. By time, the oldest are trained
    on and the newest are tested on, and a group of repeats goes where its oldest member belongs: so every conversation
    of the test is newer than where the test begins, and what training sees of later times had been said before.

    Args:
        conversations: What to split.
        shares: How much of it is for training, validation and test.
        seed: What chance begins with; the same seed gives the same parts.
        by: `time`, `random`, or `auto`: by time if every conversation has `started_at`. A time without a zone is taken
            for UTC.
        near: The Jaccard similarity from which on conversations repeat each other; None for exact repeats alone.

    Raises:
        ConfigError: If the shares do not sum to 1, or another option makes no sense.
        ConversationError: If there are too few conversations for the parts, or some have no time and `by` is `time`.
        MissingExtraError: If datasketch is not installed, and `near` is not None.

    Example:
        >>> talks = [Conversation([f"Hello {number}"]) for number in range(10)]
        >>> parts = split(talks, (0.8, 0.1, 0.1), near=None)
        >>> len(parts.train), len(parts.valid), len(parts.test), parts.method
        (8, 1, 1, 'at random with seed 42')
    """
    wanted = _checked_shares(shares)
    if by not in get_args(SplitBy):
        raise ConfigError(f"by is {by!r}: it must be auto, time or random")
    undated = sum(conversation.started_at is None for conversation in conversations)
    if by == "time" and undated:
        raise ConversationError(
            f"{undated} of {len(conversations)} conversations do not tell when they began: split by random, "
            "or give them started_at"
        )
    together = groups(conversations, near)
    _require_enough(together, len(conversations), wanted)
    if by == "random" or undated:
        numbers, method = _at_random(together, wanted, seed), f"at random with seed {seed}"
        if by == "auto" and undated < len(conversations):
            method += f", since {undated} of {len(conversations)} do not tell when they began"
    else:
        numbers = _by_time(together, wanted, [_moment(conversation) for conversation in conversations])
        begins = {
            name: min(_moment(conversations[number]) for number in part).date()
            for name, part in zip(PARTS, numbers, strict=True)
            if part and name != "train"
        }
        method = "by time: " + (", ".join(f"{name} begins {day}" for name, day in begins.items()) or "all is for train")
    train, valid, test = ([conversations[number] for number in sorted(part)] for part in numbers)
    return Split(train, valid, test, method)


def check_leakage(
    train: Sequence[Conversation],
    others: Mapping[str, Sequence[Conversation]],
    near: float | None = NEAR,
) -> list[Leak]:
    """Returns the conversations of the other parts that repeat one of train, exactly or nearly.

    Raises:
        ConfigError: If `near` is out of range.
        MissingExtraError: If datasketch is not installed, and `near` is not None.

    Example:
        >>> check_leakage([Conversation(["Hi", "Hello"])], {"test": [Conversation(["hi", "hello"])]}, near=None)
        [Leak(part='test', id='conversation 1', train_id='conversation 1', similarity=1.0)]
    """
    known = Duplicates(near)
    for conversation in train:
        known.add(conversation)
    leaks = []
    for part, conversations in others.items():
        for number, conversation in enumerate(conversations):
            for match in known.matches(conversation)[:1]:
                names = _name(conversation.id, number), _name(match.id, match.number)
                leaks.append(Leak(part, *names, match.similarity))
    return leaks


def require_no_leakage(
    train: Sequence[Conversation],
    others: Mapping[str, Sequence[Conversation]],
    near: float | None = NEAR,
    *,
    name: str = "train",
) -> None:
    """Makes sure that nothing in the other parts repeats train, or whatever part it is by name.

    Raises:
        ConversationError: If something does; the message counts it and names the first pairs.
        ConfigError: If `near` is out of range.
        MissingExtraError: If datasketch is not installed, and `near` is not None.

    Example:
        >>> require_no_leakage([Conversation(["Hi", "Hello"])], {"test": [Conversation(["Hi", "Bye"])]}, near=None)
    """
    leaks = check_leakage(train, others, near)
    if not leaks:
        return
    pairs = "; ".join(
        f"{leak.id} of {leak.part} repeats {leak.train_id} of {name} (similarity {leak.similarity:.2f})"
        for leak in leaks[:SHOWN]
    )
    more = "; ..." if len(leaks) > SHOWN else ""
    counted = "1 conversation is" if len(leaks) == 1 else f"{len(leaks)} conversations are"
    raise ConversationError(
        f"{counted} in {name} and in another part, so results would be too good: {pairs}{more}. "
        f"Remove them from {name}, or split again with repeats kept together"
    )


def _checked_shares(shares: Shares) -> tuple[float, ...]:
    if isinstance(shares, Mapping):
        if unknown := set(shares) - set(PARTS):
            raise ConfigError(
                f"shares name {', '.join(sorted(map(str, unknown)))}: the parts are train, valid and test"
            )
        shares = [shares.get(name, 0.0) for name in PARTS]
    if not isinstance(shares, Sequence) or len(shares) != len(PARTS):
        raise ConfigError(f"shares are {shares!r}: they must be three numbers, for train, valid and test")
    for name, share in zip(PARTS, shares, strict=True):
        if not isinstance(share, int | float) or isinstance(share, bool) or not 0 <= share <= 1:
            raise ConfigError(f"the share of {name} is {share!r}: it must be a number from 0 to 1")
    if not shares[0]:
        raise ConfigError("the share of train is 0: there would be nothing to train on")
    if not math.isclose(sum(shares), 1, abs_tol=1e-6):
        raise ConfigError(f"shares sum to {sum(shares):g}: they must sum to 1, as 0.9, 0.05 and 0.05 do")
    return tuple(shares)


def _require_enough(together: list[list[int]], count: int, shares: tuple[float, ...]) -> None:
    needed = sum(share > 0 for share in shares)
    if len(together) < needed:
        apart = f", {len(together)} if those that repeat each other are one" if len(together) < count else ""
        raise ConversationError(
            f"{count} conversations{apart}: too few for {needed} parts; add conversations, "
            "or set the share of valid or test to 0, as in --split 1,0,0"
        )


def _at_random(together: list[list[int]], shares: tuple[float, ...], seed: int) -> list[list[int]]:
    """Deals the groups out, the largest first, each to the part that lacks most; large ones fit only into train."""
    order = list(together)
    random.Random(seed).shuffle(order)
    order.sort(key=len, reverse=True)
    lacking = _sizes(sum(map(len, together)), shares)
    parts: list[list[int]] = [[] for _ in shares]
    for index, group in enumerate(order):
        empty = [part for part, share in enumerate(shares) if share and not parts[part]]
        open_parts = empty if len(order) - index == len(empty) else [p for p, share in enumerate(shares) if share]
        chosen = max(open_parts, key=lambda part: (lacking[part], -part))
        parts[chosen] += group
        lacking[chosen] -= len(group)
    return parts


def _sizes(count: int, shares: tuple[float, ...]) -> list[int]:
    """Whole numbers nearest to the shares (by largest remainders), at least one where there is a share."""
    sizes = [max(1, math.floor(count * share + 1e-9)) if share else 0 for share in shares]
    while sum(sizes) != count:
        step = 1 if sum(sizes) < count else -1
        able = [part for part, share in enumerate(shares) if share and (step > 0 or sizes[part] > 1)]
        chosen = max(able, key=lambda part: (step * (count * shares[part] - sizes[part]), -part))
        sizes[chosen] += step
    return sizes


def _by_time(together: list[list[int]], shares: tuple[float, ...], moments: list[datetime]) -> list[list[int]]:
    """Cuts the groups, in order of their oldest members, where the sizes come nearest to the shares."""
    order = sorted(together, key=lambda group: min((moments[number], number) for number in group))
    sizes = _sizes(len(moments), shares)
    before = [0, *accumulate(map(len, order))]
    cuts = [0]
    for part in range(len(shares) - 1):
        first = cuts[-1] + (shares[part] > 0)
        last = len(order) - sum(share > 0 for share in shares[part + 1 :])
        if not shares[part]:
            last = first
        elif not any(shares[part + 1 :]):
            first = last
        target = sum(sizes[: part + 1])
        cuts.append(min(range(first, last + 1), key=lambda cut: abs(before[cut] - target)))
    cuts.append(len(order))
    return [[number for group in order[start:end] for number in group] for start, end in pairwise(cuts)]


def _moment(conversation: Conversation) -> datetime:
    started = conversation.started_at
    assert started is not None
    return started if started.tzinfo else started.replace(tzinfo=UTC)


def _name(id: str | None, number: int) -> str:
    return id or f"conversation {number + 1}"
