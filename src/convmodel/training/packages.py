"""The packages that training needs, which the extra `train` installs.

Owns: looking for those of every run. Imports nothing heavy, so that a command can look before it starts. What adapters
need is `hf_model.lora`'s.
"""

import importlib.util

from convmodel.errors import MissingExtraError


def require_accelerate() -> None:
    """Raises MissingExtraError if accelerate is not installed, which transformers' `Trainer` needs."""
    if importlib.util.find_spec("accelerate") is None:
        raise MissingExtraError("training needs accelerate", "train")
