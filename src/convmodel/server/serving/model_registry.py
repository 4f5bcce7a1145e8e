"""The models that a server answers with.

Owns: their ids, loading them while the server already listens, and whether the server is ready.
"""

import asyncio
import logging
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from convmodel.conversation import DEFAULT_SPEAKERS, PINNED_ROLES
from convmodel.errors import ModelLoadError
from convmodel.generation.defaults import TEMPERATURE, TOP_P
from convmodel.generation.engine.engine import Engine
from convmodel.generation.engine.forward import can_be_cached
from convmodel.generation.options import read_options
from convmodel.layout.architecture import positions
from convmodel.model import ConversationModel
from convmodel.server.errors import ApiError, unavailable
from convmodel.server.serving.metrics import Metrics
from convmodel.server.serving.scheduler import Scheduler
from convmodel.server.settings import ServerSettings

logger = logging.getLogger(__name__)

Loader = Callable[[], Mapping[str, ConversationModel]]


@dataclass(frozen=True, slots=True, eq=False)
class Served:
    """A model that answers.

    Attributes:
        id: What clients call it.
        model: The model.
        scheduler: What works for it.
        takes_system: Whether it takes system messages.
        created: When it was loaded, in seconds since 1970.
    """

    id: str
    model: ConversationModel
    scheduler: Scheduler
    takes_system: bool
    created: int

    def describe(self, *, feedback: bool) -> dict[str, Any]:
        """What `/v1/models` says of it."""
        layout = self.model.tokenizer.layout
        defaults = read_options(self.model.hf_model, self.model.tokenizer, {})
        return {
            "id": self.id,
            "object": "model",
            "created": self.created,
            "owned_by": "convmodel",
            "convmodel": {
                "positions": positions(self.model.hf_model.config),
                "token_types": layout.use_token_types,
                "separator": layout.separator_token,
                "speakers": [name for name in layout.speakers if name not in PINNED_ROLES] or list(DEFAULT_SPEAKERS),
                "system": self.takes_system,
                "feedback": feedback,
                "max_new_tokens": defaults.hf["max_new_tokens"],
                "defaults": {"temperature": TEMPERATURE, "top_p": TOP_P},
            },
        }


class Service:
    """Models by their ids, and what state they are in.

    Attributes:
        settings: What the server was told.
        metrics: What a monitor may know.
        state: `loading`, `ready`, `draining`, or `failed` where loading did not succeed.
        error: Why it failed.
    """

    def __init__(self, load: Loader, settings: ServerSettings) -> None:
        self.settings = settings
        self.metrics = Metrics()
        self.state: Literal["loading", "ready", "draining", "failed"] = "loading"
        self.error: Exception | None = None
        self._load = load
        self._served: dict[str, Served] = {}

    def start(self) -> threading.Thread:
        """Loads the models in a thread, so that the server can say meanwhile that it is not ready."""
        thread = threading.Thread(target=self._start, name="loading", daemon=True)
        thread.start()
        return thread

    def _start(self) -> None:
        try:
            for name, model in self._load().items():
                self._served[name] = self._serve(name, model)
        except Exception as error:
            self.error, self.state = error, "failed"
            return
        if self.state == "loading":
            self.state = "ready"

    def _serve(self, name: str, model: ConversationModel) -> Served:
        if not can_be_cached(model.hf_model):
            raise ModelLoadError(
                f"{name} keeps no keys and values of what it has read, or others for longer texts, so its responses "
                "cannot share steps: talk to it with `convmodel chat`"
            )
        settings = self.settings
        engine = Engine(model.hf_model, cache_bytes=settings.cache_bytes)
        scheduler = Scheduler(engine, settings, self.metrics, name)
        self.metrics.watch(
            name,
            {
                "waiting_requests": ("Requests whose prompts have not been read yet.", lambda: scheduler.waiting),
                "running_requests": ("Requests in work.", lambda: scheduler.running),
                "cache_bytes": ("Memory of what is remembered of conversations.", lambda: engine.caches.nbytes),
                "cache_entries": ("Conversations that are remembered.", lambda: len(engine.caches)),
            },
        )
        speakers = set(model.tokenizer.layout.speakers)
        takes_system = settings.system_messages or bool(PINNED_ROLES & speakers)
        return Served(name, model, scheduler, takes_system, int(time.time()))

    @property
    def served(self) -> list[Served]:
        """All models, in the order in which they were named.

        Raises:
            ApiError: 503 while they are loaded.
        """
        if self.state in ("loading", "failed") or not self._served:  # the last where a stop came before the end of it
            raise unavailable("the model is being loaded: ask again in a moment", "loading", 2)
        return [*self._served.values()]

    def get(self, name: str) -> Served:
        """Returns a model by its id.

        Raises:
            ApiError: 404 if there is none of that name, 503 while they are loaded.
        """
        known = {each.id: each for each in self.served}
        if name not in known:
            raise ApiError(
                404, f"there is no model {name} here, but {', '.join(known)}", param="model", code="model_not_found"
            )
        return known[name]

    def drain(self) -> None:
        """Takes no more requests."""
        self.state = "draining"
        for each in self._served.values():
            each.scheduler.drain()

    async def drained(self) -> bool:
        """Waits until all requests are answered; tells whether none had to be ended."""
        seconds = self.settings.drain_seconds
        return all(await asyncio.gather(*(each.scheduler.drained(seconds) for each in self._served.values())))

    def close(self) -> None:
        """Ends all threads."""
        for each in self._served.values():
            each.scheduler.close()
