"""How fast a generate job makes a data set, against the batcher of the API alone; and whether its memory stays flat.

`python -m benchmarks.generation --images 50000` uses the starter model. Both run in this process, in turn, on all
cores. The ratio of CPU times also holds on a machine with other work.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

import psutil

from services.api.inference.loaded_model import LoadedModel
from services.api.telemetry import Telemetry
from services.generator.latents import stream_of
from services.trainer.generation.run import run_job
from shared.configs.generate import GENERATE, GenerateConfig
from shared.jobs.record import new_job
from shared.jobs.trainer_messages import EventLine, ProgressLine, TrainerLine
from shared.settings import Settings
from shared.storage.artifacts import ArtifactStore
from shared.storage.model_registry import GENERATOR_FILE, ModelManifest, ModelRegistry, read_folder

REQUEST, CLIENTS = 256, 8  # images per request of the batcher, and requests at a time


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=50_000, help="images of the data set")
    parser.add_argument("--rounds", type=int, default=3, help="measurements of the batcher, before and after the job")
    parser.add_argument("--format", choices=("imagefolder", "webdataset"), default="imagefolder")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        settings = Settings(data=Path(folder))
        manifest, files = read_folder(settings.starter)
        ModelRegistry(ArtifactStore(settings.artifact_url)).publish(manifest, files)
        batcher = partial(batcher_rate, manifest, files[GENERATOR_FILE], settings, min(options.images, 8192))
        rounds = [batcher() for _ in range(options.rounds)]
        (job_rate, job_cpu_ms), memory = measure_job(manifest, settings, options.images, options.format)
        rounds += [batcher() for _ in range(options.rounds)]
    rates, cpu_ms = ([one[i] for one in rounds] for i in range(2))
    own, own_cpu_ms = statistics.median(rates), statistics.median(cpu_ms)
    spread = f"median; {min(rates):,.0f} to {max(rates):,.0f}"
    print(f"batcher: {own:,.0f} images/s ({spread}), {own_cpu_ms:.2f} ms of CPU each")
    print(
        f"generate job: {job_rate:,.0f} images/s, {job_rate / own:.2f} of the batcher's rate; "
        f"{job_cpu_ms:.2f} ms of CPU each, {own_cpu_ms / job_cpu_ms:.2f} by CPU time"
    )
    quarter, end = max(memory[: len(memory) // 4 + 1]), max(memory)
    print(f"peak memory: {quarter / 2**20:,.0f} MiB in the first quarter, {end / 2**20:,.0f} MiB over the whole job")


def batcher_rate(manifest: ModelManifest, graph: bytes, settings: Settings, count: int) -> tuple[float, float]:
    """-> images per second of the batcher with a full queue, and milliseconds of CPU per image"""
    model = LoadedModel(manifest, graph, settings, Telemetry())

    async def client(number: int) -> None:
        for first in range(number * REQUEST, count, CLIENTS * REQUEST):
            indices = range(first, min(first + REQUEST, count))
            await model.sample(stream_of(0, indices), [index % len(manifest.classes) for index in indices])

    async def clients() -> tuple[float, float]:
        began_s, began_cpu_s = time.perf_counter(), time.process_time()
        await asyncio.gather(*(client(number) for number in range(CLIENTS)))
        return count / (time.perf_counter() - began_s), 1000 * (time.process_time() - began_cpu_s) / count

    return asyncio.run(clients())


def measure_job(
    manifest: ModelManifest, settings: Settings, images: int, file_format: str
) -> tuple[tuple[float, float], list[int]]:
    """-> (images per second, milliseconds of CPU per image), both without the time to open the model; and the memory of
    this process over time, in bytes
    """
    share, rest = divmod(images, len(manifest.classes))
    classes = {name: share + (number < rest) for number, name in enumerate(manifest.classes)}
    config = GenerateConfig.model_validate(
        {"model": manifest.id, "model_digest": manifest.digest, "classes": classes, "n": images, "format": file_format}
    )
    job = new_job(datetime.now(UTC), preset=GENERATE, config=config, dataset=manifest.dataset, name=None)
    times: list[tuple[TrainerLine, float]] = []
    with sampled_memory() as memory:
        run_job(job, settings, lambda line: times.append((line, time.process_time())), lambda: None)
    began_cpu_s = next(cpu_s for line, cpu_s in times if isinstance(line, EventLine) and line.event.kind == "started")
    last, ended_cpu_s = [(line, cpu_s) for line, cpu_s in times if isinstance(line, ProgressLine)][-1]
    return (last.images_per_second, 1000 * (ended_cpu_s - began_cpu_s) / images), memory


@contextmanager
def sampled_memory() -> Iterator[list[int]]:
    """The resident memory of this process, in bytes, ten times a second until the block ends."""
    process, samples, ended = psutil.Process(), list[int](), threading.Event()

    def sample() -> None:
        while True:
            samples.append(process.memory_info().rss)
            if ended.wait(0.1):
                return

    thread = threading.Thread(target=sample)
    thread.start()
    try:
        yield samples
    finally:
        ended.set()
        thread.join()


if __name__ == "__main__":
    main()
