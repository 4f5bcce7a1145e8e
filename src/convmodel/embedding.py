"""The embedding of a Hugging Face model, fitted to a tokenizer.

Owns: the separator's row, and refusing a tokenizer that belongs to another model.
"""

import logging
from typing import TYPE_CHECKING, Any

import torch

from convmodel.architecture import embeds_token_types
from convmodel.errors import ModelLoadError
from convmodel.layout_config import FILE_NAME
from convmodel.tokenizer import ConversationTokenizer

if TYPE_CHECKING:
    from transformers import PreTrainedModel

logger = logging.getLogger(__name__)


def fit_embedding(hf_model: "PreTrainedModel", tokenizer: ConversationTokenizer) -> None:
    """Gives the separator a row in the embedding, with the end-of-text row's values, unless it has one.

    Raises:
        ModelLoadError: If a saved layout does not fit the weights, or the vocabulary does not.
    """
    if tokenizer.layout.use_token_types and not embeds_token_types(hf_model.config):
        raise ModelLoadError(f"{FILE_NAME} asks for token types, but {hf_model.config.model_type} takes none")
    embeddings: list[Any] = [hf_model.get_input_embeddings(), hf_model.get_output_embeddings()]
    rows = embeddings[0].weight.shape[0]
    separator, vocabulary = tokenizer.sep_token_id, tokenizer.hf_tokenizer.vocab_size
    missing = separator >= rows
    if vocabulary > rows or (missing and tokenizer.layout_was_saved):
        raise ModelLoadError(
            f"the embedding has {rows:,} rows, but the vocabulary has {vocabulary:,} entries and the separator is "
            f"{separator:,}: the tokenizer belongs to another model; copy both from one place"
        )
    if not missing and not tokenizer.separator_added:
        return
    if missing:
        grow_embedding(hf_model, separator + 1)
        logger.info("the embedding grew from %d to %d rows for the separator", rows, separator + 1)
    end_of_text = tokenizer.hf_tokenizer.eos_token_id
    embeddings = [hf_model.get_input_embeddings(), hf_model.get_output_embeddings()]
    with torch.no_grad():
        for layer in filter(None, embeddings):
            for values in filter(lambda values: values is not None, (layer.weight, getattr(layer, "bias", None))):
                row = values[:rows].mean(dim=0) if end_of_text is None else values[end_of_text]
                values[min(rows, separator) : separator + 1] = row
    # Done once: joined with its model again, after training, the row must stay as it is.
    tokenizer.separator_added = False


def grow_embedding(hf_model: "PreTrainedModel", rows: int) -> None:
    """Gives the embedding at least so many rows; new ones have no values yet."""
    embedding: Any = hf_model.get_input_embeddings()
    if embedding.weight.shape[0] < rows:
        with torch.random.fork_rng(devices=[]):
            hf_model.resize_token_embeddings(rows, mean_resizing=False)
