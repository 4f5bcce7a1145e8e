"""What integration tests share."""

from collections.abc import Callable

import pytest
import torch

from convmodel import ConversationModel


@pytest.fixture
def load(request: pytest.FixtureRequest) -> Callable[..., ConversationModel]:
    """Loads a fresh model; without dropout where batches of different shapes are compared."""

    def load(folder: str = "unigram_folder", *, dropout: bool = True) -> ConversationModel:
        model = ConversationModel.from_pretrained(request.getfixturevalue(folder), device="cpu")
        for module in model.hf_model.modules():
            if isinstance(module, torch.nn.Dropout) and not dropout:
                module.p = 0.0
        return model

    return load
