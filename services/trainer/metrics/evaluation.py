"""Measuring a generator: its images' figures beside those of real ones, with the protocol they were taken by."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from services.trainer.data.augment import to_bytes
from services.trainer.data.datasets import ImageDataset, Sampler, load_dataset
from services.trainer.metrics.collapse import signs
from services.trainer.metrics.distances import (
    frechet_distance,
    inception_score,
    kernel_distance,
    moments,
    precision_and_recall,
)
from services.trainer.metrics.extractor import BATCH, Extracted, Extractor, Hear, extract, hear_nothing
from services.trainer.metrics.reference import dataset_digest, real_features
from shared.configs.presets import MIN_EVAL_IMAGES, TrainConfig
from shared.errors import BadDataset
from shared.settings import Settings
from shared.storage.artifacts import ArtifactStore
from shared.storage.model_registry import ModelMetrics

KID_SUBSETS, KID_SUBSET_SIZE = 100, 1000  # as in Binkowski et al. and torchmetrics
NEIGHBOURS, NEIGHBOUR_IMAGES = 3, 10_000  # k of Kynkaanniemi et al.; all pairs of 50,000 would take a CPU an hour
SCORE_SPLITS = 10

# (z [N, latent] float32, labels [N] int64) -> images [N, 3, 32, 32] in [-1, 1]
Generator = Callable[[Tensor, Tensor], Tensor]
Figures = dict[str, float]


def generate(
    generator: Generator, latent_dim: int, labels: Tensor, seed: int, device: torch.device
) -> Iterator[tuple[Tensor, Tensor]]:
    """Images of the given labels [N] as uint8, in batches; a function of generator, labels and seed alone."""
    # Drawn at once: what torch draws depends on how much is drawn at a time.
    latents = torch.randn(len(labels), latent_dim, generator=torch.Generator().manual_seed(seed))
    for z, wanted in zip(torch.split(latents, BATCH), torch.split(labels, BATCH), strict=True):
        with torch.no_grad():
            yield to_bytes(generator(z.to(device), wanted.to(device))), wanted


def labels_like(dataset: ImageDataset, count: int, seed: int) -> Tensor:
    """Labels [count] in the data set's own proportions: those of images drawn without replacement, over and over."""
    return dataset.labels.cpu()[Sampler(len(dataset), seed).batch(0, count)]


def fid(fake: Extracted, reference: Extracted) -> Figures:
    return {"fid": frechet_distance(moments(fake.features), moments(reference.features))}


def kid(fake: Extracted, reference: Extracted) -> Figures:
    size = min(KID_SUBSET_SIZE, len(fake), len(reference))
    found = kernel_distance(reference.features, fake.features, subsets=KID_SUBSETS, subset_size=size, seed=0)
    return {"kid": found.mean, "kid_std": found.std}


def score(fake: Extracted, reference: Extracted) -> Figures:
    return {"inception_score": inception_score(fake.logits, SCORE_SPLITS)}


def neighbourhoods(fake: Extracted, reference: Extracted) -> Figures:
    real = reference.features[Sampler(len(reference), seed=0).batch(0, min(NEIGHBOUR_IMAGES, len(reference)))]
    precision, recall = precision_and_recall(real, fake.features[:NEIGHBOUR_IMAGES], NEIGHBOURS)
    return {"precision": precision, "recall": recall}


ALL_MEASURES = (fid, kid, score, neighbourhoods)
QUICK_MEASURES = (fid, score)  # for every so often during a run

Measure = Callable[[Extracted, Extracted], Figures]


def measure(fake: Extracted, reference: Extracted, measures: Iterable[Measure] = ALL_MEASURES) -> Figures:
    """All figures that the measures give; a lower FID and KID is better, more of the others is."""
    return {name: value for one in measures for name, value in one(fake, reference).items()}


def class_accuracies(extracted: Extracted, classes: tuple[str, ...]) -> dict[str, float]:
    """Share of the images of each class that are recognised as what they are to show; only of classes that occur."""
    is_right = (extracted.logits.argmax(1) == extracted.labels).double()
    labels = extracted.labels
    return {
        name: is_right[labels == label].mean().item()
        for label, name in enumerate(classes)
        if bool((labels == label).any())
    }


def accuracy(extracted: Extracted) -> float:
    """Share of the images that are recognised as what they are to show."""
    return (extracted.logits.argmax(1) == extracted.labels).double().mean().item()


@dataclass(frozen=True)
class Evaluator:
    """What a generator is measured against: features of the training images, and figures of real ones for scale."""

    extractor: Extractor
    dataset: ImageDataset
    dataset_digest: str
    reference: Extracted
    test: Extracted | None  # real images that the generator was not trained on
    hear: Hear = hear_nothing

    def extract(self, generator: Generator, config: TrainConfig, count: int, seed: int = 0) -> Extracted:
        """Features of `count` generated images."""
        if isinstance(generator, nn.Module):
            generator.eval()
        labels = labels_like(self.dataset, count, seed)
        images = generate(generator, config.latent_dim, labels, seed, self.extractor.device)
        return extract(self.extractor, images, self.hear)

    def quick(self, generator: Generator, config: TrainConfig, count: int) -> Figures:
        """FID, Inception Score, class accuracy and the signs of a collapse, for a row of the metrics series."""
        fake = self.extract(generator, config, count)
        guesses = {"class_accuracy": accuracy(fake)} if self._knows_classes(config) else {}
        seen = signs(fake, self.reference, conditional=config.conditional)
        return measure(fake, self.reference, QUICK_MEASURES) | guesses | seen

    def evaluate(self, generator: Generator, config: TrainConfig, count: int, seed: int = 0) -> ModelMetrics:
        """All figures, with their protocol."""
        fake = self.extract(generator, config, count, seed)
        figures = measure(fake, self.reference)
        protocol = self.protocol(count, seed) | {"kid_std": figures.pop("kid_std"), "real": self.real_figures()}
        if self._knows_classes(config):
            figures["class_accuracy"] = accuracy(fake)
            protocol["class_accuracy"] = class_accuracies(fake, self.dataset.classes)
        return ModelMetrics(**figures, protocol=protocol)

    def real_figures(self) -> dict[str, Any] | None:
        """The same figures of the test images: the floor of FID and KID, and the scale of all others."""
        if self.test is None:
            return None
        figures: dict[str, Any] = measure(self.test, self.reference)
        if self.extractor.classes == self.dataset.classes:
            figures["class_accuracy"] = accuracy(self.test)
        return {"split": "test", "images": len(self.test)} | figures

    def protocol(self, count: int, seed: int) -> dict[str, Any]:
        """How the figures were taken: enough to take them again."""
        return {
            "extractor": self.extractor.as_protocol() | {"features": self.reference.features.shape[1]},
            "images": count,
            "seed": seed,
            "labels": "drawn as in the reference",
            "reference": {"split": "train", "images": len(self.reference), "digest": self.dataset_digest},
            "kid": {"subsets": KID_SUBSETS, "subset_size": min(KID_SUBSET_SIZE, count, len(self.reference)), "seed": 0},
            "inception_score": {"splits": SCORE_SPLITS},
            "precision_recall": {
                "k": NEIGHBOURS,
                "images": min(NEIGHBOUR_IMAGES, count),
                "reference_images": min(NEIGHBOUR_IMAGES, len(self.reference)),
            },
        }

    def _knows_classes(self, config: TrainConfig) -> bool:
        return (config.conditional or config.per_class) and self.extractor.classes == self.dataset.classes


def make_evaluator(
    extractor: Extractor,
    dataset: ImageDataset,
    test: ImageDataset | None,
    cache: ArtifactStore,
    hear: Hear = hear_nothing,
) -> Evaluator:
    """Takes the real images' features from the cache, or computes them, which takes a CPU minutes the first time.

    Raises BadDataset when there are too few images to measure anything by.
    """
    if len(dataset) < MIN_EVAL_IMAGES:
        raise BadDataset(f"{len(dataset)} real images are too few to measure by; at least {MIN_EVAL_IMAGES} are needed")
    if test is not None and len(test) < MIN_EVAL_IMAGES:
        test = None
    real = real_features(extractor, dataset, cache, hear)
    real_test = None if test is None else real_features(extractor, test, cache, hear)
    return Evaluator(extractor, dataset, dataset_digest(dataset), real, real_test, hear)


def open_evaluator(
    extractor: Extractor, settings: Settings, name: str, dataset: ImageDataset, hear: Hear = hear_nothing
) -> Evaluator:
    """Measures against the training images of the data set of that name; its test images, if any, for scale."""
    try:
        test = load_dataset(settings.dataset_root, name, "test")
    except BadDataset:  # a folder of one's own need not have a test split
        test = None
    return make_evaluator(extractor, dataset, test, ArtifactStore(f"file://{settings.data / 'cache'}"), hear)


def evaluate_generator(
    generator: Generator,
    config: TrainConfig,
    dataset: ImageDataset,
    extractor: Extractor,
    count: int,
    *,
    cache: ArtifactStore,
    test: ImageDataset | None = None,
    seed: int = 0,
) -> ModelMetrics:
    """Measures `count` images of a generator against the data set it was trained on, and `test` for scale.

    Batch statistics are taken as they are: those of averaged weights must have been re-estimated.
    """
    return make_evaluator(extractor, dataset, test, cache).evaluate(generator, config, count, seed)
