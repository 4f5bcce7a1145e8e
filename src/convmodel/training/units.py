"""Counts, sizes and times in readable units.

Owns: the units and their digits. Does not know what is measured.
"""


def size(number: int) -> str:
    """Formats a number of bytes, as `1.5 GiB` or `5 MiB`."""
    return f"{number / 2**30:,.1f} GiB" if number >= 2**30 else f"{number / 2**20:,.0f} MiB"


def short_count(count: int) -> str:
    """Formats a count, as `1.3 B`, `7.7 M` or `48,200`."""
    if count >= 1e9:
        return f"{count / 1e9:,.1f} B"
    return f"{count / 1e6:,.1f} M" if count >= 1e6 else f"{count:,}"


def duration(seconds: float) -> str:
    """Formats a duration, as `42 s`, `2.5 min`, `1.5 h` or `2.3 days`."""
    for limit, unit, name in ((60, 1, "s"), (3600, 60, "min"), (86400, 3600, "h")):
        if seconds < limit:
            return f"{max(1, seconds) / unit:.{int(unit > 1)}f} {name}"
    return f"{seconds / 86400:.1f} days"
