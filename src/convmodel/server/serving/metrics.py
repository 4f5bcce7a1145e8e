"""The server's metrics, for Prometheus.

Owns: the names of the metrics. None of them contains text of a conversation.
"""

from collections.abc import Callable
from functools import partial

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from convmodel.server.serving.job import Job

_GAUGES = {
    "waiting_requests": "Requests whose prompts have not been read yet.",
    "running_requests": "Requests that are being answered.",
    "cache_bytes": "Memory of cached conversations.",
    "cache_entries": "Cached conversations.",
}
_SECONDS = (0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)


class Metrics:
    """The metrics of one server, in a registry of its own, so that one program can have several servers."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        self._gauges = {
            name: Gauge(f"convmodel_{name}", description, ["model"], registry=self._registry)
            for name, description in _GAUGES.items()
        }
        counter = partial(Counter, namespace="convmodel", registry=self._registry)
        self.requests = counter("http_requests", "Answered requests.", ["route", "status"])
        self.refused = counter("refused_requests", "Requests refused because the queue was full.", ["model"])
        self._generations = counter("generations", "Finished generations.", ["model", "outcome"])
        self._tokens = counter("tokens", "Tokens of prompts, of these in the cache, of responses.", ["model", "kind"])
        seconds = partial(Histogram, namespace="convmodel", buckets=_SECONDS, registry=self._registry)
        self._queued = seconds("queue_seconds", "How long requests waited.", ["model"])
        self._first_token = seconds("first_token_seconds", "From a request's arrival to its first token.", ["model"])

    def set_gauge(self, name: str, model: str, value: Callable[[], float]) -> None:
        """Makes a gauge of a model report what a function returns."""
        self._gauges[name].labels(model).set_function(value)

    def remove_gauges(self, model: str) -> None:
        """Removes the gauges of a model that is no longer served."""
        for gauge in self._gauges.values():
            gauge.labels(model).set_function(float)  # a removed gauge is a cycle, which would keep the model in memory
            gauge.remove(model)

    def record_generation(self, model: str, job: Job, outcome: str) -> None:
        """Counts a generation that has finished."""
        self._generations.labels(model, outcome).inc()
        self._tokens.labels(model, "prompt").inc(len(job.request.ids) if job.begun_at is not None else 0)
        self._tokens.labels(model, "cached").inc(job.request.cached_tokens)
        self._tokens.labels(model, "response").inc(job.completion_tokens)
        if job.begun_at is not None:
            self._queued.labels(model).observe(job.begun_at - job.arrived)
        if job.first_at is not None:
            self._first_token.labels(model).observe(job.first_at - job.arrived)

    def render(self) -> bytes:
        """Returns all metrics in Prometheus' text format."""
        return generate_latest(self._registry)
