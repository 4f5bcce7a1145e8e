"""What integration tests share."""

import logging
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from convmodel import ConversationModel
from convmodel.cli.main import main


@pytest.fixture
def load(request: pytest.FixtureRequest) -> Callable[..., ConversationModel]:
    """Loads a fresh model."""

    def load(folder: str = "unigram_folder") -> ConversationModel:
        return ConversationModel.from_pretrained(request.getfixturevalue(folder), device="cpu")

    return load


@pytest.fixture
def run(reader_folder: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., int]:
    """Runs `convmodel ...` in a folder with `gpt2`, `model` and three files, and returns the exit code."""

    def run(*arguments: str) -> int:
        monkeypatch.setattr(sys, "argv", ["convmodel", *arguments])
        formatters = [(handler, handler.formatter) for handler in logging.getLogger().handlers]
        try:
            with pytest.raises(SystemExit) as exit:
                main()
        finally:
            for handler, formatter in formatters:  # of pytest, which later tests read; `serve` has set its own
                handler.setFormatter(formatter)
        return int(exit.value.code or 0)

    return run


@pytest.fixture(autouse=True)
def _same_precision_everywhere(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lets `auto` mean fp32 on every machine; tests of bf16 ask for it."""
    monkeypatch.setattr("convmodel.training.step.runtime.computes_bf16", lambda device: False)
