"""`improvements.json`: which version of each model a server serves, and its latest improvement.

Owns: the file's format, the names of the folders beside it, and that one server at a time uses them. Does not know how
a model is trained or served.
"""

import json
import os
import re
from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass, replace
from itertools import chain, count
from pathlib import Path
from typing import Any, Literal, TypeAlias, get_args

from convmodel.errors import ConfigError
from convmodel.files.atomic import replace_text
from convmodel.server.serving.locked_folder import lock_folder

FILE = "improvements.json"

_DIGITS = 9  # of a folder's number; the names of folders that others have written may have more

JobState: TypeAlias = Literal["running", "done", "cancelled", "interrupted", "failed"]


@dataclass(frozen=True, slots=True)
class JobRecord:
    """The latest improvement.

    Attributes:
        model: The id of the model that is improved.
        folder: The name of the folder that it writes.
        state: `interrupted` if the server was stopped while it ran.
        error: Why it failed, in a sentence.
        pid: Its process.
    """

    model: str
    folder: str
    state: JobState = "running"
    error: str = ""
    pid: int = 0


class ImprovementFile:
    """The file in a folder, read once, and replaced with every change."""

    def __init__(self, folder: Path, sources: Mapping[str, str]) -> None:
        """Reads the file; there is none before the first improvement.

        Args:
            folder: Where the file and the improved models are; created if it is missing.
            sources: The model that each served one was at first, by its id.

        Raises:
            ConfigError: If the file is damaged, names a folder that is missing, or belongs to other models.
            SaveError: If the folder cannot be written, or another server uses it.
        """
        self.folder = folder
        self._sources = {name: absolute_source(source) for name, source in sources.items()}
        self._versions: dict[str, tuple[str, ...]] = dict.fromkeys(sources, ())
        self._others: dict[str, Any] = {}  # entries of models that are not served now
        self._numbers: dict[str, int] = {}  # the highest one in the names of folders, by the part before it
        self.job: JobRecord | None = None
        self._descriptor = lock_folder(folder, "--allow-training")
        try:
            if (folder / FILE).exists():
                self._read()
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Lets another server use the folder."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None

    def version(self, model: str) -> str | None:
        """Returns the folder of the improved model that is served; None for the model as it was at first."""
        return self._versions[model][-1] if self._versions[model] else None

    def source(self, model: str, *, back: int = 0) -> str:
        """Returns what to load for a model: its version, or an earlier one, counted from that."""
        versions = self._versions[model][: len(self._versions[model]) - back]
        return str(self.folder / versions[-1]) if versions else self._sources[model]

    def old_label(self, model: str) -> str | None:
        """Returns the name of what was served before the version; None if there was nothing."""
        versions = self._versions[model]
        return None if not versions else (model, *versions)[-2]

    def push(self, model: str, version: str) -> None:
        """Records that an improved model is served from now on."""
        self._replace(model, (*self._versions[model], version))

    def pop(self, model: str) -> None:
        """Records that the earlier model is served again."""
        self._replace(model, self._versions[model][:-1])

    def record(self, job: JobRecord | None) -> None:
        """Records the latest improvement, or a change of its state."""
        if job is not None:
            self._note(job.folder)
        self._write(self._versions, job)
        self.job = job

    def new_name(self, model: str, taken: Collection[str]) -> str:
        """Returns the name of a new folder: that of the model and a number, none of `taken`.

        No name comes twice, even if its folder was deleted: votes on that version would count for the new one.
        """
        stem = re.sub(r"[^A-Za-z0-9._-]+", "_", model).strip("._-")[:60] or "model"
        names = (f"{stem}-{number}" for number in count(self._numbers.get(stem, 0) + 1))
        return next(name for name in names if name not in taken and self._is_free(name))

    def log(self, name: str) -> Path:
        """Returns the file for the log of the improvement that writes a folder."""
        return self.folder / f"{name}.log"

    def _note(self, folder: str) -> None:
        """Notes the number of a folder's name as used."""
        stem, _, number = folder.rpartition("-")
        if number.isascii() and number.isdigit():
            self._numbers[stem] = max(self._numbers.get(stem, 0), int(number[:_DIGITS]))

    def _is_free(self, name: str) -> bool:
        exists = (self.folder / name).exists() or self.log(name).exists()
        return not exists and not any(name in versions for versions in self._versions.values())

    def _replace(self, model: str, versions: tuple[str, ...]) -> None:
        changed = {**self._versions, model: versions}
        self._write(changed, self.job)
        self._versions = changed

    def _write(self, versions: Mapping[str, tuple[str, ...]], job: JobRecord | None) -> None:
        models = {name: {"source": self._sources[name], "versions": list(versions[name])} for name in versions}
        content: dict[str, Any] = {"models": self._others | models, "job": None if job is None else asdict(job)}
        content["numbers"] = self._numbers
        replace_text(self.folder / FILE, json.dumps(content, indent=1) + "\n")

    def _read(self) -> None:
        path = self.folder / FILE
        try:
            content = json.loads(path.read_bytes())
            models, job = content["models"], content["job"]
            versions = {name: (str(entry["source"]), _names(entry["versions"])) for name, entry in models.items()}
            self.job = None if job is None else _read_job(job)
            self._numbers = _numbers(content.get("numbers", {}))  # earlier versions did not write them
        except OSError as error:
            raise ConfigError(f"{path} cannot be read: {error.strerror or error}") from error
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            fix = "restore it, or remove it to serve the models as they were at first"
            raise ConfigError(f"{path} is damaged: {fix}") from error
        for folder in chain([] if self.job is None else [self.job.folder], *(names for _, names in versions.values())):
            self._note(folder)
        for name, (source, folders) in versions.items():
            if name not in self._sources:
                self._others[name] = models[name]
            elif folders:
                self._check(name, source, folders)
                self._versions[name] = folders
        if self.job is not None and self.job.model not in self._sources:
            self.job = None

    def _check(self, name: str, source: str, folders: tuple[str, ...]) -> None:
        path = self.folder / FILE
        if source != self._sources[name]:
            raise ConfigError(
                f"{path} has improvements of {source} under the name {name}, and {self._sources[name]} is served under "
                "it: write OTHER_NAME=MODEL, or give another folder to --allow-training"
            )
        if not (self.folder / folders[-1]).is_dir():
            fix = f'restore the folder, or remove it from "versions" in {path}'
            raise ConfigError(f"{self.folder / folders[-1]} is to be served as {name}, and is missing: {fix}")


def changed(job: JobRecord, state: JobState, error: str = "") -> JobRecord:
    """Returns an improvement in another state."""
    return replace(job, state=state, error=error)


def absolute_source(source: str) -> str:
    """Returns the absolute path of a folder or file; other names, such as ids of the Hub, as they are."""
    return str(Path(source).resolve()) if Path(source).exists() else source


def _names(values: Any) -> tuple[str, ...]:
    """Checks names of folders: they lie in the folder of the file."""
    if not isinstance(values, list) or not all(map(_is_name, values)):
        raise ValueError(values)
    return tuple(values)


def _is_name(value: Any) -> bool:
    return isinstance(value, str) and value not in ("", ".", "..") and Path(value).name == value


def _numbers(values: Any) -> dict[str, int]:
    if not isinstance(values, dict) or not all(type(number) is int and number >= 0 for number in values.values()):
        raise ValueError(values)
    return values


def _read_job(value: dict[str, Any]) -> JobRecord:
    job = JobRecord(**value)
    texts = (job.model, job.error)
    if not all(isinstance(text, str) for text in texts) or job.state not in get_args(JobState):
        raise ValueError(value)
    if not _is_name(job.folder) or type(job.pid) is not int:
        raise ValueError(value)
    return job
