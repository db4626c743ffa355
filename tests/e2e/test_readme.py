"""The README and the tutorials are true: their code blocks run against a real stack."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image

from shared.configs.presets import PRESETS
from tests.processes import ROOT, Stack, running_stack

README = (ROOT / "README.md").read_text()
FIRST_MODEL = (ROOT / "docs" / "tutorials" / "first-model.md").read_text()
PYTHON_CLIENT = (ROOT / "docs" / "tutorials" / "python-client.md").read_text()
# The id that a reader copies from the output of `kiln models`
NEWEST = '$(kiln models --json | python3 -c \'import json, sys; print(json.load(sys.stdin)[0]["manifest"]["id"])\')'


@pytest.fixture(scope="module")
def stack(cifar10_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    data, starter = tmp_path_factory.mktemp("readme") / "data", str(ROOT / "models" / "starter")
    with running_stack(data, cifar10_root, KILN_STARTER=starter) as stack:
        yield stack


def test_the_commands_of_the_readme_run(stack: Stack, tmp_path: Path) -> None:
    """All blocks in one shell, as a reader types them, but on another port and with a budget of 640 images.

    The fixture's stack stands in for `make up`; tests/deployment/test_images.py compares their commands.
    """
    up, test, *rest = blocks(README, "bash")
    assert (up.split()[:2], test.split()[:2]) == (["make", "up"], ["make", "test"])
    for target, command in (("up", "-m services.dev"), ("test", "-m pytest")):
        dry = subprocess.run(["make", "-n", target], cwd=ROOT, check=True, capture_output=True, text=True).stdout
        assert command in dry

    run_as_shell("\n".join(rest).replace("kiln promote MODEL", f"kiln promote {NEWEST}"), stack, tmp_path)

    assert sizes(tmp_path) == {"cats.png": (128, 128), "all.png": (640, 640), "ships.png": (640, 64)}


def test_the_python_of_the_readme_runs(stack: Stack, tmp_path: Path) -> None:
    (program,) = blocks(README, "python")

    run_as_python(program.replace('create("tiny")', 'create("tiny", {"total_nimg": 640})'), stack, tmp_path)

    assert sizes(tmp_path) == {"cat.png": (32, 32)}


def test_the_tutorial_of_the_first_model_runs(stack: Stack, tmp_path: Path) -> None:
    output = run_as_shell("\n".join(blocks(FIRST_MODEL, "bash")), stack, tmp_path, total_nimg=960)

    assert sizes(tmp_path) == {
        "cats.png": (128, 128), "all.png": (640, 640), "ships.png": (128, 96), "preview.png": (320, 320),
    }  # fmt: skip
    assert '"reproduced":true' in output


def test_the_tutorial_of_the_python_client_runs(stack: Stack, tmp_path: Path) -> None:
    """All cells in one interpreter, but with a budget of 640 images."""
    cells = blocks(PYTHON_CLIENT, "python")
    assert len(cells) > 5

    output = run_as_python("\n".join(cells).replace("80_000", "640"), stack, tmp_path)

    assert "overrides.lr -1.0 Input should be greater than 0" in output
    assert {"cat.png", "preview.png", "after-640.png"} <= set(sizes(tmp_path))


def test_the_readme_is_short_and_counts_the_presets() -> None:
    assert len(README.encode()) <= 9_000
    assert re.findall(r"(\d+) presets|all (\d+)\]", README) == [(str(len(PRESETS)), ""), ("", str(len(PRESETS)))]


def test_the_readme_never_installs_another_project_of_the_same_name() -> None:
    assert "pip install kiln" not in README + FIRST_MODEL + PYTHON_CLIENT


def test_the_readme_names_no_path_of_the_machine_it_was_written_on() -> None:
    assert str(ROOT) not in README
    assert os.environ.get("HOME", "/root") + "/" not in README


def blocks(page: str, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)


def run_as_shell(script: str, stack: Stack, folder: Path, total_nimg: int = 640, preset: str = "tiny") -> str:
    """Runs the commands with this environment's `kiln`, stops at the first error, and returns the output."""
    assert f"kiln train --preset {preset}" in script
    script = script.replace("localhost:8000", f"localhost:{stack.port}").replace("source .venv/bin/activate", "")
    script = script.replace("--preset tiny", f"--preset tiny -o total_nimg={total_nimg}")
    bash = shutil.which("bash")
    assert bash
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    return run([bash, "-euo", "pipefail", "-c", script], stack, folder, PATH=path)


def run_as_python(program: str, stack: Stack, folder: Path) -> str:
    return run([sys.executable, "-c", program], stack, folder)


def run(command: list[str], stack: Stack, folder: Path, **environment: str) -> str:
    done = subprocess.run(
        command, cwd=folder, capture_output=True, text=True, check=False,
        env=os.environ | {"KILN_URL": f"http://127.0.0.1:{stack.port}", "PYTHONPATH": str(ROOT)} | environment,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def sizes(folder: Path) -> dict[str, tuple[int, int]]:
    """Width and height of every PNG in the folder. Fails for other files, such as a saved error response."""
    png_sizes = {}
    for path in sorted(folder.glob("*.png")):
        with Image.open(path) as image:
            assert image.format == "PNG"
            png_sizes[path.name] = image.size
    return png_sizes
