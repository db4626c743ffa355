"""Networks that turn images into features and guesses: Kiln's own classifier, or the usual Inception."""

from __future__ import annotations

import hashlib
import importlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from services.trainer.classifier.files import load_classifier
from services.trainer.data.augment import to_unit_range
from services.trainer.data.datasets import ImageDataset
from shared.errors import InvalidInput
from shared.settings import Settings

BATCH = 250
INCEPTION_FILE = "weights-inception-2015-12-05-6726825d.pth"
INCEPTION_DIGEST = "6726825d"  # what its SHA-256 begins with

# uint8 [N, 3, H, W] -> features [N, D], logits [N, K]
Network = Callable[[Tensor], tuple[Tensor, Tensor]]


@dataclass(frozen=True)
class Extractor:
    """A network, and what has to be told of it beside every figure that was taken with it."""

    name: str
    digest: str  # SHA-256 of its weights
    resolution: int  # pixels, both ways, of the images it sees
    classes: tuple[str, ...] | None  # what its guesses mean, if they mean classes of a data set
    test_accuracy: float | None
    run: Network
    device: torch.device

    def as_protocol(self) -> dict[str, Any]:
        accuracy = {} if self.test_accuracy is None else {"test_accuracy": self.test_accuracy}
        return {"name": self.name, "digest": self.digest, "resolution": self.resolution} | accuracy


@dataclass(frozen=True)
class Extracted:
    """features float32 [N, D], logits float32 [N, K], labels int64 [N] of what the images are to show; on the CPU."""

    features: Tensor
    logits: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return len(self.features)


Hear = Callable[[int], None]  # how many images are done; called after each batch


def hear_nothing(count: int) -> None:
    """For those who do not want to know."""


def extract(extractor: Extractor, batches: Iterable[tuple[Tensor, Tensor]], hear: Hear = hear_nothing) -> Extracted:
    """Runs the network over (images uint8 [N, 3, H, W], labels [N]), batch after batch."""
    count = 0
    parts: list[tuple[Tensor, Tensor, Tensor]] = []
    with torch.no_grad():
        for images, labels in batches:
            features, logits = extractor.run(images.to(extractor.device))
            parts.append((features.float().cpu(), logits.float().cpu(), labels.cpu()))
            count += len(labels)
            hear(count)
    features, logits, labels = (torch.cat(column) for column in zip(*parts, strict=True))
    return Extracted(features, logits, labels)


def batches_of(dataset: ImageDataset) -> Iterable[tuple[Tensor, Tensor]]:
    return zip(torch.split(dataset.images, BATCH), torch.split(dataset.labels, BATCH), strict=True)


def classifier_extractor(folder: Path, device: torch.device) -> Extractor:
    """Kiln's classifier from its folder. Raises UnknownClassifier, CorruptArtifact."""
    network, manifest = load_classifier(folder)
    network = network.to(device)

    def run(images: Tensor) -> tuple[Tensor, Tensor]:
        logits, features = network(to_unit_range(images))
        return features, logits

    return Extractor("classifier", manifest.digest, 32, manifest.classes, manifest.test_accuracy, run, device)


def inception_extractor(weights: Path | None, device: torch.device) -> Extractor:
    """The Inception-v3 of the FID paper through torch-fidelity, which scales images to 299 pixels itself.

    Features are the 2048 pooled ones, logits the 1008 without biases, as the Inception Score's authors take them.
    Raises InvalidInput when torch-fidelity is not installed, or the file is not the one with the usual weights.
    """
    if weights is None or not weights.is_file():
        raise InvalidInput.of("weights", str(weights), f"expected a file: torch-fidelity's {INCEPTION_FILE}")
    digest = hashlib.sha256(weights.read_bytes()).hexdigest()
    # With other weights the figures would not compare with anybody's. And torch-fidelity unpickles what it is given.
    if not digest.startswith(INCEPTION_DIGEST):
        raise InvalidInput.of("weights", str(weights), f"is not {INCEPTION_FILE}: its SHA-256 is {digest}")
    try:
        # By name: no group of pyproject.toml has the package, for few want it.
        fidelity = importlib.import_module("torch_fidelity.feature_extractor_inceptionv3")
    except ImportError:
        raise InvalidInput.of("extractor", "inception", "needs the package torch-fidelity") from None
    network = fidelity.FeatureExtractorInceptionV3("inception-v3-compat", ["2048", "logits_unbiased"], str(weights))
    network = network.eval().to(device)

    def run(images: Tensor) -> tuple[Tensor, Tensor]:
        features, logits = network(images)
        return features, logits

    return Extractor("inception", digest, 299, None, None, run, device)


def find_extractor(name: str, weights: Path | None, settings: Settings, device: torch.device) -> Extractor:
    """`classifier`, Kiln's own, or `inception`, whose weights are a file.

    Raises InvalidInput, UnknownClassifier, CorruptArtifact.
    """
    if name == "classifier":
        return classifier_extractor(settings.classifier, device)
    if name == "inception":
        return inception_extractor(weights, device)
    raise InvalidInput.of("extractor", name, "there are classifier and inception")
