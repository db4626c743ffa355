"""What the documentation mentions exists: commands, options, make targets, settings and files."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from typing import Any

import pytest
import typer.main

from kiln.cli.main import app
from shared.settings import Settings
from tests.conftest import ROOT
from tests.docs.test_pages import MARKDOWN

HISTORY = {"CHANGELOG.md"}  # names files and commands of earlier versions
PAGES = [name for name in MARKDOWN if name not in HISTORY]
ROOMS = ("benchmarks", "docs", "kiln", "models", "services", "shared", "tests")
# Variables that no service reads: the client's, and those of make, compose, the tests and the benchmarks.
OTHER_VARIABLES = {"KILN_URL", "KILN_API_KEY", "KILN_GPUS"}


@pytest.mark.parametrize("name", PAGES)
def test_every_kiln_command_line_is_valid(name: str) -> None:
    for line in command_lines(name, "kiln"):
        assert unknown_words(shlex.split(line, comments=True)[1:]) == [], line


def test_an_unknown_command_or_option_is_noticed() -> None:
    assert unknown_words(["generate", "cat", "-n", "16", "--seed", "7"]) == []
    assert unknown_words(["generate", "cat", "--no-such-option"]) == ["--no-such-option"]
    assert unknown_words(["no-such-command"]) == ["no-such-command"]


@pytest.mark.parametrize("name", PAGES)
def test_every_make_target_exists(name: str) -> None:
    makefile = (ROOT / "Makefile").read_text()
    targets = set(re.findall(r"^([a-z_][\w/-]*):", makefile, re.MULTILINE))
    text = (ROOT / name).read_text()

    mentioned = {target for line in command_lines(name, "make") for target in shlex.split(line, comments=True)[1:]}
    mentioned |= set(re.findall(r"`make ([a-z][\w-]*)", text))

    assert {word for word in mentioned if "=" not in word and re.fullmatch(r"[a-z][\w/-]*", word)} <= targets


@pytest.mark.parametrize("name", PAGES)
def test_every_variable_is_a_setting(name: str) -> None:
    settings = {f"KILN_{field.upper()}" for field in Settings.model_fields}

    mentioned = set(re.findall(r"KILN_[A-Z0-9_]*[A-Z0-9]\b", (ROOT / name).read_text()))

    assert mentioned - settings - OTHER_VARIABLES == set()


@pytest.mark.parametrize("name", PAGES)
def test_every_file_in_code_spans_exists(name: str) -> None:
    text = re.sub(r"^```.*?^```$", "", (ROOT / name).read_text(), flags=re.MULTILINE | re.DOTALL)

    paths = [span for span in re.findall(r"`([\w./-]+)`", text) if span.startswith(tuple(f"{room}/" for room in ROOMS))]

    assert [path for path in paths if not (ROOT / path).exists()] == []


def command_lines(name: str, command: str) -> Iterator[str]:
    """Command lines of the page's shell blocks that run the command, with continued lines joined."""
    text = (ROOT / name).read_text()
    for language, block in re.findall(r"^ *```(bash|console)\n(.*?)^ *```$", text, re.MULTILINE | re.DOTALL):
        for line in block.replace("\\\n", " ").splitlines():
            words = line.strip().removeprefix("$ ") if language == "console" else line.strip()
            words = re.sub(r"^(\w+=\S+ )+", "", words)  # variables in front of the command
            if words.startswith(f"{command} ") and "[OPTIONS]" not in words:  # a synopsis in the reference
                yield words


def unknown_words(arguments: list[str]) -> list[str]:
    """Commands and options that `kiln` does not have; [] for a valid command line."""
    command: Any = typer.main.get_command(app)
    words = iter(arguments)
    for word in words:
        if word.startswith("-"):
            if command.context_settings.get("ignore_unknown_options"):
                return []  # the command passes them on to another program
            options = {name: option for option in command.params for name in (*option.opts, *option.secondary_opts)}
            if word not in options | dict.fromkeys(("-h", "--help")):
                return [word]
            if word in options and not options[word].is_flag:
                next(words)
        elif hasattr(command, "commands"):
            if word not in command.commands:
                return [word]
            command = command.commands[word]
    return []
