"""The models of a server, and its stores of feedback and votes.

Owns: model ids, loading the models while the server already listens, adding and replacing models at run time, and
whether the server is ready. Does not know why a model is replaced.
"""

import asyncio
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import count
from typing import TYPE_CHECKING, Any, Literal

from convmodel.conversation import DEFAULT_SPEAKERS, PINNED_ROLES
from convmodel.errors import ModelLoadError
from convmodel.generation.defaults import chat_sampling
from convmodel.generation.engine.engine import Engine
from convmodel.generation.options import read_options
from convmodel.hf_model.caching import can_be_cached, model_kind
from convmodel.hf_model.devices import release_kept_memory
from convmodel.layout.architecture import positions
from convmodel.model import ConversationModel
from convmodel.server.errors import ApiError, unavailable
from convmodel.server.serving.encoding import EncodingQueue
from convmodel.server.serving.metrics import Metrics
from convmodel.server.serving.scheduler import Scheduler
from convmodel.server.serving.stores import FeedbackStore, VoteStore
from convmodel.server.settings import ServerSettings

if TYPE_CHECKING:
    from convmodel.server.serving.improvement import Improver
    from convmodel.server.serving.model_shelf import ModelShelf, ShelvedModel

_GRACE_SECONDS = 0.5  # between replacing a model and ending its scheduler, for requests that have just looked it up


@dataclass(frozen=True, slots=True, eq=False)
class ServedModel:
    """A loaded model and its scheduler."""

    id: str  # the name that clients use
    model: ConversationModel
    scheduler: Scheduler
    takes_system: bool  # whether it accepts system messages
    created: int  # when it was loaded, in seconds since 1970
    version: str  # its id, or the name of the improved model that is served under it
    encoding: EncodingQueue  # of all models of the server

    @property
    def by_name(self) -> bool:
        """Whether it distinguishes speakers by name; others have two, who alternate."""
        layout = self.model.tokenizer.layout
        return layout.use_token_types or layout.names is not None


class ModelRegistry:
    """The models of one server by their ids, the server's state, and its stores of feedback and votes."""

    def __init__(
        self,
        load: Callable[[], Mapping[str, ConversationModel]],
        settings: ServerSettings,
        improver: "Improver | None" = None,
        shelf: "ModelShelf | None" = None,
    ) -> None:
        """Serves what `load` returns, and the models of a `shelf` when clients ask for them.

        An `improver` adds and replaces models; without one, requests for improvements are refused.
        """
        self.settings = settings
        self.improver = improver
        self.shelf = shelf
        self.metrics = Metrics()
        self.feedback = None if settings.feedback is None else FeedbackStore(settings.feedback)
        self.votes = VoteStore(settings.votes)
        self._encoding = EncodingQueue(settings.wait_seconds)
        self.state: Literal["loading", "ready", "draining", "failed"] = "loading"
        self.error: Exception | None = None  # why loading failed
        self._load = load
        self._models: dict[str, ServedModel] = {}
        self._candidates: dict[str, ServedModel] = {}  # which answer under their ids, but are not listed
        self._retired: dict[int, ServedModel] = {}  # replaced models that still finish running requests
        self._retirements = count()
        self._retiring = threading.Lock()  # held while a model is added to them, or removed

    def start(self) -> None:
        """Starts a thread that loads the models; until it has finished, the server reports that it is not ready."""
        threading.Thread(target=self._load_models, name="loading", daemon=True).start()

    def _load_models(self) -> None:
        try:
            for name, model in self._load().items():
                version = None if self.improver is None else self.improver.version(name)
                self._models[name] = self._serve(name, model, version or name)
        except Exception as error:
            self.error, self.state = error, "failed"
            return
        if self.state == "loading":
            self.state = "ready"
            if self.improver is not None:
                self.improver.start(self)

    def _serve(self, name: str, model: ConversationModel, version: str) -> ServedModel:
        if not can_be_cached(model.hf_model):
            problem = f"{name} has no key-value cache that prompts can share, so requests cannot be batched"
            raise ModelLoadError(f"{problem} ({model_kind(model.hf_model)}): chat with it by `convmodel chat`")
        settings = self.settings
        engine = Engine(model.hf_model, cache_bytes=settings.cache_bytes)
        scheduler = Scheduler(engine, settings, self.metrics, name)
        self.metrics.set_gauge("waiting_requests", name, lambda: scheduler.waiting)
        self.metrics.set_gauge("running_requests", name, lambda: scheduler.running)
        self.metrics.set_gauge("cache_bytes", name, lambda: engine.caches.nbytes)
        self.metrics.set_gauge("cache_entries", name, lambda: len(engine.caches))
        takes_system = settings.system_messages or model.tokenizer.layout.takes_system
        return ServedModel(name, model, scheduler, takes_system, int(time.time()), version, self._encoding)

    def add_candidate(self, name: str, model: ConversationModel) -> None:
        """Serves one more model under an id of its own, which `/v1/models` does not list."""
        self._candidates[name] = self._serve(name, model, name)
        self._keep_draining()

    def remove_candidate(self, name: str) -> None:
        """Ends a candidate once its requests are answered; does nothing if there is none of that id."""
        if (served := self._candidates.pop(name, None)) is not None:
            self.metrics.remove_gauges(name)
            self._retire(served)

    def replace(self, name: str, model: ConversationModel, version: str) -> None:
        """Serves another version of a model under its id; the one before finishes its requests, and its caches go."""
        old, self._models[name] = self._models[name], self._serve(name, model, version)
        self._keep_draining()
        self._retire(old)

    def _keep_draining(self) -> None:
        if self.state == "draining":
            self.drain()

    def _retire(self, served: ServedModel) -> None:
        with self._retiring:
            number = next(self._retirements)
            self._retired[number] = served
        # The thread does not get the model: what it was started with stays in memory until its end.
        name = f"end of {served.id}"
        threading.Thread(target=self._unload, args=[number], name=name, daemon=True).start()

    def _unload(self, number: int) -> None:
        """Ends a replaced model once its requests are answered, and returns its memory."""
        time.sleep(_GRACE_SECONDS)
        self._close_when_idle(self._retired[number].scheduler)
        with self._retiring:
            del self._retired[number]
        release_kept_memory()

    def _close_when_idle(self, scheduler: Scheduler) -> None:
        scheduler.draining = True  # from here on nothing is added, so what is idle stays idle
        while scheduler.waiting or scheduler.running:
            time.sleep(0.05)
        scheduler.close()
        scheduler.engine.caches.clear()

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
        if (served := models.get(name) or self._candidates.get(name)) is None:
            names = [*models, *(model.name for model in self.shelved)]
            message = f"there is no model {name}, only {', '.join(names)}"
            raise ApiError(404, message, param="model", code="model_not_found")
        return served

    async def load(self, name: str) -> ServedModel:
        """Returns a model by its id, which may have to be loaded first; raises as `get` does, or if that fails."""
        if self.shelf is not None:
            await self.shelf.load(self, name)
        return self.get(name)

    @property
    def shelved(self) -> "list[ShelvedModel]":
        """The models that are loaded when clients ask for them."""
        return [] if self.shelf is None else self.shelf.of({*self._models})

    def is_busy(self, name: str) -> bool:
        """Returns whether a candidate answers requests."""
        scheduler = self._candidates[name].scheduler
        return bool(scheduler.waiting or scheduler.running)

    def describe_all(self) -> list[dict[str, Any]]:
        """Returns the entries of `/v1/models`."""
        return [*map(self.describe, self.models), *map(self.describe_shelved, self.shelved)]

    def describe_shelved(self, shelved: "ShelvedModel") -> dict[str, Any]:
        """Returns the entry of a model; before it is loaded, with the layout and the settings of its base."""
        entry = self.describe(self._candidates.get(shelved.name) or self.get(shelved.base))
        own = {"version": shelved.name}
        return entry | {"id": shelved.name, "created": shelved.created, "convmodel": entry["convmodel"] | own}

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
                "names": served.by_name,
                "layout": layout.name,
                "separator": layout.separator_token,
                "speakers": [name for name in layout.speakers if name not in PINNED_ROLES] or list(DEFAULT_SPEAKERS),
                "system": served.takes_system,
                "feedback": self.feedback is not None,
                "training": self.improver is not None,
                "fine_tuning": self.shelf is not None,
                "version": served.version,
                "max_new_tokens": defaults.hf["max_new_tokens"],
                "defaults": {name: sampling[name] for name in ("temperature", "top_p")},
            },
        }

    def drain(self) -> None:
        """Refuses new requests from now on."""
        self.state = "draining"
        for served in self._all():
            served.scheduler.draining = True

    async def wait_until_drained(self) -> None:
        """Waits until all requests are answered, or were ended after `drain_seconds`."""
        seconds = self.settings.drain_seconds
        await asyncio.gather(*(served.scheduler.wait_until_drained(seconds) for served in self._all()))

    def close(self) -> None:
        """Ends the schedulers' threads, and a running improvement."""
        if self.improver is not None:
            self.improver.close()
        for served in self._all():
            served.scheduler.close()

    def _all(self) -> list[ServedModel]:
        with self._retiring:
            return [*self._models.values(), *self._candidates.values(), *self._retired.values()]
