"""What integration tests share."""

from collections.abc import Callable

import pytest

from convmodel import ConversationModel


@pytest.fixture
def load(request: pytest.FixtureRequest) -> Callable[..., ConversationModel]:
    """Loads a fresh model."""

    def load(folder: str = "unigram_folder") -> ConversationModel:
        return ConversationModel.from_pretrained(request.getfixturevalue(folder), device="cpu")

    return load


@pytest.fixture(autouse=True)
def _same_precision_everywhere(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lets `auto` mean fp32 on every machine; tests of bf16 ask for it."""
    monkeypatch.setattr("convmodel.step.machine.computes_bf16", lambda device: False)
