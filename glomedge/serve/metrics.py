"""What Prometheus is told at ``/metrics``."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_LATEST

from glomedge.about import __version__

CONTENT_TYPE = CONTENT_TYPE_LATEST
_SECONDS = (0.005, 0.01, 0.02, 0.035, 0.05, 0.075, 0.1, 0.15, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, math.inf)
_CROPS = (1, 2, 4, 8, 16, 32, 64, 128, math.inf)


class Metrics:
    """Counters of one server; each server of a process has its own registry."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        own = self.registry
        self.requests = Counter(
            "glomedge_requests",
            "By protocol and HTTP status.",
            ["protocol", "code"],
            registry=own,
        )
        self.request_seconds = Histogram(
            "glomedge_request_seconds",
            "From first byte to answer.",
            ["protocol"],
            buckets=_SECONDS,
            registry=own,
        )
        self.batch_crops = Histogram("glomedge_batch_crops", "Crops of one network call.", buckets=_CROPS, registry=own)
        self.batch_seconds = Histogram("glomedge_batch_seconds", "Of one network call.", buckets=_SECONDS, registry=own)
        self.crops = Counter("glomedge_crops", "Crops answered, by kind: ok, flagged or error.", ["kind"], registry=own)
        self.crop_errors = Counter("glomedge_crop_errors", "Crops without an answer.", ["code"], registry=own)
        self.queue = Gauge("glomedge_queue_crops", "Crops that are being answered or wait for it.", registry=own)
        self.queue_limit = Gauge("glomedge_queue_limit_crops", "Above this, requests get 503.", registry=own)
        self.bodies = Gauge("glomedge_bodies_bytes", "Request bodies in memory.", registry=own)
        self.ready = Gauge("glomedge_ready", "1 while requests are answered.", registry=own)
        self.swaps = Counter("glomedge_model_swaps", "Reloads on SIGHUP, by result.", ["result"], registry=own)
        self.audit_failures = Counter("glomedge_audit_failures", "Audit lines that could not be written.", registry=own)
        # With labels: found once.
        self.requests_of = functools.cache(self.requests.labels)
        self.request_seconds_of = functools.cache(self.request_seconds.labels)
        self.crops_of = functools.cache(self.crops.labels)
        self.crop_errors_of = functools.cache(self.crop_errors.labels)
        self.model = Gauge(
            "glomedge_model_info",
            "The model.",
            ["sha256", "precision", "provider", "glomedge"],
            registry=own,
        )

    def serve_model(self, sha256: str, precision: str, provider: str) -> None:
        """Name the model."""
        self.model.clear()
        self.model.labels(sha256, precision, provider, __version__).set(1)

    def watch(self, gauge: Gauge, value: Callable[[], float]) -> None:
        """Read a gauge when Prometheus asks for it."""
        gauge.set_function(value)

    def text(self) -> bytes:
        """The text format of Prometheus."""
        return generate_latest(self.registry)
