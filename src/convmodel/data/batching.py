"""Windows to padded batches.

Owns: encoding many conversations, the account of what was left out, and padding. Knows no loss and no model.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from convmodel.conversation import Conversation
from convmodel.errors import ContextTooLongError, ConversationError
from convmodel.layout import IGNORED, LossOn, Window
from convmodel.tokenizer import ConversationTokenizer


@dataclass(frozen=True, slots=True)
class WindowSet:
    """Encoded conversations, and an account of them.

    Attributes:
        windows: The training sequences, conversation after conversation.
        conversations: How many conversations they come from.
        unsupervised: How many conversations have no supervised turn, and so no window.
        cut: How many tokens were left out of turns longer than a window.
    """

    windows: list[Window]
    conversations: int
    unsupervised: int
    cut: int

    @property
    def tokens(self) -> int:
        """Supervised tokens."""
        return sum(window.supervised_tokens for window in self.windows)

    def left_out(self) -> str:
        """Says what was left out, in a sentence; empty where nothing was."""
        parts = []
        if self.unsupervised:
            parts.append(f"{self.unsupervised:,} of {self.conversations:,} conversations have no supervised turn")
        if self.cut:
            parts.append(f"{self.cut:,} tokens of turns longer than a window were cut")
        return "; ".join(parts)


def encode_windows(
    conversations: Iterable[Conversation],
    tokenizer: ConversationTokenizer,
    *,
    max_length: int,
    loss_on: LossOn,
) -> WindowSet:
    """Encodes conversations as windows of at most `max_length` tokens.

    Raises:
        ConversationError: If a conversation cannot be laid out (the message tells which), or none has a supervised
            turn.
        ContextTooLongError: If a conversation's pinned turns leave no room in a window.
    """
    windows: list[Window] = []
    total = unsupervised = 0
    for total, conversation in enumerate(conversations, 1):
        try:
            made = tokenizer.windows(conversation, max_length=max_length, loss_on=loss_on)
        except (ConversationError, ContextTooLongError) as error:
            raise type(error)(f"conversation {conversation.id or total}: {error}") from error
        unsupervised += not made
        windows += made
    if not windows:
        raise ConversationError(f"none of {total} conversations has a turn that loss_on={loss_on!r} supervises")
    return WindowSet(windows, total, unsupervised, sum(window.cut for window in windows))


def pad(
    windows: Sequence[Window], pad_id: int, *, use_token_types: bool, side: str = "right"
) -> dict[str, torch.Tensor]:
    """Pads windows to the longest of them.

    Args:
        windows: At least one; lengths may differ.
        pad_id: Fills `input_ids`; it is masked, and its label is `IGNORED`.
        use_token_types: Whether the batch carries `token_type_ids`.
        side: `right` or `left`; on the left, `position_ids` come along, since models count from the padding otherwise.

    Returns:
        Tensors of shape (batch, seq), dtype int64: `input_ids`, `attention_mask`, `labels`, and maybe
        `token_type_ids` and `position_ids`.

    Example:
        >>> pad([Window([5, 7], [0, 0], [-100, 7]), Window([5], [0], [-100])], 0, use_token_types=False)["input_ids"]
        tensor([[5, 7],
                [5, 0]])
    """
    longest = max(len(window.input_ids) for window in windows)

    def fill(rows: Iterable[Sequence[int]], value: int) -> torch.Tensor:
        tensor = torch.full((len(windows), longest), value)
        for row, ids in enumerate(rows):
            place = slice(0, len(ids)) if side == "right" else slice(longest - len(ids), longest)
            tensor[row, place] = torch.tensor(ids)
        return tensor

    batch = {
        "input_ids": fill((window.input_ids for window in windows), pad_id),
        "attention_mask": fill(([1] * len(window.input_ids) for window in windows), 0),
        "labels": fill((window.labels for window in windows), IGNORED),
    }
    if use_token_types:
        batch["token_type_ids"] = fill((window.types for window in windows), 0)
    if side == "left":
        batch["position_ids"] = fill((range(len(window.input_ids)) for window in windows), 0)
    return batch


def by_length(windows: Sequence[Window], batch_size: int) -> Iterator[list[Window]]:
    """Yields batches of windows of similar length, longest first, so that little is padded.

    The first batch needs the most memory, so a run that does not fit fails at once.
    """
    ordered = sorted(windows, key=lambda window: len(window.input_ids), reverse=True)
    for start in range(0, len(ordered), batch_size):
        yield ordered[start : start + batch_size]


class WindowDataset(torch.utils.data.Dataset[dict[str, Any]]):
    """Windows as the mappings that transformers' `Trainer` asks for; `pad` makes the tensors."""

    def __init__(self, windows: Sequence[Window]) -> None:
        self.windows = windows

    def __len__(self) -> int:
        return len(self.windows)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return {"input_ids": self.windows[index].input_ids, "window": self.windows[index]}
