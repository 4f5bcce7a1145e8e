"""The options of an export, with their types and defaults.

Owns: both. Imports neither torch nor the programs that an export needs, since the command line shows them.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING, TypedDict

if TYPE_CHECKING:
    from convmodel.data.reading.reader import ConversationSource

TARGETS = ("gguf", "ollama", "html")
"""What can be written."""

UNQUANTIZED = ("f32", "f16", "bf16")
"""Types of weights in which each weight is a number of its own, so that the model's tokens must be reproduced."""

TYPES = (*UNQUANTIZED, "q8_0", "q5_1", "q5_0", "q4_1", "q4_0")
"""Types of weights that can be written, from exact to small."""


class ExportOptions(TypedDict, total=False):
    """The options of an export.

    Attributes:
        to: `gguf` (llama.cpp, LM Studio and others), `ollama` (the same with a Modelfile) or `html` (one page for a
            browser); by default by the file's suffix.
        weights: The type of the weights in a GGUF file, one of `TYPES`.
        data: Conversations to measure the perplexity of the file on; by default some that come with the package.
        name: The model's name; by default that of its folder.
        base: The model that it was trained on, a name on the Hub; by default its own, or that of its adapters' base.
        license: Its license; by default that of its model card.
        overwrite: Whether to replace an existing file.
        unproven: Whether to write a GGUF file without running it.
        progress: Gets a few words on what comes next.
    """

    to: str | None
    weights: str
    data: "ConversationSource | None"
    name: str | None
    base: str | None
    license: str | None
    overwrite: bool
    unproven: bool
    progress: Callable[[str], None]


DEFAULTS: ExportOptions = {
    "to": None,
    "weights": "f16",
    "data": None,
    "name": None,
    "base": None,
    "license": None,
    "overwrite": False,
    "unproven": False,
    "progress": lambda step: None,
}
