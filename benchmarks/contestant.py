"""One way of training, in a process of its own, that runs when it is told: `python -m benchmarks.contestant '<JSON>'`.

Reads a number of iterations per line and answers with the seconds they took. A process of its own, so that each way has
the environment it would have in life; they take turns, so that what else the machine does meets all of them.
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

from benchmarks.peer import PeerTraining, train_instead
from benchmarks.plain_pytorch import PlainTraining
from services.trainer.data.datasets import ImageDataset
from services.trainer.data.sampler import Sampler
from services.trainer.training.compiler import check_compiler
from services.trainer.training.cuda_graph import make_iteration
from services.trainer.training.runtime import PLAIN, fastest
from services.trainer.training.state import TrainState
from services.trainer.training.stopwatch import OFF
from shared.configs.presets import resolve

IMAGES = 5_000  # random ones: what they show does not matter for speed


def main() -> None:
    task = json.loads(sys.argv[1])
    torch.manual_seed(0)
    device = torch.device(task["device"])
    if device.type == "cpu":
        torch.set_num_threads(task["threads"])
    torch.backends.cudnn.benchmark = bool(task.get("cudnn_benchmark"))
    iterate = make(task, device)
    print(json.dumps({"ready": True}), flush=True)
    for line in sys.stdin:
        started_s = time.perf_counter()
        for _ in range(int(line)):
            iterate()
        if device.type == "cuda":
            torch.cuda.synchronize()
        print(json.dumps({"seconds": time.perf_counter() - started_s}), flush=True)


def make(task: dict[str, Any], device: torch.device) -> Callable[[], None]:
    """What takes one iteration of the task's way of training."""
    config = resolve(task["preset"], task.get("overrides", {}))
    rng = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (IMAGES, 3, 32, 32), generator=rng, dtype=torch.uint8)
    labels = torch.arange(IMAGES) % 10
    if task["way"] == "plain":
        return PlainTraining(config, images, labels, device, workers=os.cpu_count() or 1).iterate
    if task["way"] == "peer":
        return PeerTraining(Path(task["path"]), config, (images, labels), device).iterate

    dataset = ImageDataset(images, labels, tuple(map(str, range(10)))).to(device)
    base = PLAIN if task["way"] == "reference" else fastest(device)
    state = TrainState(config, 10, device, replace(base, **task.get("paths", {})))
    if "path" in task:
        train_instead(state, Path(task["path"]))
    if why_not := check_compiler(state, 10):
        sys.exit(f"torch.compile: {why_not}")
    sampler, nimg = Sampler(IMAGES, 0), config.n_critic * config.batch_size
    train_on = make_iteration(state, dataset)

    def iterate() -> None:
        state.set_learning_rates()
        train_on(sampler.batch(state.cur_nimg, nimg), OFF)
        state.cur_nimg += nimg
        state.update_ema(nimg)

    return iterate


if __name__ == "__main__":
    main()
