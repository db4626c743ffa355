"""The synchronous client of the REST API.

    kiln = Kiln()                                     # takes KILN_URL and KILN_API_KEY, unless arguments replace them
    job = kiln.jobs.create("tiny", {"lr": 1e-4})
    job.wait(on_progress=lambda job: print(f"{job.progress.fraction:.0%}"))
    cats = kiln.generate("cat", n=16)                 # sixteen PIL images

The client retries after a response 429 or 503 and after a broken connection, no earlier than Retry-After says.
POST /jobs carries an Idempotency-Key, so a retry never creates a second job. Every other error response raises one of
`kiln.errors`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Self, TypeVar

import httpx2
from PIL import Image
from pydantic import PrivateAttr

from kiln import _downloads, _requests
from kiln._requests import Call, ClassName
from kiln._retry import EventStream, Retry
from kiln.datasets import Datasets
from kiln.errors import ApiError
from kiln.settings import read_client_settings
from kiln.sweeps import Sweeps
from kiln.types import Event, JobData, ModelData, VerificationData

T = TypeVar("T")


class Kiln:
    """A connection to one Kiln API. Threads may share it. Use it as a context manager, or call `close()`."""

    def __init__(
        self, url: str | None = None, api_key: str | None = None, *, timeout_s: float = 60.0, max_wait_s: float = 60.0
    ) -> None:
        """`timeout_s` bounds one attempt; `max_wait_s` bounds the waiting between attempts, and 0 disables retries.

        Raises InvalidSetting.
        """
        settings = read_client_settings(url, api_key)
        self._max_wait_s = max_wait_s
        self._http = httpx2.Client(base_url=settings.url, headers=settings.headers, timeout=timeout_s)
        self.jobs, self.models, self.datasets = Jobs(self), Models(self), Datasets(self)
        self.presets, self.sweeps = Presets(self), Sweeps(self)

    def generate(self, label: ClassName = None, n: int = 16, **options: Any) -> list[Image.Image]:
        """n RGB images of one class. Options as in GET /generate: model, seed, truncation, ..."""
        return self.send(_requests.generate(label, n, options))

    def generate_png(self, label: ClassName = None, n: int = 16, **options: Any) -> bytes:
        """The same as one grid with its provenance. Also takes `columns` and `scale`.

        A PNG by default; a smaller file with `format="webp"` or `"jpeg"`, and `quality`.
        """
        return self.send(_requests.generate_png(label, n, options))

    def generate_many(
        self, labels: str | Sequence[str | int] = "all", n: int = 16, **options: Any
    ) -> dict[str | None, list[Image.Image]]:
        """n images of each class, by class. Options as in POST /generate: model, seed, first_index, ..."""
        return self.send(_requests.generate_many(labels, n, options))

    def interpolate(
        self, start: ClassName = None, end: ClassName = None, steps: int = 16, **options: Any
    ) -> list[Image.Image]:
        """Images on the way from one class and latent vector to another. Options as in GET /interpolate."""
        return self.send(_requests.interpolate(start, end, steps, options))

    def interpolate_png(self, start: ClassName = None, end: ClassName = None, **options: Any) -> bytes:
        """The same as one PNG: a strip, or an animation with `format="apng"`."""
        return self.send(_requests.interpolate_png(start, end, options))

    def verify(self, png: bytes) -> VerificationData:
        """Whether the server reproduces this PNG, JPEG or WebP file from the provenance inside it."""
        return self.send(_requests.verify(png))

    def get(self, path: str, params: Mapping[str, Any] | None = None, *, accept: str = "*/*") -> httpx2.Response:
        """Sends GET to any path of the API, for plots, CSV, the OpenAPI document and other unparsed responses."""
        return self.send(_requests.get(path, params or {}, accept))

    def is_ready(self) -> bool:
        """Whether a model is loaded and the server can reach Redis. Sends one request, without retries."""
        return self._http.get("/readyz").status_code == httpx2.codes.OK

    def send(self, call: Call[T]) -> T:
        """Sends the request, with retries. Raises ApiError or httpx2.TransportError."""
        retry = Retry(call, self._max_wait_s)
        while True:
            try:
                return call.result(self._http.request(**call.request))
            except (httpx2.TransportError, ApiError) as error:
                time.sleep(retry.wait_s(error))

    def close(self) -> None:
        self._http.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


class Job(JobData):
    """A job in the state that the server last reported, with its actions. Each action returns the new state."""

    _jobs: Any = PrivateAttr(None)  # the namespace `Jobs` that made it

    def refresh(self) -> Job:
        return self._namespace.get(self.id)

    def cancel(self) -> Job:
        """Ends the job; it publishes no model."""
        return self._namespace.cancel(self.id)

    def pause(self) -> Job:
        """Writes a checkpoint and frees the worker."""
        return self._namespace.pause(self.id)

    def resume(self) -> Job:
        """Queues a paused or lost job again; it continues from its last checkpoint."""
        return self._namespace.resume(self.id)

    def finish(self) -> Job:
        """Stops training now and publishes the model so far."""
        return self._namespace.finish(self.id)

    def delete(self) -> None:
        """Deletes the job with its metrics, events and checkpoints. Raises Conflict unless it is over."""
        self._namespace.delete(self.id)

    def wait(self, on_progress: Callable[[Job], object] | None = None) -> Job:
        """Blocks until the job is over, whatever its outcome; calls `on_progress(job)` after each change."""
        return self._namespace.wait(self.id, on_progress)

    def events(self, after: str = "") -> Iterator[Event]:
        """Past and future events, until the job is over, from the event that follows the id `after`."""
        return (update for update in self._namespace.follow(self.id, after) if isinstance(update, Event))

    def series(self, after_nimg: int = -1) -> Sequence[dict[str, float]]:
        """The metrics series, one row per tick; `metrics` is its last row."""
        return self._namespace.series(self.id, after_nimg)

    def samples(self) -> Sequence[tuple[int, Image.Image]]:
        """The sample grids, oldest first: (images seen, grid). All grids show the same latent vectors."""
        return self._namespace.samples(self.id)

    @property
    def _namespace(self) -> Jobs:
        jobs: Jobs = self._jobs
        return jobs


class Jobs:
    """`kiln.jobs`: jobs that train, and jobs that generate data sets."""

    def __init__(self, kiln: Kiln) -> None:
        self._kiln = kiln

    def create(
        self, preset: str, overrides: Mapping[str, Any] | None = None, *,
        dataset: str | None = None, name: str | None = None, idempotency_key: str | None = None,
    ) -> Job:  # fmt: skip
        """Queues a job. Raises InvalidInput, which names each wrong field.

        The default data set is `cifar10`, or with `from_checkpoint` that job's data set.
        """
        return self._send(_requests.create_job(preset, overrides, dataset, name, idempotency_key))

    def dry_run(
        self, preset: str, overrides: Mapping[str, Any] | None = None, *, dataset: str | None = None
    ) -> dict[str, Any]:
        """The resolved config, without creating a job. Raises InvalidInput."""
        return self._kiln.send(_requests.dry_run(preset, overrides, dataset))

    def generate(
        self, n: int | None = None, *, classes: Mapping[str, int] | None = None, balance: str | None = None,
        idempotency_key: str | None = None, **options: Any,
    ) -> Job:  # fmt: skip
        """Queues a job that generates a data set: `n` images in all, or a number for each class, or what the smaller
        classes of the data set `balance` lack. Options as in POST /jobs: model, format, seed, min_confidence, ...

        Raises InvalidInput, which names each wrong field.
        """
        return self._send(_requests.generate_dataset(n, classes, balance, options, idempotency_key))

    def dataset(self, job_id: str) -> dict[str, Any]:
        """Describes the data set that a job has generated. Raises NotFound until it is complete."""
        return self._kiln.send(_requests.dataset_manifest(job_id))

    def download(self, job_id: str, folder: Path | str) -> Iterator[str]:
        """Downloads and unpacks the data set of a job, file by file, and yields the name of each file when it is done.

        Images go into a folder per class; tar shards stay files; `manifest.json` comes last. Raises NotFound, OSError.
        """
        manifest = self.dataset(job_id)
        for shard in manifest["shards"]:
            data = self._kiln.send(_requests.dataset_shard(job_id, shard["name"]))
            _downloads.write_shard(Path(folder), shard["name"], data)
            yield shard["name"]
        _downloads.write_manifest(Path(folder), manifest)

    def stream_dataset(self, job_id: str) -> Iterator[bytes]:
        """The data set of a job as one file, a ZIP or a tar, in parts. Raises NotFound; a broken connection ends it."""
        with self._kiln._http.stream(**_requests.dataset_archive(job_id).request) as response:
            if response.is_error:
                response.read()
                raise _requests.api_error(response)
            yield from response.iter_bytes()

    def get(self, job_id: str) -> Job:
        return self._send(_requests.get_job(job_id))

    def list(self, status: str | None = None, limit: int | None = None) -> Iterator[Job]:
        """Jobs, newest first. Each page is requested when the iteration reaches it."""
        after: str | None = None
        while limit is None or limit > 0:
            page = self._kiln.send(_requests.list_jobs(status, after, limit))
            yield from (self._bind(job) for job in page.data)
            if not page.has_more:
                return
            after, limit = page.data[-1].id, limit and limit - len(page.data)

    def cancel(self, job_id: str) -> Job:
        """Ends the job; it publishes no model."""
        return self._send(_requests.job_action(job_id, "cancel"))

    def pause(self, job_id: str) -> Job:
        """Writes a checkpoint and frees the worker."""
        return self._send(_requests.job_action(job_id, "pause"))

    def resume(self, job_id: str) -> Job:
        """Queues a paused or lost job again; it continues from its last checkpoint."""
        return self._send(_requests.job_action(job_id, "resume"))

    def finish(self, job_id: str) -> Job:
        """Stops training now and publishes the model so far."""
        return self._send(_requests.job_action(job_id, "finish"))

    def delete(self, job_id: str) -> None:
        """Deletes the job, its metrics, events and checkpoints; its model stays. Raises Conflict unless it is over."""
        self._kiln.send(_requests.delete_job(job_id))

    def wait(self, job_id: str, on_progress: Callable[[Job], object] | None = None) -> Job:
        """Blocks until the job is over, whatever its outcome; calls `on_progress(job)` after each change."""
        for update in self.follow(job_id):
            if isinstance(update, Job) and on_progress is not None:
                on_progress(update)
        return self.get(job_id)

    def follow(self, job_id: str, after: str = "") -> Iterator[Event | Job]:
        """Yields the job's events, and the job after each change, until it is over. Reconnections lose no event."""
        stream = EventStream(job_id, after, self._kiln._max_wait_s)
        while not stream.is_over:
            try:
                with self._kiln._http.stream(**stream.request) as response:
                    if response.is_error:
                        response.read()
                    for event in httpx2.EventSource(stream.check(response)):
                        for update in stream.parse(event):
                            yield self._bind(update) if isinstance(update, JobData) else update
                if not stream.is_over:
                    time.sleep(stream.reconnect_s)
            except (httpx2.TransportError, ApiError) as error:
                time.sleep(stream.wait_s(error))

    def series(self, job_id: str, after_nimg: int = -1) -> Sequence[dict[str, float]]:
        """The metrics series, one row per tick, from the first tick after `after_nimg` images."""
        return self._kiln.send(_requests.metrics(job_id, after_nimg))

    def samples(self, job_id: str) -> Sequence[tuple[int, Image.Image]]:
        """The sample grids, oldest first: (images seen, grid)."""
        positions = self.sample_positions(job_id)
        return [(nimg, _requests.decode_image(self.sample_png(job_id, nimg))) for nimg in positions]

    def sample_positions(self, job_id: str) -> Sequence[int]:
        """Images seen at each sample grid, oldest first."""
        return self._kiln.send(_requests.sample_positions(job_id))

    def sample_png(self, job_id: str, nimg: int) -> bytes:
        """The sample grid after `nimg` images."""
        return self._kiln.send(_requests.sample_png(job_id, nimg))

    def compare(self, jobs: Sequence[JobData | str]) -> Sequence[dict[str, Any]]:
        """One row per job: first and last losses, accuracies, metrics, time, and the config fields that differ."""
        return self._kiln.send(_requests.compare([job if isinstance(job, str) else job.id for job in jobs]))

    def _send(self, call: Call[JobData]) -> Job:
        return self._bind(self._kiln.send(call))

    def _bind(self, data: JobData) -> Job:
        job = Job.model_construct(**dict(data))
        job._jobs = self
        return job


class Models:
    """`kiln.models`: published models and the aliases that point at them."""

    def __init__(self, kiln: Kiln) -> None:
        self._kiln = kiln

    def list(self) -> Sequence[ModelData]:
        return self._kiln.send(_requests.list_models())

    def get(self, model_id: str) -> ModelData:
        return self._kiln.send(_requests.get_model(model_id))

    def preview(self, model_id: str) -> Image.Image:
        """Ten rows of ten images. If the model has ten classes, each row shows one class."""
        return _requests.decode_image(self._kiln.send(_requests.preview_png(model_id)))

    def neighbours(self, model_id: str) -> Image.Image:
        """The ten generated images nearest to a training image, and that image below each. NotFound if unmeasured."""
        return _requests.decode_image(self._kiln.send(_requests.neighbours_png(model_id)))

    def promote(self, model_id: str, alias: str = "default") -> None:
        """Points the alias at the model, after the server has loaded it. `generate` uses the alias `default`."""
        self._kiln.send(_requests.promote(model_id, alias))

    def delete(self, model_id: str) -> None:
        """Deletes the model and its files. Raises Conflict while an alias points at it."""
        self._kiln.send(_requests.delete_model(model_id))


class Presets:
    """`kiln.presets`: the named configurations that jobs start from."""

    def __init__(self, kiln: Kiln) -> None:
        self._kiln = kiln

    def list(self) -> Sequence[dict[str, Any]]:
        return self._kiln.send(_requests.list_presets())

    def get(self, name: str) -> dict[str, Any]:
        """The preset's config, its parameter counts and the source of each value."""
        return self._kiln.send(_requests.get_preset(name))
