"""docker-compose.yml and its overrides: valid by the compose specification, with safe settings for every service."""

from __future__ import annotations

import importlib.resources
import json
import re
import shutil
import subprocess
from typing import Any

import jsonschema
import pytest

from services.api.server import FIRST_REQUEST_S, GRACE_S
from services.dev import STOP_MARGIN_S
from shared.settings import Settings
from tests.deployment.compose import BASE, CPU, FILES, interpolate, merge, read
from tests.deployment.images import BACKENDS, IMAGES, image_environment, instruction, instructions
from tests.processes import ROOT

SERVICES = ("redis", *IMAGES)

# --- The files ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("a: {ports: !reset [], environment: {FOO: !reset null}}", {"a": {"image": "i", "environment": {}}}),
        ('a: {ports: !override ["8443:443"]}', {"a": {"image": "i", "ports": ["8443:443"], "environment": {"FOO": 1}}}),
        ('a: {ports: ["8443:443"], environment: {FOO: 2}}',
         {"a": {"image": "i", "ports": ["8080:80", "8443:443"], "environment": {"FOO": 2}}}),
    ],
    ids=["reset", "override", "neither"],
)  # fmt: skip
def test_the_tests_merge_files_as_the_specification_says(override: str, expected: Any) -> None:
    base = read('a: {image: i, ports: ["8080:80"], environment: {FOO: 1}}')
    assert merge(base, read(override)) == expected


@pytest.mark.parametrize("name", FILES)
def test_a_file_is_valid_by_the_compose_specification(name: str) -> None:
    vendored = importlib.resources.files("check_jsonschema") / "builtin_schemas" / "vendor" / "compose-spec.json"
    schema = json.loads(vendored.read_text())
    validator = jsonschema.validators.validator_for(schema)
    assert validator is jsonschema.Draft202012Validator  # jsonschema silently replaces drafts that it does not know
    assert [error.message for error in validator(schema).iter_errors(FILES[name])] == []


def test_docker_compose_accepts_the_files() -> None:
    docker = shutil.which("docker")
    if docker is None or subprocess.run([docker, "compose", "version"], capture_output=True, check=False).returncode:
        pytest.skip("`docker compose version` does not work here; the test against the specification has run")
    for files in (["docker-compose.yml"], ["docker-compose.yml", "docker-compose.cpu.yml"]):
        options = [part for file in files for part in ("-f", file)]
        done = subprocess.run(
            [docker, "compose", *options, "config", "--format", "json"],
            cwd=ROOT, capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        assert ("nvidia" in done.stdout) == (len(files) == 1)


def test_every_variable_in_the_files_has_a_default_and_is_documented() -> None:
    text = (ROOT / "docker-compose.yml").read_text() + (ROOT / "docker-compose.cpu.yml").read_text()
    comments = "\n".join(line for line in text.splitlines() if line.startswith("#"))
    variables = re.findall(r"(?<!\$)\$(?:\{(\w+)(:-[^}]+)?\}|(\w+))", text)
    assert {braced for braced, _, _ in variables} >= {"KILN_PORT", "KILN_DATASETS"}
    for braced, default, bare in variables:
        assert default, f"{braced or bare} has no default"
        assert braced in comments


# --- GPUs -----------------------------------------------------------------------------------------------------------


def test_api_and_trainer_reserve_a_gpu_and_the_cpu_file_removes_it() -> None:
    def reserved(file: Any) -> dict[str, Any]:
        resources = {name: service.get("deploy", {}).get("resources", {}) for name, service in file["services"].items()}
        return {name: r["reservations"]["devices"] for name, r in resources.items() if "reservations" in r}

    def gpus(count: int | str) -> list[dict[str, Any]]:
        return [{"driver": "nvidia", "count": count, "capabilities": ["gpu"]}]

    assert reserved(BASE) == {"api": gpus(1), "trainer": gpus("${KILN_GPUS:-all}")}
    assert reserved(FILES["merged"]) == {}


def test_a_job_on_several_gpus_finds_all_gpus_and_enough_shared_memory_in_the_trainer() -> None:
    trainer = BASE["services"]["trainer"]
    (device,) = trainer["deploy"]["resources"]["reservations"]["devices"]
    assert interpolate(device["count"], {}) == "all"
    assert interpolate(device["count"], {"KILN_GPUS": "2"}) == "2"
    assert trainer["shm_size"] == "1gb"  # Docker's default of 64 MB is too small for NCCL


def test_cuda_is_required_exactly_where_a_gpu_is_reserved() -> None:
    for file, is_required in ((BASE, True), (FILES["merged"], False)):
        for service in BACKENDS:
            environment = file["services"][service]["environment"]
            assert Settings(require_cuda=environment["KILN_REQUIRE_CUDA"]).require_cuda is is_required


# --- Every service --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", SERVICES)
def test_a_service_runs_without_privileges_on_a_read_only_file_system(name: str) -> None:
    service = BASE["services"][name]
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    user = instruction(IMAGES[name], "USER") if name in IMAGES else service["user"]
    assert user.split(":")[0] not in ("", "0", "root")


@pytest.mark.parametrize("name", SERVICES)
def test_a_service_restarts_and_has_a_health_check(name: str) -> None:
    service = BASE["services"][name]
    assert service["init"] is True
    assert service["restart"] == "unless-stopped"
    assert service["healthcheck"]["test"] if name not in IMAGES else instruction(IMAGES[name], "HEALTHCHECK")


@pytest.mark.parametrize("name", BACKENDS)
def test_api_and_trainer_start_once_redis_is_healthy(name: str) -> None:
    assert BASE["services"][name]["depends_on"] == {"redis": {"condition": "service_healthy"}}


def test_the_dashboard_can_reach_the_api_only() -> None:
    service = BASE["services"]["dashboard"]
    assert service["depends_on"] == {"api": {"condition": "service_healthy"}}
    assert set(service["environment"]) == {"KILN_URL", "KILN_API_KEY"}
    assert service["secrets"] == []
    assert "volumes" not in service


def test_the_stop_grace_periods_are_longer_than_stopping_takes() -> None:
    worker_s = Settings.model_fields["stop_grace_s"].default + STOP_MARGIN_S
    api_s = float(BASE["services"]["api"]["environment"]["KILN_DRAIN_S"]) + FIRST_REQUEST_S + GRACE_S
    for name, needed_s in (("trainer", worker_s), ("api", api_s)):
        period = BASE["services"][name]["stop_grace_period"]
        assert period.endswith("s")
        assert float(period.removesuffix("s")) > needed_s


def test_every_variable_in_an_environment_is_a_setting() -> None:
    settings = {f"KILN_{field.upper()}" for field in Settings.model_fields} | {"KILN_URL", "KILN_API_KEY"}
    for name, file in IMAGES.items():
        environment = BASE["services"][name]["environment"] | CPU["services"].get(name, {}).get("environment", {})
        variables = {key for key in (environment | image_environment(file)) if key.startswith("KILN_")}
        assert ("KILN_DATA" in variables) == (name in BACKENDS)
        assert variables <= settings


def test_api_and_trainer_share_a_volume_and_own_their_folders() -> None:
    assert instruction(IMAGES["api"], "USER") == instruction(IMAGES["trainer"], "USER")
    for name, file in BACKENDS.items():
        # "source:target", where the source may be ${VARIABLE:-default}.
        targets = {volume.rpartition(":")[2] for volume in BASE["services"][name]["volumes"]}
        (owned,) = re.findall(r"install -d -o kiln -g kiln (.*)", "\n".join(instructions(file, "RUN")))
        assert set(owned.split()) == targets
        environment = image_environment(file)
        assert {value for key, value in environment.items() if key in ("KILN_DATA", "KILN_DATASETS")} == targets
        assert "data:/data" in BASE["services"][name]["volumes"]
        assert f"--uid {instruction(file, 'USER').split(':')[0]} " in "\n".join(instructions(file, "RUN"))
