"""The token layout as saved with a checkpoint: `convmodel_config.json`.

Owns: the file's name, its fields, its format number, and refusing a layout that this version does not support.
"""

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass, fields
from importlib.metadata import version
from pathlib import Path
from typing import Any

from convmodel.conversation import PINNED_ROLES
from convmodel.errors import ModelLoadError
from convmodel.layout.architecture import SHORTEST_WINDOW
from convmodel.layout.sequence import LossOn

FILE_NAME = "convmodel_config.json"
FORMAT = 1


@dataclass(frozen=True, slots=True)
class LayoutConfig:
    """The token layout of a checkpoint, and facts about the data that it was trained on.

    Attributes:
        separator_id: The separator's token id.
        separator_token: The separator as text; for display only.
        use_token_types: Whether each position carries its speaker's index.
        speakers: Names of the speakers in the training data, in order; empty if each conversation has its own.
        loss_on: Whose turns were supervised.
        max_length: The limit of training windows in tokens; None before training.
    """

    separator_id: int
    separator_token: str
    use_token_types: bool
    speakers: tuple[str, ...] = ()
    loss_on: LossOn = "all"
    max_length: int | None = None

    @property
    def takes_system(self) -> bool:
        """Whether the training data had system turns: otherwise a model reads one as an ordinary turn."""
        return not PINNED_ROLES.isdisjoint(self.speakers)

    def to_json(self) -> str:
        """Returns the file's content, with the format number and this library's version."""
        content = {"format": FORMAT, "convmodel_version": version("convmodel"), **asdict(self)}
        return json.dumps(content, indent=2, ensure_ascii=False) + "\n"

    @classmethod
    def read(cls, path: Path) -> "LayoutConfig":
        """Reads the file.

        Raises:
            ModelLoadError: If it is not valid JSON, of another format, or a field is missing or invalid.
        """
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
        except (ValueError, OSError, RecursionError) as error:
            raise ModelLoadError(
                f"{path} cannot be read: {error}; copy it again from where the model was saved"
            ) from error
        if not isinstance(content, dict) or not _is_count(content.get("format")):
            raise ModelLoadError(f"{path} has no format number, so convmodel did not write it")
        if content["format"] != FORMAT:
            raise ModelLoadError(
                f"{path} has format {content['format']}, written by convmodel {content.get('convmodel_version')}; "
                f"this is convmodel {version('convmodel')}, which reads format {FORMAT}: install that version"
            )
        return cls._from_fields(path, content)

    @classmethod
    def _from_fields(cls, path: Path, content: dict[str, Any]) -> "LayoutConfig":
        names = {field.name for field in fields(cls)}
        unknown = content.keys() - names - {"format", "convmodel_version"}
        if unknown:
            raise ModelLoadError(f"{path} has fields that this version does not know: {', '.join(sorted(unknown))}")
        missing = names - content.keys()
        if missing:
            raise ModelLoadError(f"{path} lacks {', '.join(sorted(missing))}")
        for name, check in _CHECKS.items():
            if not check(content.get(name)):
                raise ModelLoadError(f"{path}: {name} is {content.get(name)!r}, which no layout can have")
        values = {name: content[name] for name in names}
        values["speakers"] = tuple(values["speakers"])
        if not isinstance(values["loss_on"], str):
            values["loss_on"] = tuple(values["loss_on"])
        return cls(**values)


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _are_names(value: object) -> bool:
    return isinstance(value, list) and all(isinstance(name, str) for name in value)


_CHECKS: dict[str, Callable[[Any], bool]] = {
    "separator_id": _is_count,
    "separator_token": lambda value: isinstance(value, str) and value != "",
    "use_token_types": lambda value: isinstance(value, bool),
    "speakers": _are_names,
    "loss_on": lambda value: (isinstance(value, str) or _are_names(value)) and bool(value),
    "max_length": lambda value: value is None or (_is_count(value) and value >= SHORTEST_WINDOW),
}
