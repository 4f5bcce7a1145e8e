"""What an exported file says of where its model comes from.

Owns: the choice between what the caller gives, what the model's card records, and its folder's name.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from convmodel.export.options import ExportOptions
from convmodel.files.gguf import SUFFIX
from convmodel.files.hub import is_on_hub
from convmodel.hf_model.lora import has_adapters
from convmodel.hf_model.model_card import recorded_base, recorded_license

if TYPE_CHECKING:
    from transformers import PreTrainedModel


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a model comes from, for the file's metadata.

    Attributes:
        name: The model's name, in one line.
        base: The base model that it was fine-tuned from, a name on the Hub; None if unknown.
        license: Its license, as an SPDX identifier in lower case; None if unknown.
    """

    name: str
    base: str | None = None
    license: str | None = None


def origin_of(hf_model: "PreTrainedModel", place: Path, options: ExportOptions) -> Origin:
    """Returns what the options say, else what is recorded of a model; without a name, that of the file to write."""
    source = hf_model.name_or_path or ""  # of adapters, that of their base
    name, base = place.stem, source
    if source and not has_adapters(hf_model):
        name = Path(source.removeprefix("builtin:").removesuffix(SUFFIX)).name
        base = source if is_on_hub(source) else recorded_base(source) or ""
    return Origin(
        name=" ".join((options["name"] or name).split()),
        base=options["base"] or (base if is_on_hub(base) else None),
        license=options["license"] or (recorded_license(source) if source else None),
    )
