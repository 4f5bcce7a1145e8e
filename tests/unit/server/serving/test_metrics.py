"""The metrics of one server."""

import gc
import weakref
from types import SimpleNamespace
from typing import Any

from convmodel.server.serving.metrics import Metrics


def job(**changes: Any) -> Any:
    request = SimpleNamespace(ids=[1, 2, 3], cached_tokens=2)
    times = {"arrived": 1.0, "begun_at": 1.2, "first_at": 1.3}
    return SimpleNamespace(request=request, completion_tokens=4, **(times | changes))


def test_a_generation_counts_tokens_and_times() -> None:
    metrics = Metrics()
    metrics.record_generation("m", job(), "done")
    text = metrics.render().decode()
    for line in (
        'convmodel_generations_total{model="m",outcome="done"} 1.0',
        'convmodel_tokens_total{kind="prompt",model="m"} 3.0',
        'convmodel_tokens_total{kind="cached",model="m"} 2.0',
        'convmodel_tokens_total{kind="response",model="m"} 4.0',
        'convmodel_queue_seconds_count{model="m"} 1.0',
        'convmodel_first_token_seconds_count{model="m"} 1.0',
    ):
        assert line in text


def test_a_request_that_only_waited_has_no_times() -> None:
    metrics = Metrics()
    metrics.record_generation("m", job(begun_at=None, first_at=None), "failed")
    text = metrics.render().decode()
    assert 'convmodel_tokens_total{kind="prompt",model="m"} 0.0' in text
    assert "convmodel_queue_seconds_count" not in text


def test_gauges_of_two_models_share_a_name_and_follow_their_values() -> None:
    metrics, waiting = Metrics(), [1, 2]
    metrics.set_gauge("waiting_requests", "a", lambda: waiting[0])
    metrics.set_gauge("waiting_requests", "b", lambda: waiting[1])
    waiting[1] = 5
    text = metrics.render().decode()
    assert 'convmodel_waiting_requests{model="a"} 1.0' in text
    assert 'convmodel_waiting_requests{model="b"} 5.0' in text


def test_the_gauges_of_a_model_that_is_gone_are_removed() -> None:
    metrics = Metrics()
    for model in ("a", "b"):
        for name in ("waiting_requests", "running_requests", "cache_bytes", "cache_entries"):
            metrics.set_gauge(name, model, lambda: 3.0)
    metrics.remove_gauges("a")
    text = metrics.render().decode()
    assert 'cache_bytes{model="b"} 3.0' in text
    assert 'model="a"' not in text


def test_gauges_of_a_removed_model_do_not_hold_what_they_measured() -> None:
    """`set_function` makes a cycle, so the model would take memory until the next garbage collection."""

    class Engine:
        waiting = 3

    engine, metrics = Engine(), Metrics()
    for name in ("waiting_requests", "running_requests", "cache_bytes", "cache_entries"):
        metrics.set_gauge(name, "a", lambda engine=engine: engine.waiting)  # type: ignore[misc]
    measured = weakref.ref(engine)
    gc.disable()
    try:
        del engine
        metrics.remove_gauges("a")
        assert measured() is None
    finally:
        gc.enable()
    assert 'model="a"' not in metrics.render().decode()
