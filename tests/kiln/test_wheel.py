"""The wheel contains the package `kiln` alone, and runs with the dependencies that it declares."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

import kiln
from tests.processes import ROOT

UV = Path(sys.executable).with_name("uv")
SERVER_PACKAGES = {"torch", "redis", "celery", "fastapi", "onnxruntime", "numpy", "services", "shared"}

THREE_LINES = """
from kiln import AsyncKiln, Kiln
with Kiln() as client:
    print(client.models.list()[0].id, client.generate("cat", n=2)[1].size)
"""
WHERE = """
import importlib.util, sys
import kiln, kiln.cli.main
modules = [module for name, module in sys.modules.items() if name.partition(".")[0] == "kiln"]
print(*sorted({module.__file__ for module in modules}), sep="\\n")
print(*[name for name in sys.argv[1:] if importlib.util.find_spec(name)])
"""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built from a copy, so that building leaves nothing in the checkout."""
    source, folder = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheel")
    shutil.copy(ROOT / "pyproject.toml", source)
    for room in ("kiln", "services", "shared", "tests", "benchmarks"):
        shutil.copytree(ROOT / room, source / room, ignore=shutil.ignore_patterns("__pycache__"))
    uv("build", "--wheel", "--no-build-isolation", "--python", sys.executable, "--out-dir", str(folder), str(source))
    (wheel,) = folder.glob("*.whl")
    return wheel


@pytest.fixture(scope="module")
def environment(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A fresh virtual environment's `bin`, with the wheel and the packages that it declares."""
    folder = tmp_path_factory.mktemp("environment") / "env"
    uv("venv", "--python", sys.executable, str(folder))
    locked = str(ROOT / "requirements.lock")
    uv("pip", "install", "--python", str(folder / "bin" / "python"), "--constraint", locked, str(wheel))
    return folder / "bin"


def uv(*arguments: str) -> None:
    done = subprocess.run([UV, "--quiet", *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def output(folder: Path, *command: str | Path, url: str = "http://127.0.0.1:9") -> str:
    """Standard output of a command that succeeds, in an environment where nothing points at the checkout."""
    done = run(folder, *command, url=url)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def run(folder: Path, *command: str | Path, url: str) -> subprocess.CompletedProcess[str]:
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("KILN_", "PYTHON"))}
    environment = clean | {"KILN_URL": url}
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)


def test_the_wheel_holds_the_package_kiln_and_nothing_else(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
    information = f"kiln_gan-{kiln.__version__}.dist-info"
    assert {name.partition("/")[0] for name in names} == {"kiln", information}

    ours = {str(path.relative_to(ROOT)) for path in (ROOT / "kiln").rglob("*.py")} | {"kiln/py.typed"}
    assert {name for name in names if name.startswith("kiln/")} == ours


def test_the_installed_client_uses_its_own_files_and_no_package_of_the_servers(
    environment: Path, tmp_path: Path
) -> None:
    *files, servers = output(tmp_path, environment / "python", "-c", WHERE, *sorted(SERVER_PACKAGES)).split("\n")[:-1]

    assert len(files) > 15
    assert all(file.startswith(str(environment.parent)) for file in files), files
    assert servers == ""


def test_the_installed_command_explains_itself(environment: Path, tmp_path: Path) -> None:
    assert output(tmp_path, environment / "kiln", "--version") == f"kiln {kiln.__version__}\n"
    assert "Queue a training job." in output(tmp_path, environment / "kiln", "--help")


def test_three_lines_of_python_use_a_running_server(environment: Path, tmp_path: Path, url: str) -> None:
    assert output(tmp_path, environment / "python", "-c", THREE_LINES, url=url) == "first (32, 32)\n"
    assert output(tmp_path, environment / "kiln", "generate", "cat", "-n", "4", url=url) == "cat.png\n"
    assert (tmp_path / "cat.png").read_bytes().startswith(b"\x89PNG")


def test_up_needs_a_checkout_and_its_packages(environment: Path, tmp_path: Path) -> None:
    for folder, reason in ((tmp_path, "needs a checkout of Kiln"), (ROOT, "lacks celery; `make up`")):
        done = run(folder, environment / "kiln", "up", url="")

        assert (done.returncode, done.stdout) == (2, "")
        assert reason in done.stderr
        assert done.stderr.count("\n") == 1


def test_the_dependency_group_client_matches_the_wheel() -> None:
    """Images install the group, users install the wheel: both lists must agree."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    assert project["dependency-groups"]["client"] == project["project"]["dependencies"]
