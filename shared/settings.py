"""Every setting, read once from the environment (prefix `KILN_`) into one frozen object; documented here only."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Self, TypeVar
from urllib.parse import quote, urlsplit

from pydantic import Field, PrivateAttr, SecretStr, ValidationError, field_validator, model_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from shared.api_keys import ApiKey, parse_keys
from shared.errors import FieldProblem, InvalidInput

T = TypeVar("T")

# What KILN_FAST_PATHS may name; services/trainer/training/runtime.py says what each is.
FAST_PATHS = ("channels_last", "fused", "foreach", "winograd", "resample", "lean", "compile", "capture")


class Settings(BaseSettings):
    model_config = SettingsConfigDict(env_prefix="KILN_", env_ignore_empty=True, frozen=True, extra="ignore")

    data: Path = Field(Path("data"), description="Folder for everything Kiln writes.")
    datasets: Path | None = Field(
        None, description="Folder of data sets: cifar10/, or a user's own. Default: <data>/datasets."
    )
    artifacts: str | None = Field(
        None, description="fsspec URL of models and checkpoints. Default: file://<data>/artifacts."
    )
    redis_url: str = Field("redis://127.0.0.1:6379/0", repr=False, description="Redis with the jobs and the queue.")
    redis_password_file: Path | None = Field(
        None, description="File that holds the password of Redis, for a redis_url without one: no environment shows it."
    )
    classifier: Path = Field(
        Path(__file__).parents[1] / "models" / "classifier",
        description="Folder of the classifier that measures models. Default: the one that ships with Kiln.",
    )
    starter: Path = Field(
        Path(__file__).parents[1] / "models" / "starter",
        description="Folder of the model that an installation without any serves. Default: the one that ships with "
        "Kiln; a folder that is not there: none.",
    )

    host: str = Field("127.0.0.1", description="Address the API and the dashboard listen on.")
    port: int = Field(8000, ge=1, le=65535, description="Port of the API.")
    dashboard_port: int = Field(8080, ge=0, le=65535, description="Port of the dashboard; 0: no dashboard.")
    max_body_bytes: int = Field(1 << 20, ge=1024, description="Larger request bodies are refused with 413.")
    body_timeout_s: float = Field(30.0, gt=0, le=3600, description="Slower request bodies are refused with 408.")
    max_png_bytes: int = Field(
        4 << 20, ge=1024, description="The same for PNGs that are to be verified; 4 MiB is 1024 images, uncompressed."
    )
    model_memory_mb: int = Field(
        1024,
        ge=1,
        description="Beyond so many MiB, by estimate, models without an alias leave the API's memory.",
    )
    answer_cache_mb: int = Field(64, ge=0, description="MiB of answers that are kept to be given again; 0: none.")
    access_log: bool = Field(False, description="A line in the API's log for each request.")
    max_waiting_images: int = Field(8192, ge=1024, description="Images that may wait for one model before 503.")

    api_keys: str | None = Field(
        None, repr=False, exclude=True,
        description="Keys of clients, separated by commas, each `name:scopes:key`; the scopes are `read`, `generate` "
        "and `train`, joined by `+`. E.g. `ci:read+train:<32 random hex digits>`. Without any, the API is open to "
        "everybody who reaches it.",
    )  # fmt: skip
    api_keys_file: Path | None = Field(
        None, description="File with such keys instead, one a line; `#` begins a comment. No environment shows it."
    )
    cors_origins: Annotated[tuple[str, ...], NoDecode] = Field(
        (), description="Origins whose pages may call the API, separated by commas, or `*`. Default: none but its own."
    )

    drain_s: float = Field(
        0.5, ge=0, le=3600, description="Seconds after SIGTERM in which the API is not ready but still answers."
    )

    threads: int | None = Field(None, ge=1, description="CPU threads of torch and of onnxruntime. Default: all cores.")
    fast_paths: str = Field(
        "auto",
        description="How training is computed: `auto`, or `none` (the plain reference), then `+name` or `-name`, "
        f"separated by commas, of {', '.join(FAST_PATHS)}.",
    )
    trainer_nice: int = Field(
        5, ge=0, le=19, description="Niceness of training processes, so that the API beside them answers promptly."
    )
    require_cuda: bool = Field(False, description="Not ready, and no training, without a CUDA device.")

    lease_s: float = Field(
        15.0, ge=0.2, le=86_400, description="A worker that is silent for so many seconds has lost its job."
    )
    max_attempts: int = Field(3, ge=1, description="A job that lost its worker so many times is lost for good.")
    stall_s: float = Field(
        900.0, ge=1, le=86_400, description="A trainer that reports nothing for so many seconds is killed, and retried."
    )
    job_timeout_s: float | None = Field(
        None, gt=0, description="Seconds of training, over all attempts, after which a job is stopped. Default: none."
    )
    stop_grace_s: float = Field(
        30.0, ge=0, le=86_400, description="Seconds a trainer has to checkpoint before it is killed."
    )

    _keys: tuple[ApiKey, ...] = PrivateAttr(())

    @field_validator("cors_origins", mode="before")
    @classmethod
    def _split(cls, origins: Any) -> Any:
        return (
            tuple(part.strip() for part in origins.split(",") if part.strip()) if isinstance(origins, str) else origins
        )

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

    @field_validator("fast_paths")
    @classmethod
    def _are_paths(cls, words: str) -> str:
        for word in words.split(","):
            if word not in ("auto", "none") and word.lstrip("+-") not in FAST_PATHS:
                raise ValueError(f"unknown path {word!r}; there are auto, none, {', '.join(FAST_PATHS)}")
        return words

    @field_validator("data", "datasets", "classifier", "starter")
    @classmethod
    def _absolute(cls, path: Path | None) -> Path | None:
        try:
            return None if path is None else path.expanduser().resolve()
        except RuntimeError as error:  # ~somebody who does not exist, or a loop of links
            raise ValueError(str(error)) from None

    @model_validator(mode="after")
    def _fill_in_places(self) -> Self:
        object.__setattr__(self, "datasets", self.datasets or self.data / "datasets")
        object.__setattr__(self, "artifacts", self.artifacts or f"file://{self.data / 'artifacts'}")
        return self

    @model_validator(mode="after")
    def _fill_in_password(self) -> Self:
        if self.redis_password_file is not None:
            object.__setattr__(self, "redis_url", _with_password(self.redis_url, self.redis_password_file))
        return self

    @model_validator(mode="after")
    def _read_keys(self) -> Self:
        # pydantic's own errors would quote the keys; InvalidInput passes through it.
        if self.api_keys is not None and self.api_keys_file is not None:
            raise InvalidInput.of("KILN_API_KEYS_FILE", str(self.api_keys_file), "KILN_API_KEYS is set as well")
        if self.api_keys is not None:
            self._keys = parse_keys(self.api_keys.split(","), "KILN_API_KEYS")
            object.__setattr__(self, "api_keys", None)  # from here on there are digests only
        elif self.api_keys_file is not None:
            lines = (line.partition("#")[0].strip() for line in _read_lines(self.api_keys_file, "KILN_API_KEYS_FILE"))
            self._keys = parse_keys([line for line in lines if line], "KILN_API_KEYS_FILE")
        return self

    @property
    def keys(self) -> tuple[ApiKey, ...]:
        """Who may use the API; empty: everybody."""
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
    """The environment's settings. Raises InvalidInput that names the variable and its value."""
    return _read(Settings)


class ClientSettings(BaseSettings):
    """What a client of the API needs to know."""

    model_config = SettingsConfigDict(env_prefix="KILN_", env_ignore_empty=True, frozen=True, extra="ignore")

    url: str = Field("http://127.0.0.1:8000", pattern=r"^https?://[^/]", description="Where the API is.")
    api_key: SecretStr | None = Field(None, description="Key for an API that wants one.")


def read_client_settings(url: str | None = None, api_key: str | None = None) -> ClientSettings:
    """What is passed, and the environment for the rest. Raises InvalidInput that names the variable and its value."""
    given: dict[str, Any] = {name: value for name, value in (("url", url), ("api_key", api_key)) if value is not None}
    return _read(partial(ClientSettings, **given))


def _read(make: Callable[[], T]) -> T:
    try:
        return make()
    except ValidationError as error:
        raise InvalidInput(
            [
                FieldProblem(f"KILN_{str(e['loc'][0]).upper()}" if e["loc"] else "KILN_*", e["input"], e["msg"])
                for e in error.errors()
            ]
        ) from None


def _with_password(url: str, file: Path) -> str:
    """The URL with the file's password, unless it has one. Raises InvalidInput: pydantic's errors would quote it."""
    try:
        parts = urlsplit(url)
    except ValueError:
        raise InvalidInput.of("KILN_REDIS_URL", url.rpartition("@")[2], "is not a URL") from None
    if parts.password:
        return url
    user, _, place = parts.netloc.rpartition("@")
    return parts._replace(netloc=f"{user.rstrip(':')}:{quote(_read_password(file), safe='')}@{place}").geturl()


def _read_password(file: Path) -> str:
    lines = _read_lines(file, "KILN_REDIS_PASSWORD_FILE")
    if len(lines) != 1 or not lines[0]:
        raise InvalidInput.of("KILN_REDIS_PASSWORD_FILE", str(file), "must hold one line, the password")
    return lines[0]


def _read_lines(file: Path, variable: str) -> list[str]:
    try:
        return file.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else "it is not text"
        raise InvalidInput.of(variable, str(file), f"cannot be read: {why}") from None
