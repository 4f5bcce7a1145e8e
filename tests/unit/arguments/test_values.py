"""Values of numpy, pandas and pyarrow as Python's own."""

from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import torch

from convmodel.arguments.values import is_table, plain, table_rows


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (np.int64(3), 3),
        (np.float32(0.5), 0.5),
        (np.bool_(True), True),
        (np.array(["Hi", "Hello"]), ["Hi", "Hello"]),
        (pd.Series([["Hi"], ["Hello"]]), [["Hi"], ["Hello"]]),
        (torch.tensor([1, 2]), [1, 2]),
        (3, 3),
        ("Hi", "Hi"),
        (None, None),
        ([1], [1]),
        (np.ndarray, np.ndarray),
    ],
)
def test_values_become_pythons_own(value: Any, expected: Any) -> None:
    result = plain(value)
    assert result == expected
    assert type(result) is type(expected)


@pytest.mark.parametrize("make", [pd.DataFrame, pa.table])
def test_a_table_is_its_rows(make: Any) -> None:
    table = make({"prompt": ["Hi", "Bye"], "response": ["Hello", None]})
    assert is_table(table)
    assert table_rows(table) == [{"prompt": "Hi", "response": "Hello"}, {"prompt": "Bye", "response": None}]


def test_missing_values_are_none_and_arrays_are_lists() -> None:
    frame = pd.DataFrame({"turns": [np.array(["Hi", "Hello"], dtype=object)], "id": [np.nan], 7: [1]})
    assert table_rows(frame) == [{"turns": ["Hi", "Hello"], "id": None, "7": 1}]


@pytest.mark.parametrize("value", [[["Hi"]], {"columns": 1}, "Hi", np.array([1]), pd.Series([1]), None])
def test_other_values_are_no_tables(value: Any) -> None:
    assert not is_table(value)
