"""The images, without building them: their files, packages, commands and health checks."""

from __future__ import annotations

import http.server
import importlib.metadata
import json
import os
import re
import subprocess
import sys
import sysconfig
import threading
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from services.dev import API_COMMAND, DASHBOARD_COMMAND, WORKER_COMMAND, free_port
from tests.deployment.compose import BASE
from tests.deployment.images import (
    FIRST_PARTY,
    IMAGES,
    PLATFORM,
    closure,
    copies,
    copy_tree,
    imported_modules,
    instruction,
    instructions,
)
from tests.processes import ROOT

PROGRAMS = {
    "api": ["services.api.__main__"],
    "dashboard": ["services.dashboard.__main__"],
    "trainer": ["services.trainer.tasks", "services.trainer.__main__", "services.trainer.runs.run"],
}

# Runs with -I -S: without the working directory, PYTHONPATH and .pth files, so that neither the checkout nor the
# editable install can supply a file that the image lacks.
IMPORT_FROM_TREE = """
import importlib, json, sys
sys.path[:0] = [{tree!r}]
sys.path += {site_packages!r}
for module in {modules!r}:
    importlib.import_module(module)
files = {{name: module.__file__ or list(module.__path__)[0] for name, module in sys.modules.items()
          if name.partition(".")[0] in {first_party!r}}}
print(json.dumps(files))
"""

# --- Files ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("file", IMAGES.values())
def test_every_copied_path_is_in_the_repository_and_in_the_build_context(file: str) -> None:
    tracked = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.split()
    ignored = [line for line in (ROOT / ".dockerignore").read_text().splitlines() if not line.startswith("#")]
    assert ignored[0] == "*"  # everything is excluded except the lines after it
    sources = [source for source, _ in copies(file)]
    assert "requirements.lock" in sources
    for source in sources:
        assert source in tracked or any(path.startswith(source) for path in tracked if source.endswith("/"))
        assert f"!{source.split('/')[0]}" in ignored


@pytest.mark.parametrize("name", IMAGES)
def test_an_image_starts_with_nothing_but_the_files_it_copies(name: str, tmp_path: Path) -> None:
    copy_tree(IMAGES[name], tmp_path)
    site_packages = sorted({sysconfig.get_path("purelib"), sysconfig.get_path("platlib")})
    script = IMPORT_FROM_TREE.format(
        tree=str(tmp_path), site_packages=site_packages, modules=PROGRAMS[name], first_party=FIRST_PARTY
    )
    environment = {"PATH": os.environ["PATH"], "KILN_DATA": str(tmp_path)}
    command = [sys.executable, "-I", "-S", "-c", script]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)

    assert done.returncode == 0, done.stderr
    files = json.loads(done.stdout)
    assert set(PROGRAMS[name]) <= set(files)
    assert {module: file for module, file in files.items() if not Path(file).is_relative_to(tmp_path)} == {}


@pytest.mark.parametrize("name", IMAGES)
def test_an_image_has_every_module_that_its_files_import(name: str, tmp_path: Path) -> None:
    """Also those that are imported inside functions, long after the start."""
    copy_tree(IMAGES[name], tmp_path)
    first_party = {module for module in imported_modules(tmp_path) if module.partition(".")[0] in FIRST_PARTY}

    def is_there(module: str) -> bool:
        path = tmp_path / module.replace(".", "/")
        return path.with_suffix(".py").is_file() or path.is_dir()

    assert {module.partition(".")[0] for module in first_party} >= {"services"}
    assert {module for module in first_party if not is_there(module)} == set()


# --- Packages -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", IMAGES)
def test_an_image_installs_every_package_that_its_files_import(name: str) -> None:
    assert f"--group {name} --constraint requirements.lock" in "\n".join(instructions(IMAGES[name], "RUN"))
    installed = closure(name)
    by_module = importlib.metadata.packages_distributions()
    modules = {module for source, _ in copies(IMAGES[name]) for module in imported_modules(ROOT / source)}
    imported = {module.partition(".")[0] for module in modules}
    assert "pydantic" in imported
    missing = {
        module
        for module in imported - sys.stdlib_module_names - {*FIRST_PARTY}
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
    names = {canonicalize_name(pin.name) for pin in pinned if pin.marker is None or pin.marker.evaluate(PLATFORM)}
    assert closure(name) - names == set()


# --- Commands and health checks -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "command"), [("api", API_COMMAND), ("trainer", WORKER_COMMAND), ("dashboard", DASHBOARD_COMMAND)]
)
def test_a_container_runs_the_same_command_as_make_up(name: str, command: tuple[str, ...]) -> None:
    assert command[0] == sys.executable
    assert json.loads(instruction(IMAGES[name], "CMD")) == ["python", *command[1:]]
    assert "command" not in BASE["services"][name]
    assert "entrypoint" not in BASE["services"][name]


@pytest.mark.parametrize("name", ["api", "dashboard"])
def test_the_servers_are_healthy_while_healthz_returns_200(name: str) -> None:
    _HealthHandler.status = 200
    with http.server.HTTPServer(("127.0.0.1", 0), _HealthHandler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        port = server.server_port
        assert health_check(name, port, http_proxy="http://127.0.0.1:9")  # a configured proxy is not used
        _HealthHandler.status = 503
        assert not health_check(name, port)
        server.shutdown()
    assert not health_check(name, free_port())


def test_the_worker_is_healthy_if_its_settings_are_valid_and_redis_responds(redis_url: str, tmp_path: Path) -> None:
    assert health_check("trainer", KILN_REDIS_URL=redis_url)
    assert not health_check("trainer", KILN_REDIS_URL=f"redis://127.0.0.1:{free_port()}/0")
    assert not health_check("trainer", KILN_REDIS_URL=redis_url, KILN_REDIS_PASSWORD_FILE=str(tmp_path / "none"))
    assert not health_check("trainer", KILN_REDIS_URL=redis_url, KILN_PORT="none")


def health_check(name: str, port: int = 8000, **environment: str) -> bool:
    """Runs the HEALTHCHECK of an image here, on another port than the container's 8000 or 8080."""
    command = json.loads(instruction(IMAGES[name], "HEALTHCHECK").partition(" CMD ")[2])
    assert command[:2] == ["python", "-c"]
    code = re.sub(r"\b80[08]0\b", str(port), command[2])
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, env=os.environ | environment, capture_output=True, check=False
    )
    return done.returncode == 0


class _HealthHandler(http.server.BaseHTTPRequestHandler):
    status = 200

    def do_GET(self) -> None:
        self.send_response(self.status if self.path == "/healthz" else 500)
        self.end_headers()

    def log_message(self, format: str, *args: Any) -> None:
        pass
