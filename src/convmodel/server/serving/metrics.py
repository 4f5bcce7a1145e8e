"""What a monitor may know of a server, in Prometheus' text format.

Owns: the names of the metrics. None of them has anybody's text.
"""

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_LATEST

from convmodel.server.serving.job import Job

MEDIA_TYPE = CONTENT_TYPE_LATEST

_SECONDS = (0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)


class Metrics:
    """The metrics of one server; each has a registry of its own, so that several can live in one program."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        self._gauges: dict[str, Gauge] = {}
        model = ["model"]
        self.requests = Counter(
            "convmodel_http_requests", "Answered requests.", ["route", "status"], registry=self._registry
        )
        self.refused = Counter(
            "convmodel_refused_requests", "Requests refused since too many waited.", model, registry=self._registry
        )
        self._ended = Counter(
            "convmodel_generations", "Generations that ended.", ["model", "outcome"], registry=self._registry
        )
        self._tokens = Counter(
            "convmodel_tokens", "Tokens of prompts, those of them found in the cache, and of responses.",
            ["model", "kind"], registry=self._registry,
        )  # fmt: skip
        self._queued = Histogram(
            "convmodel_queue_seconds", "How long requests waited.", model, buckets=_SECONDS, registry=self._registry
        )
        self._first = Histogram(
            "convmodel_first_token_seconds", "From a request's arrival to its first token.", model,
            buckets=_SECONDS, registry=self._registry,
        )  # fmt: skip

    def watch(self, model: str, numbers: dict[str, tuple[str, Callable[[], float]]]) -> None:
        """Adds numbers of a model that are asked for whenever somebody looks: a name, what it is, and the number."""
        for name, (what, number) in numbers.items():
            gauge = self._gauges.get(name)
            if gauge is None:
                gauge = self._gauges[name] = Gauge(f"convmodel_{name}", what, ["model"], registry=self._registry)
            gauge.labels(model).set_function(number)

    def finished(self, model: str, job: Job, outcome: str) -> None:
        """Counts a generation that has ended."""
        self._ended.labels(model, outcome).inc()
        self._tokens.labels(model, "prompt").inc(len(job.request.ids) if job.begun_at is not None else 0)
        self._tokens.labels(model, "cached").inc(job.request.cached_tokens)
        self._tokens.labels(model, "response").inc(job.completion_tokens)
        if job.begun_at is not None:
            self._queued.labels(model).observe(job.begun_at - job.arrived)
        if job.first_at is not None:
            self._first.labels(model).observe(job.first_at - job.arrived)

    def text(self) -> bytes:
        """Returns all of them."""
        return generate_latest(self._registry)
