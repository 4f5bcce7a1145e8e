"""Rows of any known form to judgements.

Owns: which values are judgements, and the reason why others are not. The forms and their keys are in
`data.reading.judged_forms`.
"""

from collections.abc import Mapping
from typing import Any

from convmodel.data.judgements.judgement import Judgement
from convmodel.data.reading.judged_forms import FORM, form_of, judged_row
from convmodel.data.reading.shapes import shape_of
from convmodel.errors import ConversationError


def is_judgement(value: Any) -> bool:
    """Returns whether a value is, or looks like, a judgement."""
    return isinstance(value, Judgement) or form_of(value) is not None


def judgement_of(value: Any) -> Judgement | None:
    """Converts a value of one of the known forms to a judgement; None if neither response is better.

    Raises:
        ConversationError: If it is something else, or malformed.

    Example:
        >>> judgement_of({"prompt": "Hi", "chosen": "Hello!", "rejected": "What?"}).rejected
        'What?'
    """
    if isinstance(value, Judgement):
        return value
    if form_of(value) is None and (not isinstance(value, Mapping) or shape_of(value) is not None):
        kind = f"a conversation ({shape_of(value)})" if isinstance(value, Mapping | list | tuple) else repr(value)[:40]
        raise ConversationError(f"{kind} is not a judgement: write {FORM}; see docs/data.md#judgements")
    return None if judged_row(value).undecided else Judgement.from_dict(value)
