"""Conversations that repeat each other are found, inside train and between train and validation."""

from typing import Any

import pytest

from convmodel import Conversation
from convmodel.errors import MissingExtraError, install_command
from convmodel.training.doctor import repeats
from convmodel.training.doctor.repeats import check_duplicates, check_leaks, repeat_checks

TALK = "Did you see the match last night, the one with the late goal in extra time? It was quite something to watch."
TALKS = [Conversation([TALK, f"Yes, number {i}"]) for i in ("one", "two")]
OTHERS = [Conversation(["What shall we cook?", "Soup"]), Conversation(["Is it far from here?", "Ten minutes or so"])]


def test_conversations_that_repeat_each_other_are_a_warning() -> None:
    assert check_duplicates(OTHERS).status == "pass"
    exact = check_duplicates([*OTHERS, OTHERS[0]])
    near = check_duplicates([*OTHERS, *TALKS])

    assert (exact.status, near.status) == ("warn", "warn")
    assert "1 of 3 training conversations repeat another: 1 word for word, 0 nearly" in exact.finding
    assert "1 of 4 training conversations repeat another: 0 word for word, 1 nearly" in near.finding


def test_validation_that_repeats_training_fails() -> None:
    assert check_leaks(TALKS, OTHERS).status == "pass"

    check = check_leaks([*OTHERS, TALKS[0]], [OTHERS[1], TALKS[1]])

    assert check.status == "fail"
    assert check.finding.startswith("2 of 2 validation conversations repeat one of train: conversation 1 repeats ")


def test_without_datasketch_exact_repeats_are_found_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = repeats.Duplicates

    def refuse(near: float | None = None) -> Any:
        if near is not None:
            raise MissingExtraError("finding near-duplicates needs datasketch", "train")
        return whole(near)

    monkeypatch.setattr(repeats, "Duplicates", refuse)

    inside, between = repeat_checks([*TALKS, *OTHERS], [OTHERS[0]])

    assert inside.status == "pass"
    assert inside.finding.endswith(f"(near repeats were not checked: {install_command('train')})")
    assert between.status == "fail"
