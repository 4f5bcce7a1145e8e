"""Wilson's interval of a share.

Owns: its formula. Imports nothing heavy.
"""

import math

_Z = 1.959964  # standard deviations that hold 95 % of a normal distribution


def wilson(wins: int, total: int) -> tuple[float, float]:
    """Returns the 95 % interval of a share.

    Source: E. Wilson, Probable Inference, the Law of Succession, and Statistical Inference (1927).

    Example:
        >>> [round(end, 3) for end in wilson(8, 10)]
        [0.49, 0.943]
        >>> wilson(0, 0)
        (0.0, 1.0)
    """
    if not total:
        return 0.0, 1.0
    share, square = wins / total, _Z**2
    middle = share + square / (2 * total)
    half = _Z * math.sqrt(share * (1 - share) / total + square / (4 * total**2))
    scale = 1 + square / total
    # Rounding would leave the ends a hair short of 0 and 1.
    low = 0.0 if wins == 0 else (middle - half) / scale
    return low, 1.0 if wins == total else (middle + half) / scale
