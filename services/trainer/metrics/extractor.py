"""Feature extractors for the metrics: Kiln's own classifier, EfficientNet-lite2 or Inception-v3."""

from __future__ import annotations

import hashlib
import importlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from services.trainer.classifier.files import load_classifier
from services.trainer.data.augment import to_unit_range
from services.trainer.data.datasets import ImageDataset
from services.trainer.data.sampler import Sampler
from services.trainer.networks.efficientnet import efficientnet_digest, load_efficientnet
from shared.errors import InvalidInput
from shared.settings import Settings

BATCH = 250
IMAGENET_PX = 96
INCEPTION_FILE = "weights-inception-2015-12-05-6726825d.pth"
INCEPTION_DIGEST = "6726825d"  # the first digits of its SHA-256

# uint8 [N, 3, H, W] -> features [N, D], logits [N, K]; K is 0 for a network whose classes no measure uses
Network = Callable[[Tensor], tuple[Tensor, Tensor]]


@dataclass(frozen=True)
class Extractor:
    """A network, and its description for the protocol of every metric."""

    name: str
    digest: str  # SHA-256 of its weights
    resolution: int  # pixels, both ways, of the images it sees
    classes: tuple[str, ...] | None  # classes of its logits, if they are those of a data set
    test_accuracy: float | None
    run: Network
    device: torch.device

    def as_protocol(self) -> dict[str, Any]:
        accuracy = {} if self.test_accuracy is None else {"test_accuracy": self.test_accuracy}
        return {"name": self.name, "digest": self.digest, "resolution": self.resolution} | accuracy


@dataclass(frozen=True)
class Extracted:
    """features float32 [N, D], logits float32 [N, K], labels int64 [N] of the intended classes; on the CPU."""

    features: Tensor
    logits: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return len(self.features)

    def sample(self, count: int) -> Extracted:
        """`count` rows, drawn without replacement and always the same ones; all rows if there are fewer."""
        chosen = Sampler(len(self), seed=0).batch(0, min(count, len(self)))
        return Extracted(self.features[chosen], self.logits[chosen], self.labels[chosen])


OnBatch = Callable[[int], None]  # called after each batch with the number of images done


def ignore_batch(count: int) -> None:
    """Does nothing."""


def extract(
    extractor: Extractor, batches: Iterable[tuple[Tensor, Tensor]], on_batch: OnBatch = ignore_batch
) -> Extracted:
    """Runs the network over (images uint8 [N, 3, H, W], labels [N]), batch after batch."""
    return extract_all([extractor], batches, on_batch)[0]


def extract_all(
    extractors: Sequence[Extractor], batches: Iterable[tuple[Tensor, Tensor]], on_batch: OnBatch = ignore_batch
) -> list[Extracted]:
    """Runs several networks over the same images. Results are in the order of `extractors`."""
    count = 0
    columns: list[list[tuple[Tensor, Tensor, Tensor]]] = [[] for _ in extractors]
    with torch.no_grad():
        for images, labels in batches:
            for extractor, parts in zip(extractors, columns, strict=True):
                features, logits = extractor.run(images.to(extractor.device))
                parts.append((features.float().cpu(), logits.float().cpu(), labels.cpu()))
            count += len(labels)
            on_batch(count)
    return [Extracted(*(torch.cat(column) for column in zip(*parts, strict=True))) for parts in columns]


def batches_of(dataset: ImageDataset) -> Iterable[tuple[Tensor, Tensor]]:
    return dataset.batches(BATCH)


def classifier_extractor(folder: Path, device: torch.device) -> Extractor:
    """Kiln's classifier from its folder. Raises UnknownClassifier, CorruptArtifact."""
    network, manifest = load_classifier(folder)
    network = network.to(device)

    def run(images: Tensor) -> tuple[Tensor, Tensor]:
        logits, features = network(at_resolution(to_unit_range(images), manifest.resolution))
        return features, logits

    return Extractor(
        "classifier", manifest.digest, manifest.resolution, manifest.classes, manifest.test_accuracy, run, device
    )


def at_resolution(images: Tensor, side: int) -> Tensor:
    """Images [N, C, H, W] as a network expects them: [N, 3, side, side], antialiased when they shrink."""
    images = images.expand(-1, 3, -1, -1)
    if images.shape[2:] == (side, side):
        return images
    return F.interpolate(images, size=(side, side), mode="bilinear", antialias=True)


def imagenet_extractor(device: torch.device) -> Extractor:
    """EfficientNet-lite2, trained on ImageNet: the judge that took no part in anything else here.

    Features are the 1280 pooled ones, of images scaled to 96 pixels. There are no logits, because no measure uses
    ImageNet's classes. Raises BadConfig if its weights are missing.
    """
    network: Any = load_efficientnet("lite2").to(device).to(memory_format=torch.channels_last)

    def run(images: Tensor) -> tuple[Tensor, Tensor]:
        scaled = at_resolution(to_unit_range(images), IMAGENET_PX)
        features = network.forward_head(network.forward_features(scaled), pre_logits=True)
        return features, features.new_zeros(len(features), 0)

    return Extractor("imagenet", efficientnet_digest("lite2"), IMAGENET_PX, None, None, run, device)


def inception_extractor(weights: Path | None, device: torch.device) -> Extractor:
    """The Inception-v3 of the FID paper through torch-fidelity, which scales images to 299 pixels itself.

    Features are the 2048 pooled ones; logits are the 1008 without biases, as in the Inception Score paper's code.
    Raises InvalidInput if torch-fidelity is not installed, or the file does not hold the standard weights.
    """
    if weights is None or not weights.is_file():
        raise InvalidInput.of("weights", str(weights), f"expected a file: torch-fidelity's {INCEPTION_FILE}")
    digest = hashlib.sha256(weights.read_bytes()).hexdigest()
    # Other weights give figures that cannot be compared with published ones. And torch-fidelity unpickles the file.
    if not digest.startswith(INCEPTION_DIGEST):
        raise InvalidInput.of("weights", str(weights), f"is not {INCEPTION_FILE}: its SHA-256 is {digest}")
    try:
        # Imported by name, because the package is optional and in no group of pyproject.toml.
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
    """`classifier`, Kiln's own; `imagenet`, EfficientNet-lite2; or `inception`, whose weights are a file.

    Raises InvalidInput, UnknownClassifier, CorruptArtifact, BadConfig.
    """
    if name == "classifier":
        return classifier_extractor(settings.classifier, device)
    if name == "inception":
        return inception_extractor(weights, device)
    if name == "imagenet":
        return imagenet_extractor(device)
    raise InvalidInput.of("judges", name, "must be classifier, imagenet or inception")
