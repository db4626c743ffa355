"""The classifier as a judge of images: what does this one show, and how sure is that."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from shared.errors import CorruptArtifact, NoModelReady, UnknownClassifier
from shared.settings import Settings
from shared.storage.classifier_files import GRAPH_FILE, read_file, read_manifest


class Classifier:
    """The classifier of the settings, in onnxruntime on the CPU. Each image is judged alone."""

    def __init__(self, settings: Settings) -> None:
        """Raises NoModelReady when there is no classifier, CorruptArtifact when it is not one of ours."""
        try:
            self.manifest = read_manifest(settings.classifier)
        except UnknownClassifier as error:
            raise NoModelReady(f"an unconditional model's classes take a classifier: {error}") from error
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1  # one image is too little to share
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
        """Pixels [N, 32, 32, 3] -> what the classifier gives to each class [N, K].

        One image at a time: in company the last bits could differ, and with them, at the threshold, the answer. It
        takes hardly longer (docs/explanation/decisions/0014-images-by-class.md).
        """
        unit = images.transpose(0, 3, 1, 2).astype(np.float32) / 127.5 - 1  # [N, H, W, C] -> [N, C, H, W]
        logits = np.concatenate(
            [self._session.run(["logits"], {"images": unit[i : i + 1]})[0] for i in range(len(unit))]
        )
        odds = np.exp(logits - logits.max(axis=1, keepdims=True))
        shares: NDArray[np.float32] = odds / odds.sum(axis=1, keepdims=True)
        return shares


class LazyClassifier:
    """Where the judge sits: opened when it is first asked, and asked by one thread at a time."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="judge")
        self._judge: Classifier | None = None

    async def judge(self) -> Classifier:
        """Raises NoModelReady, CorruptArtifact."""
        return await asyncio.get_running_loop().run_in_executor(self._thread, self._opened)

    async def probabilities(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        judge = await self.judge()
        return await asyncio.get_running_loop().run_in_executor(self._thread, judge.probabilities, images)

    def _opened(self) -> Classifier:
        if self._judge is None:
            self._judge = Classifier(self._settings)
        return self._judge
