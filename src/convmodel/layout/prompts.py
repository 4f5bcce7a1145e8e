"""Prompts and the window of a response: sequences that begin or end in the middle of a conversation.

Owns: who responds in which role. `sequence` owns the positions of ids.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from convmodel.conversation import Conversation
from convmodel.errors import ConversationError
from convmodel.layout.arranging import Arrangement, arrange, require_alternation
from convmodel.layout.config import LayoutConfig
from convmodel.layout.markers import ASSISTANT, START, USER
from convmodel.layout.sequence import IGNORED, EncodedTurn, Prompt, Window, begin_turn, build_prompt, encoded_turns
from convmodel.layout.text_codec import TextCodec
from convmodel.layout.windows import make_windows


def responder_of(context: Conversation, reply_as: str | None, layout: LayoutConfig) -> str:
    """Returns the speaker of the response to a context: `reply_as`, or by default the expected one.

    Raises:
        ConversationError: If the response would be joined with the turn before it, or the layout has no place for it.
    """
    responder = reply_as or context.next_speaker()
    if layout.names is not None:
        arranged = arrange(replace(context, weights=None), layout, loss_on=layout.loss_on, responder=responder)
        _require_place(arranged, responder, layout)
    elif not layout.use_token_types:
        require_alternation(context, responder, has_roles=layout.template is not None)
    return responder


def prompt_of(context: Conversation, responder: str, layout: LayoutConfig, codec: TextCodec, **options: Any) -> Prompt:
    """Returns the prompt for a response to a context; the options are those of `build_prompt`.

    Raises:
        ConversationError: If the layout has no place for the context, or for this speaker's response to it.
        ContextTooLongError: If the newest turn alone is too long and may not be cut.
    """
    unweighted = replace(context, weights=None)  # weights are for training only
    arranged = arrange(unweighted, layout, loss_on=layout.loss_on, responder=responder)
    conversation = arranged.conversation
    types = [*conversation.speaker_names, responder]
    turns = encoded_turns(conversation, codec.encode_turns([arranged]), arranged.roles)
    response = EncodedTurn([], types.index(responder), arranged.role_of(responder))
    _require_place(arranged, responder, layout)
    prompt = build_prompt(turns, layout.markers, response, **options)
    return replace(prompt, left_out=arranged.count_left_out(prompt.left_out), lead=codec.decoded_lead(response.role))


def _require_place(arranged: Arrangement, responder: str, layout: LayoutConfig) -> None:
    """Raises a `ConversationError` if a response has no place after the last turn of a context."""
    newest = arranged.conversation.turn_speakers[-1]
    if not layout.markers.follows(arranged.role_of(newest), arranged.role_of(responder)):
        raise ConversationError(
            f"{responder!r} is to respond to {newest!r}, for which this model's chat template has no place: let "
            "another speaker respond"
        )


def prompt_to_continue(text: str, layout: LayoutConfig, codec: TextCodec) -> Prompt:
    """Returns the beginning of a first turn as the prompt for the rest of that turn."""
    return begin_turn(codec.encode(text), USER, layout.markers)


def window_of_response(ids: Sequence[int], layout: LayoutConfig, *, is_closed: bool) -> Window:
    """Lays out the tokens of a response as the first turn of a conversation, all supervised.

    The token that ends it is a target only if the response `is_closed`. Where a template does not let the assistant
    begin, it is a turn of the user.
    """
    markers = layout.markers
    role = ASSISTANT if markers.follows(START, ASSISTANT) else USER
    length = len(markers.opening(START, role, is_last=True)) + len(ids) + 1
    [window] = make_windows([EncodedTurn(ids, 0, role, supervised=True)], markers, 0, max_length=max(length, 4))
    return window if is_closed else replace(window, labels=[*window.labels[:-1], IGNORED])
