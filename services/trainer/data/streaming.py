"""Brings batches of a data set that does not fit on the device to it, one step ahead of the training loop."""

from __future__ import annotations

import mmap
from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

DROPPED_BYTES = 64 << 20  # read from the file between two releases of its pages


class ImageStream:
    """The first images that fit on the device stay there; the rest is read from the memory-mapped file per batch.

    A thread reads the batch that `prefetch` announces while the device computes.
    """

    def __init__(self, images: NDArray[np.uint8], device: torch.device, limit_bytes: int) -> None:
        """`images`: [N, C, H, W], usually memory-mapped; `limit_bytes`: memory on the device for images that stay."""
        self.device, self.limit_bytes = device, limit_bytes
        self.resident = torch.from_numpy(images[: limit_bytes // images[0].size]).to(device)
        self._images = images
        self._reader = ThreadPoolExecutor(1, "image-stream")
        self._ahead: deque[tuple[Tensor, Future[Tensor]]] = deque()
        self._mapping = _mapping_of(images)
        self._bytes_since_release = 0

    def prefetch(self, indices: Tensor) -> None:
        """Starts to read the images at these indices [N], on the CPU, for a later `take`."""
        self._ahead.append((indices, self._reader.submit(self._read, indices)))

    def take(self, indices: Tensor) -> Tensor:
        """The images at these indices on the device: [N] on the CPU -> uint8 [N, C, H, W]. Waits for the file."""
        while self._ahead:
            announced, future = self._ahead.popleft()
            if torch.equal(announced, indices):
                return self._place(indices, future.result())
        return self._place(indices, self._reader.submit(self._read, indices).result())

    def _read(self, indices: Tensor) -> Tensor:
        """The images that are not on the device, in the order of their indices."""
        rows = indices[indices >= len(self.resident)].numpy()
        images = torch.from_numpy(np.take(self._images, rows, axis=0))
        self.release_pages(images.numel())
        return images.pin_memory() if self.device.type == "cuda" else images

    def _place(self, indices: Tensor, streamed: Tensor) -> Tensor:
        streamed = streamed.to(self.device, non_blocking=True)
        if len(streamed) == len(indices):
            return streamed
        is_resident = indices < len(self.resident)
        images = torch.empty((len(indices), *self._images.shape[1:]), dtype=torch.uint8, device=self.device)
        images[is_resident.nonzero()[:, 0].to(self.device)] = self.resident[indices[is_resident].to(self.device)]
        images[(~is_resident).nonzero()[:, 0].to(self.device)] = streamed
        return images

    def release_pages(self, count: int) -> None:
        """Gives the pages of the file back now and then: they would count as memory of the process.

        They stay in the page cache while the system has memory to spare, so that reading them again is cheap.
        """
        self._bytes_since_release += count
        if self._mapping is not None and self._bytes_since_release >= DROPPED_BYTES:
            self._mapping.madvise(mmap.MADV_DONTNEED)
            self._bytes_since_release = 0


def _mapping_of(array: NDArray[np.uint8]) -> mmap.mmap | None:
    """The memory map that holds the array; None for an array in memory."""
    base: object = array
    while isinstance(base, np.ndarray):
        base = base.base
    return base if isinstance(base, mmap.mmap) else None
