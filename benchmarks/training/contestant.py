"""Trains one implementation, a turn at a time: `python -m benchmarks.training.contestant "<JSON task>"`.

Reads a number of iterations per line and prints the seconds that they took. A process of its own gives each
implementation its own environment variables and thread pools. The processes take turns, so that other load on the
machine affects all of them.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from benchmarks.training.peer import PeerTraining, use_peer_networks
from benchmarks.training.plain_pytorch import PlainTraining
from services.trainer.data.datasets import ImageDataset
from services.trainer.data.sampler import Sampler
from services.trainer.training import cuda_graph
from services.trainer.training.compiler import check_compiler
from services.trainer.training.runtime import PLAIN, fastest
from services.trainer.training.state import TrainState
from services.trainer.training.stopwatch import OFF
from shared.configs.presets import resolve

IMAGES = 5_000  # of random pixels: their content does not change the speed


def main() -> None:
    task = json.loads(sys.argv[1])
    torch.manual_seed(0)
    device = torch.device(task["device"])
    if device.type == "cpu":
        torch.set_num_threads(task["threads"])
    torch.backends.cudnn.benchmark = bool(task.get("cudnn_benchmark"))
    iterate = make_iteration(task, device)
    print(json.dumps({"ready": True}), flush=True)
    for line in sys.stdin:
        started_s = time.perf_counter()
        for _ in range(int(line)):
            iterate()
        if device.type == "cuda":
            torch.cuda.synchronize()
        print(json.dumps({"seconds": time.perf_counter() - started_s}), flush=True)


def make_iteration(task: dict[str, Any], device: torch.device) -> Callable[[], None]:
    """A function that takes one training iteration with the task's implementation: plain, peer, reference or kiln."""
    config = resolve(task["preset"], task.get("overrides", {}))
    rng = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (IMAGES, 3, 32, 32), generator=rng, dtype=torch.uint8)
    labels = torch.arange(IMAGES) % 10
    if task["implementation"] == "plain":
        return PlainTraining(config, images, labels, device, workers=os.cpu_count() or 1).iterate
    if task["implementation"] == "peer":
        return PeerTraining(Path(task["path"]), config, (images, labels), device).iterate

    dataset = ImageDataset(images, labels, tuple(map(str, range(10)))).to(device)
    base = PLAIN if task["implementation"] == "reference" else fastest(device)
    state = TrainState(config, 10, device, replace(base, **task.get("paths", {})))
    if "path" in task:
        use_peer_networks(state, Path(task["path"]))
    if reason := check_compiler(state, 10):
        sys.exit(f"torch.compile: {reason}")
    sampler, nimg = Sampler(IMAGES, 0), config.n_critic * config.real_batch_size
    train_on = cuda_graph.make_iteration(state, dataset)

    def iterate() -> None:
        state.set_learning_rates()
        train_on(sampler.batch(state.cur_nimg, nimg), OFF)
        state.cur_nimg += nimg
        state.update_ema(nimg)

    return iterate


if __name__ == "__main__":
    main()
