"""The deployment, as far as it can be judged without a Docker engine: the files against the compose specification, the
commands in them by running them, the images by their Dockerfiles."""

from __future__ import annotations

import ast
import http.server
import importlib.metadata
import importlib.resources
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import threading
import tomllib
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

import httpx2
import jsonschema
import pytest
import redis
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from services.api.server import FIRST_REQUEST_S, GRACE_S
from services.dev import API_COMMAND, DASHBOARD_COMMAND, STOP_MARGIN_S, WORKER_COMMAND, find_redis_server, free_port
from shared.settings import ClientSettings, Settings
from tests.processes import wait_for

ROOT = Path(__file__).parents[1]
BACKENDS = {"api": "Dockerfile.api", "trainer": "Dockerfile.trainer"}  # service, and dependency group -> its Dockerfile
IMAGES = BACKENDS | {"dashboard": "Dockerfile.dashboard"}
SERVICES = ("redis", *IMAGES)
SECRET = "/run/secrets/redis_password"  # noqa: S105 - where it is, not what it is
IMAGE_PLATFORM = {
    "python_version": "3.13", "python_full_version": "3.13.0", "sys_platform": "linux", "platform_system": "Linux",
    "platform_machine": "x86_64", "platform_python_implementation": "CPython", "os_name": "posix",
}  # fmt: skip


# --- Compose files, read and merged as compose does it --------------------------------------------------------------

RESET = object()  # what `!reset` leaves of a value


class Override:
    """A value with `!override`: it takes the place of the old one whole."""

    def __init__(self, value: Any) -> None:
        self.value = value


class ComposeLoader(yaml.SafeLoader):
    pass


def _override(loader: ComposeLoader, node: yaml.Node) -> Override:
    match node:
        case yaml.MappingNode():
            return Override(loader.construct_mapping(node, deep=True))
        case yaml.SequenceNode():
            return Override(loader.construct_sequence(node, deep=True))
    return Override(loader.construct_object(yaml.ScalarNode("tag:yaml.org,2002:str", node.value)))


ComposeLoader.add_constructor("!reset", lambda *_: RESET)
ComposeLoader.add_constructor("!override", _override)


def read(text: str) -> Any:
    return yaml.load(text, ComposeLoader)  # noqa: S506 - a SafeLoader with two tags more


def merge(old: Any, new: Any) -> Any:
    """Mappings are merged, sequences appended, other values replaced; `command` and `test` hold no lists here."""
    if isinstance(new, Override):
        return new.value
    if isinstance(old, dict) and isinstance(new, dict):
        both = old | {key: merge(old[key], value) if key in old else value for key, value in new.items()}
        return {key: value for key, value in both.items() if value is not RESET}
    if isinstance(old, list) and isinstance(new, list):
        return old + new
    return new


def without_tags(value: Any) -> Any:
    """The file by itself, as compose sees it when there is nothing yet to reset or to override."""
    return merge({}, {k: without_tags(v) for k, v in value.items()}) if isinstance(value, dict) else value


BASE = read((ROOT / "docker-compose.yml").read_text())
CPU = read((ROOT / "docker-compose.cpu.yml").read_text())
KEYS = read((ROOT / "docker-compose.keys.yml").read_text())
FILES = {
    "docker-compose.yml": BASE, "docker-compose.cpu.yml": without_tags(CPU), "merged": merge(BASE, CPU),
    "docker-compose.keys.yml": KEYS, "with keys": merge(BASE, KEYS),
}  # fmt: skip


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
def test_the_merge_in_this_file_gives_what_the_specification_gives(override: str, expected: Any) -> None:
    base = read('a: {image: i, ports: ["8080:80"], environment: {FOO: 1}}')
    assert merge(base, read(override)) == expected


@pytest.mark.parametrize("name", FILES)
def test_it_is_a_compose_file(name: str) -> None:
    vendored = importlib.resources.files("check_jsonschema") / "builtin_schemas" / "vendor" / "compose-spec.json"
    schema = json.loads(vendored.read_text())
    validator = jsonschema.validators.validator_for(schema)
    assert validator is jsonschema.Draft202012Validator  # an unknown draft would fall back to another one in silence
    assert [error.message for error in validator(schema).iter_errors(FILES[name])] == []


def test_both_services_have_the_gpu_and_the_override_takes_it_away() -> None:
    def reserved(file: Any) -> dict[str, Any]:
        resources = {name: service.get("deploy", {}).get("resources", {}) for name, service in file["services"].items()}
        return {name: r["reservations"]["devices"] for name, r in resources.items() if "reservations" in r}

    gpu = [{"driver": "nvidia", "count": 1, "capabilities": ["gpu"]}]
    assert reserved(BASE) == {"api": gpu, "trainer": gpu}
    assert reserved(FILES["merged"]) == {}


def test_cuda_is_required_where_it_is_reserved_and_only_there() -> None:
    for file, is_required in ((BASE, True), (FILES["merged"], False)):
        for service in BACKENDS:
            environment = file["services"][service]["environment"]
            assert Settings(require_cuda=environment["KILN_REQUIRE_CUDA"]).require_cuda is is_required


def test_compose_itself_accepts_both_combinations() -> None:
    docker = shutil.which("docker")
    if docker is None or subprocess.run([docker, "compose", "version"], capture_output=True, check=False).returncode:
        pytest.skip("`docker compose version` does not work here; the schema has been checked all the same")
    for files in (["docker-compose.yml"], ["docker-compose.yml", "docker-compose.cpu.yml"]):
        options = [part for file in files for part in ("-f", file)]
        answer = subprocess.run(
            [docker, "compose", *options, "config", "--format", "json"],
            cwd=ROOT, capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert answer.returncode == 0, answer.stderr
        assert ("nvidia" in answer.stdout) == (len(files) == 1)


# --- What every service is promised ---------------------------------------------------------------------------------


@pytest.mark.parametrize("name", SERVICES)
def test_a_service_can_do_no_more_than_it_needs(name: str) -> None:
    service = BASE["services"][name]
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    user = instruction(IMAGES[name], "USER") if name in IMAGES else service["user"]
    assert user.split(":")[0] not in ("", "0", "root")


@pytest.mark.parametrize("name", SERVICES)
def test_a_service_comes_back_and_says_whether_it_is_well(name: str) -> None:
    service = BASE["services"][name]
    assert service["init"] is True
    assert service["restart"] == "unless-stopped"
    assert service["healthcheck"]["test"] if name not in IMAGES else instruction(IMAGES[name], "HEALTHCHECK")


@pytest.mark.parametrize("name", BACKENDS)
def test_kiln_starts_when_redis_is_well(name: str) -> None:
    assert BASE["services"][name]["depends_on"] == {"redis": {"condition": "service_healthy"}}


def test_the_dashboard_knows_the_api_and_nothing_behind_it() -> None:
    service = BASE["services"]["dashboard"]
    assert service["depends_on"] == {"api": {"condition": "service_healthy"}}
    assert set(service["environment"]) == {"KILN_URL", "KILN_API_KEY"}
    assert service["secrets"] == []
    assert "volumes" not in service


def test_a_stopped_service_has_the_time_it_takes() -> None:
    worker_s = Settings.model_fields["stop_grace_s"].default + STOP_MARGIN_S
    api_s = float(BASE["services"]["api"]["environment"]["KILN_DRAIN_S"]) + FIRST_REQUEST_S + GRACE_S
    for name, needed_s in (("trainer", worker_s), ("api", api_s)):
        period = BASE["services"][name]["stop_grace_period"]
        assert period.endswith("s")
        assert float(period.removesuffix("s")) > needed_s


def test_every_variable_of_an_environment_is_a_setting() -> None:
    settings = {f"KILN_{field.upper()}" for field in (*Settings.model_fields, *ClientSettings.model_fields)}
    for name, file in IMAGES.items():
        environment = BASE["services"][name]["environment"] | CPU["services"].get(name, {}).get("environment", {})
        given = {key for key in (environment | image_environment(file)) if key.startswith("KILN_")}
        assert ("KILN_DATA" in given) == (name in BACKENDS)
        assert given <= settings


def test_every_variable_that_compose_fills_in_has_a_default_and_is_documented() -> None:
    text = (ROOT / "docker-compose.yml").read_text() + (ROOT / "docker-compose.cpu.yml").read_text()
    comments = "\n".join(line for line in text.splitlines() if line.startswith("#"))
    filled_in = re.findall(r"(?<!\$)\$(?:\{(\w+)(:-[^}]+)?\}|(\w+))", text)
    assert {braced for braced, _, _ in filled_in} >= {"KILN_PORT", "KILN_DATASETS"}
    for braced, default, bare in filled_in:
        assert default, f"{braced or bare} has no default"
        assert braced in comments


def test_api_and_trainer_share_the_artifacts_and_own_what_they_write() -> None:
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


# --- Keys of clients ----------------------------------------------------------------------------------------------


def test_keys_come_from_a_file_that_make_makes_and_the_settings_read(tmp_path: Path) -> None:
    api = FILES["with keys"]["services"]["api"]
    assert api["secrets"] == ["redis_password", "api_keys"]
    assert api["environment"]["KILN_API_KEYS_FILE"] == "/run/secrets/api_keys"
    assert FILES["with keys"]["secrets"]["api_keys"] == {"file": "./secrets/api_keys"}
    for name in ("redis", "trainer"):
        assert "api_keys" not in FILES["with keys"]["services"][name]["secrets"]
        assert "KILN_API_KEYS" not in FILES["with keys"]["services"][name].get("environment", {})

    shutil.copy(ROOT / "Makefile", tmp_path)
    subprocess.run(["make", "-s", "secrets/api_keys", f"PYTHON={sys.executable}"], cwd=tmp_path, check=True)
    (key,) = Settings(api_keys_file=tmp_path / "secrets" / "api_keys").keys
    assert (key.name, sorted(key.scopes)) == ("admin", ["generate", "read", "train"])


# --- The password ---------------------------------------------------------------------------------------------------


def test_the_password_comes_from_a_file_that_git_and_docker_leave_out() -> None:
    assert BASE["secrets"] == {"redis_password": {"file": "./secrets/redis_password"}}
    ignored = subprocess.run(["git", "check-ignore", "-q", "secrets/redis_password"], cwd=ROOT, check=False)
    assert ignored.returncode == 0
    for name in ("redis", *BACKENDS):
        assert BASE["services"][name]["secrets"] == ["redis_password"]
    for name in BACKENDS:
        environment = BASE["services"][name]["environment"]
        assert environment["KILN_REDIS_PASSWORD_FILE"] == SECRET
        assert urlsplit(environment["KILN_REDIS_URL"]).password is None


def test_make_secrets_makes_a_password_once(tmp_path: Path) -> None:
    def make() -> str:
        command = ["make", "-f", str(ROOT / "Makefile"), "secrets", f"PYTHON={sys.executable}"]
        subprocess.run(command, cwd=tmp_path, check=True, capture_output=True)
        return (tmp_path / "secrets" / "redis_password").read_text()

    password = make()
    assert len(password.strip()) == 64
    assert make() == password
    # Readable for the users in the containers, behind a folder that nobody else on this machine can enter.
    assert (tmp_path / "secrets" / "redis_password").stat().st_mode & 0o777 == 0o444
    assert (tmp_path / "secrets").stat().st_mode & 0o777 == 0o700


PASSWORDS = ["plain-and-long", "a b'c\"d\\e#f@g:h/i%j$k`l?m&n"]


@pytest.fixture(params=PASSWORDS, ids=["plain", "with every character that means something to somebody"])
def password_file(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    file = tmp_path / "redis_password"
    file.write_text(request.param + "\n")
    return file


def test_redis_wants_the_password_and_keeps_what_it_is_told(password_file: Path, tmp_path: Path) -> None:
    password = password_file.read_text().rstrip("\n")
    with compose_redis(tmp_path, password_file) as port:
        # Without the password, nothing
        with (
            closing(redis.Redis.from_url(f"redis://127.0.0.1:{port}")) as stranger,
            pytest.raises(redis.AuthenticationError),
        ):
            stranger.ping()
        # With it, a server that appends every job to its file and drops none to make room
        with closing(redis.Redis(port=port, password=password, decode_responses=True)) as client:
            assert client.config_get("appendonly") == {"appendonly": "yes"}
            assert client.config_get("appendfsync") == {"appendfsync": "everysec"}
            assert client.config_get("maxmemory-policy") == {"maxmemory-policy": "noeviction"}
            assert client.config_get("save") == {"save": ""}
    # And neither its arguments, which everybody can read, nor its environment told the password
    started_with = (tmp_path / "started-with").read_text()
    assert "--appendonly" in started_with
    assert password not in started_with


def test_redis_does_not_start_with_an_empty_password(tmp_path: Path) -> None:
    # `requirepass ""` would let everybody in.
    empty = tmp_path / "empty"
    empty.write_text("\n")
    server = tmp_path / "redis-server"
    server.write_text("#!/bin/sh\necho started")
    server.chmod(0o755)
    command, environment = redis_shell_command(empty), os.environ | {"PATH": f"{tmp_path}:{os.environ['PATH']}"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode != 0
    assert "redis_password is empty" in done.stderr
    assert done.stdout == ""


def test_redis_is_well_when_it_answers_to_the_password(password_file: Path, tmp_path: Path) -> None:
    wrong = tmp_path / "wrong"
    wrong.write_text("wrong")
    test = BASE["services"]["redis"]["healthcheck"]["test"]

    def is_well(file: Path, port: int) -> bool:
        command, environment = ["sh", "-c", in_shell(test, file)], redis_on_path(tmp_path, port)
        return subprocess.run(command, env=environment, capture_output=True, check=False).returncode == 0

    with compose_redis(tmp_path, password_file) as port:
        assert is_well(password_file, port)
        assert not is_well(wrong, port)
    assert not is_well(password_file, port)


def test_redis_is_not_well_while_it_reads_its_file(password_file: Path, tmp_path: Path) -> None:
    cli = tmp_path / "redis-cli"
    cli.write_text("#!/bin/sh\necho LOADING Redis is loading the dataset in memory")  # ending with 0, as the real one
    cli.chmod(0o755)
    command = ["sh", "-c", in_shell(BASE["services"]["redis"]["healthcheck"]["test"], password_file)]
    environment = os.environ | {"PATH": f"{tmp_path}:{os.environ['PATH']}"}
    assert subprocess.run(command, env=environment, check=False).returncode != 0


def test_the_worker_finds_redis_with_the_file_and_logs_no_password(password_file: Path, tmp_path: Path) -> None:
    with compose_redis(tmp_path, password_file) as port, started(WORKER_COMMAND, password_file, port) as worker:
        said = read_until(" ready.", worker)  # which it says when it listens to the queue
        worker.terminate()
        said += read_until(None, worker)
        assert worker.wait() == 0
    assert "Connected to redis://" in said
    assert not contains_password(said, password_file)


def test_the_api_finds_redis_with_the_file_and_logs_no_password(password_file: Path, tmp_path: Path) -> None:
    with compose_redis(tmp_path, password_file) as port, started(API_COMMAND, password_file, port) as api:
        said = read_until("Uvicorn running on ", api)
        url = said.rsplit("Uvicorn running on ", 1)[1].split()[0]
        assert httpx2.get(f"{url}/jobs").json() == {"data": [], "has_more": False}
        api.terminate()
        said += read_until(None, api)
    assert "/jobs" in said
    assert not contains_password(said, password_file)


# --- The images -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "command"), [("api", API_COMMAND), ("trainer", WORKER_COMMAND), ("dashboard", DASHBOARD_COMMAND)]
)
def test_a_container_runs_the_command_that_the_tests_run(name: str, command: tuple[str, ...]) -> None:
    assert command[0] == sys.executable
    assert json.loads(instruction(IMAGES[name], "CMD")) == ["python", *command[1:]]
    assert "command" not in BASE["services"][name]
    assert "entrypoint" not in BASE["services"][name]


@pytest.mark.parametrize("file", IMAGES.values())
def test_what_an_image_copies_is_in_the_repository_and_is_sent_to_the_builder(file: str) -> None:
    tracked = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.split()
    ignored = [line for line in (ROOT / ".dockerignore").read_text().splitlines() if not line.startswith("#")]
    assert ignored[0] == "*"  # nothing that is not named after it
    sources = [source for source, _ in copies(file)]
    assert "requirements.lock" in sources
    for source in sources:
        assert source in tracked or any(path.startswith(source) for path in tracked if source.endswith("/"))
        assert f"!{source.split('/')[0]}" in ignored


@pytest.mark.parametrize(
    ("name", "modules"),
    [
        ("api", "services.api.__main__"),
        ("dashboard", "services.dashboard.__main__"),
        ("trainer", "services.trainer.tasks, services.trainer.__main__, services.trainer.runs.run"),
    ],
)
def test_an_image_has_all_the_files_that_its_programs_import(name: str, modules: str, tmp_path: Path) -> None:
    for source, target in copies(IMAGES[name]):
        if source.endswith("/"):
            shutil.copytree(ROOT / source, tmp_path / target, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            (tmp_path / target).mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / source, tmp_path / target)
    script = f"import {modules}; import shared; print(shared.__file__)"
    done = subprocess.run(
        [sys.executable, "-c", script],
        cwd=tmp_path, env={"PATH": os.environ["PATH"], "KILN_DATA": str(tmp_path)}, capture_output=True, text=True,
        check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert Path(done.stdout.strip()).is_relative_to(tmp_path)


@pytest.mark.parametrize("name", IMAGES)
def test_an_image_installs_all_the_packages_that_its_programs_import(name: str) -> None:
    assert f"--group {name} --constraint requirements.lock" in "\n".join(instructions(IMAGES[name], "RUN"))
    installed = closure(name)
    by_module = importlib.metadata.packages_distributions()
    imported = {module for source, _ in copies(IMAGES[name]) for module in imported_packages(ROOT / source)}
    assert {"redis", "pydantic"} <= imported
    missing = {
        module
        for module in imported - sys.stdlib_module_names - {"shared", "services"}
        if not installed & {canonicalize_name(distribution) for distribution in by_module.get(module, [])}
    }
    assert missing == set()


def test_the_api_has_no_torch_and_the_trainer_no_web_server() -> None:
    assert {"onnxruntime-gpu", "nvidia-cudnn-cu13", "fastapi"} <= closure("api")
    assert not {"torch", "torchvision", "triton"} & closure("api")
    assert {"torch", "torchvision"} <= closure("trainer")
    assert not {"fastapi", "starlette", "uvicorn"} & closure("trainer")


@pytest.mark.parametrize("name", IMAGES)
def test_every_package_of_an_image_is_pinned(name: str) -> None:
    pinned = [Requirement(line) for line in (ROOT / "requirements.lock").read_text().splitlines()]
    here = {canonicalize_name(pin.name) for pin in pinned if pin.marker is None or pin.marker.evaluate(IMAGE_PLATFORM)}
    assert closure(name) - here == set()


@pytest.mark.parametrize("name", ["api", "dashboard"])
def test_the_servers_are_well_when_healthz_says_so(name: str) -> None:
    _Answer.status = 200
    with http.server.HTTPServer(("127.0.0.1", 0), _Answer) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        port = server.server_port
        # A proxy that a container was given is for the world outside.
        assert health_check(name, port, http_proxy="http://127.0.0.1:9")
        _Answer.status = 503
        assert not health_check(name, port)
        server.shutdown()
    assert not health_check(name, free_port())


def test_the_worker_is_well_when_its_settings_lead_to_redis(redis_url: str, tmp_path: Path) -> None:
    assert health_check("trainer", KILN_REDIS_URL=redis_url)
    assert not health_check("trainer", KILN_REDIS_URL=f"redis://127.0.0.1:{free_port()}/0")
    assert not health_check("trainer", KILN_REDIS_URL=redis_url, KILN_REDIS_PASSWORD_FILE=str(tmp_path / "none"))
    assert not health_check("trainer", KILN_REDIS_URL=redis_url, KILN_PORT="none")


# --- How the above looks at things ----------------------------------------------------------------------------------


def instructions(file: str, name: str) -> list[str]:
    """What stands after each instruction of that name in a Dockerfile, continued lines joined."""
    text = (ROOT / file).read_text().replace("\\\n", " ")
    return [line.removeprefix(f"{name} ").strip() for line in text.splitlines() if line.startswith(f"{name} ")]


def instruction(file: str, name: str) -> str:
    """The one that counts, which is the last."""
    return instructions(file, name)[-1]


def copies(file: str) -> list[tuple[str, str]]:
    """(source, target) of every COPY."""
    return [
        (source, parts[-1]) for copy in instructions(file, "COPY") for parts in [copy.split()] for source in parts[:-1]
    ]


def image_environment(file: str) -> dict[str, str]:
    pairs = (pair.partition("=") for line in instructions(file, "ENV") for pair in shlex.split(line))
    return {name: value for name, _, value in pairs}


def imported_packages(source: Path) -> set[str]:
    """First names of all that the Python files there import."""
    files = source.rglob("*.py") if source.is_dir() else [source] if source.suffix == ".py" else []
    nodes = [node for file in files for node in ast.walk(ast.parse(file.read_text()))]
    names = [alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names]
    names += [node.module for node in nodes if isinstance(node, ast.ImportFrom) and node.module]
    return {name.split(".")[0] for name in names}


def closure(group: str) -> set[str]:
    """Names of the packages that a dependency group brings into an image, by the metadata of what is installed here."""
    groups = tomllib.loads((ROOT / "pyproject.toml").read_text())["dependency-groups"]

    def of_group(name: str) -> Iterator[Requirement]:
        for entry in groups[name]:
            if isinstance(entry, dict):
                yield from of_group(entry["include-group"])
            else:
                yield Requirement(entry)

    found: dict[str, set[str]] = {}  # package -> extras seen, "" being none
    waiting = [(requirement, "") for requirement in of_group(group)]
    while waiting:
        requirement, extra = waiting.pop()
        if requirement.marker and not requirement.marker.evaluate(IMAGE_PLATFORM | {"extra": extra}):
            continue
        name = canonicalize_name(requirement.name)
        new = ({""} | requirement.extras) - found.setdefault(name, set())
        found[name] |= new
        try:
            needed = importlib.metadata.requires(name) or []
        except importlib.metadata.PackageNotFoundError:  # not for this platform; then only its name is known
            needed = []
        waiting += [(Requirement(text), extra) for text in needed for extra in new]
    return set(found)


def in_shell(command: str, password_file: Path) -> str:
    """A command of the compose file as the container's shell gets it, with the secret elsewhere."""
    assert SECRET in command
    return command.replace("$$", "$").replace(SECRET, shlex.quote(str(password_file)))


def redis_shell_command(password_file: Path) -> list[str]:
    *shell, script = BASE["services"]["redis"]["command"]
    return [*shell, in_shell(script, password_file)]


def redis_on_path(folder: Path, port: int) -> dict[str, str]:
    """An environment whose `redis-server` and `redis-cli` are the real ones, on a port and in a folder of the test."""
    programs = folder / "bin"
    programs.mkdir(exist_ok=True)
    server = find_redis_server()
    cli = shutil.which("redis-cli") or str(Path(sys.executable).parent / "redis-cli")
    note = shlex.quote(str(folder / "started-with"))
    place = f"--port {port} --bind 127.0.0.1 --dir {shlex.quote(str(folder))}"
    for name, line in (
        ("redis-server", f'{{ echo "$@"; env; }} > {note}; exec {shlex.quote(server)} "$@" {place}'),
        ("redis-cli", f'exec {shlex.quote(cli)} -p {port} "$@"'),
    ):
        (programs / name).write_text(f"#!/bin/sh\n{line}\n")
        (programs / name).chmod(0o755)
    return os.environ | {"PATH": f"{programs}{os.pathsep}{os.environ['PATH']}"}


@contextmanager
def compose_redis(folder: Path, password_file: Path) -> Iterator[int]:
    """The port of the server that docker-compose.yml starts."""
    port = free_port()
    command, environment = redis_shell_command(password_file), redis_on_path(folder, port)
    with subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL) as process:
        try:
            wait_for(lambda: (process.poll(), _answers(port)), lambda seen: seen != (None, False))
            assert process.poll() is None
            yield port
        finally:
            process.terminate()


@contextmanager
def started(command: Sequence[str], password_file: Path, redis_port: int) -> Iterator[subprocess.Popen[str]]:
    """A service with the environment that docker-compose.yml gives it, in so far as this machine is a container."""
    environment = os.environ | {
        "KILN_REDIS_URL": f"redis://127.0.0.1:{redis_port}/0", "KILN_REDIS_PASSWORD_FILE": str(password_file),
        "KILN_DATA": str(password_file.parent / "data"), "KILN_PORT": str(free_port()),
        "KILN_ACCESS_LOG": "1",  # the most that it can say
    }  # fmt: skip
    with subprocess.Popen(
        command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as process:
        try:
            yield process
        finally:
            process.terminate()


def read_until(mark: str | None, process: subprocess.Popen[str]) -> str:
    """What the process says up to the line with the mark; None is the end of all it says."""
    assert process.stdout is not None
    said = ""
    for line in process.stdout:
        said += line
        if mark is not None and mark in line:
            return said
    assert mark is None, f"it ended and never said {mark!r}, but: {said}"
    return said


def contains_password(text: str, password_file: Path) -> bool:
    password = password_file.read_text().rstrip("\n")
    return password in text or quote(password, safe="") in text


def _answers(port: int) -> bool:
    # from_url, unlike Redis(), leaves trying again to us.
    with closing(redis.Redis.from_url(f"redis://127.0.0.1:{port}")) as client:
        try:
            client.ping()
        except redis.AuthenticationError:  # an answer as well
            return True
        except redis.RedisError:
            return False
        return True


def health_check(name: str, port: int = 8000, **environment: str) -> bool:
    """Runs the HEALTHCHECK of an image here; it looks at another port than the container's 8000 or 8080."""
    command = json.loads(instruction(IMAGES[name], "HEALTHCHECK").partition(" CMD ")[2])
    assert command[:2] == ["python", "-c"]
    code = re.sub(r"\b80[08]0\b", str(port), command[2])
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, env=os.environ | environment, capture_output=True, check=False
    )
    return done.returncode == 0


class _Answer(http.server.BaseHTTPRequestHandler):
    status = 200

    def do_GET(self) -> None:
        self.send_response(self.status if self.path == "/healthz" else 500)
        self.end_headers()

    def log_message(self, format: str, *args: Any) -> None:
        pass
