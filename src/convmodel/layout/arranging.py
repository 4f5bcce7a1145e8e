"""Conversations as a layout can hold them: whose turns have which role, and turns joined or left out.

Owns: roles, joining consecutive turns of a speaker, and refusing a conversation that the layout has no place for.
Knows no token ids.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from convmodel.conversation import DEFAULT_SPEAKERS, PINNED_ROLES, Conversation
from convmodel.errors import ConfigError, ConversationError
from convmodel.layout.config import LayoutConfig
from convmodel.layout.markers import ASSISTANT, START, SYSTEM, TOOL, USER
from convmodel.layout.sequence import LOSS_ON, LossOn, named_speakers


@dataclass(frozen=True, slots=True)
class Arrangement:
    """A conversation as the layout holds it.

    Attributes:
        conversation: Its turns, some of them joined, or left out in the beginning.
        roles: The role of each speaker; empty if the markers depend on no role.
        sizes: How many of the original turns each turn was joined from.
        dropped: How many original turns were left out after the pinned ones, since the template cannot begin with them.
    """

    conversation: Conversation
    roles: dict[str, str]
    sizes: list[int]
    dropped: int = 0

    def role_of(self, speaker: str) -> str:
        """Returns the role of a speaker; of one without turns, the user's."""
        return self.roles.get(speaker, USER) if self.roles else ""

    def starts(self, kept: int) -> list[int]:
        """Returns the index of the first original turn of each turn, if the pinned and the newest ones are `kept`."""
        starts, place = [], 0
        for number, size in enumerate(self.sizes):
            place += self.dropped * (number == self.conversation.pinned)
            starts.append(place)
            place += size
        pinned = self.conversation.pinned
        return [*starts[:pinned], *starts[len(starts) - (kept - pinned) :]]

    def count_left_out(self, turns: int) -> int:
        """Returns how many original turns the oldest `turns` are, with those that were dropped."""
        return self.dropped + sum(self.sizes[self.conversation.pinned :][:turns])


def arrange(
    conversation: Conversation, layout: LayoutConfig, *, loss_on: LossOn = "all", responder: str | None = None
) -> Arrangement:
    """Arranges a conversation for a layout.

    Args:
        conversation: The conversation.
        layout: The layout.
        loss_on: Whose turns are supervised; a named speaker has the assistant's role.
        responder: Who speaks next, if the conversation is a context; with `loss_on="last"`, who speaks last otherwise.

    Raises:
        ConversationError: If the layout has no place for it.
        ConfigError: If names are put before texts, and several speakers are to be the assistant.
    """
    if layout.template is not None:
        return _arrange_for_roles(conversation, layout, loss_on, responder)
    if layout.use_token_types:
        return Arrangement(conversation, {}, [1] * len(conversation.turns))
    _require_two(conversation.turn_speakers[conversation.pinned :])
    return Arrangement(conversation.joined(), {}, conversation.run_lengths())


def require_alternation(context: Conversation, responder: str, *, has_roles: bool = False) -> None:
    """Raises a `ConversationError` if a model without token types cannot represent who responds.

    Where it `has_roles`, `arrange` limits the speakers.
    """
    if not has_roles:
        _require_two((*context.turn_speakers[context.pinned :], responder))
    if responder == context.turn_speakers[-1]:
        raise ConversationError(
            f"{responder!r} spoke last and is to respond, but this model does not distinguish speakers: "
            "add to the turn, or let another speaker respond"
        )


def require_no_user_named(
    conversation: Conversation, arranged: Arrangement, layout: LayoutConfig, loss_on: LossOn
) -> None:
    """Checks that `loss_on` names nobody whose turns are joined with those of others, who are all one user.

    Raises:
        ConversationError: If names are put before texts, and it does.
    """
    if layout.names is None:
        return
    speakers = dict.fromkeys(conversation.turn_speakers[conversation.pinned :])
    users = [name for name in speakers if arranged.role_of(name) == USER]
    named = [name for name in named_speakers(loss_on) if name in users]
    if named and users != [USER]:
        assistants = [name for name, role in arranged.roles.items() if role == ASSISTANT]
        raise ConversationError(
            f"loss_on names {', '.join(named)}, but with names='prefix' it can name the assistant only"
            f"{', here ' if assistants else ''}{', '.join(assistants)}: name that one, or give responses or all"
        )


def _require_two(names: Sequence[str]) -> None:
    speakers = dict.fromkeys(names)
    if len(speakers) > 2:
        raise ConversationError(
            f"{len(speakers)} speakers ({', '.join(speakers)}), but this model has no token types, so it supports "
            "only two speakers who alternate: use an architecture with token types (GPT-2), or merge speakers"
        )


def _arrange_for_roles(
    conversation: Conversation, layout: LayoutConfig, loss_on: LossOn, responder: str | None
) -> Arrangement:
    _require_system_first(conversation, layout)
    named = loss_on if layout.loss_on in LOSS_ON else layout.loss_on  # roles stay as they were trained
    free = [name for name in conversation.turn_speakers[conversation.pinned :] if name != TOOL]
    names = list(dict.fromkeys([*free, *([responder] if responder and responder != TOOL else [])]))
    if responder is None and loss_on == "last":
        responder = conversation.turn_speakers[-1]
    roles = _roles(names, layout, named, responder)
    if layout.names == "prefix":
        _require_one_assistant(named)
        conversation = _prefixed(conversation, roles)
        roles = {name: role for name, role in roles.items() if role == ASSISTANT} | {USER: USER}
    elif len([name for name, role in roles.items() if role == USER]) > 1 or len(roles) > 2:
        raise ConversationError(
            f"{len(roles)} speakers ({', '.join(roles)}), but a chat template knows two, user and assistant: load the "
            "model with names='prefix', which puts each name before its text, or merge speakers"
        )
    joined, sizes = _joined(conversation)
    if joined.pinned:
        roles |= {joined.turn_speakers[0]: SYSTEM}
    return _with_beginning(joined, layout, roles | {TOOL: TOOL}, sizes)


def _require_system_first(conversation: Conversation, layout: LayoutConfig) -> None:
    """Raises a `ConversationError` if a system turn stands where the template has no place for one."""
    pinned, speakers = conversation.pinned, conversation.turn_speakers
    late = next((name for name in speakers[pinned:] if name in PINNED_ROLES), None)
    if late is not None:
        raise ConversationError(
            f"a turn of the {late} that is not pinned, for which this model's chat template has no place: move it to "
            "the beginning, or load the model with layout='separator'"
        )
    if pinned and not layout.markers.follows(START, SYSTEM):
        raise ConversationError(
            f"a turn of the {speakers[0]}, but this model's chat template has no place for one: remove it, or load the "
            "model with layout='separator'"
        )


def _require_one_assistant(named: LossOn) -> None:
    if not isinstance(named, str) and len(named) > 1:
        raise ConfigError(
            f"loss_on names {', '.join(named)}, but with names='prefix' one speaker is the assistant: name that one"
        )


def _joined(conversation: Conversation) -> tuple[Conversation, list[int]]:
    """Joins consecutive turns of a speaker, and all pinned turns; returns also how many turns each was joined from."""
    joined, sizes = conversation.joined(), conversation.run_lengths()
    if count := joined.pinned:
        sizes = [sum(sizes[:count]), *sizes[count:]]
        joined = replace(
            joined,
            turns=["\n".join(joined.turns[:count]), *joined.turns[count:]],
            speakers=[joined.turn_speakers[0], *joined.turn_speakers[count:]],
            weights=[joined.turn_weights[0], *joined.turn_weights[count:]],
            pinned=1,
        )
    return joined, sizes


def _with_beginning(
    conversation: Conversation, layout: LayoutConfig, roles: dict[str, str], sizes: list[int]
) -> Arrangement:
    """Leaves out the first turns if the template cannot begin with them, and trims texts as the template does."""
    markers, speakers, pinned = layout.markers, conversation.turn_speakers, conversation.pinned
    before, first = SYSTEM if pinned else START, pinned
    while first < len(speakers) and not markers.follows(before, roles[speakers[first]]):
        first += 1
    if first == len(speakers) > pinned:
        raise ConversationError(
            f"no turn with which this model's chat template can begin, only of {', '.join(dict.fromkeys(speakers))}: "
            "let the user speak first, or load the model with layout='separator'"
        )
    kept = [*range(pinned), *range(first, len(speakers))]
    for earlier, later in zip(kept[pinned:], kept[pinned + 1 :], strict=False):
        if not markers.follows(roles[speakers[earlier]], roles[speakers[later]]):
            raise ConversationError(
                f"a turn of {speakers[later]!r} after one of {speakers[earlier]!r}, for which this model's chat "
                "template has no place: remove the conversation, or load the model with layout='separator'"
            )
    trims = layout.template.trims if layout.template else {}
    turns = [getattr(conversation.turns[i], trims.get(roles[speakers[i]], "__str__"))() for i in kept]
    if turns != list(conversation.turns):  # a new conversation is checked again, which takes as long as laying it out
        conversation = replace(
            conversation,
            turns=turns,
            speakers=[speakers[i] for i in kept],
            weights=[conversation.turn_weights[i] for i in kept],
        )
    return Arrangement(conversation, roles, [sizes[i] for i in kept], dropped=sum(sizes[pinned:first]))


def _roles(names: Sequence[str], layout: LayoutConfig, loss_on: LossOn, responder: str | None) -> dict[str, str]:
    """Returns each speaker's role: one is the assistant, all others are users.

    The assistant is the speaker of this name; else whose turns are supervised by name; else the second one of the
    training data; else who responds, unless it is one of the first two; else the second one of the conversation.
    """
    chosen = named_speakers(loss_on)
    if len(names) == 1:
        return {name: ASSISTANT if name in (ASSISTANT, *chosen) and name != USER else USER for name in names}
    trained = [name for name in layout.speakers if name not in PINNED_ROLES | {TOOL}]
    second = [name for name in names if name != USER][: 1 if USER in names else 2]
    later = [name for name in names[2:] if name == responder]
    candidates = [ASSISTANT, *chosen, *(trained[1:] if len(trained) == 2 else []), *later, *second[-1:]]
    assistant = next((name for name in candidates if name in names and name != USER), None)
    return {name: ASSISTANT if name in (assistant, ASSISTANT) else USER for name in names}


def _prefixed(conversation: Conversation, roles: dict[str, str]) -> Conversation:
    """Puts the names of all speakers but the assistant before their texts."""
    turns, speakers = [], []
    for number, (name, turn) in enumerate(zip(conversation.turn_speakers, conversation.turns, strict=True)):
        is_other = number >= conversation.pinned and roles.get(name) == USER
        turns.append(f"{name}: {turn}" if is_other and name not in DEFAULT_SPEAKERS else turn)
        speakers.append(USER if is_other else name)
    return replace(conversation, turns=turns, speakers=speakers)
