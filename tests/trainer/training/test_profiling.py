"""`--profile` writes a trace, and a terminal gets a bar."""

from __future__ import annotations

import io
import json
from pathlib import Path

from services.trainer.commands.display import make_display
from services.trainer.training import loop
from services.trainer.training.profiling import profiled
from services.trainer.training.state import TrainState
from shared.jobs.record import Event, Progress
from shared.jobs.trainer_messages import EventLine, ProgressLine
from tests.trainer.small import CPU, random_images, small_config

LINE = ProgressLine(
    images_seen=50, images_per_second=10.0, fraction=0.75, eta_seconds=3.0,
    step_shares={"data": 0.1, "forward": 0.9}, device_memory_bytes=2**31,
)  # fmt: skip


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_trace_consists_of_chrome_trace_events(tmp_path: Path) -> None:
    # Given a run of twelve steps that is profiled
    path = tmp_path / "trace.json"
    state = TrainState(small_config(total_nimg=96), 10, CPU)
    with profiled(lambda: None, path) as should_stop:
        loop.train(state, random_images(), lambda *_: None, should_stop)
    # Then the file has what Perfetto reads: complete events with names and times, convolutions among them
    events = json.loads(path.read_text())["traceEvents"]
    complete = [event for event in events if event.get("ph") == "X"]
    assert any("convolution" in event["name"] for event in complete)
    assert all({"ts", "dur"} <= set(event) for event in complete)


def test_without_a_file_there_is_no_profiler() -> None:
    def should_stop() -> None:
        return None

    with profiled(should_stop, None) as ask:
        assert ask is should_stop


def test_a_terminal_shows_a_bar_with_the_live_figures_and_events_above_it() -> None:
    out = Terminal()
    show = make_display(out, 100)
    show(LINE)
    show(EventLine(event=Event(kind="exporting", message="training is done; [not markup]")))
    assert "75%" in out.getvalue()
    assert "10 images/s  3 s left  data 10% forward 90%  2.0 GiB" in out.getvalue().replace("\n", " ")
    assert "training is done; [not markup]" in out.getvalue()


def test_a_pipe_gets_plain_lines() -> None:
    out = io.StringIO()
    show = make_display(out, 100)
    show(LINE)
    show(ProgressLine(images_seen=50, images_per_second=10.0))
    assert out.getvalue().splitlines() == [
        " 75.0%  10 images/s  3 s left  data 10% forward 90%  2.0 GiB",
        " 50.0%  10 images/s  5 s left",
    ]


def test_the_trainers_estimate_replaces_the_one_from_images() -> None:
    progress = Progress.at(50, 100, 10.0, **LINE.model_dump(include={"fraction", "eta_seconds", "step_shares"}))
    assert (progress.fraction, progress.eta_seconds, progress.step_shares) == (0.75, 3.0, LINE.step_shares)
    guessed = Progress.at(50, 100, 10.0, fraction=None, eta_seconds=None)
    assert (guessed.fraction, guessed.eta_seconds) == (0.5, 5.0)
