"""Values of numpy, pandas and the like as Python's own, and values that are not given.

Owns: converting numbers, arrays, series and tables. Imports none of these packages: it looks at what a value can do.
"""

from collections.abc import Mapping
from typing import Any


def plain(value: Any) -> Any:
    """Returns numbers and arrays of numpy, series and tensors as Python's numbers and lists; other values as they are.

    Example:
        >>> import numpy as np
        >>> plain(np.int64(3)), plain(np.array(["Hi", "Hello"])), plain("Hi")
        (3, ['Hi', 'Hello'], 'Hi')
    """
    for method in ("tolist", "to_list"):  # the second is polars'
        if hasattr(value, method) and not isinstance(value, type):
            return getattr(value, method)()
    return value


def without_none(options: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the options that are given; None stands for one that is not.

    Example:
        >>> without_none({"temperature": None, "seed": 0})
        {'seed': 0}
    """
    return {name: value for name, value in options.items() if value is not None}


def is_table(value: Any) -> bool:
    """Returns whether a value is a table of pandas, polars or pyarrow; iterating over one yields its columns."""
    return hasattr(value, "columns") and any(hasattr(value, method) for method in ("to_dicts", "to_pylist", "to_dict"))


def table_rows(table: Any) -> list[Mapping[str, Any]]:
    """Returns the rows of a table by column name; a missing value is None, and arrays are lists."""
    method = next((getattr(table, name) for name in ("to_dicts", "to_pylist") if hasattr(table, name)), None)
    rows = table.to_dict("records") if method is None else method()
    return [{str(name): _cell(value) for name, value in row.items()} for row in rows]


def _cell(value: Any) -> Any:
    value = plain(value)
    return None if isinstance(value, float) and value != value else value  # pandas has NaN for what is missing
