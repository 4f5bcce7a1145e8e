"""The ordinary conversations of a run on judgements: those that validate it, and those that it replays.

Owns: which ones there are if the user gives none, for `convmodel improve` and for the doctor's estimate of it.
"""

from pathlib import Path

from convmodel.cli import flags
from convmodel.data.reading.reader import ConversationReader
from convmodel.files.hub import CHITCHAT, sample_file
from convmodel.training.improvement import NO_REPLAY, read_record


def validation(valid: str | None, format: str, on_error: str) -> ConversationReader:
    """Opens the validation conversations: the user's, or the sample's."""
    return flags.open_reader(valid or str(sample_file("valid")), format, on_error)


def replayed(model: str, replay: str | None, format: str, on_error: str) -> ConversationReader | None:
    """Opens the conversations to replay: the user's, none, or what the built-in model was trained on."""
    if replay is not None and replay != NO_REPLAY:
        return flags.open_reader(replay, format, on_error)
    if replay is None and _is_built_in(model):
        return ConversationReader(sample_file("train"))
    return None


def _is_built_in(model: str) -> bool:
    """Returns whether a model is the built-in one, or an improvement of it."""
    seen: set[str] = set()
    while model != CHITCHAT and model not in seen:
        seen.add(model)
        model = str((read_record(Path(model)) or {}).get("model", model))
    return model == CHITCHAT
