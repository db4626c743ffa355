"""The training loop: an iteration, averaging, and at intervals metrics, sample grids and checkpoints.

The loop is independent of files, jobs and Redis: it reaches them through `send(...)` and `should_stop()` only.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from services.trainer.data.datasets import ImageDataset
from services.trainer.data.sampler import make_sampler
from services.trainer.training.cuda_graph import make_iteration
from services.trainer.training.sampling import sample_grid
from services.trainer.training.schedules import training_seconds
from services.trainer.training.state import SUMMED, WEIGHTED, Resumable, TrainState
from services.trainer.training.stopwatch import OFF, Stopwatch
from shared.errors import Diverged
from shared.jobs.trainer_messages import StopSignal

PROGRESS_EVERY_S = 1.0
MEASURE_EVERY_S = 30.0  # with a CUDA graph: only an eager step can be timed by part, and it is slow

_STOPS: tuple[StopSignal | None, ...] = (None, "leave", "finish")


@dataclass(frozen=True)
class ProgressMessage:
    nimg: int
    images_per_second: float
    fraction: float  # of the schedules, which advance by images or by time, whichever is further
    eta_seconds: float
    step_shares: dict[str, float] | None = None  # share of a step's time by part (stopwatch.PARTS), once measured
    device_memory_bytes: int | None = None  # peak memory that torch allocated; CUDA only


@dataclass(frozen=True)
class MetricsMessage:
    row: dict[str, float]


@dataclass(frozen=True)
class SamplesMessage:
    nimg: int
    images: Tensor  # uint8 [N, 3, H, W] on the CPU, N = 100


@dataclass(frozen=True)
class CheckpointMessage:
    state: Resumable
    is_snapshot: bool  # whether it is due by `snapshot_nimg`; then its weights are kept after the run


Message = ProgressMessage | MetricsMessage | SamplesMessage | CheckpointMessage


def train(
    state: TrainState,
    dataset: ImageDataset,
    send: Callable[[Message], None],
    should_stop: Callable[[], StopSignal | None],
) -> Literal["leave", "done"]:
    """Trains `state` in place until its budget is spent or `should_stop()` returns a signal.

    Sends progress about once a second, and metrics, sample grids and checkpoints at the config's intervals. The last
    message is a checkpoint. Raises Diverged when a loss is not finite.
    """
    config, is_first = state.config, state.ranks.is_first
    sampler = make_sampler(dataset.labels, config.seed, balance_classes=config.balance_classes)
    nimg_per_iteration = config.n_critic * config.real_batch_size
    chosen = sampler.batch(state.cur_nimg, nimg_per_iteration)
    iterate = make_iteration(state, dataset)
    speed = _Speedometer(state.cur_nimg)
    started_s = time.monotonic() - state.wall_seconds
    last_checkpoint_s = last_progress_s = last_measured_s = time.monotonic()
    shares: dict[str, float] | None = None
    if state.cur_nimg == 0 and is_first:
        send(SamplesMessage(0, sample_grid(state.ema, config, dataset)))

    while (stop := _stop_signal(state, should_stop, started_s)) is None and not is_over(state):
        # Iteration: n_critic discriminator steps and a generator step. The first of a tick is timed by part.
        lr = state.set_learning_rates()
        is_due = shares is None or not state.runtime.capture or time.monotonic() - last_measured_s >= MEASURE_EVERY_S
        watch = Stopwatch(state.device) if is_due and state.steps_summed == 0 else OFF
        upcoming = sampler.batch(state.cur_nimg + nimg_per_iteration, nimg_per_iteration)
        dataset.prefetch(upcoming)
        iterate(chosen, watch)
        chosen = upcoming
        before, state.cur_nimg = state.cur_nimg, state.cur_nimg + nimg_per_iteration
        state.update_ema(nimg_per_iteration)
        if watch is not OFF:
            shares, last_measured_s = watch.shares(), time.monotonic()
        state.wall_seconds = _wall_seconds(state, started_s)
        is_last = is_over(state)

        # Tick: the sums become a row of metrics. Only here does the loop wait for the device.
        if is_last or _crosses(before, state.cur_nimg, config.tick_nimg):
            send(MetricsMessage(close_tick(state, lr)))
        now_s = time.monotonic()
        if is_last or now_s - last_progress_s >= PROGRESS_EVERY_S:
            last_progress_s = now_s
            send(_progress(state, speed.measure(state.cur_nimg), shares))

        # Snapshot: a sample grid and a checkpoint. Checkpoints also follow the clock.
        is_snapshot = is_last or _crosses(before, state.cur_nimg, config.snapshot_nimg)
        if is_snapshot and is_first:
            send(SamplesMessage(state.cur_nimg, sample_grid(state.ema, config, dataset)))
        if is_snapshot or now_s - last_checkpoint_s >= config.checkpoint_every_s:
            check_finite(state)
            send(CheckpointMessage(state, is_snapshot))
            last_checkpoint_s = time.monotonic()

    if stop is not None and not is_over(state):
        check_finite(state)
        send(CheckpointMessage(state, is_snapshot=False))
    return "leave" if stop == "leave" else "done"


def is_over(state: TrainState) -> bool:
    """Whether the budget is spent, in images or in time."""
    return state.schedule_nimg >= state.config.total_nimg


def check_finite(state: TrainState) -> None:
    """Raises Diverged unless everything that a checkpoint holds is finite, so that good checkpoints are kept."""
    # The processes of a run save at different times, but averaged gradients make them diverge together.
    if state.ranks.is_first and (name := state.find_nonfinite()) is not None:
        raise Diverged(
            f"{name} is not finite after {state.cur_nimg} images; the last checkpoint is from before. Start a job with "
            "from_checkpoint and a lower lr"
        )


def close_tick(state: TrainState, lr: float) -> dict[str, float]:
    """Appends the means since the last tick to the metrics as a row, and resets the sums.

    Raises Diverged when a mean is not finite.
    """
    sums = state.ranks.average(state.sums.clone())
    means = (sums / state.steps_summed).tolist()
    row = {"nimg": state.cur_nimg, **dict(zip(SUMMED, means, strict=True)), "lr": lr}
    if not torch.isfinite(sums).all():
        wrong = ", ".join(f"{name} is {row[name]}" for name in SUMMED if row[name] - row[name] != 0)
        raise Diverged(f"{wrong} after {state.cur_nimg} images; a lower learning rate usually helps")
    for name, weight in WEIGHTED.items():
        if not getattr(state.config, weight):
            del row[name]
    state.metrics.append(row)
    state.sums.zero_()
    state.steps_summed = 0
    return row


def _stop_signal(
    state: TrainState, should_stop: Callable[[], StopSignal | None], started_s: float
) -> StopSignal | None:
    """The first process's stop signal, in all processes."""
    state.wall_seconds = _wall_seconds(state, started_s)
    return _STOPS[int(state.ranks.broadcast_from_first([_STOPS.index(should_stop())])[0])]


def _wall_seconds(state: TrainState, started_s: float) -> float:
    return state.ranks.broadcast_from_first([time.monotonic() - started_s])[0]


def _progress(state: TrainState, images_per_second: float, shares: dict[str, float] | None) -> ProgressMessage:
    is_cuda = state.device.type == "cuda"
    memory = torch.cuda.max_memory_allocated(state.device) if is_cuda else None
    config, limit_s = state.config, training_seconds(state.config)
    eta_s = max(0, config.total_nimg - state.cur_nimg) / images_per_second
    if limit_s is not None:
        eta_s = min(eta_s, max(0.0, limit_s - state.wall_seconds))
    fraction = min(1.0, state.schedule_nimg / config.total_nimg)
    return ProgressMessage(state.cur_nimg, images_per_second, fraction, eta_s, shares, memory)


def _crosses(before: int, after: int, every: int) -> bool:
    return before // every != after // every


class _Speedometer:
    """Images per second as an exponential average, so that the slow first iterations lose their weight."""

    def __init__(self, nimg: int) -> None:
        self.nimg, self.at_s, self.rate = nimg, time.monotonic(), 0.0

    def measure(self, nimg: int) -> float:
        now_s = time.monotonic()
        latest = (nimg - self.nimg) / max(now_s - self.at_s, 1e-9)
        self.rate = latest if self.rate == 0 else 0.8 * self.rate + 0.2 * latest
        self.nimg, self.at_s = nimg, now_s
        return self.rate
