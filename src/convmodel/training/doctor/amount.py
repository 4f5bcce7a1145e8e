"""How much there is to learn, and what fine-tuning on so much achieved in a benchmark.

Owns: the measurements by size; `docs/what-to-expect.md` shows more of them, `benchmarks/what_to_expect.py` makes them.
"""

from dataclasses import dataclass

from convmodel.data.windows.encoding import EncodingSummary
from convmodel.training.doctor.checks import Check

_ALIKE = 5
"""A measurement says nothing of data that are this many times as large or as small."""


@dataclass(frozen=True, slots=True)
class Measured:
    """By what shares fine-tuning on a chat of two lowered the bits per byte of unseen turns.

    Attributes:
        text_bytes: The text of the turns that were learned.
        messages: The messages of both.
        small: The share for `builtin:chitchat`.
        adapted: That for SmolLM2-135M-Instruct with LoRA; None where it was not measured.
    """

    text_bytes: int
    messages: int
    small: float
    adapted: float | None = None

    def __str__(self) -> str:
        adapted = "" if self.adapted is None else f", and of SmolLM2-135M-Instruct with LoRA by {self.adapted:.0%}"
        return (
            f"in a benchmark, {self.text_bytes:,} bytes by one person, from a chat of {self.messages:,} messages, "
            f"lowered the bits per byte of builtin:chitchat by {self.small:.0%}{adapted}"
        )


MEASURED = (Measured(9119, 300, 0.11, 0.10), Measured(87111, 3000, 0.20, 0.14), Measured(603066, 20000, 0.28, 0.17))
"""By size."""


def check_amount(summary: EncodingSummary) -> Check:
    """Reports how much text there is to learn, and what a similar amount achieved; always passes.

    Example:
        >>> check_amount(EncodingSummary(text_bytes=1000)).finding
        '1,000 bytes of text to learn'
    """
    size = summary.text_bytes
    finding = f"{size:,} bytes of text to learn"
    nearest = min(MEASURED, key=lambda one: _ratio(size, one.text_bytes))
    return Check("amount", "pass", f"{finding}; {nearest}" if _ratio(size, nearest.text_bytes) < _ALIKE else finding)


def _ratio(first: int, second: int) -> float:
    """Returns how many times the larger of two numbers is the smaller one."""
    return max(first, second, 1) / max(min(first, second), 1)
