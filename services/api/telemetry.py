"""Prometheus metrics of serving. Labels: `model` is a model's id, `provider` its onnxruntime execution provider."""

from __future__ import annotations

import re
import threading
import time
import weakref
from collections import Counter as Count
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Histogram, ProcessCollector, generate_latest
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from shared.errors import KilnError

SECONDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
IMAGES = (1, 2, 4, 8, 16, 32, 64, 128, 256)
OF_MODEL = ("model", "provider")


class Telemetry:
    """Metrics in a registry of their own, so that two APIs in one process (as in tests) count separately."""

    def __init__(self) -> None:
        self._registry = registry = CollectorRegistry()
        ProcessCollector(registry=registry)
        self._lock = threading.Lock()
        self._users: Count[tuple[str, str]] = Count()  # ModelTelemetry objects in use, by (model, provider)

        def seconds(name: str, documentation: str) -> Histogram:
            return Histogram(f"kiln_{name}_seconds", documentation, OF_MODEL, buckets=SECONDS, registry=registry)

        self._queue = seconds("queue", "Time from a request's arrival to the start of its first batch.")
        self._compute = seconds("compute", "Time of a batch, with latent vectors and pixel conversion.")
        self._encode = seconds("encode", "Time to tile and encode a response.")
        self._batch = Histogram("kiln_batch_images", "Images per batch.", OF_MODEL, buckets=IMAGES, registry=registry)
        self._images = Counter("kiln_images", "Images generated.", OF_MODEL, registry=registry)
        self._of_model = (self._queue, self._compute, self._encode, self._batch, self._images)
        self._rejected = Counter("kiln_rejected", "Refused requests for images.", ("reason",), registry=registry)
        self._cache = Counter("kiln_answer_cache", "Requests with a seed: hit, miss, or not modified.", ("result",),
                              registry=registry)  # fmt: skip

    def of_model(self, model: str, provider: str) -> ModelTelemetry:
        """The metrics of one model. They are removed after the object that this returns is no longer in use."""
        with self._lock:
            self._users[model, provider] += 1
            telemetry = ModelTelemetry(*(metric.labels(model, provider) for metric in self._of_model))
        weakref.finalize(telemetry, self._users.subtract, [(model, provider)])
        return telemetry

    def watch(self, gauges: Callable[[], Iterable[tuple[str, int, int]]]) -> None:
        """Each scrape calls `gauges`, which yields (model, waiting images, bytes in memory) for each model."""
        self._registry.register(_Models(gauges))

    def count_cache(self, result: str) -> None:
        self._cache.labels(result).inc()

    @contextmanager
    def counting_refusals(self) -> Iterator[None]:
        """Counts a KilnError raised inside, by its name: `overloaded`, `invalid_input`, `no_model_ready`."""
        try:
            yield
        except KilnError as error:
            self._rejected.labels(re.sub(r"(?<!^)(?=[A-Z])", "_", type(error).__name__).lower()).inc()
            raise

    def text(self) -> bytes:
        """The metrics in Prometheus' text format, version 0.0.4. A model that left memory appears one last time."""
        with self._lock:
            text = generate_latest(self._registry)
            for labels in [labels for labels, count in self._users.items() if count == 0]:
                del self._users[labels]
                for metric in self._of_model:
                    metric.remove(*labels)
        return text


class ModelTelemetry:
    """The metrics of one model, with its labels looked up once. Thread-safe."""

    def __init__(self, queue: Any, compute: Any, encode: Any, batch: Any, images: Any) -> None:
        self._queue, self._compute, self._encode, self._batch, self._images = queue, compute, encode, batch, images

    def waited(self, since_s: float) -> None:
        self._queue.observe(time.perf_counter() - since_s)

    def ran(self, images: int, since_s: float) -> None:
        self._compute.observe(time.perf_counter() - since_s)
        self._batch.observe(images)
        self._images.inc(images)

    def encoded(self, since_s: float) -> None:
        self._encode.observe(time.perf_counter() - since_s)


class _Models(Collector):
    def __init__(self, gauges: Callable[[], Iterable[tuple[str, int, int]]]) -> None:
        self._gauges = gauges

    def collect(self) -> Iterator[GaugeMetricFamily]:
        waiting = GaugeMetricFamily("kiln_waiting_images", "Images waiting for a batch.", labels=["model"])
        memory = GaugeMetricFamily("kiln_model_memory_bytes", "Estimated memory of a model.", labels=["model"])
        for model, images, size in self._gauges():
            waiting.add_metric([model], images)
            memory.add_metric([model], size)
        yield from (waiting, memory)
