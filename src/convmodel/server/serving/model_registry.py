"""The models of a server, and the files that it writes.

Owns: model ids, loading the models while the server already listens, and whether the server is ready.
"""

import asyncio
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from convmodel.conversation import DEFAULT_SPEAKERS, PINNED_ROLES
from convmodel.errors import ModelLoadError
from convmodel.generation.defaults import chat_sampling
from convmodel.generation.engine.engine import Engine
from convmodel.generation.options import read_options
from convmodel.hf_model.caching import can_be_cached
from convmodel.layout.architecture import positions
from convmodel.model import ConversationModel
from convmodel.server.errors import ApiError, unavailable
from convmodel.server.serving.encoding import EncodingQueue
from convmodel.server.serving.metrics import Metrics
from convmodel.server.serving.scheduler import Scheduler
from convmodel.server.serving.stores import FeedbackStore, VoteStore
from convmodel.server.settings import ServerSettings


@dataclass(frozen=True, slots=True, eq=False)
class ServedModel:
    """A loaded model and its scheduler."""

    id: str  # the name that clients use
    model: ConversationModel
    scheduler: Scheduler
    takes_system: bool  # whether it accepts system messages
    created: int  # when it was loaded, in seconds since 1970
    encoding: EncodingQueue  # of all models of the server


class ModelRegistry:
    """The models of one server by their ids, the server's state, and its stores of feedback and votes."""

    def __init__(self, load: Callable[[], Mapping[str, ConversationModel]], settings: ServerSettings) -> None:
        self.settings = settings
        self.metrics = Metrics()
        self.feedback = None if settings.feedback is None else FeedbackStore(settings.feedback)
        self.votes = VoteStore(settings.votes)
        self._encoding = EncodingQueue(settings.wait_seconds)
        self.state: Literal["loading", "ready", "draining", "failed"] = "loading"
        self.error: Exception | None = None  # why loading failed
        self._load = load
        self._models: dict[str, ServedModel] = {}

    def start(self) -> None:
        """Starts a thread that loads the models; until it has finished, the server reports that it is not ready."""
        threading.Thread(target=self._load_models, name="loading", daemon=True).start()

    def _load_models(self) -> None:
        try:
            for name, model in self._load().items():
                self._models[name] = self._serve(name, model)
        except Exception as error:
            self.error, self.state = error, "failed"
            return
        if self.state == "loading":
            self.state = "ready"

    def _serve(self, name: str, model: ConversationModel) -> ServedModel:
        if not can_be_cached(model.hf_model):
            problem = f"{name} has no key-value cache that prompts can share, so requests cannot be batched"
            raise ModelLoadError(f"{problem}: chat with it by `convmodel chat`")
        settings = self.settings
        engine = Engine(model.hf_model, cache_bytes=settings.cache_bytes)
        scheduler = Scheduler(engine, settings, self.metrics, name)
        self.metrics.set_gauge("waiting_requests", name, lambda: scheduler.waiting)
        self.metrics.set_gauge("running_requests", name, lambda: scheduler.running)
        self.metrics.set_gauge("cache_bytes", name, lambda: engine.caches.nbytes)
        self.metrics.set_gauge("cache_entries", name, lambda: len(engine.caches))
        takes_system = settings.system_messages or model.tokenizer.layout.takes_system
        return ServedModel(name, model, scheduler, takes_system, int(time.time()), self._encoding)

    @property
    def models(self) -> list[ServedModel]:
        """All models, in the order in which they were named; raises an `ApiError` while they are being loaded."""
        # A server that is stopped while it loads is `draining` without models.
        if self.state in ("loading", "failed") or not self._models:
            raise unavailable("the model is being loaded: try again in a moment", "loading", 2)
        return [*self._models.values()]

    def get(self, name: str) -> ServedModel:
        """Returns a model by its id; raises an `ApiError` if there is none, or while the models are being loaded."""
        models = {served.id: served for served in self.models}
        if name not in models:
            message = f"there is no model {name}, only {', '.join(models)}"
            raise ApiError(404, message, param="model", code="model_not_found")
        return models[name]

    def describe(self, served: ServedModel) -> dict[str, Any]:
        """Returns the entry of a model in `/v1/models`."""
        model, layout = served.model, served.model.tokenizer.layout
        sampling = chat_sampling(model.hf_model)
        defaults = read_options(model.hf_model, model.tokenizer, {})
        return {
            "id": served.id,
            "object": "model",
            "created": served.created,
            "owned_by": "convmodel",
            "convmodel": {
                "positions": positions(model.hf_model.config),
                "token_types": layout.use_token_types,
                "layout": layout.name,
                "separator": layout.separator_token,
                "speakers": [name for name in layout.speakers if name not in PINNED_ROLES] or list(DEFAULT_SPEAKERS),
                "system": served.takes_system,
                "feedback": self.feedback is not None,
                "max_new_tokens": defaults.hf["max_new_tokens"],
                "defaults": {name: sampling[name] for name in ("temperature", "top_p")},
            },
        }

    def drain(self) -> None:
        """Refuses new requests from now on."""
        self.state = "draining"
        for served in self._models.values():
            served.scheduler.draining = True

    async def wait_until_drained(self) -> None:
        """Waits until all requests are answered, or were ended after `drain_seconds`."""
        seconds = self.settings.drain_seconds
        await asyncio.gather(*(served.scheduler.wait_until_drained(seconds) for served in self._models.values()))

    def close(self) -> None:
        """Ends the schedulers' threads."""
        for served in self._models.values():
            served.scheduler.close()
