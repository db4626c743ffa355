"""The Python client: `from kiln.client import Kiln`. It speaks to the REST API, and to nothing else.

    kiln = Kiln()                                     # KILN_URL and KILN_API_KEY, or what you pass
    job = kiln.jobs.create("tiny", overrides={"lr": 1e-4})
    job.wait(on_progress=lambda job: print(f"{job.progress.fraction:.0%}"))
    cats = kiln.generate("cat", n=16)                 # sixteen PIL images

`AsyncKiln` has the same methods, to be awaited. 429 and 503 are tried again, as late as Retry-After says; a POST /jobs
carries an Idempotency-Key, so a repetition never makes a second job. Whatever the API refuses is raised as one of the
errors of `kiln._requests`.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from typing import Any, Self, TypeVar

import httpx2
from PIL import Image
from pydantic import PrivateAttr

from kiln import _requests as wire
from kiln._requests import Call, JobData, ModelData, VerificationData
from kiln._retry import EventStream, Retry
from kiln.sweeps import Sweeps
from shared.jobs.record import Event
from shared.settings import read_client_settings

T = TypeVar("T")
Jsonable = Mapping[str, Any]


class Kiln:
    """A connection to one Kiln API. Safe to share between threads; use it as a context manager or `close()` it."""

    def __init__(
        self, url: str | None = None, api_key: str | None = None, *, timeout_s: float = 60.0, max_wait_s: float = 60.0
    ) -> None:
        """`max_wait_s` bounds the time spent waiting between repetitions of one call; 0: never repeat."""
        self._max_wait_s = max_wait_s
        self._http = httpx2.Client(**wire.connection(read_client_settings(url, api_key), timeout_s))
        self.jobs, self.models, self.presets, self.sweeps = Jobs(self), Models(self), Presets(self), Sweeps(self)

    def generate(self, label: str | int | None = None, n: int = 16, **options: Any) -> list[Image.Image]:
        """n images of one class, 32x32 RGB. Options as in GET /generate: model, seed, truncation."""
        return self.send(wire.generate(label, n, options))

    def generate_png(self, label: str | int | None = None, n: int = 16, **options: Any) -> bytes:
        """The same as one PNG sheet, with its provenance; `columns` and `scale` as in GET /generate."""
        return self.send(wire.generate_png(label, n, options))

    def generate_many(
        self, labels: str | Sequence[str | int] = "all", n: int = 16, **options: Any
    ) -> dict[str | None, list[Image.Image]]:
        """n images of each of the classes, by class. Options as in POST /generate: model, seed, first_index, ..."""
        return self.send(wire.generate_many(labels, n, options))

    def interpolate(
        self, start: str | int | None = None, end: str | int | None = None, steps: int = 16, **options: Any
    ) -> list[Image.Image]:
        """From one class and latent vector to another. Options as in GET /interpolate: model, seed, from_index, ..."""
        return self.send(wire.interpolate(start, end, steps, options))

    def interpolate_png(self, start: str | int | None = None, end: str | int | None = None, **options: Any) -> bytes:
        """The same as one PNG: a strip, or with `format="apng"` an animation."""
        return self.send(wire.interpolate_png(start, end, options))

    def verify(self, png: bytes) -> VerificationData:
        """Whether the API makes that very PNG, by what the file says about itself; if not, `reason` says why."""
        return self.send(wire.verify(png))

    def is_ready(self) -> bool:
        """Whether a model is warm and Redis answers."""
        return self._http.get("/readyz").status_code == httpx2.codes.OK

    def send(self, call: Call[T]) -> T:
        """Makes the call, again and again if need be. Raises the errors of `kiln._requests`."""
        retry = Retry(call, self._max_wait_s)
        while True:
            try:
                return call.take(self._http.request(**call.request))
            except (httpx2.TransportError, wire.ApiError) as error:
                time.sleep(retry.wait_s(error))

    def follow(self, job_id: str, after: str = "") -> Iterator[Event | JobData]:
        """The job's events as they happen, and the job itself whenever it changed, until it is over.

        A connection that breaks is made again, where the stream was left.
        """
        stream = EventStream(job_id, after, self._max_wait_s)
        while not stream.is_over:
            try:
                with self._http.stream(**stream.request) as answer:
                    if answer.is_error:
                        answer.read()
                    for event in httpx2.EventSource(stream.accept(answer)):
                        yield from stream.take(event)
                if not stream.is_over:
                    time.sleep(stream.pause_s)
            except (httpx2.TransportError, wire.ApiError) as error:
                time.sleep(stream.wait_s(error))

    def close(self) -> None:
        self._http.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


class Job(JobData):
    """A job as it was when last looked at, with what can be done to it. Each method returns it as it is then."""

    _kiln: Any = PrivateAttr(None)  # the connection it came over; no part of the data

    def refresh(self) -> Job:
        return self._jobs.get(self.id)

    def cancel(self) -> Job:
        return self._jobs.act(self.id, "cancel")

    def pause(self) -> Job:
        return self._jobs.act(self.id, "pause")

    def resume(self) -> Job:
        return self._jobs.act(self.id, "resume")

    def finish(self) -> Job:
        """Stops training now and keeps the model so far."""
        return self._jobs.act(self.id, "finish")

    def wait(self, on_progress: Callable[[Job], object] | None = None) -> Job:
        """Returns the job when it is over, however it ended. `on_progress(job)` is called whenever it changed."""
        for news in self._kiln.follow(self.id):
            if isinstance(news, JobData) and on_progress is not None:
                on_progress(self._jobs.bind(news))
        return self.refresh()

    def events(self, after: str = "") -> Iterator[Event]:
        """What happened to it and what happens, until it is over."""
        return (news for news in self._kiln.follow(self.id, after) if isinstance(news, Event))

    def series(self, after_nimg: int = -1) -> list[dict[str, float]]:
        """The metrics series, one row per tick; `metrics` is its last row."""
        rows: list[dict[str, float]] = self._kiln.send(wire.metrics(self.id, after_nimg))
        return rows

    def samples(self) -> list[tuple[int, Image.Image]]:
        """The sample grids, oldest first: images seen, and a picture of the same latents each time."""
        positions = [row["nimg"] for row in self._kiln.send(wire.list_samples(self.id))]
        return [(nimg, wire.picture(self._kiln.send(wire.sample_png(self.id, nimg)))) for nimg in positions]

    @property
    def _jobs(self) -> Jobs:
        jobs: Jobs = self._kiln.jobs
        return jobs


class Jobs:
    """`kiln.jobs`"""

    def __init__(self, kiln: Kiln) -> None:
        self._kiln = kiln

    def create(
        self, preset: str, overrides: Jsonable | None = None, *,
        dataset: str = "cifar10", name: str | None = None, idempotency_key: str | None = None,
    ) -> Job:  # fmt: skip
        """Queues a job. Raises InvalidInput, which names each wrong field."""
        return self.bind(self._kiln.send(wire.create_job(preset, overrides, dataset, name, idempotency_key)))

    def dry_run(self, preset: str, overrides: Jsonable | None = None, *, dataset: str = "cifar10") -> dict[str, Any]:
        """The config that would be trained. Raises InvalidInput."""
        return self._kiln.send(wire.dry_run(preset, overrides, dataset))

    def get(self, job_id: str) -> Job:
        return self.bind(self._kiln.send(wire.get_job(job_id)))

    def list(self, status: str | None = None, limit: int | None = None) -> Iterator[Job]:
        """Jobs, newest first; page after page as they are asked for."""
        after: str | None = None
        while limit is None or limit > 0:
            page = self._kiln.send(wire.list_jobs(status, after, limit))
            yield from (self.bind(job) for job in page.data)
            if not page.has_more:
                return
            after, limit = page.data[-1].id, limit and limit - len(page.data)

    def compare(self, jobs: Sequence[Job | str]) -> Sequence[dict[str, Any]]:
        """One row for each: first and last losses, accuracies, figures, time."""
        return self._kiln.send(wire.compare([job if isinstance(job, str) else job.id for job in jobs]))

    def act(self, job_id: str, what: str) -> Job:
        """`cancel`, `pause`, `resume` or `finish`."""
        return self.bind(self._kiln.send(wire.act(job_id, what)))

    def bind(self, data: JobData) -> Job:
        job = Job.model_construct(**dict(data))
        job._kiln = self._kiln
        return job


class Models:
    """`kiln.models`"""

    def __init__(self, kiln: Kiln) -> None:
        self._kiln = kiln

    def list(self) -> Sequence[ModelData]:
        return self._kiln.send(wire.list_models())

    def get(self, model_id: str) -> ModelData:
        return self._kiln.send(wire.get_model(model_id))

    def preview(self, model_id: str) -> Image.Image:
        """Ten rows of ten images, a class in each row where there are ten."""
        return wire.picture(self._kiln.send(wire.preview_png(model_id)))

    def promote(self, model_id: str, alias: str = "default") -> None:
        """Points the alias at the model, once that is warm."""
        self._kiln.send(wire.promote(model_id, alias))

    def delete(self, model_id: str) -> None:
        """Takes the model away for good. Raises Conflict while an alias points at it."""
        self._kiln.send(wire.delete_model(model_id))


class Presets:
    """`kiln.presets`"""

    def __init__(self, kiln: Kiln) -> None:
        self._kiln = kiln

    def list(self) -> Sequence[dict[str, Any]]:
        return self._kiln.send(wire.list_presets())

    def get(self, name: str) -> dict[str, Any]:
        return self._kiln.send(wire.get_preset(name))


class AsyncKiln:
    """The same for asyncio: `async with AsyncKiln() as kiln: job = await kiln.create_job("tiny")`."""

    def __init__(
        self, url: str | None = None, api_key: str | None = None, *, timeout_s: float = 60.0, max_wait_s: float = 60.0
    ) -> None:
        self._max_wait_s = max_wait_s
        self._http = httpx2.AsyncClient(**wire.connection(read_client_settings(url, api_key), timeout_s))

    async def generate(self, label: str | int | None = None, n: int = 16, **options: Any) -> list[Image.Image]:
        return await self.send(wire.generate(label, n, options))

    async def generate_many(
        self, labels: str | Sequence[str | int] = "all", n: int = 16, **options: Any
    ) -> dict[str | None, list[Image.Image]]:
        return await self.send(wire.generate_many(labels, n, options))

    async def interpolate(
        self, start: str | int | None = None, end: str | int | None = None, steps: int = 16, **options: Any
    ) -> list[Image.Image]:
        return await self.send(wire.interpolate(start, end, steps, options))

    async def verify(self, png: bytes) -> VerificationData:
        return await self.send(wire.verify(png))

    async def create_job(
        self, preset: str, overrides: Jsonable | None = None, *,
        dataset: str = "cifar10", name: str | None = None, idempotency_key: str | None = None,
    ) -> JobData:  # fmt: skip
        return await self.send(wire.create_job(preset, overrides, dataset, name, idempotency_key))

    async def get_job(self, job_id: str) -> JobData:
        return await self.send(wire.get_job(job_id))

    async def act(self, job_id: str, what: str) -> JobData:
        """`cancel`, `pause`, `resume` or `finish`."""
        return await self.send(wire.act(job_id, what))

    async def wait(self, job_id: str, on_progress: Callable[[JobData], object] | None = None) -> JobData:
        """The job, when it is over."""
        async for news in self.follow(job_id):
            if isinstance(news, JobData) and on_progress is not None:
                on_progress(news)
        return await self.get_job(job_id)

    async def send(self, call: Call[T]) -> T:
        """As Kiln.send; every call of `kiln._requests` can be made through it."""
        retry = Retry(call, self._max_wait_s)
        while True:
            try:
                return call.take(await self._http.request(**call.request))
            except (httpx2.TransportError, wire.ApiError) as error:
                await asyncio.sleep(retry.wait_s(error))

    async def follow(self, job_id: str, after: str = "") -> AsyncIterator[Event | JobData]:
        stream = EventStream(job_id, after, self._max_wait_s)
        while not stream.is_over:
            try:
                async with self._http.stream(**stream.request) as answer:
                    if answer.is_error:
                        await answer.aread()
                    async for event in httpx2.EventSource(stream.accept(answer)):
                        for news in stream.take(event):
                            yield news
                if not stream.is_over:
                    await asyncio.sleep(stream.pause_s)
            except (httpx2.TransportError, wire.ApiError) as error:
                await asyncio.sleep(stream.wait_s(error))

    async def aclose(self) -> None:
        await self._http.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *error: object) -> None:
        await self.aclose()
