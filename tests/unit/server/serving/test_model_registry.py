"""The states of a registry; models and schedulers are stand-ins."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from convmodel.server.errors import ApiError
from convmodel.server.serving.model_registry import ModelRegistry, ServedModel
from convmodel.server.settings import ServerSettings


@pytest.fixture
def registry(monkeypatch: pytest.MonkeyPatch) -> ModelRegistry:
    def serve(self: ModelRegistry, name: str, model: Any) -> ServedModel:
        scheduler: Any = SimpleNamespace(draining=False)
        encoding: Any = object()
        return ServedModel(name, model, scheduler, takes_system=False, created=0, encoding=encoding)

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
