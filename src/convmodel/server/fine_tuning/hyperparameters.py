"""The hyperparameters of fine-tuning jobs, and the training options that they become.

Owns: one table of their names, bounds and options, from which the check, the job's options and the table in
docs/fine-tuning-service.md come. What `auto` is belongs to `convmodel.training`.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

from convmodel.server.errors import ApiError
from convmodel.training.config import FitConfig
from convmodel.training.improvement import SETTINGS

Method: TypeAlias = Literal["supervised", "dpo"]
AUTO = "auto"

RESPONDER = "assistant"
"""Whose messages are learned, as in OpenAI's API."""

_BASE: dict[Method, dict[str, Any]] = {
    "supervised": {"loss_on": RESPONDER},
    "dpo": SETTINGS | {"objective": "dpo"},  # what suits judgements: adapters, which forget less
}
"""What a job of each method sets beside its hyperparameters."""


@dataclass(frozen=True, slots=True)
class Hyperparameter:
    """One row of the table.

    Attributes:
        name: Its name in OpenAI's API.
        option: The option of `convmodel fit` that it sets.
        low: The lowest value; the option's own check may exclude it.
        high: The highest value.
        whole: Whether it is a whole number.
        factor: Whether the option is multiplied by it.
        methods: The methods that have it.
    """

    name: str
    option: str
    low: float
    high: float
    whole: bool = False
    factor: bool = False
    methods: tuple[Method, ...] = ("supervised", "dpo")

    def auto(self, method: Method) -> Any:
        """Returns the value that `auto` is: what the option is without it; `auto` if the data decide."""
        default = self._default(method)
        return AUTO if default is None else 1 if self.factor else default

    def setting(self, method: Method, value: float) -> Any:
        """Returns the value of the option."""
        return value * self._default(method) if self.factor else value

    def _default(self, method: Method) -> Any:
        return _BASE[method].get(self.option, getattr(FitConfig(), self.option))

    def check(self, value: Any, param: str) -> None:
        """Raises an `ApiError` if a value is not a number within the bounds."""
        is_number = type(value) is int or (type(value) is float and not self.whole)
        if not is_number or not self.low <= value <= self.high:
            kind = "a whole number" if self.whole else "a number"
            bounds = f"{kind} from {self.low:g} to {self.high:g}, or {AUTO}"
            raise ApiError(400, f"{param} is {str(value)[:40]}: it must be {bounds}", param=param)


TABLE = (
    Hyperparameter("n_epochs", "epochs", 1, 50, whole=True),
    Hyperparameter("batch_size", "batch_size", 1, 256, whole=True),
    Hyperparameter("learning_rate_multiplier", "learning_rate", 0.001, 1000, factor=True),
    Hyperparameter("beta", "beta", 0.001, 2, methods=("dpo",)),
)


def resolve(method: Method, values: Mapping[str, Any], place: str) -> dict[str, Any]:
    """Returns the value of each hyperparameter of a method, instead of `auto` or none where it is known.

    Args:
        method: The method.
        values: What the client gave.
        place: Where it gave them, for messages.

    Raises:
        ApiError: If one does not exist, or has an invalid value.

    Example:
        >>> resolve("supervised", {"n_epochs": 2, "batch_size": "auto"}, "hyperparameters")
        {'n_epochs': 2, 'batch_size': 'auto', 'learning_rate_multiplier': 1}
    """
    rows = {row.name: row for row in TABLE if method in row.methods}
    for name, value in values.items():
        param = f"{place}.{name}"[:200]
        if name not in rows:
            message = f"{param} is not supported for {method}, only {', '.join(rows)}: leave it out"
            raise ApiError(400, message, param=param, code="unsupported_parameter")
        if value not in (AUTO, None):
            rows[name].check(value, param)
    given = {name: value for name, value in values.items() if value not in (AUTO, None)}
    return {name: given.get(name, row.auto(method)) for name, row in rows.items()}


def fit_settings(method: Method, values: Mapping[str, Any], seed: int) -> dict[str, Any]:
    """Returns the options of `convmodel fit`, as in `FitConfig`, for values that `resolve` returned.

    Example:
        >>> fit_settings("supervised", resolve("supervised", {"learning_rate_multiplier": 2}, ""), seed=7)
        {'loss_on': 'assistant', 'learning_rate': 0.0001, 'seed': 7}
    """
    given = [row for row in TABLE if values.get(row.name, AUTO) != AUTO]
    chosen = {row.option: row.setting(method, values[row.name]) for row in given}
    return _BASE[method] | chosen | {"seed": seed}


def markdown_table() -> str:
    """Returns the table for the docs."""
    lines = [
        "| hyperparameter | values | `convmodel fit` | `auto`, supervised | `auto`, dpo |",
        "|---|---|---|---|---|",
    ]
    for row in TABLE:
        kind = "whole numbers" if row.whole else "numbers"
        option = f"--{row.option.replace('_', '-')}"
        autos = []
        for method in ("supervised", "dpo"):
            value = row.auto(method)
            shown = "by the data" if value == AUTO else f"{row.setting(method, value):g}"
            autos.append(shown if method in row.methods else "not supported")
        if row.factor:
            autos = [f"1 ({value})" for value in autos]
        shown = f"`{option}`, multiplied" if row.factor else f"`{option}`"
        lines.append(f"| `{row.name}` | {kind}, {row.low:g} to {row.high:g} | {shown} | {' | '.join(autos)} |")
    return "\n".join(lines) + "\n"
