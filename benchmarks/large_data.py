"""Measures memory and speed of a data set that does not fit on the device: `python -m benchmarks.large_data`.

Writes a folder of noise (PPM, so that decoding costs little), packs it as a training run does, and draws batches from
it: streamed from the memory-mapped file, and from memory. Prints the process's own memory as it goes.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from services.trainer.data.augment import to_unit_range
from services.trainer.data.datasets import ImageDataset, load_dataset
from services.trainer.data.packing import Preprocessing
from services.trainer.data.sampler import Sampler

CLASSES = 10
ROWS = 5  # of memory figures per phase
CPU = torch.device("cpu")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=200_000)
    parser.add_argument("--resolution", type=int, default=64)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--folder", type=Path, help="keeps the files here; default: a temporary folder")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        root = options.folder or Path(temporary)
        if not (root / "noise").exists():
            write_images(root / "noise/train", options.images, options.resolution)
        print_row("phase", "images", "RSS, MB", "of it own memory, MB", "images/s")
        print_row("---", "---:", "---:", "---:", "---:")
        print_memory("start", 0, 0)
        dataset = load(root, options.images, options.resolution)
        streamed = dataset.to(CPU, 0)
        draw(streamed, options.batch, "streamed", streamed.gather)
        in_memory = ImageDataset(dataset.images.clone(), dataset.labels, dataset.classes)
        draw(in_memory, options.batch, "in memory", lambda indices: in_memory.images[indices])


def write_images(folder: Path, count: int, resolution: int) -> None:
    rng = np.random.default_rng(0)
    header = b"P6 %d %d 255\n" % (resolution, resolution)
    for label in range(CLASSES):
        (folder / f"class-{label}").mkdir(parents=True)
    for i in range(count):
        pixels = rng.integers(0, 256, 3 * resolution**2, dtype=np.uint8).tobytes()
        (folder / f"class-{i % CLASSES}" / f"{i:07d}.ppm").write_bytes(header + pixels)


def load(root: Path, count: int, resolution: int) -> ImageDataset:
    """Decodes the folder into the cache, or finds it there, and computes the digest of a run's checkpoints."""
    started_s = time.monotonic()

    def on_progress(done: int, total: int) -> None:
        if done % (total // ROWS) == 0:
            print_memory("packing", done, done / (time.monotonic() - started_s))

    preprocessing = Preprocessing(resolution)
    dataset = load_dataset(root, "noise", preprocessing=preprocessing, cache=root / "cache", on_progress=on_progress)
    started_s = time.monotonic()
    _ = dataset.to(CPU, 0).digest
    print_memory("digest", len(dataset), count / (time.monotonic() - started_s))
    return dataset


def draw(dataset: ImageDataset, batch: int, phase: str, gather: Callable[[torch.Tensor], torch.Tensor]) -> None:
    """One epoch of batches in the sampler's order, each prefetched one batch ahead as in the training loop."""
    sampler, started_s = Sampler(len(dataset), 0), time.monotonic()
    every = len(dataset) // batch // ROWS
    upcoming = sampler.batch(0, batch)
    for step in range(1, every * ROWS + 1):
        chosen, upcoming = upcoming, sampler.batch(step * batch, batch)
        dataset.prefetch(upcoming)
        to_unit_range(gather(chosen))
        if step % every == 0:
            print_memory(phase, step * batch, step * batch / (time.monotonic() - started_s))


def print_memory(phase: str, images: int, rate: float) -> None:
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    kilobytes = {name: int(value.split()[0]) for name, value in (line.split(":", 1) for line in lines if "kB" in line)}
    own, total = (f"{kilobytes[name] / 1024:,.0f}" for name in ("RssAnon", "VmRSS"))
    print_row(phase, f"{images:,}", total, own, f"{rate:,.0f}" if rate else "")


def print_row(*cells: str) -> None:
    print("| " + " | ".join(cells) + " |", flush=True)


if __name__ == "__main__":
    main()
