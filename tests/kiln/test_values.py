"""How the command line reads a search space: `--space lr=1e-5..1e-2,log`."""

from __future__ import annotations

from typing import Any

import pytest

from kiln.cli.output import CommandFailed
from kiln.cli.values import parse_space

CONFIG = {"lr": 2e-4, "lr_tail": 0.4, "batch_size": 32, "lr_d": None, "g_channels": [8, 8, 8], "loss": "hinge"}


@pytest.mark.parametrize(
    ("text", "parameter"),
    [
        ("lr=1e-5..1e-2,log", {"type": "float", "low": 1e-5, "high": 1e-2, "log": True}),
        ("lr_tail=0..1", {"type": "float", "low": 0, "high": 1}),
        ("batch_size=16..64,step=16", {"type": "int", "low": 16, "high": 64, "step": 16}),
        ("loss=hinge,bce", {"type": "categorical", "choices": ["hinge", "bce"]}),
        ("lr_d=null,1e-4", {"type": "categorical", "choices": [None, 1e-4]}),
        ("g_channels=[8,8,8],[16,8,8]", {"type": "categorical", "choices": [[8, 8, 8], [16, 8, 8]]}),
    ],
)
def test_a_search_space_is_read_from_the_command_line(text: str, parameter: dict[str, Any]) -> None:
    assert parse_space([text], CONFIG) == {text.partition("=")[0]: parameter}


@pytest.mark.parametrize("text", ["lr", "lr=", "lr=a..b", "lr=1..2..3", "lr=1e-5..1e-2,logarithmic"])
def test_a_malformed_search_space_is_refused_with_an_example(text: str) -> None:
    with pytest.raises(CommandFailed, match="expected"):
        parse_space([text], CONFIG)
