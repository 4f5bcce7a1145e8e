"""Windows to batches: padded, or several windows packed into a row.

Owns: padding and packing as tensors, and batches by length. Knows no loss, no model and no files.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace

import numpy as np
import torch

from convmodel.data.windows.order import Blank
from convmodel.layout.sequence import IGNORED, Window


def pad(windows: Sequence[Window], pad_id: int, *, use_token_types: bool, multiple: int = 1) -> dict[str, torch.Tensor]:
    """Pads at least one window to the length of the longest, rounded up to a multiple of `multiple`.

    Padding is on the right and masked, and its label is `IGNORED`.

    Returns:
        Tensors of shape (batch, seq), dtype int64: `input_ids`, `attention_mask`, `labels`, and optionally
        `token_type_ids`; and `weights`, float32, if a window has any: 0 where there is no target.

    Example:
        >>> pad([Window([5, 7], [0, 0], [-100, 7]), Window([5], [0], [-100])], 0, use_token_types=False)["input_ids"]
        tensor([[5, 7],
                [5, 0]])
    """
    longest = -(-max(len(window.input_ids) for window in windows) // multiple) * multiple

    def fill(rows: Iterable[Sequence[float]], value: int, dtype: torch.dtype = torch.int64) -> torch.Tensor:
        tensor = torch.full((len(windows), longest), value, dtype=dtype)
        for row, ids in enumerate(rows):
            tensor[row, : len(ids)] = torch.tensor(ids, dtype=dtype)
        return tensor

    batch = {
        "input_ids": fill((window.input_ids for window in windows), pad_id),
        "attention_mask": fill(([1] * len(window.input_ids) for window in windows), 0),
        "labels": fill((window.labels for window in windows), IGNORED),
    }
    if use_token_types:
        batch["token_type_ids"] = fill((window.types for window in windows), 0)
    if any(window.weights for window in windows):
        batch["weights"] = fill(map(_weights, windows), 0, torch.float32)
    return batch


def pack(rows: Sequence[Sequence[Window]], *, use_token_types: bool, multiple: int = 1) -> dict[str, torch.Tensor]:
    """Lays windows end to end in rows, padded to the length of the longest row.

    Positions restart in each window, and there is no attention mask: that is how transformers recognises windows that
    must not attend to each other. Padding repeats the first token: such a position sees itself alone, and the embedding
    of a padding token is often all zeros, where the gradient of a norm can be nan (Gemma 3n). A window's first token is
    never a target, so none is predicted from another window.

    Returns:
        As `pad`, of shape (rows, seq), with `position_ids` in place of `attention_mask`.
    """
    joined = [
        Window(
            [index for window in row for index in window.input_ids],
            [index for window in row for index in window.types],
            [label for window in row for label in (IGNORED, *window.labels[1:])],
            weights=_row_weights(row),
        )
        for row in rows
    ]
    batch = pad(joined, rows[0][0].input_ids[0], use_token_types=use_token_types, multiple=multiple)
    positions = torch.zeros_like(batch.pop("attention_mask"))
    for line, row in zip(positions, rows, strict=True):
        places = [torch.arange(len(window.input_ids)) for window in row]
        line[: sum(map(len, places))] = torch.cat(places)
    return batch | {"position_ids": positions}


def segments(rows: Sequence[Sequence[Window]], length: int) -> torch.Tensor:
    """Numbers the windows of some rows, and returns each position's window, of shape (rows, length); 0 in padding.

    Example:
        >>> segments([[Window([5, 7], [0, 0], [-100, 7])], [Window([5], [0], [-100])]], 3)
        tensor([[0, 0, 0],
                [1, 0, 0]])
    """
    numbers = torch.zeros(len(rows), length, dtype=torch.int64)
    count = 0
    for line, row in zip(numbers, rows, strict=True):
        sizes = torch.tensor([len(window.input_ids) for window in row])
        line[: int(sizes.sum())] = torch.repeat_interleave(torch.arange(count, count + len(row)), sizes)
        count += len(row)
    return numbers


def _weights(window: Window) -> list[float]:
    return window.weights or [float(label != IGNORED) for label in window.labels]


def _row_weights(row: Sequence[Window]) -> list[float] | None:
    if not any(window.weights for window in row):
        return None
    return [weight for window in row for weight in (0.0, *_weights(window)[1:])]


def by_length(
    windows: Sequence[Window], batch_size: int, lengths: Sequence[int] | np.ndarray | None = None
) -> Iterator[list[Window]]:
    """Yields batches of windows of similar length, longest first, so that there is little padding.

    The first batch needs the most memory, so a run that does not fit fails at once. With `lengths`, each window is read
    only for its own batch.
    """
    if lengths is None:
        lengths = [len(window.input_ids) for window in windows]
    for indices in indices_by_length(lengths, batch_size):
        yield [windows[index] for index in indices]


def indices_by_length(lengths: Sequence[int] | np.ndarray, batch_size: int) -> list[list[int]]:
    """Returns the indices of the windows of each batch of `by_length`.

    Example:
        >>> indices_by_length([5, 9, 7], 2)
        [[1, 2], [0]]
    """
    order = np.argsort(-np.asarray(lengths), kind="stable").tolist()
    return [order[start : start + batch_size] for start in range(0, len(order), batch_size)]


class WindowDataset(torch.utils.data.Dataset[list[Window]]):
    """Rows of windows for transformers' `Trainer`: an item is one window, or the windows of one packed row."""

    def __init__(self, windows: Sequence[Window]) -> None:
        self.windows = windows

    def __len__(self) -> int:
        return len(self.windows)

    def __getitem__(self, index: int | tuple[int, ...] | Blank) -> list[Window]:
        if isinstance(index, Blank):
            return [replace(window, labels=[IGNORED] * len(window.labels), weights=None) for window in self[index.row]]
        return [self.windows[i] for i in ([index] if isinstance(index, int) else index)]
