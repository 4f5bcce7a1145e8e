"""Conversations that repeat each other: inside train, and between train and validation.

Owns: the two checks that compare whole conversations, and so take longer than the others. Does not know how
conversations are compared.
"""

from collections.abc import Sequence

from convmodel.conversation import Conversation
from convmodel.data.importing.deduplication import NEAR, Duplicates
from convmodel.data.importing.splitting import check_leakage
from convmodel.errors import MissingExtraError, install_command
from convmodel.training.doctor.checks import Check

_SHOWN = 3


def repeat_checks(train: Sequence[Conversation], valid: Sequence[Conversation] | None) -> list[Check]:
    """Runs both checks; without datasketch, for exact repeats only."""
    near: float | None = NEAR
    try:
        Duplicates(near)
    except MissingExtraError:
        near = None
    checks = [check_duplicates(train, near)]
    if valid is not None:
        checks.append(check_leaks(train, valid, near))
    return checks


def check_duplicates(train: Sequence[Conversation], near: float | None = NEAR) -> Check:
    """Warns if conversations of train repeat each other, since the model memorises them."""
    duplicates, exact, similar = Duplicates(near), 0, 0
    for conversation in train:
        match = duplicates.seen(conversation)
        exact += match is not None and match.exact
        similar += match is not None and not match.exact
    if not exact + similar:
        return Check(
            "duplicates", "pass", f"none of {len(train):,} training conversations repeats another{_only_exact(near)}"
        )
    finding = (
        f"{exact + similar:,} of {len(train):,} training conversations repeat another: {exact:,} word for word, "
        f"{similar:,} nearly{_only_exact(near)}"
    )
    return Check("duplicates", "warn", finding, "remove all but one of each, or the model memorises them")


def check_leaks(train: Sequence[Conversation], valid: Sequence[Conversation], near: float | None = NEAR) -> Check:
    """Fails if validation repeats conversations of train: the best model would be the one that memorises them."""
    leaks = check_leakage(train, {"valid": valid}, near)
    if not leaks:
        finding = f"none of {len(valid):,} validation conversations repeats one of train{_only_exact(near)}"
        return Check("leakage", "pass", finding)
    pairs = "; ".join(f"{leak.id} repeats {leak.train_id} ({leak.similarity:.2f})" for leak in leaks[:_SHOWN])
    more = "; ..." if len(leaks) > _SHOWN else ""
    finding = f"{len(leaks):,} of {len(valid):,} validation conversations repeat one of train: {pairs}{more}"
    return Check("leakage", "fail", finding, "remove them from train, or split again with repeats kept together")


def _only_exact(near: float | None) -> str:
    return "" if near is not None else f" (near repeats were not checked: {install_command('train')})"
