"""The compose files, read and merged in the way that Docker Compose does it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import yaml

from tests.processes import ROOT

RESET = object()  # what `!reset` leaves of a value


class Override:
    """A value with `!override`: it replaces the old value instead of being merged with it."""

    def __init__(self, value: Any) -> None:
        self.value = value


class ComposeLoader(yaml.SafeLoader):
    """YAML with the tags `!reset` and `!override`."""


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
    return yaml.load(text, ComposeLoader)  # noqa: S506 - a SafeLoader with two more tags


def merge(old: Any, new: Any) -> Any:
    """Merges mappings, appends sequences, replaces other values. Kiln's files have no lists that Compose replaces."""
    if isinstance(new, Override):
        return new.value
    if isinstance(old, dict) and isinstance(new, dict):
        both = old | {key: merge(old[key], value) if key in old else value for key, value in new.items()}
        return {key: value for key, value in both.items() if value is not RESET}
    if isinstance(old, list) and isinstance(new, list):
        return old + new
    return new


def without_tags(value: Any) -> Any:
    """The file by itself, where there is nothing to reset or to override."""
    return merge({}, {k: without_tags(v) for k, v in value.items()}) if isinstance(value, dict) else value


def interpolate(value: str, environment: Mapping[str, str]) -> str:
    """Replaces `${NAME:-default}` as Compose does before it interprets the value."""
    return re.sub(r"\$\{(\w+):-([^}]+)\}", lambda match: environment.get(match[1]) or match[2], value)


BASE = read((ROOT / "docker-compose.yml").read_text())
CPU = read((ROOT / "docker-compose.cpu.yml").read_text())
KEYS = read((ROOT / "docker-compose.keys.yml").read_text())
FILES = {
    "docker-compose.yml": BASE, "docker-compose.cpu.yml": without_tags(CPU), "merged": merge(BASE, CPU),
    "docker-compose.keys.yml": KEYS, "with keys": merge(BASE, KEYS),
}  # fmt: skip
