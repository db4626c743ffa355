"""The model behind every peer: one onnxruntime session with default options, and Pillow for the PNG."""

from __future__ import annotations

import io
import math
import os

import numpy as np
import onnxruntime
from PIL import Image


class Model:
    """Runs the ONNX graph in the file PEER_GRAPH."""

    def __init__(self) -> None:
        self._session = onnxruntime.InferenceSession(os.environ["PEER_GRAPH"], providers=["CPUExecutionProvider"])
        self._latent_dim = next(i.shape[1] for i in self._session.get_inputs() if i.name == "z")
        self._rng = np.random.default_rng()

    def grids(self, requests: list[tuple[int, int]]) -> list[bytes]:
        """(class, n) of each request -> its PNG. All images of the batch are generated in one run."""
        labels = np.repeat([label for label, _ in requests], [n for _, n in requests]).astype(np.int64)
        z = self._rng.standard_normal((len(labels), self._latent_dim), dtype=np.float32)
        (images,) = self._session.run(["images"], {"z": z, "labels": labels})
        pixels = ((images.transpose(0, 2, 3, 1) + 1) * 127.5).round().clip(0, 255).astype(np.uint8)
        ends = np.cumsum([n for _, n in requests])
        return [_png(pixels[end - n : end]) for end, (_, n) in zip(ends, requests, strict=True)]


def _png(tiles: np.ndarray) -> bytes:
    columns = math.ceil(math.sqrt(len(tiles)))
    rows = math.ceil(len(tiles) / columns)
    grid = Image.new("RGB", (32 * columns, 32 * rows))
    for position, tile in enumerate(tiles):
        grid.paste(Image.fromarray(tile), (position % columns * 32, position // columns * 32))
    buffer = io.BytesIO()
    grid.save(buffer, "PNG")
    return buffer.getvalue()
