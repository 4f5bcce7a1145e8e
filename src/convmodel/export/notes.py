"""What other programs do differently with a model, whatever is in its file.

Owns: the sentences, and when each is true.
"""

from collections.abc import Iterator

from convmodel.export.gguf_file import GgufModel
from convmodel.layout.config import LayoutConfig
from convmodel.layout.markers import START, SYSTEM


def notes(model: GgufModel, layout: LayoutConfig, *, has_ollama: bool) -> list[str]:
    """Returns a sentence for each difference."""
    return [*_of_texts(model, layout), *_of_settings(model), *(_of_ollama(model, layout) if has_ollama else ())]


def _of_texts(model: GgufModel, layout: LayoutConfig) -> Iterator[str]:
    if model.templates.trims_start:
        yield "white space in front of a turn is left out: llama.cpp would encode it together with the text before it"
    if model.templates.trims:
        yield (
            "llama.cpp trims only ASCII white space: a turn that begins with other white space, such as U+3000, gets "
            "other token ids"
        )
    if model.vocabulary.normalizes:
        yield "text that is not in Unicode's form NFC gets other token ids: llama.cpp does not normalize it"
    if layout.names is not None:
        yield "names of speakers are not written: put `Name: ` before the text of a message, as in the training"


def _of_settings(model: GgufModel) -> Iterator[str]:
    limit = model.shape.config.max_position_embeddings
    if model.shape.context < limit:
        yield (
            f"the file has {model.shape.context:,} positions instead of {limit:,}: up to there llama.cpp computes the "
            "same, beyond it has no sliding window, or another scaling of positions, for this architecture"
        )
    if model.dropped:
        yield f"sampling settings that llama.cpp does not have are left out: {', '.join(model.dropped)}"


def _of_ollama(model: GgufModel, layout: LayoutConfig) -> Iterator[str]:
    if model.templates.trims:
        yield "Ollama's templates cannot trim: white space around a turn stays, and gets other token ids there"
    if not layout.markers.follows(START, SYSTEM):
        yield "the layout has no place for system messages: Ollama leaves them out"
