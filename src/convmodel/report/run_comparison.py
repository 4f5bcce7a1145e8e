"""Fits side by side: their metrics, and the settings in which they differ.

Owns: the labels of these metrics, and finding the settings. Imports nothing heavy.
"""

import json
from collections.abc import Sequence
from typing import Any

from convmodel.training.metrics_reader import Metrics

_METRICS = {
    "steps": ("steps", ",.0f"),
    "training tokens": ("tokens", ",.0f"),
    "tokens per second": ("tokens_per_second", ",.0f"),
    "training loss, last": ("train_loss", ".3f"),
    "best validation loss": ("eval_loss", ".3f"),
    "best validation perplexity": ("eval_perplexity", ",.2f"),
    "best validation bits per byte": ("eval_bits_per_byte", ".3f"),
    "best step": ("best_step", ",.0f"),
}  # the label, the key in `Metrics.summary`, and the number's format
_ABSENT = "-"
_TARGETS = ("validation", "vocabulary", "loss_on", "max_length")  # on which a validation loss depends
_FACTS = (
    "windows",
    "validation",
    "vocabulary",
    "steps",
    "parameters",
    "precision",
    "version",
)  # of a fit's first line, compared like its settings


def run_metrics(runs: Sequence[Metrics]) -> list[list[str]]:
    """Returns a row for each metric of the fits: its label, and a cell for each fit.

    Example:
        >>> points = [{"step": 20, "eval_loss": 3.0, "eval_perplexity": 20.0855}]
        >>> run_metrics([Metrics("model", [{"step": 25, "loss": 2.5, "tokens": 5120}], points)])[:2]
        [['steps', '25'], ['training tokens', '5,120']]
    """
    summaries = [run.summary() for run in runs]
    return [
        [label, *(_ABSENT if summary[name] is None else format(summary[name], form) for summary in summaries)]
        for label, (name, form) in _METRICS.items()
    ]


def differing_settings(runs: Sequence[Metrics]) -> list[list[str]]:
    """Returns a row for each setting that is not the same in all fits: its name, and a cell for each fit.

    The output folder, which always differs, is left out.

    Example:
        >>> runs = [Metrics(name, [], [], {"config": {"seed": seed}}) for name, seed in (("a", 1), ("b", 2))]
        >>> differing_settings(runs)
        [['seed', '1', '2']]
    """
    by_run = [_settings(run) for run in runs]
    names = dict.fromkeys(name for settings in by_run for name in settings if name != "output_dir")
    rows = [[name, *(_shown(settings, name) for settings in by_run)] for name in names]
    return [row for row in rows if len(set(row[1:])) > 1]


def incomparable(runs: Sequence[Metrics]) -> str:
    """Returns a sentence if the validation losses of the fits are not of the same targets, else an empty text.

    Example:
        >>> begins = [{"validation": "9 windows 1f"}, {"validation": "9 windows 2e"}, {"config": {"loss_on": "all"}}]
        >>> runs = [Metrics(name, [], [{"step": 1, "eval_loss": 2.0}], begin) for name, begin in zip("abc", begins)]
        >>> incomparable(runs)
        'The validation losses are of different targets, so they do not show which fit is better: validation, loss_on.'
        >>> incomparable(runs[1:2])
        ''
    """
    validated = [run for run in runs if run.validations]
    differing = [row[0] for row in differing_settings(validated) if row[0] in _TARGETS]
    if not differing:
        return ""
    return (
        "The validation losses are of different targets, so they do not show which fit is better: "
        f"{', '.join(differing)}."
    )


def _settings(run: Metrics) -> dict[str, Any]:
    config = run.begin.get("config")
    facts = {name: run.begin[name] for name in _FACTS if name in run.begin}
    return (config if isinstance(config, dict) else {}) | facts


def _shown(settings: dict[str, Any], name: str) -> str:
    value = settings.get(name)
    return _ABSENT if value is None else value if isinstance(value, str) else json.dumps(value)
