"""The targets on which all models of an evaluation are measured.

Owns: whose turns count, how long windows are, and which conversations all models read alike.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from convmodel.conversation import Conversation
from convmodel.errors import ContextTooLongError, ConversationError
from convmodel.layout.architecture import positions, window_length
from convmodel.layout.choosing import LayoutName
from convmodel.layout.tokenizer import ConversationTokenizer
from convmodel.layout.tokenizer_files import load_config
from convmodel.report.evaluation.model_evaluation import Settings


@dataclass(frozen=True, slots=True)
class Reader:
    """How a model reads conversations: its tokenizer, and the config of its architecture."""

    tokenizer: ConversationTokenizer
    config: Any

    @classmethod
    def load(cls, name: str, layout: LayoutName) -> "Reader":
        """Loads a model without its weights.

        Raises:
            ModelLoadError: If the model cannot be loaded.
        """
        return cls(ConversationTokenizer.from_pretrained(name, layout=layout), load_config(name, {}))


def common_targets(
    names: Sequence[str], conversations: Sequence[Conversation], settings: Settings, layout: LayoutName = "auto"
) -> tuple[Settings, list[Conversation]]:
    """Chooses what several models are measured on, so that all have the same targets; changes nothing for one model.

    `loss_on` and `max_length` are those of the first model's training, unless they are given, and windows are no longer
    than the positions of any model. The targets of a conversation still differ where a turn longer than a window is cut
    at another place, or where only one model takes no token types, which joins consecutive turns of one speaker: such a
    conversation is left out. One that a model cannot use stays only if that is to be an error.

    Raises:
        ModelLoadError: If a model cannot be loaded.
        ConfigError: If `max_length` is too long for a model.
        ConversationError: If no conversation has the same targets for all models.
    """
    if len(names) < 2:
        return settings, [*conversations]
    readers = [Reader.load(name, layout) for name in names]
    first = readers[0].tokenizer.layout
    limits = [limit for reader in readers if (limit := positions(reader.config))]
    longest = settings.max_length or min([window_length(readers[0].config, first.max_length), *limits])
    for reader in readers:
        window_length(reader.config, longest)
    settings = replace(settings, loss_on=settings.loss_on or first.loss_on, max_length=longest)
    alike = [
        conversation
        for conversation in conversations
        if len(targets := {_targets(reader, conversation, settings) for reader in readers}) == 1
        or (None in targets and settings.on_error == "fail")
    ]
    if conversations and not alike:
        raise ConversationError(
            f"no conversation has the same targets for {', '.join(names)}: evaluate each of them alone"
        )
    return settings, alike


def _targets(reader: Reader, conversation: Conversation, settings: Settings) -> tuple[int, ...] | None:
    """Counts the turns and the bytes of the targets of a conversation; None if it cannot be laid out."""
    tokenizer = reader.tokenizer
    max_length, loss_on = settings.max_length, settings.loss_on
    assert max_length is not None
    assert loss_on is not None
    try:
        windows = tokenizer.windows(conversation, max_length=max_length, loss_on=loss_on)
    except (ConversationError, ContextTooLongError):
        return None
    turns = tokenizer.arrange(conversation, loss_on).conversation
    return (
        len(turns.turns),
        sum(window.text_bytes for window in windows),
        *(window.text_bytes for window in windows if window.cut),
    )
