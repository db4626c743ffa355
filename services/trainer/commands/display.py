"""Prints the messages of a run for people: a progress bar in a terminal, otherwise one line each."""

from __future__ import annotations

import atexit
from collections.abc import Callable
from typing import TextIO

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn

from shared.jobs.trainer_messages import (
    ClassifierLine,
    DatasetLine,
    EventLine,
    FailureLine,
    MetricsLine,
    ProgressLine,
    ResultLine,
    TrainerLine,
)


def make_display(out: TextIO, total_nimg: int) -> Callable[[TrainerLine], None]:
    """A function to call with every message. Files and pipes get plain lines."""
    if not out.isatty():
        return lambda line: print_line(line, out, total_nimg)
    bar = Progress(BarColumn(), TaskProgressColumn(), TextColumn("{task.description}"), console=Console(file=out))
    task = bar.add_task("", total=1.0)
    bar.start()
    atexit.register(bar.stop)  # restores the cursor however the run ends

    def show(line: TrainerLine) -> None:
        if isinstance(line, ProgressLine):
            bar.update(task, completed=_fraction(line, total_nimg), description=describe(line, total_nimg))
            return
        bar.console.print(describe(line, total_nimg), markup=False, highlight=False)
        if isinstance(line, EventLine) and line.event.kind == "exporting":
            bar.stop()

    return show


def print_line(line: TrainerLine, out: TextIO, total_nimg: int) -> None:
    """Prints a message as one line."""
    text = describe(line, total_nimg)
    if isinstance(line, ProgressLine):
        text = f"{_fraction(line, total_nimg):6.1%}  {text}"
    print(text, file=out, flush=True)


def describe(line: TrainerLine, total_nimg: int) -> str:
    """The text of a message; `total_nimg` is the budget, for the remaining time."""
    match line:
        case ProgressLine():
            eta_s = line.eta_seconds
            if eta_s is None:
                eta_s = max(0, total_nimg - line.images_seen) / max(line.images_per_second, 1e-9)
            words = [f"{line.images_per_second:,.0f} images/s", f"{eta_s:,.0f} s left"]
            if line.step_shares:
                words.append(" ".join(f"{part} {share:.0%}" for part, share in line.step_shares.items()))
            if line.device_memory_bytes:
                words.append(f"{line.device_memory_bytes / 2**30:.1f} GiB")
            return "  ".join(words)
        case MetricsLine():
            return "  ".join(f"{name} {value:.4g}" for name, value in line.row.items())
        case EventLine():
            return line.event.message
        case ResultLine() | ClassifierLine() | DatasetLine():
            return _describe_result(line)
        case FailureLine():
            return f"{line.reason}: {line.error}"


def _fraction(line: ProgressLine, total_nimg: int) -> float:
    return min(1.0, line.images_seen / total_nimg) if line.fraction is None else line.fraction


def _describe_result(line: ResultLine | ClassifierLine | DatasetLine) -> str:
    match line:
        case ResultLine(manifest=model):
            return f"model {model.id}: parity {model.parity.max_abs_difference:.2g}"
        case ClassifierLine(manifest=classifier):
            return f"{line.folder}: {classifier.test_accuracy:.2%} of {classifier.test_images:,} test images"
        case DatasetLine(manifest=dataset):
            return f"{dataset.images:,} images in {len(dataset.shards):,} files"
