"""Counts, sizes and times in readable units.

Owns: the units and their digits. Does not know what is measured.
"""


def size(number: int) -> str:
    """Formats a number of bytes.

    Example:
        >>> size(3 << 29), size(5 << 20)
        ('1.5 GiB', '5 MiB')
    """
    return f"{number / 2**30:,.1f} GiB" if number >= 2**30 else f"{number / 2**20:,.0f} MiB"


def millions(count: int) -> str:
    """Formats a count.

    Example:
        >>> millions(7_656_320), millions(48_200)
        ('7.7 M', '48,200')
    """
    return f"{count / 1e6:,.1f} M" if count >= 1e6 else f"{count:,}"


def duration(seconds: float) -> str:
    """Formats a duration.

    Example:
        >>> duration(42.4), duration(150), duration(5400), duration(200000)
        ('42 s', '2.5 min', '1.5 h', '2.3 days')
    """
    for limit, unit, name in ((60, 1, "s"), (3600, 60, "min"), (86400, 3600, "h")):
        if seconds < limit:
            return f"{max(1, seconds) / unit:.{int(unit > 1)}f} {name}"
    return f"{seconds / 86400:.1f} days"
