"""The image classifier in onnxruntime: the probability of each class for an image."""

from __future__ import annotations

import numpy as np
import onnxruntime
from numpy.typing import NDArray
from PIL import Image

from shared.errors import CorruptArtifact, NoModelReady, UnknownClassifier
from shared.settings import Settings
from shared.storage.classifier_files import GRAPH_FILE, read_file, read_manifest


class Classifier:
    """The classifier of the settings, on the CPU. Each image is classified alone."""

    def __init__(self, settings: Settings) -> None:
        """Raises NoModelReady when there is no classifier, CorruptArtifact when its files are damaged."""
        try:
            self.manifest = read_manifest(settings.classifier)
        except UnknownClassifier as error:
            raise NoModelReady(f"images by class from an unconditional model need a classifier: {error}") from error
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1  # one image is too small to share between threads
        options.log_severity_level = 3
        try:
            graph = read_file(settings.classifier, self.manifest, GRAPH_FILE)
            self._session = onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
            side = self.manifest.resolution
            self.probabilities(np.zeros((1, side, side, 3), dtype=np.uint8))
        except CorruptArtifact:
            raise
        except Exception as error:  # onnxruntime's exceptions have no common base
            raise CorruptArtifact(f"onnxruntime cannot run the classifier: {error}") from error

    @property
    def classes(self) -> tuple[str, ...]:
        return self.manifest.classes

    @property
    def digest(self) -> str:
        return self.manifest.digest

    def probabilities(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Pixels [N, H, W, C] -> probability of each class [N, K]; resized to the classifier's resolution if need be.

        One image at a time: in a batch the last bits could differ, which could change acceptance at the threshold.
        This is hardly slower (docs/explanation/decisions/0014-images-by-class.md).
        """
        images = at_resolution(images, self.manifest.resolution)
        unit = images.transpose(0, 3, 1, 2).astype(np.float32) / 127.5 - 1  # [N, H, W, C] -> [N, C, H, W]
        logits = np.concatenate(
            [self._session.run(["logits"], {"images": unit[i : i + 1]})[0] for i in range(len(unit))]
        )
        odds = np.exp(logits - logits.max(axis=1, keepdims=True))
        softmax: NDArray[np.float32] = odds / odds.sum(axis=1, keepdims=True)
        return softmax


def at_resolution(images: NDArray[np.uint8], side: int) -> NDArray[np.uint8]:
    """Pixels [N, H, W, C] as a classifier of images of `side` pixels expects them: [N, side, side, 3], antialiased."""
    if images.shape[1:] == (side, side, 3):
        return images
    squares = [Image.fromarray(image.squeeze(2) if image.shape[2] == 1 else image).convert("RGB") for image in images]
    return np.stack([np.asarray(square.resize((side, side), Image.Resampling.BILINEAR)) for square in squares])
