"""Other programs' forms of judged responses: OpenAI's preference files, TRL's, and UltraFeedback's.

Owns: their keys, how they are recognised, and how each is converted. Knows Python values only, no files.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from convmodel.conversation import DEFAULT_SPEAKERS, Conversation
from convmodel.data.reading.fields import full_text
from convmodel.data.reading.judged_row import Forms, JudgedRow, message_list, with_name
from convmodel.data.reading.messages import conversation_of_messages, first_key
from convmodel.errors import ConversationError

_PROMPTS = ("prompt", "instruction", "question")
_SCORES = ("overall_score", "fine-grained_score", "score")
_LABELS = {"true": 1.0, "false": 0.0}
_NUMBER = re.compile(r"[+-]?\d+(\.\d*)?")


def _of_openai(value: Mapping[str, Any]) -> JudgedRow:
    given = value.get("input")
    if not isinstance(given, Mapping) or "messages" not in given:
        raise ConversationError('there is no context: write {"input": {"messages": [...]}}')
    row = _of_lists(
        message_list(given["messages"], "input.messages"),
        {"chosen": value.get("preferred_output"), "rejected": value.get("non_preferred_output")},
    )
    if not given.get("tools"):
        return row
    # Their definitions are part of the prompt, for which no layout has a place.
    return replace(row, context=replace(row.context, omitted=(*row.context.omitted, "tools")))


def _of_preference(value: Mapping[str, Any]) -> JudgedRow:
    chosen, rejected = (_score(value.get(f"score_{name}")) for name in ("chosen", "rejected"))
    row = _of_lists(_prompt(value), {name: value.get(name) for name in ("chosen", "rejected")})
    if chosen is None or rejected is None:
        return row
    if chosen < rejected:
        raise ConversationError(
            f"score_chosen is {chosen:g}, less than score_rejected, {rejected:g}: exchange chosen and rejected"
        )
    return replace(row, undecided=chosen == rejected)


def _of_unpaired(value: Mapping[str, Any]) -> JudgedRow:
    label = _label(value)
    if label not in (0, 1):
        fix = "a judgement's label is true or false; remove the column if it is a class"
        raise ConversationError(f"label is {str(value['label'])[:40]}: {fix}")
    name = "chosen" if label else "rejected"
    row = _of_lists(_prompt(value), {name: value.get("completion", value.get("response"))})
    return replace(row, facts={"kind": "thumb"})


def _of_completions(value: Mapping[str, Any]) -> JudgedRow:
    """Reads UltraFeedback's rows: the best of several responses against the worst."""
    scored = []
    for number, completion in enumerate(value["completions"], 1):
        score = _score(completion.get(first_key(completion, _SCORES))) if isinstance(completion, Mapping) else None
        if score is None:
            raise ConversationError(f"completion {number} has no score: write a number as {' or '.join(_SCORES)}")
        if not isinstance(completion.get("response"), str):
            raise ConversationError(f'completion {number} has no text: write it as "response"')
        scored.append((score, completion))
    if len(scored) < 2:
        raise ConversationError(f"there are {len(scored)} completions: two or more can be compared")
    best, worst = max(scored, key=lambda item: item[0]), min(scored, key=lambda item: item[0])
    if best[0] == worst[0]:
        worst = scored[1]
    responses = {"chosen": best[1]["response"], "rejected": worst[1]["response"]}
    row = _of_lists(_prompt(value), responses)
    model = best[1].get("model")
    return replace(row, undecided=best[0] == worst[0], facts={"model": model} if isinstance(model, str) else {})


def _of_lists(prompt: Sequence[Any], responses: Mapping[str, Any]) -> JudgedRow:
    """Converts messages, and responses that are texts, messages, or whole conversations with the same beginning."""
    given = {name: response for name, response in responses.items() if response is not None}
    if not given:
        raise ConversationError(f"there is no response: give {' or '.join(responses)}")
    if all(isinstance(response, str) for response in given.values()):
        given = {name: {"role": DEFAULT_SPEAKERS[1], "content": text} for name, text in given.items()}
    conversations = {name: message_list(response, name) for name, response in given.items()}
    shared = _shared_beginning([*conversations.values()])
    # A prompt may be the beginning of whole conversations, or, if it is a text, follow a system message in them.
    is_inside = _same(shared[: len(prompt)], prompt) or any(_same([message], prompt) for message in shared)
    context = shared if is_inside else [*prompt, *shared]
    if not context:
        raise ConversationError("there is no context: write a prompt, or conversations that begin with the same turns")
    turns = {name: _response(messages[len(shared) :], name) for name, messages in conversations.items()}
    speakers = sorted({turn.turn_speakers[0] for turn in turns.values()})
    if len(speakers) > 1:
        raise ConversationError(f"the responses have several speakers, {', '.join(speakers)}: give them one")
    conversation = conversation_of_messages(context)
    omitted = [*conversation.omitted, *(name for turn in turns.values() for name in turn.omitted)]
    texts = {name: turn.turns[0] for name, turn in turns.items()}
    conversation = replace(conversation, omitted=tuple(omitted))
    return JudgedRow(conversation, speakers[0], texts.get("chosen"), texts.get("rejected"))


def _response(messages: Sequence[Any], name: str) -> Conversation:
    """Returns the only message after the context, as a conversation of one turn."""
    if len(messages) != 1:
        raise ConversationError(
            f"{name} has {len(messages)} messages after the context: keep one, since one response is judged"
        )
    return with_name(name, lambda: conversation_of_messages(messages))


def _shared_beginning(conversations: Sequence[Sequence[Any]]) -> list[Any]:
    """Returns the messages with which all conversations begin, without anyone's last, which is the response."""
    shared = []
    for messages in zip(*(messages[:-1] for messages in conversations), strict=False):
        if not all(_same([message], [messages[0]]) for message in messages):
            break
        shared.append(messages[0])
    return shared


def _same(one: Sequence[Any], other: Sequence[Any]) -> bool:
    """Returns whether messages are the same, whatever else is in them than speaker and text."""
    if len(one) != len(other):
        return False
    return all(first == second or _essence(first) == _essence(second) for first, second in zip(one, other, strict=True))


def _essence(message: Any) -> Any:
    conversation = conversation_of_messages([message])
    return conversation.turns, conversation.speakers


def _prompt(value: Mapping[str, Any]) -> list[Any]:
    """Returns the messages of a prompt; none if it is part of the responses."""
    key = first_key(value, _PROMPTS)
    if key is None:
        return []
    if isinstance(value[key], list | tuple):
        return list(value[key])
    return [{"role": DEFAULT_SPEAKERS[0], "content": full_text(value, key)}]


def _score(value: Any) -> float | None:
    """Returns a score; None for what is not a number."""
    is_number = isinstance(value, int | float) and not isinstance(value, bool) and value == value  # not NaN
    return value if is_number else None


def _label(value: Mapping[str, Any]) -> float | None:
    """Returns the label of a response, 1 for good and 0 for bad; None if it has none, or the name of a class.

    Tables write truth values in several ways: as texts, and as 0.0 and 1.0 if the column has gaps. Other numbers are
    ids of classes, and then 0 and 1 may be, too.
    """
    label = value.get("label")
    if not isinstance(label, str):
        return label if isinstance(label, bool) else _score(label)
    text = label.strip().lower()
    return float(text) if _NUMBER.fullmatch(text) else _LABELS.get(text)


def has_prompt(value: Mapping[str, Any]) -> bool:
    """Returns whether an object has a prompt."""
    return first_key(value, _PROMPTS) is not None


def _has_responses(value: Mapping[str, Any]) -> bool:
    """Returns whether an object has chosen or rejected responses after a prompt, or in whole conversations."""
    responses = [value[name] for name in ("chosen", "rejected") if value.get(name) is not None]
    if not responses or not all(isinstance(response, str | list | tuple | Mapping) for response in responses):
        return False
    return has_prompt(value) or all(isinstance(response, list | tuple) for response in responses)


PREFERENCE_FORMS: Forms = {
    "OpenAI": (lambda value: not {"preferred_output", "non_preferred_output"}.isdisjoint(value), _of_openai),
    "preference": (_has_responses, _of_preference),
    "unpaired": (
        lambda value: (
            "prompt" in value and ("completion" in value or "response" in value) and _label(value) is not None
        ),
        _of_unpaired,
    ),
    "completions": (
        lambda value: has_prompt(value) and isinstance(value.get("completions"), list | tuple),
        _of_completions,
    ),
}
