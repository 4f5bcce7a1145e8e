"""The commands of a job: `convmodel doctor` on its files, then `convmodel fit`.

Owns: their arguments, what each leaves behind when it is done, and what the doctor's findings are as events. Does not
know when they run.
"""

import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from convmodel.server.fine_tuning.hyperparameters import fit_settings
from convmodel.server.fine_tuning.job_store import JobRecord, JobSpec, Level
from convmodel.training.doctor.checks import BLOCKING
from convmodel.training.resume.run_folder import is_finished

COMMAND = (sys.executable, "-m", "convmodel")

SAVE_MINUTES = 2.0  # between checkpoints: how much a kill may lose

SAMPLES = 3
"""Contexts of the validation file to which the model responds at each validation of a supervised job."""

_DOCTOR_OPTIONS = ("loss_on", "epochs", "batch_size")


@dataclass(frozen=True, slots=True)
class Data:
    """The files of a job.

    Attributes:
        train: What it trains on.
        valid: What it validates on, if anything.
    """

    train: Path
    valid: Path | None


def check_command(command: Sequence[str], spec: JobSpec, data: Data, *, estimate: bool = False) -> list[str]:
    """Returns the command that checks the files of a job, and prints the findings, with an `estimate` if wanted."""
    settings = fit_settings(spec.method, spec.hyperparameters, spec.seed)
    chosen = {name: settings[name] for name in _DOCTOR_OPTIONS if name in settings and spec.method == "supervised"}
    form = [] if spec.method == "supervised" else ["--format", "judgements"]
    line = [*command, "doctor", spec.source, str(data.train), *form, *_valid(data), *_flags(chosen)]
    return [*line, *([] if estimate else ["--no-estimate"]), "--json"]


def fit_command(command: Sequence[str], job: JobRecord, data: Data, folder: Path) -> list[str]:
    """Returns the command that trains; if it was stopped or killed, the same command resumes it."""
    spec = job.spec
    settings = fit_settings(spec.method, spec.hyperparameters, spec.seed) | {"save_minutes": SAVE_MINUTES}
    if spec.method == "supervised" and data.valid is not None:
        settings["samples"] = SAMPLES
    line = [*command, "fit", str(data.train), *_valid(data), "--model", spec.source, "--output-dir", str(folder)]
    return [*line, *_flags(settings), "--json"]


def is_trained(folder: Path) -> bool:
    """Returns whether a run has written its model, and ended."""
    return is_finished(folder) and any(folder.glob("*.safetensors"))


def read_findings(path: Path) -> list[dict[str, Any]] | None:
    """Returns what the doctor found; None if it has not ended, or ended with an error."""
    try:
        checks = json.loads(path.read_bytes())["checks"]
        return [dict(check) for check in checks]
    except (OSError, ValueError, KeyError, TypeError):
        return None


def describe_finding(check: Mapping[str, Any]) -> tuple[str, Level]:
    """Returns the message and the level of an event about a finding."""
    levels: dict[str, Level] = {"pass": "info", "warn": "warn"}
    fix = f"; {check['fix']}" if check.get("fix") else ""
    return f"{check['name']}: {check['finding']}{fix}", levels.get(str(check["status"]), "error")


def blocking(findings: Sequence[Mapping[str, Any]]) -> str:
    """Returns the message of the first finding that makes training pointless; empty without one."""
    failed = [check for check in findings if check["status"] == "fail" and check["name"] in BLOCKING]
    return describe_finding(failed[0])[0] if failed else ""


def _valid(data: Data) -> list[str]:
    return [] if data.valid is None else ["--valid", str(data.valid)]


def _flags(settings: Mapping[str, Any]) -> list[str]:
    flags: list[str] = []
    for name, value in settings.items():
        flag = f"--{name.replace('_', '-')}"
        flags += [flag] if value is True else [flag, str(value)]
    return flags
