"""Names that are nearly right."""

import pytest

from convmodel.arguments.names import did_you_mean


@pytest.mark.parametrize(
    ("unknown", "meant"),
    [
        ("max_tokens", "max_new_tokens"),
        ("temprature", "temperature"),
        ("stop", "stop_strings"),
        ("lr", "learning_rate"),
        ("num_train_epochs", "epochs"),
        ("per_device_train_batch_size", "batch_size"),
    ],
)
def test_a_name_that_is_nearly_right_suggests_the_right_one(unknown: str, meant: str) -> None:
    names = ["max_new_tokens", "temperature", "stop_strings", "early_stopping", "learning_rate", "epochs", "batch_size"]
    assert did_you_mean([unknown], [*names, "seed"]) == f"; did you mean {meant}?"


def test_a_name_like_no_other_suggests_none() -> None:
    assert did_you_mean(["foo", "x"], ["seed", "epochs"]) == ""
