"""What serving costs and where the time goes, for Prometheus. `model` is a model's id, `provider` what it runs on."""

from __future__ import annotations

import re
import time
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
    """Each API has its own: two in one process, as in tests, do not add up."""

    def __init__(self) -> None:
        self._registry = registry = CollectorRegistry()
        ProcessCollector(registry=registry)

        def seconds(name: str, says: str) -> Histogram:
            return Histogram(f"kiln_{name}_seconds", says, OF_MODEL, buckets=SECONDS, registry=registry)

        self._queue = seconds("queue", "From a request's arrival to its first batch.")
        self._compute = seconds("compute", "A batch in onnxruntime, latent vectors and pixels included.")
        self._encode = seconds("encode", "Tiling and encoding an answer.")
        self._batch = Histogram("kiln_batch_images", "Images of a batch.", OF_MODEL, buckets=IMAGES, registry=registry)
        self._images = Counter("kiln_images", "Images made.", OF_MODEL, registry=registry)
        self._rejected = Counter("kiln_rejected", "Requests for images refused.", ("reason",), registry=registry)
        self._cache = Counter("kiln_answer_cache", "Questions with a seed: hit, miss, or not modified.", ("result",),
                              registry=registry)  # fmt: skip

    def of_model(self, model: str, provider: str) -> ModelTelemetry:
        metrics = (self._queue, self._compute, self._encode, self._batch, self._images)
        return ModelTelemetry(*(metric.labels(model, provider) for metric in metrics))

    def watch(self, gauges: Callable[[], Iterable[tuple[str, int, int]]]) -> None:
        """`gauges` gives (model, waiting images, bytes in memory) of each model whenever somebody looks."""
        self._registry.register(_Models(gauges))

    def count_cache(self, result: str) -> None:
        self._cache.labels(result).inc()

    @contextmanager
    def counting_refusals(self) -> Iterator[None]:
        """Counts an error of Kiln's that passes, by its name: `overloaded`, `invalid_input`, `no_model_ready`."""
        try:
            yield
        except KilnError as error:
            self._rejected.labels(re.sub(r"(?<!^)(?=[A-Z])", "_", type(error).__name__).lower()).inc()
            raise

    def text(self) -> bytes:
        """The exposition format, version 0.0.4."""
        return generate_latest(self._registry)


class ModelTelemetry:
    """The same metrics with the labels of one model looked up once. Any thread may call."""

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
        waiting = GaugeMetricFamily("kiln_waiting_images", "Images that wait for a batch.", labels=["model"])
        memory = GaugeMetricFamily("kiln_model_memory_bytes", "Memory of a model, by estimate.", labels=["model"])
        for model, images, size in self._gauges():
            waiting.add_metric([model], images)
            memory.add_metric([model], size)
        yield from (waiting, memory)
