"""The token layout as saved with a checkpoint: `convmodel_config.json`.

Owns: the file's name, its fields, its format number, and refusing a layout that this version does not support.
"""

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass, fields
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from convmodel.conversation import PINNED_ROLES
from convmodel.errors import ModelLoadError
from convmodel.layout.architecture import SHORTEST_WINDOW
from convmodel.layout.sequence import LossOn, frame_length

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

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
        bos_id: The beginning-of-text token with which every sequence begins; None, as in files without it, for none.
        end_of_text_id: The end-of-text token of the base, which also ends a response; None if it is the separator, or
            there is none.
    """

    separator_id: int
    separator_token: str
    use_token_types: bool
    speakers: tuple[str, ...] = ()
    loss_on: LossOn = "all"
    max_length: int | None = None
    bos_id: int | None = None
    end_of_text_id: int | None = None

    @property
    def control_ids(self) -> frozenset[int]:
        """The ids that the layout inserts: the separator and, if there is one, the beginning-of-text token."""
        return frozenset(index for index in (self.separator_id, self.bos_id) if index is not None)

    @property
    def shortest_prompt(self) -> int:
        """The number of tokens of the shortest prompt, whose one turn has one token."""
        return 2 + frame_length(self.bos_id)

    def require_match(self, hf_tokenizer: "PreTrainedTokenizerBase") -> None:
        """Raises a `ModelLoadError` if a tokenizer has other control tokens."""
        pairs = [("separator", self.separator_id, hf_tokenizer.sep_token_id)]
        if self.bos_id is not None:
            pairs.append(("beginning-of-text token", self.bos_id, hf_tokenizer.bos_token_id))
        for name, saved, actual in pairs:
            if saved != actual:
                raise ModelLoadError(
                    f"{FILE_NAME} has the {name} {saved}, but the tokenizer in the same folder has {actual}: one of "
                    "the two files was replaced; copy both from one saved model"
                )

    @property
    def takes_system(self) -> bool:
        """Whether the training data had system turns: otherwise a model reads one as an ordinary turn."""
        return not PINNED_ROLES.isdisjoint(self.speakers)

    def to_json(self) -> str:
        """Returns the file's content, with the format number and this library's version."""
        content = {"format": FORMAT, "convmodel_version": version("convmodel"), **asdict(self)}
        for name in _LATER:
            if content[name] is None:
                del content[name]
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
        missing = names - _LATER - content.keys()
        if missing:
            raise ModelLoadError(f"{path} lacks {', '.join(sorted(missing))}")
        for name, check in _CHECKS.items():
            if not check(content.get(name)):
                raise ModelLoadError(f"{path}: {name} is {content.get(name)!r}, which no layout can have")
        values = {name: content[name] for name in names & content.keys()}
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
    **dict.fromkeys(("bos_id", "end_of_text_id"), lambda value: value is None or _is_count(value)),
}

_LATER = frozenset({"bos_id", "end_of_text_id"})
"""Fields that files of earlier versions lack; they are written only if they have a value."""
