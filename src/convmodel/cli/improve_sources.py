"""The ordinary conversations of a run on judgements: those that validate it, and those that it replays.

Owns: which ones there are if the user gives none, for `convmodel improve` and for the doctor's estimate of it.
"""

from collections.abc import Sequence
from itertools import islice
from pathlib import Path

from convmodel.cli import flags
from convmodel.conversation import Conversation
from convmodel.data.judgements.judgement import Judgement
from convmodel.data.reading.reader import ConversationReader
from convmodel.files.hub import CHITCHAT, sample_file
from convmodel.training.improvement import NO_REPLAY, SELF_REPLAY, read_record
from convmodel.training.self_replay import CONVERSATIONS, TURNS


def validation(valid: str | None, format: str, on_error: str) -> ConversationReader:
    """Opens the validation conversations, the user's or the sample's, to be read several times."""
    return flags.open_reader(valid or str(sample_file("valid")), format, on_error).repeatable()


def chosen_replay(model: str, replay: str | None) -> str:
    """Returns what is replayed: the user's choice, or `self` for the built-in model and `none` for others."""
    return replay or (SELF_REPLAY if _is_built_in(model) else NO_REPLAY)


def typical_replay(model: str) -> ConversationReader | None:
    """Opens conversations that cost as much as those that are replayed by default; None if none are."""
    return None if chosen_replay(model, None) == NO_REPLAY else ConversationReader(sample_file("train"))


def typical_own_turns(model: str, judgements: Sequence[Judgement], objective: str) -> list[Judgement]:
    """Returns judgements that cost as much as those of the model's own turns by a reward model; none if none are made.

    They are of every other turn of the sample, whose conversations are about as long: of the model's own turns about
    half are kept, as many liked as disliked ones.
    """
    sides = ("chosen", "rejected")
    judges = objective == "kto" and all(any(getattr(one, side) for one in judgements) for side in sides)
    if not judges or chosen_replay(model, None) != SELF_REPLAY:
        return []
    return [
        Judgement(Conversation(talk.turns[:end], talk.turn_speakers[:end]), talk.turn_speakers[end], talk.turns[end])
        for talk in islice(ConversationReader(sample_file("train")), CONVERSATIONS)
        for end in range(1, min(len(talk.turns), TURNS), 2)
    ]


def _is_built_in(model: str) -> bool:
    """Returns whether a model is the built-in one, or an improvement of it."""
    seen: set[str] = set()
    while model != CHITCHAT and model not in seen:
        seen.add(model)
        model = str((read_record(Path(model)) or {}).get("model", model))
    return model == CHITCHAT
