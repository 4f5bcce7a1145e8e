"""Times in data.

Owns: the accepted forms of a time.
"""

import re
from datetime import UTC, datetime
from typing import Any

_SINCE_1970 = re.compile(r"\d{9,10}(\.\d+)?|\d{12,13}")


def read_time(value: Any) -> datetime | None:
    """Reads a time: ISO 8601, or (milli)seconds since 1970, as text too; UTC without a zone. None for anything else.

    Example:
        >>> read_time("2018-05-02T19:38:15Z")
        datetime.datetime(2018, 5, 2, 19, 38, 15)
    """
    try:
        if isinstance(value, str) and _SINCE_1970.fullmatch(value.strip()):
            value = float(value)
        if isinstance(value, datetime):
            time = value
        elif isinstance(value, str):
            time = datetime.fromisoformat(value.strip())
        elif isinstance(value, int | float) and not isinstance(value, bool):
            time = datetime.fromtimestamp(value / 1000 if abs(value) > 1e11 else value, UTC)
        else:
            return None
        return time.astimezone(UTC).replace(tzinfo=None) if time.tzinfo else time
    except (ValueError, OverflowError, OSError):
        return None
