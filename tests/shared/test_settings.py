"""Settings are read from the environment once, and a wrong value is named with its variable."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from pydantic import ValidationError

from shared.errors import InvalidInput
from shared.settings import Settings, read_settings


@pytest.fixture(autouse=True)
def _bare_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No variable of Kiln's, and a working directory of the test's own."""
    for name in list(os.environ):
        if name.startswith("KILN_"):
            monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)


def test_defaults(tmp_path: Path) -> None:
    settings = read_settings()

    assert settings.data == tmp_path / "data"
    assert settings.dataset_root == tmp_path / "data" / "datasets"
    assert settings.artifact_url == f"file://{tmp_path}/data/artifacts"
    assert settings.redis_url == "redis://127.0.0.1:6379/0"
    assert (settings.host, settings.port) == ("127.0.0.1", 8000)
    assert (settings.threads, settings.require_cuda) == (None, False)
    assert (settings.lease_s, settings.max_attempts, settings.stop_grace_s) == (15.0, 3, 30.0)


@pytest.mark.parametrize(
    ("variable", "text", "field", "value"),
    [
        ("KILN_REDIS_URL", "redis://elsewhere:1/2", "redis_url", "redis://elsewhere:1/2"),
        ("KILN_ARTIFACTS", "s3://bucket/prefix", "artifact_url", "s3://bucket/prefix"),
        ("KILN_DATA", "/somewhere", "data", Path("/somewhere")),
        ("KILN_DATA", "/somewhere", "artifact_url", "file:///somewhere/artifacts"),
        ("KILN_DATA", "/somewhere", "dataset_root", Path("/somewhere/datasets")),
        ("KILN_DATASETS", "/elsewhere", "dataset_root", Path("/elsewhere")),
        ("KILN_HOST", "0.0.0.0", "host", "0.0.0.0"),
        ("KILN_PORT", "65535", "port", 65535),
        ("KILN_THREADS", "2", "threads", 2),
        ("KILN_REQUIRE_CUDA", "true", "require_cuda", True),
        ("KILN_REQUIRE_CUDA", "0", "require_cuda", False),
        ("KILN_LEASE_S", "2.5", "lease_s", 2.5),
        ("KILN_DRAIN_S", "0", "drain_s", 0.0),
        ("KILN_BODY_TIMEOUT_S", "1.5", "body_timeout_s", 1.5),
        ("KILN_MAX_ATTEMPTS", "1", "max_attempts", 1),
        ("KILN_STOP_GRACE_S", "0", "stop_grace_s", 0.0),
        ("KILN_MAX_BODY_BYTES", "1024", "max_body_bytes", 1024),
        ("KILN_MAX_WAITING_IMAGES", "1024", "max_waiting_images", 1024),
    ],
)
def test_a_variable_sets_its_field(
    monkeypatch: pytest.MonkeyPatch, variable: str, text: str, field: str, value: object
) -> None:
    monkeypatch.setenv(variable, text)

    assert getattr(read_settings(), field) == value


def test_relative_paths_and_the_home_folder_are_resolved(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", "/home/of/somebody")
    monkeypatch.setenv("KILN_DATA", "a/../b")
    monkeypatch.setenv("KILN_DATASETS", "~/images")

    settings = read_settings()
    monkeypatch.chdir("/")  # a service that changes its folder later changes nothing

    assert settings.data == tmp_path / "b"
    assert settings.artifact_url == f"file://{tmp_path}/b/artifacts"
    assert settings.dataset_root == Path("/home/of/somebody/images")


@pytest.mark.parametrize(
    ("variable", "text"),
    [
        ("KILN_PORT", "http"), ("KILN_PORT", "0"), ("KILN_PORT", "65536"), ("KILN_PORT", "8000.5"),
        ("KILN_THREADS", "all"), ("KILN_THREADS", "0"), ("KILN_REQUIRE_CUDA", "perhaps"), ("KILN_MAX_ATTEMPTS", "0"),
        ("KILN_LEASE_S", "0"), ("KILN_LEASE_S", "nan"), ("KILN_LEASE_S", "inf"), ("KILN_LEASE_S", "1e300"),
        ("KILN_DRAIN_S", "-1"), ("KILN_DRAIN_S", "inf"), ("KILN_BODY_TIMEOUT_S", "0"),
        ("KILN_STOP_GRACE_S", "-1"), ("KILN_STOP_GRACE_S", "inf"), ("KILN_MAX_BODY_BYTES", "1 MB"),
        ("KILN_DATA", "~nobody-of-that-name/data"), ("KILN_DATASETS", "~nobody-of-that-name/data"),
    ],
)  # fmt: skip
def test_a_bad_value_is_named_with_its_variable(monkeypatch: pytest.MonkeyPatch, variable: str, text: str) -> None:
    monkeypatch.setenv(variable, text)

    with pytest.raises(InvalidInput) as caught:
        read_settings()

    (problem,) = caught.value.problems
    assert (problem.field, problem.value) == (variable, text)
    assert str(caught.value).startswith(f"{variable}: ")
    assert str(caught.value).endswith(f"(got {text!r})")


def test_all_bad_values_are_named_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KILN_PORT", "http")
    monkeypatch.setenv("KILN_LEASE_S", "long")

    with pytest.raises(InvalidInput) as caught:
        read_settings()

    assert {problem.field for problem in caught.value.problems} == {"KILN_PORT", "KILN_LEASE_S"}


def test_settings_are_frozen() -> None:
    settings = read_settings()
    with pytest.raises(ValidationError, match="frozen"):
        settings.port = 1  # type: ignore[misc]


def test_every_setting_is_described() -> None:
    assert [name for name, field in Settings.model_fields.items() if not field.description] == []


def test_an_empty_variable_counts_as_unset(monkeypatch: pytest.MonkeyPatch) -> None:
    """Compose files pass `${VARIABLE:-}` on; an empty data folder would otherwise be the working directory."""
    monkeypatch.setenv("KILN_DATA", "")
    monkeypatch.setenv("KILN_PORT", "")

    settings = read_settings()

    assert (settings.data.name, settings.port) == ("data", 8000)
