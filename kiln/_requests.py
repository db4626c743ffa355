"""What the clients say to the API and how they read its answers: calls, answers, errors. Sends nothing itself.

ApiError                 any answer that is no success; carries status, title, detail and `problems`
├── InvalidInput         422; each problem names a field, its value and what is wrong
├── Unauthorized         401 and 403: no key, a wrong one, or one without the right
├── NotFound             404
├── Conflict             409
└── Unavailable          429 and 503, when waiting did not help
"""

from __future__ import annotations

import base64
import io
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from http import HTTPStatus
from typing import Any, Generic, TypeVar
from urllib.parse import quote

import httpx2
from PIL import Image
from pydantic import BaseModel, ConfigDict

from shared.jobs.record import TERMINAL, JobStatus, Progress
from shared.settings import ClientSettings

T = TypeVar("T")


class ApiError(Exception):
    """The API answered, and not with a success."""

    def __init__(self, status: int, body: Mapping[str, Any], retry_after_s: float | None = None) -> None:
        self.status, self.retry_after_s = status, retry_after_s
        self.title, self.detail = str(body.get("title", "")), str(body.get("detail", ""))
        self.problems: Sequence[Mapping[str, Any]] = body.get("errors", ())
        super().__init__(f"{status} {self.title}: {self.detail}")


class InvalidInput(ApiError):
    """422: the values of some fields cannot be used; `problems` names each."""


class Unauthorized(ApiError):
    """401 or 403: the API wants a key (KILN_API_KEY), or one that may do this."""


class NotFound(ApiError):
    """404: there is no such job, model, preset or alias."""


class Conflict(ApiError):
    """409: the request is fine, but not for what it met."""


class Unavailable(ApiError):
    """429 or 503: too much to do, no model yet, or Redis is away."""


ERRORS: dict[int, type[ApiError]] = {
    401: Unauthorized, 403: Unauthorized, 404: NotFound, 409: Conflict, 422: InvalidInput, 429: Unavailable,
    503: Unavailable,
}  # fmt: skip


class _Data(BaseModel):
    # A newer API may say more than this client knows of.
    model_config = ConfigDict(extra="ignore", protected_namespaces=())


class JobData(_Data):
    """A job as the API shows it."""

    id: str
    preset: str
    name: str | None
    dataset: str
    status: JobStatus
    reason: str | None
    error: str | None
    attempt: int
    progress: Progress
    metrics: dict[str, float]
    config: dict[str, Any]
    created_at: datetime
    started_at: datetime | None
    finished_at: datetime | None
    model_id: str | None
    links: dict[str, str]

    @property
    def is_over(self) -> bool:
        return self.status in TERMINAL


class JobPage(_Data):
    data: list[JobData]
    has_more: bool


class ModelData(_Data):
    """A model as the API shows it: manifest, aliases that point at it, and why it is not served, if it is not."""

    manifest: dict[str, Any]
    aliases: list[str]
    refused: str | None
    provider: str | None = None
    memory_bytes: int | None = None

    @property
    def id(self) -> str:
        return str(self.manifest["id"])


class VerificationData(_Data):
    """Whether the server makes a PNG again, and if not, why."""

    reproduced: bool
    same_pixels: bool
    reason: str | None
    provenance: dict[str, Any] | None


@dataclass(frozen=True)
class Call(Generic[T]):
    """One request and how to read its answer."""

    method: str
    path: str
    parse: Callable[[httpx2.Response], T]
    params: Mapping[str, Any] = field(default_factory=dict)
    json: Any = None
    content: bytes | None = None
    headers: Mapping[str, str] = field(default_factory=dict)

    @property
    def request(self) -> dict[str, Any]:
        params = {name: value for name, value in self.params.items() if value is not None}
        body = {"json": self.json} if self.content is None else {"content": self.content}
        return {"method": self.method, "url": self.path, "params": params, "headers": self.headers, **body}

    def take(self, answer: httpx2.Response) -> T:
        """Raises ApiError."""
        if answer.is_error:
            raise error_of(answer)
        return self.parse(answer)


def create_job(
    preset: str, overrides: Mapping[str, Any] | None, dataset: str, name: str | None, idempotency_key: str | None
) -> Call[JobData]:
    body = {"preset": preset, "overrides": dict(overrides or {}), "dataset": dataset, "name": name}
    headers = {"Idempotency-Key": idempotency_key or str(uuid.uuid4())}
    return Call("POST", "/jobs", _as(JobData), json=body, headers=headers)


def dry_run(preset: str, overrides: Mapping[str, Any] | None, dataset: str) -> Call[dict[str, Any]]:
    body = {"preset": preset, "overrides": dict(overrides or {}), "dataset": dataset}
    return Call("POST", "/jobs", _json, params={"dry_run": "true"}, json=body)


def get_job(job_id: str) -> Call[JobData]:
    return Call("GET", f"/jobs/{part(job_id)}", _as(JobData))


def list_jobs(status: str | None, after: str | None, limit: int | None) -> Call[JobPage]:
    params = {"status": status, "after": after, "limit": min(limit or 100, 100)}
    return Call("GET", "/jobs", _as(JobPage), params=params)


def act(job_id: str, what: str) -> Call[JobData]:
    return Call("POST", f"/jobs/{part(job_id)}/{what}", _as(JobData))  # each of them may be asked for twice


def metrics(job_id: str, after_nimg: int) -> Call[list[dict[str, float]]]:
    return Call("GET", f"/jobs/{part(job_id)}/metrics", _data, params={"after": after_nimg})


def list_samples(job_id: str) -> Call[list[dict[str, Any]]]:
    return Call("GET", f"/jobs/{part(job_id)}/samples", _data)


def sample_png(job_id: str, nimg: int) -> Call[bytes]:
    return Call("GET", f"/jobs/{part(job_id)}/samples/{nimg}.png", _content)


def compare(job_ids: Sequence[str]) -> Call[list[dict[str, Any]]]:
    return Call("GET", "/compare", _data, params={"jobs": ",".join(job_ids)})


def list_sweeps() -> Call[list[dict[str, Any]]]:
    return Call("GET", "/sweeps", _data)


def get_sweep(sweep_id: str) -> Call[dict[str, Any]]:
    return Call("GET", f"/sweeps/{part(sweep_id)}", _json)


def cancel_sweep(sweep_id: str) -> Call[dict[str, Any]]:
    return Call("POST", f"/sweeps/{part(sweep_id)}/cancel", _json)


def promote_best(sweep_id: str) -> Call[dict[str, Any]]:
    return Call("POST", f"/sweeps/{part(sweep_id)}/promote", _json, json={})


def list_models() -> Call[list[ModelData]]:
    return Call("GET", "/models", lambda answer: [ModelData.model_validate(row) for row in _data(answer)])


def get_model(model_id: str) -> Call[ModelData]:
    return Call("GET", f"/models/{part(model_id)}", _as(ModelData))


def promote(model_id: str, alias: str) -> Call[dict[str, Any]]:
    return Call("PUT", f"/aliases/{part(alias)}", _json, json={"model_id": model_id})


def preview_png(model_id: str) -> Call[bytes]:
    return Call("GET", f"/models/{part(model_id)}/preview.png", _content)


def readiness() -> Call[dict[str, Any]]:
    """Raises Unavailable when no model is warm or Redis is away."""
    return Call("GET", "/readyz", _json)


def description() -> Call[dict[str, Any]]:
    """The API as it describes itself: OpenAPI."""
    return Call("GET", "/openapi.json", _json)


def file(path: str, params: Mapping[str, Any], accept: str) -> Call[httpx2.Response]:
    """Anything that can be read, as it comes."""
    return Call("GET", path, lambda answer: answer, params=params, headers={"Accept": accept})


def list_presets() -> Call[list[dict[str, Any]]]:
    return Call("GET", "/presets", _data)


def get_preset(name: str) -> Call[dict[str, Any]]:
    return Call("GET", f"/presets/{part(name)}", _json)


def verify(png: bytes) -> Call[VerificationData]:
    return Call("POST", "/verify", _as(VerificationData), content=png, headers={"Content-Type": "image/png"})


def interpolate_png(start: str | int | None, end: str | int | None, options: Mapping[str, Any]) -> Call[bytes]:
    return Call("GET", "/interpolate", lambda answer: answer.content, params={"from": start, "to": end, **options})


def interpolate(
    start: str | int | None, end: str | int | None, steps: int, options: Mapping[str, Any]
) -> Call[list[Image.Image]]:
    params = {"from": start, "to": end, "steps": steps, **options, "columns": steps}
    return Call("GET", "/interpolate", lambda answer: _tiles(answer.content, steps), params=params)


def generate_many(
    labels: str | Sequence[str | int] | None, n: int, options: Mapping[str, Any]
) -> Call[dict[str | None, list[Image.Image]]]:
    body = {"class": list(labels) if not isinstance(labels, str | None) else labels, "n": n, **options}
    return Call("POST", "/generate", _by_class, json=body | {"format": "json"})


def delete_model(model_id: str) -> Call[None]:
    return Call("DELETE", f"/models/{part(model_id)}", lambda _: None)


def generate_png(label: str | int | None, n: int, options: Mapping[str, Any]) -> Call[bytes]:
    return Call("GET", "/generate", _content, params={"class": label, "n": n, **options})


def generate(label: str | int | None, n: int, options: Mapping[str, Any]) -> Call[list[Image.Image]]:
    params = {"class": label, "n": n, **options, "columns": n}
    return Call("GET", "/generate", lambda answer: _tiles(answer.content, n), params=params)


def picture(png: bytes) -> Image.Image:
    with Image.open(io.BytesIO(png)) as image:
        return image.convert("RGB")


def connection(settings: ClientSettings, timeout_s: float) -> dict[str, Any]:
    """What httpx2's clients are made with."""
    key = settings.api_key.get_secret_value() if settings.api_key else None
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    return {"base_url": settings.url, "headers": headers, "timeout": timeout_s}


def error_of(answer: httpx2.Response) -> ApiError:
    try:
        body = answer.json()
    except ValueError:
        body = None
    if not isinstance(body, dict):  # not Kiln's: a proxy's, say
        body = {"title": HTTPStatus(answer.status_code).phrase, "detail": answer.text[:200]}
    after = answer.headers.get("retry-after", "")
    kind = ERRORS.get(answer.status_code, ApiError)
    return kind(answer.status_code, body, float(after) if after.isdigit() else None)


def _as(model: type[T]) -> Callable[[httpx2.Response], T]:
    def parse(answer: httpx2.Response) -> T:
        value: T = model.model_validate_json(answer.content)  # type: ignore[attr-defined]
        return value

    return parse


def _json(answer: httpx2.Response) -> Any:
    return answer.json()


def _data(answer: httpx2.Response) -> Any:
    return answer.json()["data"]


def _content(answer: httpx2.Response) -> bytes:
    return answer.content


def _tiles(png: bytes, n: int) -> list[Image.Image]:
    with Image.open(io.BytesIO(png)) as sheet:
        size = sheet.width // n
        return [sheet.crop((i * size, 0, (i + 1) * size, sheet.height)) for i in range(n)]


def _by_class(answer: httpx2.Response) -> dict[str | None, list[Image.Image]]:
    found: dict[str | None, list[Image.Image]] = {}
    for row in answer.json()["images"]:
        with Image.open(io.BytesIO(base64.b64decode(row["png"]))) as image:
            found.setdefault(row["class"], []).append(image.convert("RGB"))
    return found


def part(name: str) -> str:
    """A name as one segment of a path, whatever is in it."""
    return quote(name, safe="")
