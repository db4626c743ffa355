"""Rules of the repository that no other tool checks: names, sizes and forbidden contents."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.drills.breaks import BREAKS, path_of

ROOT = Path(__file__).parents[1]
FORBIDDEN_STEMS = {"utils", "util", "helpers", "helper", "common", "manager", "misc"}


def tracked() -> list[Path]:
    names = subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard"], cwd=ROOT, check=True, capture_output=True, text=True
    ).stdout.split("\n")
    return [ROOT / name for name in names if name and (ROOT / name).is_file()]


def sources() -> list[Path]:
    return [path for path in tracked() if path.suffix == ".py"]


def test_the_layout_is_the_one_the_user_fixed() -> None:
    for name in ("services/api", "services/trainer", "shared", "docker-compose.yml", "Dockerfile.api",
                 "Dockerfile.trainer", "tests", "README.md"):  # fmt: skip
        assert (ROOT / name).exists(), name


def test_no_module_has_a_name_without_meaning() -> None:
    assert [path for path in sources() if path.stem in FORBIDDEN_STEMS] == []


def test_files_and_functions_are_short() -> None:
    lengths = []
    for path in sources():
        text = path.read_text()
        assert text.count("\n") <= 400 or path.is_relative_to(ROOT / "tests"), (
            f"{path} has more than 400 lines; split it"
        )
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                assert node.end_lineno is not None
                lengths.append(node.end_lineno - node.lineno + 1)
    lengths.sort()
    assert lengths[int(len(lengths) * 0.9)] <= 45


def test_every_module_says_what_it_is_for() -> None:
    empty_by_design = [path for path in sources() if path.name == "__init__.py" and not path.read_text()]
    undocumented = [
        path for path in sources() if path not in empty_by_design and not ast.get_docstring(ast.parse(path.read_text()))
    ]
    assert undocumented == []


def test_nothing_is_pickled() -> None:
    """Checkpoints are loaded with weights_only=True, messages are JSON, and no module imports pickle."""
    for path in (p for p in sources() if not p.is_relative_to(ROOT / "tests")):
        text = path.read_text()
        assert not re.search(r"^\s*(import|from) (pickle|cloudpickle|dill|joblib|marshal|shelve)\b", text, re.M), path
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.Call) and ast.unparse(node.func) == "torch.load":
                assert "weights_only=True" in ast.unparse(node), f"{path}: {ast.unparse(node)}"
        assert "allow_pickle=True" not in text, path


def test_the_supervisor_imports_neither_torch_nor_onnxruntime() -> None:
    """Checked in a process that has imported it; import-linter checks the source."""
    names = ["torch", "onnxruntime", "fastapi"]
    code = f"import sys, services.trainer.tasks; print([m for m in {names} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, capture_output=True, text=True)
    assert done.stdout.strip() == "[]"


def test_importing_the_api_opens_nothing() -> None:
    code = "import socket; socket.socket.connect = None; import services.api.app, services.api.__main__; print('ok')"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, capture_output=True, text=True)
    assert done.stdout.strip() == "ok"


@pytest.mark.parametrize("pattern", [r"--(extra-)?index-url", r"https?://", r"--find-links"])
def test_the_lock_pins_everything_and_names_no_index(pattern: str) -> None:
    lock = (ROOT / "requirements.lock").read_text()

    assert not re.search(pattern, lock)
    lines = [line for line in lock.splitlines() if line and not line.startswith("#")]
    assert [line for line in lines if not re.match(r"^[A-Za-z0-9._-]+(\[[a-z,]+\])?==[^ ]+", line)] == []


def test_only_settings_modules_read_variables_of_the_environment() -> None:
    """One for the services, one for the client, one for the dashboard: each can be installed without the others."""
    for path in (p for p in sources() if not p.is_relative_to(ROOT / "tests") and p.name != "settings.py"):
        names = re.findall(r"""environ(?:\.get\(|\[)["'](KILN_\w+)""", path.read_text())
        assert names == [], f"{path.relative_to(ROOT)} reads {names}; read them in a settings module"


def test_every_break_of_a_drill_matches_the_sources_once() -> None:
    for broken in BREAKS:
        assert (ROOT / broken.file).read_text().count(broken.old) == 1, broken
        file, _, name = path_of(broken.drill).partition("::")
        assert f"def {name.partition('[')[0]}(" in (ROOT / file).read_text(), broken
