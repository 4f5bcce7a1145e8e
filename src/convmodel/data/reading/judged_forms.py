"""The forms in which rows keep judged responses: our files', and those of other programs.

Owns: our forms, of this and earlier versions, and which form a row has. Other programs' are in `preference_forms.py`.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from convmodel.conversation import Conversation
from convmodel.data.reading.fields import with_system
from convmodel.data.reading.judged_row import (
    Forms,
    JudgedRow,
    message_list,
    require_other_speaker,
    split_last,
    two_texts,
    with_name,
)
from convmodel.data.reading.messages import conversation_of_messages
from convmodel.data.reading.preference_forms import PREFERENCE_FORMS, has_prompt
from convmodel.errors import ConversationError

FORM = '{"context": [...], "chosen": ..., "rejected": ...}, of which one response may be missing'
"""How a row with a judgement is written."""

_FACTS = ("kind", "model", "fingerprint", "at", "weight")
_OURS = frozenset({"chosen", "rejected", "tie"})


def form_of(value: Any) -> str | None:
    """Returns the name of the form in which an object keeps a judgement; None if it keeps none.

    Example:
        >>> form_of({"prompt": "Hi", "completion": "Go away.", "label": False})
        'unpaired'
    """
    if not isinstance(value, Mapping):
        return None
    return next((name for name, (test, _) in _FORMS.items() if test(value)), None)


def judged_row(value: Any) -> JudgedRow:
    """Converts an object of one of the forms.

    Raises:
        ConversationError: If it has none of the forms, or is malformed.
    """
    if not isinstance(value, Mapping):
        raise ConversationError(f"{str(value)[:40]!r} is not a judgement: write {FORM}; see docs/data.md#judgements")
    value = {key: item for key, item in value.items() if item is not None}  # a missing value in a table
    name = form_of(value)
    if name is None:
        keys = ", ".join([str(key)[:40] for key in value][:8]) or "no keys"
        raise ConversationError(f"no judgement in an object with {keys}: write {FORM}; see docs/data.md#judgements")
    row: JudgedRow = _FORMS[name][1](value)
    context = replace(with_system(row.context, value), weights=None)
    require_other_speaker(context, row.responder)
    return replace(row, context=context)


def _of_ours(value: Mapping[str, Any]) -> JudgedRow:
    context = _context(value["context"])
    facts = {name: value[name] for name in _FACTS if name in value}
    responder = value.get("responder", context.next_speaker())
    if "tie" not in value:
        return JudgedRow(context, responder, value.get("chosen"), value.get("rejected"), facts=facts)
    first, second = two_texts(value["tie"], "tie")
    return JudgedRow(context, responder, first, second, undecided=True, facts=facts)


def _of_old_vote(value: Mapping[str, Any]) -> JudgedRow:
    context = _context(value["context"])
    models, responses = two_texts(value["models"], "models"), two_texts(value["responses"], "responses")
    winner = value.get("winner")
    if winner not in (None, *models):
        raise ConversationError(f"winner is {str(winner)[:40]!r}: it must be one of {', '.join(models)}, or null")
    better = models.index(winner) if winner is not None else 0
    facts = {"kind": "vote", "model": models[better], "at": value.get("at", "")}
    chosen, rejected = responses[better], responses[1 - better]
    return JudgedRow(context, context.next_speaker(), chosen, rejected, undecided=winner is None, facts=facts)


def _of_old_feedback(value: Mapping[str, Any]) -> JudgedRow:
    whole = conversation_of_messages(message_list(value["messages"], "messages"))
    context, text = split_last(whole)
    responder = whole.turn_speakers[-1]
    facts = {"kind": "thumb", **{name: value[name] for name in ("model", "at") if name in value}}
    if "said" in value:
        return JudgedRow(context, responder, text, value["said"], facts=facts | {"kind": "edit"})
    chosen, rejected = (text, None) if value["rating"] == "up" else (None, text)
    return JudgedRow(context, responder, chosen, rejected, facts=facts)


def _context(value: Any) -> Conversation:
    if isinstance(value, list | tuple) and value and all(isinstance(turn, Mapping) for turn in value):
        return with_name("context", lambda: conversation_of_messages(value))
    return with_name("context", lambda: Conversation.of(value))


_FORMS: Forms = {
    "ours": (lambda value: "context" in value and not has_prompt(value) and not _OURS.isdisjoint(value), _of_ours),
    "old votes": (lambda value: {"context", "models", "responses"} <= value.keys(), _of_old_vote),
    "old feedback": (
        lambda value: "messages" in value and ("said" in value or value.get("rating") in ("up", "down")),
        _of_old_feedback,
    ),
} | PREFERENCE_FORMS
