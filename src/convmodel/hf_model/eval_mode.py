"""Evaluation mode of a Hugging Face model for the duration of a block.

Owns: restoring the mode of each module afterwards.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformers import PreTrainedModel


@contextmanager
def evaluation_mode(hf_model: "PreTrainedModel") -> Iterator[None]:
    """Puts all modules into evaluation mode inside the block, and restores the mode of each."""
    training = [module for module in hf_model.modules() if module.training]
    for module in training:
        module.training = False
    try:
        yield
    finally:
        for module in training:
            module.training = True
