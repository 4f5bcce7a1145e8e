"""Running a Hugging Face model without training it.

Owns: evaluation mode for the time of a call, and never leaving a model in another mode than it was found in.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformers import PreTrainedModel


@contextmanager
def evaluation_mode(hf_model: "PreTrainedModel") -> Iterator[None]:
    """Switches dropout off inside the block and restores the modes that it found, part by part."""
    training = [module for module in hf_model.modules() if module.training]
    for module in training:
        module.training = False
    try:
        yield
    finally:
        for module in training:
            module.training = True
