"""The shelf of models that are loaded on demand; `test_server_fine_tuning` asks for them over HTTP."""

import asyncio
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from convmodel.server.serving.model_shelf import ModelShelf, ShelvedModel


class Registry:
    """What a shelf needs of a registry."""

    def __init__(self) -> None:
        self.models = [SimpleNamespace(id="tiny")]
        self.loaded: set[str] = set()
        self.during_choice: list[Any] = []

    def get(self, name: str) -> Any:
        return SimpleNamespace(model=SimpleNamespace(hf_model=None))

    def add_candidate(self, name: str, model: Any) -> None:
        self.loaded.add(name)

    def remove_candidate(self, name: str) -> None:
        self.loaded.remove(name)

    def is_busy(self, name: str) -> bool:
        while self.during_choice:
            self.during_choice.pop()()
        return False


def test_a_model_that_is_used_while_it_is_chosen_to_be_unloaded_is_loaded_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """If the use were noted after the choice, the shelf would take it for loaded, and nobody could use it any more."""
    registry: Any = Registry()
    shelf = ModelShelf(lambda _: SimpleNamespace())  # type: ignore[arg-type, return-value]
    for name in ("a", "b"):
        shelf.add(ShelvedModel(name, "tiny", Path(name), 0))
    full: list[str] = []
    monkeypatch.setattr(
        "convmodel.server.serving.model_shelf.missing_memory", lambda *_, **__: full.pop() if full else ""
    )
    uses: list[threading.Thread] = []

    def use() -> None:
        uses.append(threading.Thread(target=lambda: asyncio.run(shelf.load(registry, "a"))))
        uses[0].start()
        uses[0].join(0.3)  # it waits for the choice

    asyncio.run(shelf.load(registry, "a"))
    full.append("no memory")
    registry.during_choice.append(use)
    asyncio.run(shelf.load(registry, "b"))
    uses[0].join(30)
    assert registry.loaded == {"a", "b"}
    assert shelf.is_loaded("a")
    assert shelf.is_loaded("b")
