"""Which speaker is the assistant, settled before the first conversation is encoded.

Owns: that training, validation and the saved model give each speaker the same role.
"""

from collections.abc import Iterable

from convmodel.conversation import DEFAULT_SPEAKERS, PINNED_ROLES, Conversation
from convmodel.errors import ConversationError
from convmodel.layout.arranging import arrange
from convmodel.layout.markers import ASSISTANT, TOOL
from convmodel.layout.sequence import LOSS_ON, LossOn
from convmodel.layout.tokenizer import ConversationTokenizer

_KNOWN = {*DEFAULT_SPEAKERS, *PINNED_ROLES, TOOL}  # whose roles are their names


def settle_roles(
    tokenizer: ConversationTokenizer, conversations: Iterable[Conversation], loss_on: LossOn
) -> ConversationTokenizer:
    """Returns a tokenizer that gives speakers the roles that they have in the model that is saved.

    A chat template has a user and an assistant. If all conversations have the same two speakers with other names, the
    assistant is the one whom `loss_on` names, else the one who was the assistant when the model was trained before,
    else the second one of the first conversation. Otherwise each conversation decides by itself.

    Args:
        tokenizer: The model's tokenizer.
        conversations: The training data; read once more if the first conversation has other names.
        loss_on: Whose turns are supervised.

    Example:
        >>> from convmodel import ConversationModel, Conversation
        >>> tokenizer = ConversationModel.from_pretrained("builtin:chitchat").tokenizer
        >>> settle_roles(tokenizer, [Conversation(["Hi"], ["Ann"])], "all") is tokenizer  # it has no roles
        True
    """
    if tokenizer.layout.template is None:
        return tokenizer
    speakers = _in_order_of_roles(_shared(conversations), tokenizer, loss_on)
    return tokenizer.with_layout(loss_on=loss_on, speakers=speakers)


def saved_speakers(tokenizer: ConversationTokenizer, found: tuple[str, ...] | None) -> tuple[str, ...]:
    """Returns the speakers to save: those that all conversations share, in the order that decides their roles."""
    settled = tokenizer.layout.speakers if tokenizer.layout.template is not None else ()
    found = found or ()
    return settled if set(settled) == set(found) else found


def _shared(conversations: Iterable[Conversation]) -> list[Conversation]:
    """Returns the first conversation if all have its speakers, and their roles are not their names; else nothing."""
    remaining = iter(conversations)
    first = next(remaining, None)
    if first is None or set(first.speaker_names) <= _KNOWN:
        return []
    names = set(first.speaker_names)
    return [first] if all(set(each.speaker_names) == names for each in remaining) else []


def _in_order_of_roles(
    shared: list[Conversation], tokenizer: ConversationTokenizer, loss_on: LossOn
) -> tuple[str, ...]:
    """Returns the speakers of conversations that have the same, the assistant at the end; none of no conversation."""
    if not shared:
        return ()
    names = shared[0].speaker_names
    before = tokenizer.layout if loss_on in LOSS_ON else tokenizer.with_layout(loss_on=loss_on).layout
    try:
        roles = arrange(shared[0], before, loss_on=loss_on).roles
    except ConversationError:  # which encoding reports, with its place
        return names
    return tuple(sorted(names, key=lambda name: roles.get(name) == ASSISTANT))  # else in their order
