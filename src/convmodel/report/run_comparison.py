"""What fits came to, beside each other.

Owns: the words for their figures, and finding the settings in which they differ. Imports nothing heavy.
"""

import json
from collections.abc import Sequence
from typing import Any

from convmodel.training.metrics_reader import Metrics

_FIGURES = {
    "updates": ("steps", ",.0f"),
    "training tokens": ("tokens", ",.0f"),
    "tokens a second": ("tokens_per_second", ",.0f"),
    "training loss, last": ("train_loss", ".3f"),
    "best validation loss": ("eval_loss", ".3f"),
    "its perplexity": ("eval_perplexity", ",.2f"),
    "its bits a byte": ("eval_bits_per_byte", ".3f"),
    "after update": ("best_step", ",.0f"),
}  # the words, the name in `Metrics.summary`, and how the number is written
_ABSENT = "-"
_FACTS = ("windows", "steps", "parameters", "precision", "version")  # of a fit's begin, beside its settings


def figures(runs: Sequence[Metrics]) -> list[list[str]]:
    """Says what the fits came to: the words for a figure, and a cell for each fit.

    Example:
        >>> points = [{"step": 20, "eval_loss": 3.0, "eval_perplexity": 20.0855}]
        >>> figures([Metrics("model", [{"step": 25, "loss": 2.5, "tokens": 5120}], points)])[:2]
        [['updates', '25'], ['training tokens', '5,120']]
    """
    found = [run.summary() for run in runs]
    return [
        [words, *(_ABSENT if summary[name] is None else format(summary[name], form) for summary in found)]
        for words, (name, form) in _FIGURES.items()
    ]


def differences(runs: Sequence[Metrics]) -> list[list[str]]:
    """Finds the settings that are not the same in all fits: their names, and a cell for each fit.

    The output folder, which always differs, is left out.

    Example:
        >>> differences([Metrics("a", [], [], {"config": {"seed": 1}}), Metrics("b", [], [], {"config": {"seed": 2}})])
        [['seed', '1', '2']]
    """
    known = [_settings(run) for run in runs]
    names = dict.fromkeys(name for settings in known for name in settings if name != "output_dir")
    rows = [[name, *(_shown(settings, name) for settings in known)] for name in names]
    return [row for row in rows if len(set(row[1:])) > 1]


def _settings(run: Metrics) -> dict[str, Any]:
    config = run.begin.get("config")
    facts = {name: run.begin[name] for name in _FACTS if name in run.begin}
    return (config if isinstance(config, dict) else {}) | facts


def _shown(settings: dict[str, Any], name: str) -> str:
    value = settings.get(name)
    return _ABSENT if value is None else value if isinstance(value, str) else json.dumps(value)
