"""The image classifier in onnxruntime: the probability of each class for an image."""

from __future__ import annotations

import numpy as np
import onnxruntime
from numpy.typing import NDArray

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
            self.probabilities(np.zeros((1, 32, 32, 3), dtype=np.uint8))
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
        """Pixels [N, 32, 32, 3] -> probability of each class [N, K].

        One image at a time: in a batch the last bits could differ, which could change acceptance at the threshold.
        This is hardly slower (docs/explanation/decisions/0014-images-by-class.md).
        """
        unit = images.transpose(0, 3, 1, 2).astype(np.float32) / 127.5 - 1  # [N, H, W, C] -> [N, C, H, W]
        logits = np.concatenate(
            [self._session.run(["logits"], {"images": unit[i : i + 1]})[0] for i in range(len(unit))]
        )
        odds = np.exp(logits - logits.max(axis=1, keepdims=True))
        softmax: NDArray[np.float32] = odds / odds.sum(axis=1, keepdims=True)
        return softmax
