"""The processes that measure the same windows together, each a share of them.

Owns: which batches a process measures, and adding up what all have measured. Does not know what is measured.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TypeVar

import torch

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Processes:
    """This process, and how many there are; by default one that measures everything.

    Attributes:
        rank: The number of this process, from 0.
        count: How many processes there are.
        in_step: Whether all must measure equally many batches, since each forward pass needs all of them.
        device: Where tensors must be for the processes to exchange them.
    """

    rank: int = 0
    count: int = 1
    in_step: bool = False
    device: torch.device = torch.device("cpu")  # noqa: RUF009 - never changes

    def own(self, batches: Sequence[T]) -> Iterator[tuple[T, bool]]:
        """Yields the batches of this process in turn with the others, and whether each one's values count.

        In step, a process that has no batch left measures the last one of all again, whose values count once.

        Example:
            >>> [*Processes(rank=1, count=2, in_step=True).own(["longest", "middle", "shortest"])]
            [('middle', True), ('shortest', False)]
        """
        for begin in range(0, len(batches), self.count):
            if begin + self.rank < len(batches):
                yield batches[begin + self.rank], True
            elif self.in_step:
                yield batches[-1], False

    def total(self, values: torch.Tensor) -> torch.Tensor:
        """Adds up values of all processes; exact where all but one of them are 0."""
        if self.count == 1:
            return values
        sums = values.to(self.device)
        torch.distributed.all_reduce(sums)
        return sums.cpu()
