"""The states of a registry; models and schedulers are stand-ins."""

import threading
import weakref
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from serving import wait_until

from convmodel.server.errors import ApiError
from convmodel.server.serving.model_registry import ModelRegistry, ServedModel
from convmodel.server.settings import ServerSettings


@pytest.fixture
def registry(monkeypatch: pytest.MonkeyPatch) -> ModelRegistry:
    def serve(self: ModelRegistry, name: str, model: Any, version: str) -> ServedModel:
        caches: Any = SimpleNamespace(clear=lambda: None)
        engine = SimpleNamespace(caches=caches)
        scheduler: Any = SimpleNamespace(draining=False, waiting=0, running=0, close=lambda: None, engine=engine)
        encoding: Any = object()
        return ServedModel(name, model, scheduler, takes_system=False, created=0, version=version, encoding=encoding)

    monkeypatch.setattr(ModelRegistry, "_serve", serve)
    model: Any = object()
    return ModelRegistry(lambda: {"a": model, "b": model}, ServerSettings())


def test_models_are_there_once_loaded(registry: ModelRegistry) -> None:
    with pytest.raises(ApiError) as caught:
        registry.get("a")
    assert (caught.value.status, caught.value.headers["Retry-After"]) == (503, "2")
    registry._load_models()
    assert registry.state == "ready"
    assert [served.id for served in registry.models] == ["a", "b"]
    with pytest.raises(ApiError, match="there is no model c, only a, b") as missing:
        registry.get("c")
    assert missing.value.status == 404


def test_a_failure_of_loading_is_kept() -> None:
    registry = ModelRegistry(lambda: {}["a"], ServerSettings())
    registry._load_models()
    assert registry.state == "failed"
    assert isinstance(registry.error, KeyError)
    with pytest.raises(ApiError):
        _ = registry.models


def test_a_registry_that_drains_while_it_loads_does_not_become_ready(registry: ModelRegistry) -> None:
    registry.drain()
    registry._load_models()
    assert registry.state == "draining"
    registry.drain()
    assert all(served.scheduler.draining for served in registry.models)


def test_files_become_stores(tmp_path: Path) -> None:
    assert ModelRegistry(dict, ServerSettings()).feedback is None
    assert ModelRegistry(dict, ServerSettings(feedback=tmp_path / "f")).feedback is not None


def test_a_candidate_answers_and_is_not_listed(registry: ModelRegistry) -> None:
    registry._load_models()
    model: Any = object()
    registry.add_candidate("a-1", model)
    assert [served.id for served in registry.models] == ["a", "b"]
    assert registry.get("a-1").model is model
    registry.remove_candidate("missing")
    registry.drain()
    assert registry.get("a-1").scheduler.draining
    late: Any = object()
    registry.replace("b", late, "b-1")
    assert registry.get("b").scheduler.draining


def test_a_replaced_model_ends_once_it_is_idle(registry: ModelRegistry, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("convmodel.server.serving.model_registry._GRACE_SECONDS", 0.0)
    registry._load_models()
    old, closed, cleared = registry.get("b").scheduler, threading.Event(), threading.Event()
    old.running = 1  # type: ignore[misc]
    old.close = closed.set  # type: ignore[method-assign]
    old.engine.caches.clear = cleared.set  # type: ignore[method-assign]
    model: Any = object()
    registry.replace("b", model, "b-1")
    assert (registry.get("b").model, registry.get("b").version) == (model, "b-1")
    assert not registry.get("b").scheduler.draining
    assert not closed.wait(0.1)
    assert old.draining
    old.running = 0  # type: ignore[misc]
    assert closed.wait(5)
    assert cleared.wait(5)


class Model:
    """A model whose end can be observed."""


@pytest.mark.slow
@pytest.mark.parametrize("is_candidate", [True, False])
def test_the_memory_of_an_unloaded_model_is_returned_once_nothing_holds_the_model(
    registry: ModelRegistry, monkeypatch: pytest.MonkeyPatch, is_candidate: bool
) -> None:
    """Before its end, torch still uses the memory, and there would be none to return."""
    monkeypatch.setattr("convmodel.server.serving.model_registry._GRACE_SECONDS", 1.0)  # until no caller holds it
    model: Any = Model()
    old, is_gone = weakref.ref(model), []

    def empty_cache() -> None:
        if threading.current_thread().name == "end of mine":  # models of earlier tests end, too
            is_gone.append(old() is None)

    monkeypatch.setattr(torch.cuda, "empty_cache", empty_cache)
    registry._load_models()
    if is_candidate:
        registry.add_candidate("mine", model)
        del model
        registry.remove_candidate("mine")
    else:
        registry._models["mine"] = registry._serve("mine", model, "mine-1")
        del model
        registry.replace("mine", Model(), "mine-2")  # type: ignore[arg-type]
    wait_until(lambda: is_gone)
    assert is_gone == [True]


def test_models_that_end_at_the_same_time_are_all_forgotten(
    registry: ModelRegistry, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("convmodel.server.serving.model_registry._GRACE_SECONDS", 0.0)
    registry._load_models()
    model: Any = object()
    with ThreadPoolExecutor(8) as pool:
        pool.map(lambda number: registry.replace("b", model, f"b-{number}"), range(200))
    wait_until(lambda: not registry._retired)
    assert len(registry._all()) == 2


class Improver:
    """Knows which version is served; one model was improved."""

    def version(self, name: str) -> str | None:
        return {"a": "a-3"}.get(name)

    def start(self, registry: ModelRegistry) -> None:
        pass


def test_the_version_is_that_of_the_improver_or_the_id(registry: ModelRegistry) -> None:
    improver: Any = Improver()
    registry.improver = improver
    registry._load_models()
    assert [served.version for served in registry.models] == ["a-3", "b"]
