"""The README is true: its code blocks run, its tree is the tree, its table is the table of presets."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

from PIL import Image

from shared.presets import PRESETS
from tests.processes import ROOT, running_stack

README = (ROOT / "README.md").read_text()
FENCED = re.findall(r"^```(\w*)\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)  # (language, text)
BLOCKS = [text for language, text in FENCED if language == "bash"]


def test_the_commands_do_what_the_readme_says(cifar10_root: Path, tmp_path: Path) -> None:
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

    with running_stack(tmp_path / "data", cifar10_root, KILN_STARTER=str(ROOT / "models" / "starter")) as stack:
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
    for name, size in (("cats.png", (128, 128)), ("preview.png", (320, 320)), ("ships.png", (640, 64))):
        with Image.open(tmp_path / name) as image:
            assert (image.format, image.size) == ("PNG", size)


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
    whole_folders = ("tests", "docs/decisions", "docs/images")
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
