"""The embedding of a Hugging Face model, resized for a tokenizer.

Owns: the separator's row, and refusing a tokenizer that belongs to another model.
"""

import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch

from convmodel.errors import ModelLoadError
from convmodel.hf_model.causality import KNOWN_CAUSAL
from convmodel.hf_model.eval_mode import evaluation_mode
from convmodel.hf_model.int8_layers import Int8Embedding, Int8Linear, count_rows
from convmodel.layout.architecture import embeds_token_types
from convmodel.layout.config import FILE_NAME
from convmodel.layout.tokenizer import ConversationTokenizer

if TYPE_CHECKING:
    from transformers import PreTrainedModel

logger = logging.getLogger(__name__)

_PACKED = Int8Embedding | Int8Linear
_WRAPPED = "ConversationTokenizer(tokenizer, use_token_types=False)"


def fit_embedding(hf_model: "PreTrainedModel", tokenizer: ConversationTokenizer) -> None:
    """Adds an embedding row for the separator if it has none, initialized with the end-of-text row.

    Raises:
        ModelLoadError: If a saved layout or the vocabulary does not match the weights.
    """
    if not hasattr(hf_model, "get_input_embeddings"):
        raise ModelLoadError(f"the model is a {type(hf_model).__name__}: ConversationModel.from_pretrained loads one")
    if not hasattr(tokenizer, "layout"):
        kind = type(tokenizer).__name__
        raise ModelLoadError(f"the tokenizer is a {kind}: give a ConversationTokenizer, such as {_WRAPPED}")
    if tokenizer.layout.use_token_types and not embeds_token_types(hf_model.config):
        wanted = f"{FILE_NAME} requires token types" if tokenizer.layout_was_saved else "use_token_types is true"
        raise ModelLoadError(f"{wanted}, but {hf_model.config.model_type} takes none")
    rows = _count_rows(hf_model)
    separator, vocabulary = tokenizer.layout.separator_id, tokenizer.hf_tokenizer.vocab_size
    missing = separator is not None and separator >= rows
    if vocabulary > rows or (missing and tokenizer.layout_was_saved):
        of_separator = f" and the separator is {separator:,}" if separator is not None else ""
        raise ModelLoadError(
            f"the embedding has {rows:,} rows, but the vocabulary has {vocabulary:,} entries{of_separator}: the "
            "tokenizer belongs to another model; copy both from one place"
        )
    largest = max(tokenizer.layout.control_ids - {separator}, default=0)
    if largest >= rows:
        raise ModelLoadError(
            f"the layout has token {largest:,} ({tokenizer.hf_tokenizer.convert_ids_to_tokens(largest)}), but the "
            f"embedding has {rows:,} rows: the tokenizer belongs to another model; copy both from one place"
        )
    if separator is None or not (missing or tokenizer.separator_added):
        return
    set_new_rows(hf_model, separator, tokenizer.end_of_text_id)
    if missing and hf_model.config.model_type not in KNOWN_CAUSAL:
        _require_readable(hf_model, separator)
    # Only once: after training, the row must not be overwritten.
    tokenizer.separator_added = False


def _require_readable(hf_model: "PreTrainedModel", index: int) -> None:
    """Raises a `ModelLoadError` if a model cannot read a token that got a row: some have further tables of tokens."""
    try:
        with evaluation_mode(hf_model), torch.no_grad():
            hf_model(input_ids=torch.tensor([[index]], device=hf_model.device), use_cache=False)
    except Exception as error:  # of the model's own code
        raise ModelLoadError(
            f"this {hf_model.config.model_type} cannot read the separator, although its embedding got a row for it "
            f"({type(error).__name__}: {error}): choose another model, or a tokenizer with a sep_token"
        ) from error


def set_new_rows(hf_model: "PreTrainedModel", separator: int, end_of_text: int | None) -> None:
    """Sets the separator's row to the mean of `new_row_sources`; adds it if missing.

    Rows that are added before it, for other entries of the tokenizer, get the same values.
    """
    rows = _count_rows(hf_model)
    if separator >= rows:
        grow_embedding(hf_model, separator + 1)
        logger.info("the embedding was resized from %d to %d rows for the separator", rows, separator + 1)
    sources = new_row_sources(rows, separator, end_of_text)
    for index in range(min(rows, separator), separator + 1):
        set_row(hf_model, index, sources)


def new_row_sources(rows: int, separator: int, end_of_text: int | None) -> Sequence[int]:
    """Returns the rows whose mean a new separator's row begins with: the end-of-text row, else all before it.

    Rows after the separator are padding, which no token has.

    Example:
        >>> new_row_sources(10, 7, 2), new_row_sources(10, 7, None), new_row_sources(10, 12, None)
        ([2], range(0, 7), range(0, 10))
    """
    if end_of_text is None or end_of_text >= rows:
        return range(min(rows, separator))
    return [end_of_text]


def embed(hf_model: "PreTrainedModel", ids: Sequence[int]) -> torch.Tensor:
    """Returns what the embedding makes of some tokens."""
    with torch.no_grad():
        embedded: torch.Tensor = hf_model.get_input_embeddings()(torch.tensor([ids], device=hf_model.device))
    return embedded


def set_row(hf_model: "PreTrainedModel", index: int, sources: Sequence[int]) -> None:
    """Sets a row of the embedding and of the head to the mean of other rows."""
    layers: list[Any] = [hf_model.get_input_embeddings(), hf_model.get_output_embeddings()]
    weights = [
        weight for layer in layers if layer is not None for weight in (layer.weight, getattr(layer, "bias", None))
    ]
    with torch.no_grad():
        # Tied weights are the same tensor and are set once.
        for values in {id(weight): weight for weight in weights if weight is not None}.values():
            values[index] = values[list(sources)].mean(dim=0)


def grow_embedding(hf_model: "PreTrainedModel", rows: int) -> None:
    """Resizes the embedding and the head to at least `rows` rows; new rows are not initialized.

    Raises:
        ModelLoadError: If the architecture cannot be resized.
    """
    before = _rows(hf_model)
    if min(before) >= rows:
        return
    fix = "choose another model, or a tokenizer with a sep_token"
    if min(before) != max(before):
        raise ModelLoadError(
            f"the embedding and the head of this {hf_model.config.model_type} have {before[0]} and {before[1]} rows, "
            "none for the separator, and transformers can only make both the same, which could not be loaded again "
            f"once saved: {fix}"
        )
    try:
        with torch.random.fork_rng(devices=[]):
            hf_model.resize_token_embeddings(rows, mean_resizing=False)
    except (AttributeError, NotImplementedError, RuntimeError) as error:  # of the model's own code
        raise ModelLoadError(
            f"the embedding of this {hf_model.config.model_type} has no room for the separator, and transformers "
            f"cannot resize it ({type(error).__name__}: {error}): {fix}"
        ) from error
    config: Any = hf_model.config
    if hasattr(config, "decoder_vocab_size"):  # Marian's resizing leaves it, and the saved model could not be loaded
        config.decoder_vocab_size = rows


def _count_rows(hf_model: "PreTrainedModel") -> int:
    """Returns how many tokens have a row in the embedding and in the head."""
    return min(_rows(hf_model))


def _rows(hf_model: "PreTrainedModel") -> list[int]:
    """Returns the rows of the embedding, and of the head if that is a layer; Moshi's embedding has one more."""
    layers: list[Any] = [hf_model.get_input_embeddings(), hf_model.get_output_embeddings()]
    return [count_rows(layer) for layer in layers if _has_rows(layer)]


def _has_rows(layer: Any) -> bool:
    adapter = getattr(layer, "token_adapter", None)  # whose `weight` would be computed, of a packed layer in float32
    base = layer if adapter is None else adapter.get_base_layer()
    return isinstance(base, _PACKED) or hasattr(base, "weight")
