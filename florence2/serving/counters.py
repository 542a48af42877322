"""What a server counts, for Prometheus. Several processes write files each, which whoever is asked adds up."""

from __future__ import annotations

import os

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    PlatformCollector,
    ProcessCollector,
    generate_latest,
    multiprocess,
)

SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
SHARED = "PROMETHEUS_MULTIPROC_DIR"  # the library's own name for the folder of several processes


class Metrics:
    """Counters, gauges and histograms of one server process."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        registry = self.registry
        self.requests = Counter("florence2_requests", "Requests answered.", ["route", "status"], registry=registry)
        self.seconds = Histogram(
            "florence2_request_seconds", "From first byte to answer.", ["route"], buckets=SECONDS, registry=registry
        )
        self.queued = Gauge(
            "florence2_queue_requests", "Requests waiting.", multiprocess_mode="livesum", registry=registry
        )
        self.running = Gauge(
            "florence2_running_requests", "Requests sent to the model.", multiprocess_mode="livesum", registry=registry
        )
        self.ready = Gauge(
            "florence2_ready_workers", "Worker processes that answer.", multiprocess_mode="livesum", registry=registry
        )
        self.batch = Histogram(
            "florence2_batch_asks",
            "Asks decoded together, sampled.",
            buckets=(1, 2, 4, 8, 16, 32, 64),
            registry=registry,
        )
        self.waited = Histogram("florence2_queue_seconds", "Time in the queue.", buckets=SECONDS, registry=registry)
        self.computed = Histogram("florence2_model_seconds", "Time in the batch.", buckets=SECONDS, registry=registry)
        self.answers = Counter("florence2_answers", "Asks answered.", ["task"], registry=registry)
        self.tokens = Counter("florence2_tokens", "Tokens read and generated.", ["kind"], registry=registry)
        self.cache = Counter(
            "florence2_image_cache", "Pictures whose features were kept, or not.", ["result"], registry=registry
        )
        self.rejects = Counter("florence2_rejected_requests", "Requests not answered.", ["reason"], registry=registry)
        self.deaths = Counter(
            "florence2_worker_deaths", "Worker processes that ended while serving.", registry=registry
        )

    def text(self) -> bytes:
        """All of it, as Prometheus reads it."""
        registry = CollectorRegistry()
        ProcessCollector(registry=registry)
        PlatformCollector(registry=registry)
        if os.environ.get(SHARED):
            multiprocess.MultiProcessCollector(registry)
            return bytes(generate_latest(registry))
        return bytes(generate_latest(self.registry)) + bytes(generate_latest(registry))
