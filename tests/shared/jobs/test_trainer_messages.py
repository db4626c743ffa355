"""The messages from a training process to its supervisor."""

from __future__ import annotations

from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from shared.jobs.record import Event, Reason
from shared.jobs.trainer_messages import (
    EventLine,
    FailureLine,
    MetricsLine,
    ProgressLine,
    ResultLine,
    TrainerLine,
    parse_line,
)
from tests.shared.examples import NOW, a_model

LINES: dict[str, TrainerLine] = {
    "progress": ProgressLine(images_seen=64, images_per_second=123.456),
    "metrics": MetricsLine(row={"nimg": 64.0, "loss_d": -1e-9, "lr": 2e-4}),
    "event": EventLine(event=Event(kind="sample", message="größer\n", data={"epoch": 1}, id="1-0", at=NOW)),
    "result": ResultLine(manifest=a_model(), folder="somewhere"),
    "failure": FailureLine(reason=Reason.DIVERGED, error="loss_d is nan"),
}


@pytest.mark.parametrize("line", LINES.values(), ids=LINES)
def test_a_message_arrives_as_it_was_sent(line: TrainerLine) -> None:
    text = line.model_dump_json()

    assert parse_line(text) == line
    assert parse_line(text.encode() + b"\n") == line
    assert "\n" not in text  # one line it is, whatever it says


def test_each_kind_of_message_is_parsed() -> None:
    assert {line.kind: name for name, line in LINES.items()} == {name: name for name in LINES}


@pytest.mark.parametrize("reason", Reason)
def test_a_failure_message_has_its_reason(reason: Reason) -> None:
    line = FailureLine(reason=reason, error="")

    assert parse_line(line.model_dump_json()) == line


@pytest.mark.parametrize("line", LINES.values(), ids=LINES)
def test_half_a_message_is_refused_wherever_it_breaks(line: TrainerLine) -> None:
    # A trainer that is killed while it writes leaves one.
    data = line.model_dump_json().encode()
    for length in range(len(data)):
        with pytest.raises(ValidationError):
            parse_line(data[:length])


@pytest.mark.parametrize(
    "line",
    [
        "", "\n", "null", "[]", "{}", "1", '"progress"', "Epoch 1 of 100", "\x00",
        '{"kind": "unknown"}',
        '{"kind": "progress"}',
        '{"kind": "progress", "images_seen": 1, "images_per_second": 1.0, "extra": 1}',
        '{"kind": "progress", "images_seen": 1.5, "images_per_second": 1.0}',
        '{"kind": "progress", "images_seen": 1, "images_per_second": NaN}',
        '{"kind": "metrics", "row": {"nimg": 1, "loss_d": NaN}}',
        '{"kind": "metrics", "row": {"nimg": 1, "loss_d": Infinity}}',
        '{"kind": "metrics", "row": {"nimg": null}}',
        '{"kind": "metrics", "row": [1]}',
        '{"kind": "event", "event": {"kind": "k"}}',
        '{"kind": "failure", "reason": "bad luck", "error": ""}',
        '{"kind": "result", "folder": "somewhere"}',
    ],
    ids=ascii,
)  # fmt: skip
def test_a_malformed_message_is_refused(line: str) -> None:
    with pytest.raises(ValidationError):
        parse_line(line)


@given(st.binary())
def test_every_line_is_a_message_or_refused(line: bytes) -> None:
    with suppress(ValidationError):
        assert parse_line(line) in LINES.values()


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_nan_and_infinity_are_not_sent(value: float) -> None:
    with pytest.raises(ValidationError, match="finite"):
        MetricsLine(row={"nimg": 1.0, "loss_d": value})
