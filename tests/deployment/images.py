"""The Dockerfiles, parsed: their instructions, the files they copy, the packages they install."""

from __future__ import annotations

import ast
import importlib.metadata
import shlex
import shutil
import tomllib
from collections.abc import Iterator
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.processes import ROOT

BACKENDS = {"api": "Dockerfile.api", "trainer": "Dockerfile.trainer"}  # service and dependency group -> Dockerfile
IMAGES = BACKENDS | {"dashboard": "Dockerfile.dashboard"}
FIRST_PARTY = ("kiln", "services", "shared")
PLATFORM = {  # of python:3.13-slim, for the markers of requirements
    "python_version": "3.13", "python_full_version": "3.13.0", "sys_platform": "linux", "platform_system": "Linux",
    "platform_machine": "x86_64", "platform_python_implementation": "CPython", "os_name": "posix",
}  # fmt: skip


def instructions(file: str, name: str) -> list[str]:
    """The arguments of every instruction `name` in a Dockerfile, with continuation lines joined."""
    text = (ROOT / file).read_text().replace("\\\n", " ")
    return [line.removeprefix(f"{name} ").strip() for line in text.splitlines() if line.startswith(f"{name} ")]


def instruction(file: str, name: str) -> str:
    """The last instruction `name`, which is the one that takes effect."""
    return instructions(file, name)[-1]


def copies(file: str) -> list[tuple[str, str]]:
    """(source, target) of every COPY."""
    return [
        (source, parts[-1]) for copy in instructions(file, "COPY") for parts in [copy.split()] for source in parts[:-1]
    ]


def copy_tree(file: str, folder: Path) -> None:
    """Does what the COPY instructions of a Dockerfile do, with `folder` as the working directory."""
    for source, target in copies(file):
        if source.endswith("/"):
            shutil.copytree(ROOT / source, folder / target, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            (folder / target).mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / source, folder / target)


def image_environment(file: str) -> dict[str, str]:
    pairs = (pair.partition("=") for line in instructions(file, "ENV") for pair in shlex.split(line))
    return {name: value for name, _, value in pairs}


def imported_modules(source: Path) -> set[str]:
    """Every module that the Python files in `source` import, also inside functions; `from a import b` counts as a."""
    files = source.rglob("*.py") if source.is_dir() else [source] if source.suffix == ".py" else []
    nodes = [node for file in files for node in ast.walk(ast.parse(file.read_text()))]
    names = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    return names | {node.module for node in nodes if isinstance(node, ast.ImportFrom) and node.module}


def closure(group: str) -> set[str]:
    """The packages that a dependency group installs, from the metadata of the packages installed here."""
    groups = tomllib.loads((ROOT / "pyproject.toml").read_text())["dependency-groups"]

    def requirements(name: str) -> Iterator[Requirement]:
        for entry in groups[name]:
            if isinstance(entry, dict):
                yield from requirements(entry["include-group"])
            else:
                yield Requirement(entry)

    extras_seen: dict[str, set[str]] = {}  # by package; "" stands for no extra
    queue = [(requirement, "") for requirement in requirements(group)]
    while queue:
        requirement, extra = queue.pop()
        if requirement.marker and not requirement.marker.evaluate(PLATFORM | {"extra": extra}):
            continue
        name = canonicalize_name(requirement.name)
        new = ({""} | requirement.extras) - extras_seen.setdefault(name, set())
        extras_seen[name] |= new
        try:
            needed = importlib.metadata.requires(name) or []
        except importlib.metadata.PackageNotFoundError:  # a package of another platform: only its name is known
            needed = []
        queue += [(Requirement(text), extra) for text in needed for extra in new]
    return set(extras_seen)
