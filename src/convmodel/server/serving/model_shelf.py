"""Models that are loaded when a client first asks for them, beside those that a server always serves.

Owns: which of them are loaded, and unloading those that were not used for longest if there is too little memory. Does
not know where they come from.
"""

import asyncio
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from convmodel.model import ConversationModel
from convmodel.server.errors import ApiError
from convmodel.server.serving.improvement_room import missing_memory

if TYPE_CHECKING:
    from convmodel.server.serving.model_registry import ModelRegistry


@dataclass(frozen=True, slots=True)
class ShelvedModel:
    """A model on the disk.

    Attributes:
        name: The name that clients use.
        base: The id of the served model that it comes from, whose layout and size it has.
        folder: Where it is.
        created: When it was made, in seconds since 1970.
    """

    name: str
    base: str
    folder: Path
    created: int


class ModelShelf:
    """The models by their names."""

    def __init__(self, load: Callable[[str], ConversationModel]) -> None:
        """Holds no model yet.

        Args:
            load: Loads a model from its folder.
        """
        self._load = load
        self._models: dict[str, ShelvedModel] = {}
        self._used: dict[str, float] = {}  # the loaded ones, with the time of their last use
        self._lock = threading.Lock()  # held while a model is loaded or unloaded
        self._noting = threading.Lock()  # held, for a moment, while a use is noted or the model to unload is chosen
        self._loading: dict[str, asyncio.Future[None]] = {}

    def add(self, model: ShelvedModel) -> None:
        """Adds a model, which is not loaded yet."""
        self._models[model.name] = model

    def remove(self, registry: "ModelRegistry", name: str) -> None:
        """Removes a model; requests that it has begun are finished."""
        with self._lock:
            self._models.pop(name, None)
            if self._used.pop(name, None) is not None:
                registry.remove_candidate(name)

    def of(self, bases: set[str]) -> list[ShelvedModel]:
        """Returns the models that come from some served ones, the oldest first."""
        return [model for model in [*self._models.values()] if model.base in bases]

    def is_loaded(self, name: str) -> bool:
        """Returns whether a model is in memory."""
        return name in self._used

    async def load(self, registry: "ModelRegistry", name: str) -> None:
        """Makes sure that a model is served, if it is one of these.

        Raises:
            ApiError: If there is too little memory.
            ModelLoadError: If it cannot be loaded.
        """
        if name not in self._models or self._models[name].base not in {served.id for served in registry.models}:
            return
        if self._note_use(name):
            return
        if name not in self._loading:
            work = asyncio.get_running_loop().run_in_executor(None, self._add, registry, name)
            self._loading[name] = work
            work.add_done_callback(lambda _: self._loading.pop(name, None))
        await asyncio.shield(self._loading[name])

    def _note_use(self, name: str) -> bool:
        """Notes the use of a model; returns whether it is loaded."""
        with self._noting:
            if is_loaded := name in self._used:
                self._used[name] = time.monotonic()
            return is_loaded

    def _add(self, registry: "ModelRegistry", name: str) -> None:
        with self._lock:
            if (shelved := self._models.get(name)) is None or name in self._used:
                return
            self._make_room(registry, shelved)
            registry.add_candidate(name, self._load(str(shelved.folder)))
            self._used[name] = time.monotonic()

    def _make_room(self, registry: "ModelRegistry", shelved: ShelvedModel) -> None:
        base: Any = registry.get(shelved.base).model.hf_model
        while missing := missing_memory(base, seconds=0):
            with self._noting:
                idle = [name for name in self._used if not registry.is_busy(name)]
                oldest = min(idle, key=self._used.__getitem__, default=None)
                self._used.pop(oldest or "", None)
            if oldest is None:
                message = f"{missing}: try again when other models are not used any more"
                raise ApiError(503, message, type="server_error", code="memory_missing", headers={"Retry-After": "30"})
            registry.remove_candidate(oldest)
            missing_memory(base)  # waits until the memory is free
