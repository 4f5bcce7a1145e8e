"""The token layout as saved with a checkpoint: `convmodel_config.json`.

Owns: the file's name, its fields, its format number, and refusing a layout that this version does not support.
"""

import hashlib
import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from convmodel.conversation import PINNED_ROLES
from convmodel.errors import ModelLoadError
from convmodel.layout.architecture import SHORTEST_WINDOW
from convmodel.layout.markers import ASSISTANT, START, SYSTEM, USER, Markers, SeparatorMarkers, TemplateMarkers
from convmodel.layout.sequence import LossOn

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

FILE_NAME = "convmodel_config.json"
FORMATS = (1, 2)
"""The format numbers of the two layouts: 1 for the separator layout, 2 for the template layout."""


@dataclass(frozen=True, slots=True)
class LayoutConfig:
    """The token layout of a checkpoint, and facts about the data that it was trained on.

    Attributes:
        separator_id: The separator's token id; None in the template layout.
        separator_token: The separator as text, for display only; None in the template layout.
        use_token_types: Whether each position carries its speaker's index.
        speakers: Names of the speakers in the training data; empty if each conversation has its own. They are in the
            order of the first conversation; with a chat template the assistant is the last one.
        loss_on: Whose turns were supervised.
        max_length: The limit of training windows in tokens; None before training.
        bos_id: The beginning-of-text token with which every sequence begins; None, as in files without it, for none.
        end_of_text_id: The end-of-text token of the base, which also ends a response; None if it is the separator, or
            there is none.
        template: The markers of the model's own chat template; None in the separator layout.
        stop_ids: Further ids that end a response, such as those of the base's generation config.
        names: `prefix` if the template layout puts speakers' names before their texts; None if it has two speakers.
    """

    separator_id: int | None
    separator_token: str | None
    use_token_types: bool
    speakers: tuple[str, ...] = ()
    loss_on: LossOn = "all"
    max_length: int | None = None
    bos_id: int | None = None
    end_of_text_id: int | None = None
    template: TemplateMarkers | None = None
    stop_ids: tuple[int, ...] = ()
    names: str | None = None

    @property
    def markers(self) -> Markers:
        """The control tokens around turns."""
        if self.template is not None:
            return self.template
        if self.separator_id is None:
            raise ValueError("a layout has a separator or a template")
        return SeparatorMarkers(self.separator_id, self.bos_id)

    @property
    def control_ids(self) -> frozenset[int]:
        """The ids that the layout inserts."""
        return self.markers.ids

    @property
    def encoding(self) -> dict[str, bool]:
        """How text is encoded; arguments of `encoder_and_bound`."""
        return {} if self.template is None else {"word_prefix": self.template.word_prefix, "space_tokens": True}

    @property
    def leads(self) -> Mapping[str, str]:
        """The text that is encoded in front of a turn, by role."""
        return {} if self.template is None else {r: lead for r, lead in self.template.leads.items() if lead}

    @property
    def end_name(self) -> str:
        """What a token that ends a turn is called."""
        return "separator" if self.template is None else "end of a turn"

    @property
    def name(self) -> str:
        """The name of the layout: `separator` or `template`."""
        return "separator" if self.template is None else "template"

    @property
    def shortest_prompt(self) -> int:
        """The number of tokens of the shortest prompt, whose one turn has one token."""
        markers = self.markers
        return len(markers.opening(START, USER)) + 1 + len(markers.opening(USER, ASSISTANT, is_last=True))

    def require_match(self, hf_tokenizer: "PreTrainedTokenizerBase") -> None:
        """Raises a `ModelLoadError` if a tokenizer has other control tokens, or another chat template."""
        if self.template is not None:
            if digest(hf_tokenizer) != self.template.template:
                raise ModelLoadError(
                    f"{FILE_NAME} was measured with another chat template than the one in the same folder: copy both "
                    "from one saved model, or delete the file to measure the template again"
                )
            return
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
        """Whether the model knows system turns, from its template or training: otherwise it reads ordinary ones."""
        if self.template is not None:
            return self.template.follows(START, SYSTEM)
        return not PINNED_ROLES.isdisjoint(self.speakers)

    def to_json(self) -> str:
        """Returns the file's content, with the format number and this library's version."""
        number = FORMATS[self.template is not None]
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        if self.template is not None:
            values["template"] = self.template.to_dict()
        content = {"format": number, "convmodel_version": version("convmodel"), **values}
        for name in _LATER:
            if content[name] in (None, ()):
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
        if content["format"] not in FORMATS:
            raise ModelLoadError(
                f"{path} has format {content['format']}, written by convmodel {content.get('convmodel_version')}; this "
                f"is convmodel {version('convmodel')}, which reads formats {FORMATS[0]} and {FORMATS[1]}: install that "
                "version"
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
        has_template = content.get("template") is not None
        for name, check in _CHECKS.items():
            lacks = name in ("separator_id", "separator_token") and (content[name] is None) != has_template
            if lacks or not check(content.get(name)):
                raise ModelLoadError(f"{path}: {name} is {content.get(name)!r}, which no layout can have")
        if content["format"] != FORMATS[has_template]:
            raise ModelLoadError(f"{path} has format {content['format']}, but the fields of {FORMATS[has_template]}")
        values = {name: content[name] for name in names & content.keys()}
        if values.get("template") is not None:
            values["template"] = _template(path, values["template"])
        values["stop_ids"] = tuple(values.get("stop_ids") or ())
        values["speakers"] = tuple(values["speakers"])
        if not isinstance(values["loss_on"], str):
            values["loss_on"] = tuple(values["loss_on"])
        return cls(**values)


def _template(path: Path, content: Any) -> TemplateMarkers:
    try:
        return TemplateMarkers.from_dict(content)
    except ValueError as error:
        raise ModelLoadError(f"{path}: {error}") from error


def chat_template_of(hf_tokenizer: Any) -> str:
    """Returns a tokenizer's chat template, of several the default one; empty if it has none."""
    template = hf_tokenizer.chat_template
    return str((template.get("default") if isinstance(template, dict) else template) or "")


def digest(hf_tokenizer: Any) -> str:
    """Returns the SHA-256 of a tokenizer's chat template, with line feeds as line ends: a saved one is read with them.

    Templates that differ in these alone render the same.
    """
    template = _LINE_END.sub("\n", chat_template_of(hf_tokenizer))
    return hashlib.sha256(template.encode()).hexdigest()


_LINE_END = re.compile("\r\n?")


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _are_names(value: object) -> bool:
    return isinstance(value, list) and all(isinstance(name, str) for name in value)


_CHECKS: dict[str, Callable[[Any], bool]] = {
    "separator_id": lambda value: value is None or _is_count(value),
    "separator_token": lambda value: value is None or (isinstance(value, str) and value != ""),
    "use_token_types": lambda value: isinstance(value, bool),
    "speakers": _are_names,
    "loss_on": lambda value: (isinstance(value, str) or _are_names(value)) and bool(value),
    "max_length": lambda value: value is None or (_is_count(value) and value >= SHORTEST_WINDOW),
    **dict.fromkeys(("bos_id", "end_of_text_id"), lambda value: value is None or _is_count(value)),
    "names": lambda value: value in (None, "prefix"),
    "stop_ids": lambda value: value is None or (isinstance(value, list) and all(map(_is_count, value))),
}

_LATER = frozenset({"bos_id", "end_of_text_id", "template", "stop_ids", "names"})
"""Fields that files of earlier versions lack; they are written only if they have a value."""
