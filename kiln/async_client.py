"""The asyncio client of the REST API: every method of `kiln.client`, to be awaited.

async with AsyncKiln() as kiln:
    job = await kiln.jobs.create("tiny")
    job = await job.wait()
    cats = await kiln.generate("cat", n=16, model=job.model_id)
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Self, TypeVar

import httpx2
from PIL import Image
from pydantic import PrivateAttr

from kiln import _downloads, _requests
from kiln._requests import Call, ClassName
from kiln._retry import EventStream, Retry
from kiln.datasets import AsyncDatasets
from kiln.errors import ApiError
from kiln.settings import read_client_settings
from kiln.sweeps import AsyncSweeps
from kiln.types import Event, JobData, ModelData, VerificationData

T = TypeVar("T")


class AsyncKiln:
    """A connection to one Kiln API. Tasks may share it. Use it as an async context manager, or await `close()`."""

    def __init__(
        self, url: str | None = None, api_key: str | None = None, *, timeout_s: float = 60.0, max_wait_s: float = 60.0
    ) -> None:
        """As `Kiln`. Raises InvalidSetting."""
        settings = read_client_settings(url, api_key)
        self._max_wait_s = max_wait_s
        self._http = httpx2.AsyncClient(base_url=settings.url, headers=settings.headers, timeout=timeout_s)
        self.jobs, self.models, self.datasets = AsyncJobs(self), AsyncModels(self), AsyncDatasets(self)
        self.presets, self.sweeps = AsyncPresets(self), AsyncSweeps(self)

    async def generate(self, label: ClassName = None, n: int = 16, **options: Any) -> list[Image.Image]:
        """n RGB images of one class. Options as in GET /generate: model, seed, truncation, ..."""
        return await self.send(_requests.generate(label, n, options))

    async def generate_png(self, label: ClassName = None, n: int = 16, **options: Any) -> bytes:
        """The same as one grid with its provenance. Also takes `columns` and `scale`.

        A PNG by default; a smaller file with `format="webp"` or `"jpeg"`, and `quality`.
        """
        return await self.send(_requests.generate_png(label, n, options))

    async def generate_many(
        self, labels: str | Sequence[str | int] = "all", n: int = 16, **options: Any
    ) -> dict[str | None, list[Image.Image]]:
        """n images of each class, by class. Options as in POST /generate: model, seed, first_index, ..."""
        return await self.send(_requests.generate_many(labels, n, options))

    async def interpolate(
        self, start: ClassName = None, end: ClassName = None, steps: int = 16, **options: Any
    ) -> list[Image.Image]:
        """Images on the way from one class and latent vector to another. Options as in GET /interpolate."""
        return await self.send(_requests.interpolate(start, end, steps, options))

    async def interpolate_png(self, start: ClassName = None, end: ClassName = None, **options: Any) -> bytes:
        """The same as one PNG: a strip, or an animation with `format="apng"`."""
        return await self.send(_requests.interpolate_png(start, end, options))

    async def verify(self, png: bytes) -> VerificationData:
        """Whether the server reproduces this PNG, JPEG or WebP file from the provenance inside it."""
        return await self.send(_requests.verify(png))

    async def get(self, path: str, params: Mapping[str, Any] | None = None, *, accept: str = "*/*") -> httpx2.Response:
        """Sends GET to any path of the API, for plots, CSV, the OpenAPI document and other unparsed responses."""
        return await self.send(_requests.get(path, params or {}, accept))

    async def is_ready(self) -> bool:
        """Whether a model is loaded and the server can reach Redis. Sends one request, without retries."""
        return (await self._http.get("/readyz")).status_code == httpx2.codes.OK

    async def send(self, call: Call[T]) -> T:
        """Sends the request, with retries. Raises ApiError or httpx2.TransportError."""
        retry = Retry(call, self._max_wait_s)
        while True:
            try:
                return call.result(await self._http.request(**call.request))
            except (httpx2.TransportError, ApiError) as error:
                await asyncio.sleep(retry.wait_s(error))

    async def close(self) -> None:
        await self._http.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *error: object) -> None:
        await self.close()


class AsyncJob(JobData):
    """A job in the state that the server last reported, with its actions. Each action returns the new state."""

    _jobs: Any = PrivateAttr(None)  # the namespace `AsyncJobs` that made it

    async def refresh(self) -> AsyncJob:
        return await self._namespace.get(self.id)

    async def cancel(self) -> AsyncJob:
        """Ends the job; it publishes no model."""
        return await self._namespace.cancel(self.id)

    async def pause(self) -> AsyncJob:
        """Writes a checkpoint and frees the worker."""
        return await self._namespace.pause(self.id)

    async def resume(self) -> AsyncJob:
        """Queues a paused or lost job again; it continues from its last checkpoint."""
        return await self._namespace.resume(self.id)

    async def finish(self) -> AsyncJob:
        """Stops training now and publishes the model so far."""
        return await self._namespace.finish(self.id)

    async def delete(self) -> None:
        """Deletes the job with its metrics, events and checkpoints. Raises Conflict unless it is over."""
        await self._namespace.delete(self.id)

    async def wait(self, on_progress: Callable[[AsyncJob], object] | None = None) -> AsyncJob:
        """Returns when the job is over, whatever its outcome; calls `on_progress(job)` after each change."""
        return await self._namespace.wait(self.id, on_progress)

    async def events(self, after: str = "") -> AsyncIterator[Event]:
        """Past and future events, until the job is over, from the event that follows the id `after`."""
        async for update in self._namespace.follow(self.id, after):
            if isinstance(update, Event):
                yield update

    async def series(self, after_nimg: int = -1) -> Sequence[dict[str, float]]:
        """The metrics series, one row per tick; `metrics` is its last row."""
        return await self._namespace.series(self.id, after_nimg)

    async def samples(self) -> Sequence[tuple[int, Image.Image]]:
        """The sample grids, oldest first: (images seen, grid). All grids show the same latent vectors."""
        return await self._namespace.samples(self.id)

    @property
    def _namespace(self) -> AsyncJobs:
        jobs: AsyncJobs = self._jobs
        return jobs


class AsyncJobs:
    """`kiln.jobs`: jobs that train, and jobs that generate data sets."""

    def __init__(self, kiln: AsyncKiln) -> None:
        self._kiln = kiln

    async def create(
        self, preset: str, overrides: Mapping[str, Any] | None = None, *,
        dataset: str | None = None, name: str | None = None, idempotency_key: str | None = None,
    ) -> AsyncJob:  # fmt: skip
        """Queues a job. Raises InvalidInput, which names each wrong field.

        The default data set is `cifar10`, or with `from_checkpoint` that job's data set.
        """
        return await self._send(_requests.create_job(preset, overrides, dataset, name, idempotency_key))

    async def dry_run(
        self, preset: str, overrides: Mapping[str, Any] | None = None, *, dataset: str | None = None
    ) -> dict[str, Any]:
        """The resolved config, without creating a job. Raises InvalidInput."""
        return await self._kiln.send(_requests.dry_run(preset, overrides, dataset))

    async def generate(
        self, n: int | None = None, *, classes: Mapping[str, int] | None = None, balance: str | None = None,
        idempotency_key: str | None = None, **options: Any,
    ) -> AsyncJob:  # fmt: skip
        """Queues a job that generates a data set: `n` images in all, or a number for each class, or what the smaller
        classes of the data set `balance` lack. Options as in POST /jobs: model, format, seed, min_confidence, ...

        Raises InvalidInput, which names each wrong field.
        """
        return await self._send(_requests.generate_dataset(n, classes, balance, options, idempotency_key))

    async def dataset(self, job_id: str) -> dict[str, Any]:
        """Describes the data set that a job has generated. Raises NotFound until it is complete."""
        return await self._kiln.send(_requests.dataset_manifest(job_id))

    async def download(self, job_id: str, folder: Path | str) -> AsyncIterator[str]:
        """Downloads and unpacks the data set of a job, file by file, and yields the name of each file when it is done.

        Images go into a folder per class; tar shards stay files; `manifest.json` comes last. Raises NotFound, OSError.
        """
        manifest = await self.dataset(job_id)
        for shard in manifest["shards"]:
            data = await self._kiln.send(_requests.dataset_shard(job_id, shard["name"]))
            await asyncio.to_thread(_downloads.write_shard, Path(folder), shard["name"], data)
            yield shard["name"]
        _downloads.write_manifest(Path(folder), manifest)

    async def stream_dataset(self, job_id: str) -> AsyncIterator[bytes]:
        """The data set of a job as one file, a ZIP or a tar, in parts. Raises NotFound; a broken connection ends it."""
        async with self._kiln._http.stream(**_requests.dataset_archive(job_id).request) as response:
            if response.is_error:
                await response.aread()
                raise _requests.api_error(response)
            async for part in response.aiter_bytes():
                yield part

    async def get(self, job_id: str) -> AsyncJob:
        return await self._send(_requests.get_job(job_id))

    async def list(self, status: str | None = None, limit: int | None = None) -> AsyncIterator[AsyncJob]:
        """Jobs, newest first. Each page is requested when the iteration reaches it."""
        after: str | None = None
        while limit is None or limit > 0:
            page = await self._kiln.send(_requests.list_jobs(status, after, limit))
            for job in page.data:
                yield self._bind(job)
            if not page.has_more:
                return
            after, limit = page.data[-1].id, limit and limit - len(page.data)

    async def cancel(self, job_id: str) -> AsyncJob:
        """Ends the job; it publishes no model."""
        return await self._send(_requests.job_action(job_id, "cancel"))

    async def pause(self, job_id: str) -> AsyncJob:
        """Writes a checkpoint and frees the worker."""
        return await self._send(_requests.job_action(job_id, "pause"))

    async def resume(self, job_id: str) -> AsyncJob:
        """Queues a paused or lost job again; it continues from its last checkpoint."""
        return await self._send(_requests.job_action(job_id, "resume"))

    async def finish(self, job_id: str) -> AsyncJob:
        """Stops training now and publishes the model so far."""
        return await self._send(_requests.job_action(job_id, "finish"))

    async def delete(self, job_id: str) -> None:
        """Deletes the job, its metrics, events and checkpoints; its model stays. Raises Conflict unless it is over."""
        await self._kiln.send(_requests.delete_job(job_id))

    async def wait(self, job_id: str, on_progress: Callable[[AsyncJob], object] | None = None) -> AsyncJob:
        """Returns when the job is over, whatever its outcome; calls `on_progress(job)` after each change."""
        async for update in self.follow(job_id):
            if isinstance(update, AsyncJob) and on_progress is not None:
                on_progress(update)
        return await self.get(job_id)

    async def follow(self, job_id: str, after: str = "") -> AsyncIterator[Event | AsyncJob]:
        """Yields the job's events, and the job after each change, until it is over. Reconnections lose no event."""
        stream = EventStream(job_id, after, self._kiln._max_wait_s)
        while not stream.is_over:
            try:
                async with self._kiln._http.stream(**stream.request) as response:
                    if response.is_error:
                        await response.aread()
                    async for event in httpx2.EventSource(stream.check(response)):
                        for update in stream.parse(event):
                            yield self._bind(update) if isinstance(update, JobData) else update
                if not stream.is_over:
                    await asyncio.sleep(stream.reconnect_s)
            except (httpx2.TransportError, ApiError) as error:
                await asyncio.sleep(stream.wait_s(error))

    async def series(self, job_id: str, after_nimg: int = -1) -> Sequence[dict[str, float]]:
        """The metrics series, one row per tick, from the first tick after `after_nimg` images."""
        return await self._kiln.send(_requests.metrics(job_id, after_nimg))

    async def samples(self, job_id: str) -> Sequence[tuple[int, Image.Image]]:
        """The sample grids, oldest first: (images seen, grid)."""
        positions = await self.sample_positions(job_id)
        return [(nimg, _requests.decode_image(await self.sample_png(job_id, nimg))) for nimg in positions]

    async def sample_positions(self, job_id: str) -> Sequence[int]:
        """Images seen at each sample grid, oldest first."""
        return await self._kiln.send(_requests.sample_positions(job_id))

    async def sample_png(self, job_id: str, nimg: int) -> bytes:
        """The sample grid after `nimg` images."""
        return await self._kiln.send(_requests.sample_png(job_id, nimg))

    async def compare(self, jobs: Sequence[JobData | str]) -> Sequence[dict[str, Any]]:
        """One row per job: first and last losses, accuracies, metrics, time, and the config fields that differ."""
        return await self._kiln.send(_requests.compare([job if isinstance(job, str) else job.id for job in jobs]))

    async def _send(self, call: Call[JobData]) -> AsyncJob:
        return self._bind(await self._kiln.send(call))

    def _bind(self, data: JobData) -> AsyncJob:
        job = AsyncJob.model_construct(**dict(data))
        job._jobs = self
        return job


class AsyncModels:
    """`kiln.models`: published models and the aliases that point at them."""

    def __init__(self, kiln: AsyncKiln) -> None:
        self._kiln = kiln

    async def list(self) -> Sequence[ModelData]:
        return await self._kiln.send(_requests.list_models())

    async def get(self, model_id: str) -> ModelData:
        return await self._kiln.send(_requests.get_model(model_id))

    async def preview(self, model_id: str) -> Image.Image:
        """Ten rows of ten images. If the model has ten classes, each row shows one class."""
        return _requests.decode_image(await self._kiln.send(_requests.preview_png(model_id)))

    async def neighbours(self, model_id: str) -> Image.Image:
        """The ten generated images nearest to a training image, and that image below each. NotFound if unmeasured."""
        return _requests.decode_image(await self._kiln.send(_requests.neighbours_png(model_id)))

    async def promote(self, model_id: str, alias: str = "default") -> None:
        """Points the alias at the model, after the server has loaded it. `generate` uses the alias `default`."""
        await self._kiln.send(_requests.promote(model_id, alias))

    async def delete(self, model_id: str) -> None:
        """Deletes the model and its files. Raises Conflict while an alias points at it."""
        await self._kiln.send(_requests.delete_model(model_id))


class AsyncPresets:
    """`kiln.presets`: the named configurations that jobs start from."""

    def __init__(self, kiln: AsyncKiln) -> None:
        self._kiln = kiln

    async def list(self) -> Sequence[dict[str, Any]]:
        return await self._kiln.send(_requests.list_presets())

    async def get(self, name: str) -> dict[str, Any]:
        """The preset's config, its parameter counts and the source of each value."""
        return await self._kiln.send(_requests.get_preset(name))
