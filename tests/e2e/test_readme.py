"""The README is true: its code blocks run, its tree is the tree, its table is the table of presets."""

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

CLIENT_PAGE = (ROOT / "docs/tutorials/python-client.md").read_text()
CELLS = re.findall(r"^```python\n(.*?)^```$", CLIENT_PAGE, re.MULTILINE | re.DOTALL)
README = (ROOT / "README.md").read_text()
FENCED = re.findall(r"^```(\w*)\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)  # (language, text)
BLOCKS = [text for language, text in FENCED if language == "bash"]


@pytest.fixture(scope="module")
def stack(cifar10_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    data, starter = tmp_path_factory.mktemp("readme") / "data", str(ROOT / "models" / "starter")
    with running_stack(data, cifar10_root, KILN_STARTER=starter) as stack:
        yield stack


def test_the_commands_do_what_the_readme_says(stack: Stack, tmp_path: Path) -> None:
    """All blocks in one shell, as a reader would type them, but on another port and with a budget of 640 images.

    `make up` is the stack that the test starts in its place (tests/test_compose.py holds that they start the same
    commands); `make test` is what is running now, so it is only asked what it would do.
    """
    up, test, *rest = BLOCKS
    assert up.startswith("make up ")
    assert test.startswith("make test ")
    for target, command in (("up", "-m services.dev"), ("test", "-m pytest")):
        dry = subprocess.run(["make", "-n", target], cwd=ROOT, check=True, capture_output=True, text=True).stdout
        assert command in dry

    script = "\n".join(rest).replace("localhost:8000", f"localhost:{stack.port}").replace("sleep 5", "sleep 0.5")
    budget = '{"preset":"tiny","overrides":{"total_nimg":640}}'
    assert '{"preset":"tiny"}' in script
    script = script.replace('{"preset":"tiny"}', budget)
    bash = shutil.which("bash")
    assert bash
    done = subprocess.run(
        [bash, "-euo", "pipefail", "-c", script], cwd=tmp_path, capture_output=True, text=True, check=False
    )

    assert done.returncode == 0, done.stdout + done.stderr
    assert '"status":4' not in done.stdout
    assert '"status":5' not in done.stdout
    assert done.stdout.count('"alias":"default"') == 1
    for name, size in (
        ("cats.png", (128, 128)),
        ("all.png", (640, 640)),
        ("preview.png", (320, 320)),
        ("ships.png", (640, 64)),
    ):
        with Image.open(tmp_path / name) as image:
            assert (image.format, image.size) == ("PNG", size)


def test_the_page_about_the_client_runs(stack: Stack, tmp_path: Path) -> None:
    """All cells in one interpreter, as a reader would run them, but with a budget of 640 images."""
    assert len(CELLS) > 5
    program = "\n".join(CELLS).replace("80_000", "640")

    done = subprocess.run(
        [sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, check=False,
        env=os.environ | {"KILN_URL": f"http://127.0.0.1:{stack.port}", "PYTHONPATH": str(ROOT)},
    )  # fmt: skip

    assert done.returncode == 0, done.stdout + done.stderr
    assert "overrides.lr -1.0 Input should be greater than 0" in done.stdout
    assert {"cat.png", "preview.png", "after-640.png"} <= {path.name for path in tmp_path.iterdir()}


def test_the_tree_names_every_file_and_no_other() -> None:
    (block,) = [text for language, text in FENCED if not language]
    drawn: set[str] = set()
    folders: list[str] = []
    for line in block.splitlines():
        name = line.split("  ")[0] if not line.startswith(" ") else line.strip().split("  ")[0]
        depth = (len(line) - len(line.lstrip())) // 2
        path = "/".join([*folders[:depth], name.rstrip("/")])
        if name.endswith("/"):
            folders[depth:] = [name.rstrip("/")]
        drawn.add(path)
    for path in drawn:
        assert (ROOT / path).exists(), f"{path} is in the README's tree and not in the repository"

    tracked = subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard"], cwd=ROOT, check=True, capture_output=True, text=True
    ).stdout.split()
    whole_folders = ("tests", "docs/explanation/decisions", "docs/images")
    missing = {
        name
        for name in tracked
        if name not in drawn and not name.endswith("__init__.py") and not name.startswith(whole_folders)
    }
    assert missing == set()


def test_the_table_of_presets_is_the_table_of_presets() -> None:
    rows = re.findall(r"^\| `([a-z0-9-]+)` \| .* \| ([\d,]+) \| ([\d,]+) \|$", README, re.MULTILINE)
    in_readme = {name: [int(number.replace(",", "")) for number in numbers] for name, *numbers in rows}

    assert in_readme == {name: list(preset.parameters.values()) for name, preset in PRESETS.items()}


def test_every_file_it_links_to_is_there() -> None:
    links = re.findall(r"\]\(([^)#:]+)\)", README)

    assert len(links) > 3
    assert [link for link in links if not (ROOT / link).exists()] == []


def test_it_is_the_same_machine_wherever_it_stands() -> None:
    assert str(ROOT) not in README
    assert os.environ.get("HOME", "/root") + "/" not in README
