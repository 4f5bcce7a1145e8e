"""What a package declares: a metric that could not be shown or computed is refused where it is written."""

from typing import Any

import pytest

from convmodel import ResponseMetric, TurnMetric
from convmodel.errors import ConfigError

GOOD: dict[str, Any] = {"label": "length", "explanation": "characters of a response", "numerator": len}


@pytest.mark.parametrize("kind", [ResponseMetric, TurnMetric])
@pytest.mark.parametrize(
    ("fields", "fault"),
    [
        ({"label": ""}, "the label of a metric is '': write a few words"),
        ({"explanation": None}, "the explanation of a metric is None"),
        ({"better": "more"}, "better is 'more': it must be lower, higher, neither"),
        ({"numerator": 3}, "must be functions of one argument"),
        ({"denominator": 3}, "must be functions of one argument"),
    ],
)
def test_a_metric_that_cannot_be_shown_or_computed_is_refused(
    kind: type[Any], fields: dict[str, Any], fault: str
) -> None:
    assert kind(**GOOD).label == "length"
    with pytest.raises(ConfigError, match=fault):
        kind(**GOOD | fields)
