"""All settings. Each process reads them once from the environment (prefix `KILN_`) into one frozen object."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Any, Self
from urllib.parse import urlsplit

from pydantic import Field, PrivateAttr, ValidationError, field_validator, model_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from shared.api_keys import ApiKey, parse_keys
from shared.errors import FieldProblem, InvalidInput
from shared.redis_url import read_redis_url

# The names that KILN_FAST_PATHS accepts; services/trainer/training/runtime.py explains each.
FAST_PATHS = ("channels_last", "winograd", "resample", "compile", "capture")


class Settings(BaseSettings):
    """Settings of the services."""

    model_config = SettingsConfigDict(env_prefix="KILN_", env_ignore_empty=True, frozen=True, extra="ignore")

    data: Path = Field(Path("data"), description="Folder for all files that Kiln writes.")
    datasets: Path | None = Field(
        None, description="Folder of the data sets: `cifar10/` and your own. Default: `datasets` in KILN_DATA."
    )
    artifacts: str | None = Field(
        None, description="fsspec URL for models, checkpoints and sample grids. Default: `artifacts` in KILN_DATA."
    )
    redis_url: str = Field(
        "redis://127.0.0.1:6379/0",
        repr=False,
        description="URL of the Redis that stores the jobs and the queue: `redis://host:6379/0`, "
        "`rediss://host:6379/0` (TLS) or `unix:///path/redis.sock?db=0`.",
    )
    redis_password_file: Path | None = Field(
        None,
        description="File with the password of Redis, which KILN_REDIS_URL then leaves out. A file keeps the password "
        "out of the environment.",
    )
    redis_ca: Path | None = Field(
        None,
        description="File with the certificate of the CA that signed Redis's certificate, for a `rediss://` URL. "
        "Default: the CAs that the system trusts. Redis's certificate is always checked.",
    )
    classifier: Path = Field(
        Path(__file__).parents[1] / "models" / "classifier",
        description="Folder of the classifier that evaluates models. Default: the classifier that ships with Kiln.",
    )
    starter: Path = Field(
        Path(__file__).parents[1] / "models" / "starter",
        description="Folder of the model that Kiln publishes when it has none. If the folder does not exist, Kiln "
        "starts without a model. Default: the starter model that ships with Kiln.",
    )

    host: str = Field("127.0.0.1", description="Address on which the API and the dashboard listen.")
    port: int = Field(8000, ge=1, le=65535, description="Port of the API.")
    dashboard_port: int = Field(8080, ge=0, le=65535, description="Port of the dashboard. 0: no dashboard.")
    max_body_bytes: int = Field(
        1 << 20, ge=1024, description="Maximum size of a request body in bytes. The API refuses larger ones with 413."
    )
    body_timeout_s: float = Field(
        30.0, gt=0, le=3600, description="Seconds that a client has to send a request body. After that it gets a 408."
    )
    max_png_bytes: int = Field(
        4 << 20,
        ge=1024,
        description="Maximum size of a PNG for `POST /verify`, in bytes. 4 MiB hold 1024 images without compression.",
    )
    max_dataset_gb: float = Field(
        10.0,
        gt=0,
        le=10_000,
        description="Maximum size of a pushed data set in GiB, both as the archive and unpacked.",
    )
    model_memory_mb: int = Field(
        1024,
        ge=1,
        description="Memory for loaded models, in MiB, by estimate. Above it, the API unloads models without an alias.",
    )
    answer_cache_mb: int = Field(64, ge=0, description="Size of the response cache in MiB. 0: no cache.")
    access_log: bool = Field(False, description="Write one line to the API's log for each request.")
    max_waiting_images: int = Field(
        8192, ge=1024, description="Maximum length of a model's queue, in images. When it is full, the API sends a 503."
    )

    api_keys: str | None = Field(
        None, repr=False, exclude=True,
        description="API keys, separated by commas. Each is `name:scopes:key`; the scopes are `read`, `generate` and "
        "`train`, joined by `+`. Example: `ci:read+train:<32 random hex digits>`. Without any key, the API accepts "
        "every request that reaches it.",
    )  # fmt: skip
    api_keys_file: Path | None = Field(
        None,
        description="File with API keys, one per line, instead of KILN_API_KEYS. `#` starts a comment. A file keeps "
        "the keys out of the environment.",
    )
    cors_origins: Annotated[tuple[str, ...], NoDecode] = Field(
        (),
        description="Origins whose web pages may call the API, separated by commas, or `*` for all. Default: only the "
        "API's own origin.",
    )
    allowed_hosts: Annotated[tuple[str, ...], NoDecode] = Field(
        (),
        description="Host names under which clients reach the API, separated by commas: `kiln.example.org`, "
        "`*.example.org`, or `*` for all. IP addresses, names without a dot, `*.local` and `*.internal` are always "
        "allowed. Default: only these, or all hosts if there are API keys.",
    )

    drain_s: float = Field(
        0.5,
        ge=0,
        le=3600,
        description="Seconds after SIGTERM during which `/readyz` fails but the API still serves requests, so that a "
        "load balancer can react.",
    )

    threads: int | None = Field(
        None, ge=1, description="CPU threads for torch and for onnxruntime. Default: one per core."
    )
    fast_paths: str = Field(
        "auto",
        description="Optimisations of the training step: `auto` or `none` (the plain reference), then `+name` or "
        f"`-name`, separated by commas. Names: {', '.join(FAST_PATHS)}.",
    )
    device_images_gb: float | None = Field(
        None,
        ge=0,
        description="Memory of the training device for the images of a data set, in GB. Images beyond it are read from "
        "the disk while the device trains. Default: half of the device's free memory.",
    )
    trainer_nice: int = Field(
        5,
        ge=0,
        le=19,
        description="Niceness of the training processes. Above 0, the API on the same machine gets the CPU first.",
    )
    require_cuda: bool = Field(
        False, description="Without a CUDA device, fail the readiness check and refuse to train."
    )

    lease_s: float = Field(
        15.0,
        ge=0.2,
        le=86_400,
        description="Length of a worker's lease on its job, in seconds. A worker that does not renew it in time loses "
        "the job.",
    )
    max_attempts: int = Field(
        3, ge=1, description="Number of lost workers after which a job ends as `lost` instead of being queued again."
    )
    stall_s: float = Field(
        900.0,
        ge=1,
        le=86_400,
        description="Seconds without a message from the training process after which the worker kills it and retries.",
    )
    job_timeout_s: float | None = Field(
        None,
        gt=0,
        description="Maximum training time of a job in seconds, over all attempts. Default: no limit.",
    )
    keep_jobs_days: float | None = Field(
        None,
        gt=0,
        le=36_500,
        description="Days for which Kiln keeps a job after its end, with its metrics, events, checkpoints and sample "
        "grids, and a sweep. Kiln never deletes models. Default: it keeps jobs until you delete them.",
    )
    stop_grace_s: float = Field(
        30.0, ge=0, le=86_400, description="Seconds that a training process has to write a checkpoint before SIGKILL."
    )

    _keys: tuple[ApiKey, ...] = PrivateAttr(())

    @field_validator("cors_origins", "allowed_hosts", mode="before")
    @classmethod
    def _split(cls, text: Any) -> Any:
        return tuple(part.strip() for part in text.split(",") if part.strip()) if isinstance(text, str) else text

    @field_validator("cors_origins")
    @classmethod
    def _are_origins(cls, origins: tuple[str, ...]) -> tuple[str, ...]:
        for origin in origins:
            parts = urlsplit(origin)
            if origin != "*" and (
                parts.scheme not in ("http", "https") or origin != f"{parts.scheme}://{parts.netloc}"
            ):
                raise ValueError(f"{origin} is not an origin such as https://example.org or http://localhost:8080")
        return origins

    @field_validator("allowed_hosts")
    @classmethod
    def _are_hosts(cls, hosts: tuple[str, ...]) -> tuple[str, ...]:
        for host in hosts:
            if host != "*" and not re.fullmatch(r"(\*\.)?[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)*", host):
                raise ValueError(f"{host} is not a host name such as kiln.example.org or *.example.org")
        return hosts

    @field_validator("fast_paths")
    @classmethod
    def _are_paths(cls, words: str) -> str:
        for word in words.split(","):
            if word not in ("auto", "none") and word.lstrip("+-") not in FAST_PATHS:
                raise ValueError(
                    f"{word!r} is not a fast path; use auto or none, then +name or -name of {', '.join(FAST_PATHS)}"
                )
        return words

    @field_validator("data", "datasets", "classifier", "starter", "redis_ca")
    @classmethod
    def _absolute(cls, path: Path | None) -> Path | None:
        try:
            return None if path is None else path.expanduser().resolve()
        except RuntimeError as error:  # the home folder of an unknown user, or a loop of links
            raise ValueError(str(error)) from None

    @model_validator(mode="after")
    def _fill_in_places(self) -> Self:
        object.__setattr__(self, "datasets", self.datasets or self.data / "datasets")
        object.__setattr__(self, "artifacts", self.artifacts or f"file://{self.data / 'artifacts'}")
        return self

    @model_validator(mode="after")
    def _complete_redis_url(self) -> Self:
        file = self.redis_password_file
        url = read_redis_url(self.redis_url, _read_password(file) if file else None, self.redis_ca)
        object.__setattr__(self, "redis_url", url)
        return self

    @model_validator(mode="after")
    def _read_keys(self) -> Self:
        # A ValidationError would quote the keys. pydantic lets InvalidInput pass.
        if self.api_keys is not None and self.api_keys_file is not None:
            raise InvalidInput.of(
                "KILN_API_KEYS_FILE", str(self.api_keys_file), "KILN_API_KEYS is set too; unset one of the two"
            )
        if self.api_keys is not None:
            self._keys = parse_keys(self.api_keys.split(","), "KILN_API_KEYS")
            object.__setattr__(self, "api_keys", None)  # only the digests stay in memory
        elif self.api_keys_file is not None:
            lines = (line.partition("#")[0].strip() for line in _read_lines(self.api_keys_file, "KILN_API_KEYS_FILE"))
            self._keys = parse_keys([line for line in lines if line], "KILN_API_KEYS_FILE")
        return self

    @property
    def keys(self) -> tuple[ApiKey, ...]:
        """The keys that the API accepts. Empty: it accepts every request."""
        return self._keys

    @property
    def dataset_root(self) -> Path:
        assert self.datasets is not None  # filled in above
        return self.datasets

    @property
    def artifact_url(self) -> str:
        assert self.artifacts is not None  # filled in above
        return self.artifacts


def read_settings() -> Settings:
    """Reads the environment. Raises InvalidInput, which names the variable and its value."""
    try:
        return Settings()
    except ValidationError as error:
        raise InvalidInput(
            [
                FieldProblem(f"KILN_{str(e['loc'][0]).upper()}" if e["loc"] else "KILN_*", e["input"], e["msg"])
                for e in error.errors()
            ]
        ) from None


def _read_password(file: Path) -> str:
    lines = _read_lines(file, "KILN_REDIS_PASSWORD_FILE")
    if len(lines) != 1 or not lines[0]:
        raise InvalidInput.of("KILN_REDIS_PASSWORD_FILE", str(file), "must contain exactly one line, the password")
    return lines[0]


def _read_lines(file: Path, variable: str) -> list[str]:
    try:
        return file.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        raise InvalidInput.of(variable, str(file), f"cannot be read: {reason}") from None
