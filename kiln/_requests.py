"""Builds the requests that both clients send, and parses their responses. The clients do the sending."""

from __future__ import annotations

import base64
import io
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any, Generic, TypeVar
from urllib.parse import quote

import httpx2
from PIL import Image
from pydantic import BaseModel

from kiln.errors import ERRORS, ApiError
from kiln.types import DatasetData, JobData, JobPage, ModelData, VerificationData

T = TypeVar("T")
M = TypeVar("M", bound=BaseModel)
ClassName = str | int | None
PUSH_TIMEOUT_S = 3600.0  # after the last byte, while the server reads all images
PAGE = 100  # the most jobs that the API lists at once


@dataclass(frozen=True)
class Call(Generic[T]):
    """One request, and how to parse its response."""

    method: str
    path: str
    parse: Callable[[httpx2.Response], T]
    params: Mapping[str, Any] = field(default_factory=dict)
    json: Any = None
    content: bytes | Callable[[], Any] | None = None  # or a function that starts a stream of bytes anew
    headers: Mapping[str, str] = field(default_factory=dict)
    timeout: httpx2.Timeout | None = None  # None: that of the client
    is_repeatable: bool = True  # False if its content can be read only once

    @property
    def request(self) -> dict[str, Any]:
        """Keyword arguments of httpx2's `request` and `stream`."""
        params = {name: value for name, value in self.params.items() if value is not None}
        body: dict[str, Any] = {"json": self.json}
        if self.content is not None:
            body = {"content": self.content() if callable(self.content) else self.content}
        timeout = {} if self.timeout is None else {"timeout": self.timeout}
        return {"method": self.method, "url": self.path, "params": params, "headers": self.headers, **body, **timeout}

    def result(self, response: httpx2.Response) -> T:
        """The parsed response. Raises ApiError."""
        if response.is_error:
            raise api_error(response)
        return self.parse(response)


def api_error(response: httpx2.Response) -> ApiError:
    """The exception for an error response, whose body must have been read."""
    try:
        body = response.json()
    except ValueError:
        body = None
    if not isinstance(body, dict):  # not from Kiln but, say, from a proxy
        phrases = {status.value: status.phrase for status in HTTPStatus}
        body = {"title": phrases.get(response.status_code, "Error"), "detail": response.text[:200]}
    retry_after = response.headers.get("retry-after", "")
    error = ERRORS.get(response.status_code, ApiError)
    return error(response.status_code, body, float(retry_after) if retry_after.isdigit() else None)


# Jobs


def create_job(
    preset: str, overrides: Mapping[str, Any] | None, dataset: str | None, name: str | None, idempotency_key: str | None
) -> Call[JobData]:
    body = _job_body(preset, overrides, dataset) | {"name": name}
    return Call("POST", "/jobs", _model(JobData), json=body, headers=_idempotency(idempotency_key))


def dry_run(preset: str, overrides: Mapping[str, Any] | None, dataset: str | None) -> Call[dict[str, Any]]:
    body = _job_body(preset, overrides, dataset)
    return Call("POST", "/jobs", _json, params={"dry_run": "true"}, json=body)


def _job_body(preset: str, overrides: Mapping[str, Any] | None, dataset: str | None) -> dict[str, Any]:
    body = {"preset": preset, "overrides": dict(overrides or {})}
    return body if dataset is None else body | {"dataset": dataset}  # without one, the API chooses its default


def get_job(job_id: str) -> Call[JobData]:
    return Call("GET", f"/jobs/{path_segment(job_id)}", _model(JobData))


def list_jobs(status: str | None, after: str | None, limit: int | None) -> Call[JobPage]:
    """One page, newest first; `after` is the id of the last job of the page before."""
    params = {"status": status, "after": after, "limit": min(limit or PAGE, PAGE)}
    return Call("GET", "/jobs", _model(JobPage), params=params)


def job_action(job_id: str, action: str) -> Call[JobData]:
    """`cancel`, `pause`, `resume` or `finish`. All of them are idempotent."""
    return Call("POST", f"/jobs/{path_segment(job_id)}/{action}", _model(JobData))


def delete_job(job_id: str) -> Call[None]:
    return Call("DELETE", f"/jobs/{path_segment(job_id)}", lambda _: None)


def generate_dataset(
    n: int | None, classes: Mapping[str, int] | None, balance: str | None, options: Mapping[str, Any],
    idempotency_key: str | None,
) -> Call[JobData]:  # fmt: skip
    sizes = {"n": n, "classes": classes, "balance": balance and {"dataset": balance}}
    body = {"kind": "generate"} | {name: value for name, value in (sizes | dict(options)).items() if value is not None}
    return Call("POST", "/jobs", _model(JobData), json=body, headers=_idempotency(idempotency_key))


def dataset_manifest(job_id: str) -> Call[dict[str, Any]]:
    return Call("GET", f"/jobs/{path_segment(job_id)}/dataset", _json)


def dataset_shard(job_id: str, name: str) -> Call[bytes]:
    return Call("GET", f"/jobs/{path_segment(job_id)}/dataset/{path_segment(name)}", _content)


def dataset_archive(job_id: str) -> Call[bytes]:
    return Call("GET", f"/jobs/{path_segment(job_id)}/dataset/download", _content)


def events(job_id: str) -> Call[Any]:
    """The stream of events, when sent with `Accept: text/event-stream`."""
    return Call("GET", f"/jobs/{path_segment(job_id)}/events", _json)


def metrics(job_id: str, after_nimg: int) -> Call[list[dict[str, float]]]:
    return Call("GET", f"/jobs/{path_segment(job_id)}/metrics", _data, params={"after": after_nimg})


def sample_positions(job_id: str) -> Call[list[int]]:
    path = f"/jobs/{path_segment(job_id)}/samples"
    return Call("GET", path, lambda response: [int(row["nimg"]) for row in _data(response)])


def sample_png(job_id: str, nimg: int) -> Call[bytes]:
    return Call("GET", f"/jobs/{path_segment(job_id)}/samples/{nimg}.png", _content)


def compare(job_ids: Sequence[str]) -> Call[list[dict[str, Any]]]:
    return Call("GET", "/compare", _data, params={"jobs": ",".join(job_ids)})


# Sweeps


def create_sweep(body: Mapping[str, Any], idempotency_key: str | None = None) -> Call[dict[str, Any]]:
    return Call("POST", "/sweeps", _json, json=body, headers=_idempotency(idempotency_key))


def dry_run_sweep(body: Mapping[str, Any]) -> Call[dict[str, Any]]:
    return Call("POST", "/sweeps", _json, params={"dry_run": "true"}, json=body)


def list_sweeps() -> Call[list[dict[str, Any]]]:
    return Call("GET", "/sweeps", _data)


def get_sweep(sweep_id: str) -> Call[dict[str, Any]]:
    return Call("GET", f"/sweeps/{path_segment(sweep_id)}", _json)


def cancel_sweep(sweep_id: str) -> Call[dict[str, Any]]:
    return Call("POST", f"/sweeps/{path_segment(sweep_id)}/cancel", _json)


def promote_best(sweep_id: str, alias: str = "default") -> Call[dict[str, Any]]:
    return Call("POST", f"/sweeps/{path_segment(sweep_id)}/promote", _json, json={"alias": alias})


# Data sets


def push_dataset(name: str, content: Callable[[], Any], size: int, *, is_repeatable: bool = True) -> Call[DatasetData]:
    headers = {"Content-Type": "application/octet-stream", "Content-Length": str(size)}
    timeout = httpx2.Timeout(60.0, read=PUSH_TIMEOUT_S)
    path = f"/datasets/{path_segment(name)}"
    return Call("PUT", path, _model(DatasetData), content=content, headers=headers, timeout=timeout,
                is_repeatable=is_repeatable)  # fmt: skip


def list_datasets() -> Call[list[DatasetData]]:
    return Call("GET", "/datasets", lambda response: [DatasetData.model_validate(row) for row in _data(response)])


def get_dataset(name: str) -> Call[DatasetData]:
    timeout = httpx2.Timeout(60.0, read=PUSH_TIMEOUT_S)  # the first request for a folder reads all of its images
    return Call("GET", f"/datasets/{path_segment(name)}", _model(DatasetData), timeout=timeout)


def dataset_preview_png(name: str) -> Call[bytes]:
    return Call("GET", f"/datasets/{path_segment(name)}/preview.png", _content)


def delete_dataset(name: str) -> Call[None]:
    return Call("DELETE", f"/datasets/{path_segment(name)}", lambda _: None)


# Models and presets


def list_models() -> Call[list[ModelData]]:
    return Call("GET", "/models", lambda response: [ModelData.model_validate(row) for row in _data(response)])


def get_model(model_id: str) -> Call[ModelData]:
    return Call("GET", f"/models/{path_segment(model_id)}", _model(ModelData))


def promote(model_id: str, alias: str) -> Call[dict[str, Any]]:
    return Call("PUT", f"/aliases/{path_segment(alias)}", _json, json={"model_id": model_id})


def preview_png(model_id: str) -> Call[bytes]:
    return Call("GET", f"/models/{path_segment(model_id)}/preview.png", _content)


def neighbours_png(model_id: str) -> Call[bytes]:
    return Call("GET", f"/models/{path_segment(model_id)}/neighbours.png", _content)


def delete_model(model_id: str) -> Call[None]:
    return Call("DELETE", f"/models/{path_segment(model_id)}", lambda _: None)


def list_presets() -> Call[list[dict[str, Any]]]:
    return Call("GET", "/presets", _data)


def get_preset(name: str) -> Call[dict[str, Any]]:
    return Call("GET", f"/presets/{path_segment(name)}", _json)


# Images


def generate(label: ClassName, n: int, options: Mapping[str, Any]) -> Call[list[Image.Image]]:
    params = {"class": label, "n": n, **options, "columns": n}
    return Call("GET", "/generate", lambda response: _tiles(response.content, n), params=params)


def generate_png(label: ClassName, n: int, options: Mapping[str, Any]) -> Call[bytes]:
    return Call("GET", "/generate", _content, params={"class": label, "n": n, **options})


def generate_many(
    labels: str | Sequence[str | int] | None, n: int, options: Mapping[str, Any]
) -> Call[dict[str | None, list[Image.Image]]]:
    body = {"class": labels if isinstance(labels, str | None) else list(labels), "n": n, **options}
    return Call("POST", "/generate", _images_by_class, json=body | {"format": "json"})


def interpolate(start: ClassName, end: ClassName, steps: int, options: Mapping[str, Any]) -> Call[list[Image.Image]]:
    params = {"from": start, "to": end, "steps": steps, **options, "columns": steps}
    return Call("GET", "/interpolate", lambda response: _tiles(response.content, steps), params=params)


def interpolate_png(start: ClassName, end: ClassName, options: Mapping[str, Any]) -> Call[bytes]:
    return Call("GET", "/interpolate", _content, params={"from": start, "to": end, **options})


def verify(image: bytes) -> Call[VerificationData]:
    return Call(
        "POST", "/verify", _model(VerificationData), content=image, headers={"Content-Type": _image_type(image)}
    )


# The server itself


def get(path: str, params: Mapping[str, Any], accept: str) -> Call[httpx2.Response]:
    """GET on any path, in the media type `accept`, as an unparsed response."""
    return Call("GET", path, lambda response: response, params=params, headers={"Accept": accept})


def path_segment(name: str) -> str:
    """A name as one segment of a path; slashes and dots in it cannot leave the segment."""
    return quote(name, safe="")


def decode_image(png: bytes) -> Image.Image:
    with Image.open(io.BytesIO(png)) as image:
        return image.convert("RGB")


def _image_type(data: bytes) -> str:
    """The media type by the first bytes of the file."""
    if data.startswith(b"\xff\xd8\xff"):
        return "image/jpeg"
    return "image/webp" if data[8:12] == b"WEBP" else "image/png"


def _idempotency(key: str | None) -> dict[str, str]:
    return {"Idempotency-Key": key or str(uuid.uuid4())}


def _model(model: type[M]) -> Callable[[httpx2.Response], M]:
    return lambda response: model.model_validate_json(response.content)


def _json(response: httpx2.Response) -> Any:
    return response.json()


def _data(response: httpx2.Response) -> Any:
    return response.json()["data"]


def _content(response: httpx2.Response) -> bytes:
    return response.content


def _tiles(png: bytes, n: int) -> list[Image.Image]:
    """The images of a grid of one row."""
    with Image.open(io.BytesIO(png)) as grid:
        size = grid.width // n
        return [grid.crop((i * size, 0, (i + 1) * size, grid.height)) for i in range(n)]


def _images_by_class(response: httpx2.Response) -> dict[str | None, list[Image.Image]]:
    by_class: dict[str | None, list[Image.Image]] = {}
    for row in response.json()["images"]:
        by_class.setdefault(row["class"], []).append(decode_image(base64.b64decode(row["png"])))
    return by_class
