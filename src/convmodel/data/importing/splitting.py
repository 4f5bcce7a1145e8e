"""Conversations for training, validation and test, without duplicates across them.

Owns: how the parts are chosen, and a check for duplicates between parts, however they were chosen.
"""

import math
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from itertools import accumulate, pairwise
from typing import Literal, TypeAlias, get_args

from convmodel.conversation import Conversation
from convmodel.data.importing.deduplication import NEAR, Duplicates, groups
from convmodel.errors import ConfigError, ConversationError

PARTS = ("train", "valid", "test")
"""The names of the parts, in order of time."""

SHARES = (0.9, 0.05, 0.05)
"""The default shares of the parts."""

FEW = 20
"""With fewer conversations in valid or test, metrics differ by chance."""

TOO_FEW = "too few for"
"""What the error about too few conversations for all parts contains."""

_LEAST_TRAIN = 0.5  # a share of train that larger parts for valid and test must leave
_TRIES = 30  # shares that are tried; groups of duplicates make a part smaller than its share

SHOWN = 5
"""Number of pairs that an error lists; all are counted."""

Shares: TypeAlias = Mapping[str, float] | Sequence[float]
"""The share of each part: three numbers, or numbers by name, that sum to 1."""

SplitBy: TypeAlias = Literal["auto", "time", "random"]
"""What decides the part of a conversation; `auto` is time if every conversation has one."""


@dataclass(frozen=True, slots=True)
class Split:
    """Conversations in three parts, each in input order.

    Attributes:
        method: How they were split, for the user.
        enough: If valid or test is too small to compare models on: shares with which they are not.
    """

    train: list[Conversation]
    valid: list[Conversation]
    test: list[Conversation]
    method: str
    enough: tuple[float, ...] | None = None


@dataclass(frozen=True, slots=True)
class Leak:
    """A conversation of another part that duplicates one of train.

    A conversation without an id is named by its position, `conversation 3`. The similarity is the Jaccard similarity
    of word trigrams, 1 for exact duplicates.
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

    Conversations that duplicate each other go to the same part. By time, the oldest go to train and the newest to test,
    and a group of duplicates goes where its oldest member belongs: every conversation in test is newer than the start
    of the test period, and later conversations in train only repeat earlier text.

    Args:
        conversations: The conversations; a time without a zone is read as UTC.
        shares: The shares of training, validation and test.
        seed: The random seed; the same seed gives the same parts.
        by: `time`, `random`, or `auto`: by time if every conversation has `started_at`.
        near: The Jaccard similarity from which on conversations are duplicates; None for exact duplicates only.

    Raises:
        ConfigError: If the shares do not sum to 1, or another option is invalid.
        ConversationError: If there are too few conversations for the parts, or some have no time and `by` is `time`.
        MissingExtraError: If datasketch is not installed, and `near` is not None.
    """
    parsed_shares = _checked_shares(shares)
    if by not in get_args(SplitBy):
        raise ConfigError(f"by is {by!r}: it must be auto, time or random")
    undated = sum(conversation.started_at is None for conversation in conversations)
    if by == "time" and undated:
        raise ConversationError(
            f"{undated} of {len(conversations)} conversations have no start time: split by random, or add started_at"
        )
    duplicates = groups(conversations, near)
    _require_enough(duplicates, len(conversations), parsed_shares)
    if by == "random" or undated:
        divide = partial(_at_random, duplicates, seed=seed)
        numbers, method = divide(parsed_shares), f"at random with seed {seed}"
        if by == "auto" and undated < len(conversations):
            method += f", since {undated} of {len(conversations)} have no start time"
    else:
        divide = partial(_by_time, duplicates, times=[_time(conversation) for conversation in conversations])
        numbers = divide(parsed_shares)
        starts = {
            name: min(_time(conversations[number]) for number in part).date()
            for name, part in zip(PARTS, numbers, strict=True)
            if part and name != "train"
        }
        method = "by time: " + (", ".join(f"{name} begins {day}" for name, day in starts.items()) or "all is for train")
    train, valid, test = ([conversations[number] for number in sorted(part)] for part in numbers)
    is_small = any(0 < len(part) < FEW for part in numbers[1:])
    enough = _enough_shares(divide, parsed_shares, len(conversations)) if is_small else None
    return Split(train, valid, test, method, enough)


def too_small(parts: Split) -> str | None:
    """Describes for the user the parts of valid and test that are too small to compare models on; None if none is."""
    small = {name: len(part) for name, part in (("valid", parts.valid), ("test", parts.test)) if 0 < len(part) < FEW}
    if not small:
        return None
    (first, count), *others = small.items()
    listed = f"{first} has {count} conversation{'s' * (count != 1)}"
    listed += "".join(f" and {name} {number}" for name, number in others)
    each = " in each" * bool(others)
    return f"{listed}: you can train, but comparing models needs at least {FEW}{each}; import more conversations"


def check_leakage(
    train: Sequence[Conversation], others: Mapping[str, Sequence[Conversation]], near: float | None = NEAR
) -> list[Leak]:
    """Returns the conversations of the other parts that duplicate one of train, exactly or nearly."""
    index = Duplicates(near)
    for conversation in train:
        index.add(conversation)
    leaks = []
    for part, conversations in others.items():
        for number, conversation in enumerate(conversations):
            for match in index.matches(conversation)[:1]:
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
    """Checks that no conversation of the other parts duplicates one of train, or of the part called `name`.

    Raises:
        ConversationError: If one does; the message has their number and the first pairs.
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


def _require_enough(duplicates: list[list[int]], count: int, shares: tuple[float, ...]) -> None:
    needed = sum(share > 0 for share in shares)
    if len(duplicates) < needed:
        apart = f", {len(duplicates)} if those that repeat each other are one" if len(duplicates) < count else ""
        raise ConversationError(
            f"{count} conversations{apart}: {TOO_FEW} {needed} parts; add conversations, "
            "or set the share of valid or test to 0, as in --split 1,0,0"
        )


def _enough_shares(
    divide: Callable[[tuple[float, ...]], list[list[int]]], shares: tuple[float, ...], count: int
) -> tuple[float, ...] | None:
    """Returns the smallest shares with which no part is too small, with at least half for train; None if none are."""
    digits = max(2, len(str(count)) - 1)
    first = math.ceil(FEW / count * 10**digits)
    for steps in range(first, first + _TRIES):
        share = steps / 10**digits
        wanted = [max(share, given) if given else 0.0 for given in shares[1:]]
        larger = round(1 - sum(wanted), digits), *wanted
        if larger[0] < _LEAST_TRAIN:
            break
        if all(len(part) >= FEW for part, given in zip(divide(larger), larger, strict=True) if given):
            return larger
    return None


def _at_random(duplicates: list[list[int]], shares: tuple[float, ...], *, seed: int) -> list[list[int]]:
    """Assigns the groups, the largest first, each to the part that lacks most; large ones fit only into train."""
    order = list(duplicates)
    random.Random(seed).shuffle(order)
    order.sort(key=len, reverse=True)
    lacking = _sizes(sum(map(len, duplicates)), shares)
    parts: list[list[int]] = [[] for _ in shares]
    for index, group in enumerate(order):
        empty = [part for part, share in enumerate(shares) if share and not parts[part]]
        open_parts = empty if len(order) - index == len(empty) else [p for p, share in enumerate(shares) if share]
        chosen = max(open_parts, key=lambda part: (lacking[part], -part))
        parts[chosen] += group
        lacking[chosen] -= len(group)
    return parts


def _sizes(count: int, shares: tuple[float, ...]) -> list[int]:
    """Rounds the shares to whole numbers (by largest remainders), at least one for each share above 0."""
    sizes = [max(1, math.floor(count * share + 1e-9)) if share else 0 for share in shares]
    while sum(sizes) != count:
        step = 1 if sum(sizes) < count else -1
        able = [part for part, share in enumerate(shares) if share and (step > 0 or sizes[part] > 1)]
        chosen = max(able, key=lambda part: (step * (count * shares[part] - sizes[part]), -part))
        sizes[chosen] += step
    return sizes


def _by_time(duplicates: list[list[int]], shares: tuple[float, ...], *, times: list[datetime]) -> list[list[int]]:
    """Cuts the groups, in order of their oldest members, where the sizes are nearest to the shares."""
    order = sorted(duplicates, key=lambda group: min((times[number], number) for number in group))
    sizes = _sizes(len(times), shares)
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


def _time(conversation: Conversation) -> datetime:
    started = conversation.started_at
    assert started is not None
    return started if started.tzinfo else started.replace(tzinfo=UTC)


def _name(id: str | None, number: int) -> str:
    return id or f"conversation {number + 1}"
