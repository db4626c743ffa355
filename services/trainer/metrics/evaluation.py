"""Evaluates a generator: metrics of its images and of real ones, with their measurement protocol."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from services.trainer.data.augment import to_bytes
from services.trainer.data.datasets import ImageDataset, ignore_progress
from services.trainer.data.labels import labels_in_proportion
from services.trainer.data.loading import load_test_images
from services.trainer.metrics.collapse import collapse_signals
from services.trainer.metrics.distances import (
    Moments,
    Neighbourhoods,
    frechet_distance,
    inception_score,
    kernel_distance,
    manifold_figures,
    moments,
    neighbourhoods,
)
from services.trainer.metrics.extractor import BATCH, Extracted, Extractor, OnBatch, extract, extract_all, ignore_batch
from services.trainer.metrics.reference import real_features
from shared.configs.train import MIN_EVAL_IMAGES, TrainConfig
from shared.datasets.report import OnProgress
from shared.errors import BadDataset
from shared.settings import Settings
from shared.storage.artifacts import ArtifactStore
from shared.storage.model_registry import ModelMetrics

KID_SUBSETS, KID_SUBSET_SIZE = 100, 1000  # as in Binkowski et al. and torchmetrics
NEIGHBOURS, NEIGHBOUR_IMAGES = 3, 10_000  # k of Kynkaanniemi et al.; all pairs of 50,000 take an hour on a CPU
COVERAGE_NEIGHBOURS = 5  # k of Naeem et al.
SCORE_SPLITS = 10

# (z [N, latent] float32, labels [N] int64) -> images [N, 3, 32, 32] in [-1, 1]
Generator = Callable[[Tensor, Tensor], Tensor]
Figures = dict[str, float]


def generate(
    generator: Generator, latent_dim: int, labels: Tensor, seed: int, device: torch.device
) -> Iterator[tuple[Tensor, Tensor]]:
    """Batches of uint8 images with labels [N]; they depend on the generator, labels and seed only."""
    # Drawn at once, because the values that torch draws depend on how many are drawn in one call.
    latents = torch.randn(len(labels), latent_dim, generator=torch.Generator().manual_seed(seed))
    for z, batch_labels in zip(torch.split(latents, BATCH), torch.split(labels, BATCH), strict=True):
        with torch.no_grad():
            yield to_bytes(generator(z.to(device), batch_labels.to(device))), batch_labels


@dataclass(frozen=True)
class Reference:
    """Features of real images, and what comparisons with them share, computed once: it takes longer than the rest."""

    real: Extracted

    @cached_property
    def moments(self) -> Moments:
        return moments(self.real.features)

    @cached_property
    def neighbourhoods(self) -> Neighbourhoods:
        return neighbourhoods(self.real.sample(NEIGHBOUR_IMAGES).features, NEIGHBOURS, COVERAGE_NEIGHBOURS)


def fid(fake: Extracted, reference: Reference) -> Figures:
    return {"fid": frechet_distance(moments(fake.features), reference.moments)}


def kid(fake: Extracted, reference: Reference) -> Figures:
    size = min(KID_SUBSET_SIZE, len(fake), len(reference.real))
    distance = kernel_distance(reference.real.features, fake.features, subsets=KID_SUBSETS, subset_size=size, seed=0)
    return {"kid": distance.mean, "kid_std": distance.std}


def inception(fake: Extracted, reference: Reference) -> Figures:
    return {"inception_score": inception_score(fake.logits, SCORE_SPLITS)}


def manifold(fake: Extracted, reference: Reference) -> Figures:
    generated = neighbourhoods(fake.features[:NEIGHBOUR_IMAGES], NEIGHBOURS, COVERAGE_NEIGHBOURS)
    return asdict(manifold_figures(reference.neighbourhoods, generated))


ALL_MEASURES = (fid, kid, inception, manifold)
IMAGENET_MEASURES = (fid, kid, manifold)
QUICK_MEASURES = (fid, inception)  # for measurements during a run

Measure = Callable[[Extracted, Reference], Figures]


def measure(fake: Extracted, reference: Reference, measures: Iterable[Measure] = ALL_MEASURES) -> Figures:
    """All figures of the measures; lower is better for FID and KID, higher for the others."""
    return {name: value for compute in measures for name, value in compute(fake, reference).items()}


def class_accuracies(extracted: Extracted, classes: tuple[str, ...]) -> dict[str, float]:
    """Share of the images of each class that the classifier recognises; classes without images are left out."""
    is_right = (extracted.logits.argmax(1) == extracted.labels).double()
    labels = extracted.labels
    return {
        name: is_right[labels == label].mean().item()
        for label, name in enumerate(classes)
        if bool((labels == label).any())
    }


def accuracy(extracted: Extracted) -> float:
    """Share of the images that the classifier assigns to their class."""
    return (extracted.logits.argmax(1) == extracted.labels).double().mean().item()


@dataclass(frozen=True)
class Judge:
    """A network, its features of real images, and the measures that it takes. `prefix` begins the figures' names."""

    extractor: Extractor
    reference: Extracted
    test: Extracted | None  # real images that no generator was trained on
    measures: tuple[Measure, ...] = ALL_MEASURES
    prefix: str = ""
    _floors: dict[int, Figures] = field(default_factory=dict)

    @cached_property
    def _shared(self) -> Reference:
        return Reference(self.reference)

    def figures(self, fake: Extracted, measures: Iterable[Measure] | None = None) -> Figures:
        values = measure(fake, self._shared, self.measures if measures is None else measures)
        return {self.prefix + name: value for name, value in values.items()}

    def score(self, images: Tensor) -> Figures:
        """The figures of images uint8 [N, C, H, W] of any origin; N should be that of what they are compared with."""
        labels = torch.zeros(len(images), dtype=torch.int64)
        batches = zip(torch.split(images, BATCH), torch.split(labels, BATCH), strict=True)
        return self.figures(extract(self.extractor, batches))

    def floor(self, count: int) -> Figures:
        """The figures of `count` real test images, or of all if there are fewer: what a perfect generator reaches."""
        if self.test is None:
            return {}
        count = min(count, len(self.test))
        if count not in self._floors:
            self._floors[count] = self.figures(self.test.sample(count))
        return dict(self._floors[count])

    def protocol(self) -> dict[str, Any]:
        return self.extractor.as_protocol() | {"features": self.reference.features.shape[1]}


@dataclass(frozen=True)
class Evaluator:
    """Measures generators against the features of a data set's training images, by one judge or by two.

    The first judge's logits are classes of the data set where it was trained on them. The second one, which takes ten
    times as long, takes part in final evaluations only.
    """

    dataset: ImageDataset
    judges: tuple[Judge, ...]
    on_batch: OnBatch = ignore_batch

    @property
    def first(self) -> Judge:
        return self.judges[0]

    def extract(
        self, generator: Generator, config: TrainConfig, count: int, seed: int = 0, *, judges: Sequence[Judge] = ()
    ) -> list[Extracted]:
        """Features of `count` generated images, per judge; by default the first alone."""
        if isinstance(generator, nn.Module):
            generator.eval()
        labels = labels_in_proportion(self.dataset.labels, count, seed)
        extractors = [judge.extractor for judge in judges or self.judges[:1]]
        images = generate(generator, config.latent_dim, labels, seed, extractors[0].device)
        return extract_all(extractors, images, self.on_batch)

    def quick(self, generator: Generator, config: TrainConfig, count: int) -> Figures:
        """FID, Inception Score, class accuracy and collapse signals, for a row of the metrics series."""
        (fake,) = self.extract(generator, config, count)
        figures = self.first.figures(fake, QUICK_MEASURES)
        if self._knows_classes(config):
            figures["class_accuracy"] = accuracy(fake)
        return figures | collapse_signals(fake, self.first.reference, conditional=config.conditional)

    def evaluate(self, generator: Generator, config: TrainConfig, count: int, seed: int = 0) -> ModelMetrics:
        """All metrics by all judges, with their protocol."""
        extracted = self.extract(generator, config, count, seed, judges=self.judges)
        figures: Figures = {}
        for judge, fake in zip(self.judges, extracted, strict=True):
            figures |= judge.figures(fake)
        deviations = {name: figures.pop(name) for name in list(figures) if name.endswith("kid_std")}
        protocol = self.protocol(count, seed) | deviations | {"real": self.real_figures(count)}
        if self._knows_classes(config):
            figures["class_accuracy"] = accuracy(extracted[0])
            protocol["class_accuracy"] = class_accuracies(extracted[0], self.dataset.classes)
        return ModelMetrics(**figures, protocol=protocol)

    def real_figures(self, count: int) -> dict[str, Any] | None:
        """The same metrics of as many test images: the floor of FID and KID, and the scale of the others."""
        if self.first.test is None:
            return None
        test = self.first.test.sample(count)
        figures: dict[str, Any] = {"split": "test", "images": len(test)}
        for judge in self.judges:
            figures |= judge.floor(count)
        if self.first.extractor.classes == self.dataset.classes:
            figures["class_accuracy"] = accuracy(test)
        return figures

    def protocol(self, count: int, seed: int) -> dict[str, Any]:
        """How the metrics were measured, in enough detail to repeat it."""
        reference_images = len(self.first.reference)
        return {f"{judge.prefix}extractor": judge.protocol() for judge in self.judges} | {
            "images": count,
            "seed": seed,
            "labels": "drawn as in the reference",
            "reference": {"split": "train", "images": reference_images, "digest": self.dataset.digest},
            "kid": {"subsets": KID_SUBSETS, "subset_size": min(KID_SUBSET_SIZE, count, reference_images), "seed": 0},
            "inception_score": {"splits": SCORE_SPLITS},
            "precision_recall": {
                "k": NEIGHBOURS,
                "images": min(NEIGHBOUR_IMAGES, count),
                "reference_images": min(NEIGHBOUR_IMAGES, reference_images),
            },
            "density_coverage": {"k": COVERAGE_NEIGHBOURS},
        }

    def quick_metrics(self, config: TrainConfig) -> set[str]:
        """Names of the metrics that `quick` measures for this config."""
        names = {"fid", "inception_score", "recall", "diversity", "class_coverage"}
        return names | {"class_accuracy"} if self._knows_classes(config) else names

    def _knows_classes(self, config: TrainConfig) -> bool:
        return (config.conditional or config.per_class) and self.first.extractor.classes == self.dataset.classes


def make_evaluator(
    extractors: Sequence[Extractor],
    dataset: ImageDataset,
    test: ImageDataset | None,
    cache: ArtifactStore,
    on_batch: OnBatch = ignore_batch,
) -> Evaluator:
    """Reads the real images' features from the cache, or computes them, which takes minutes on a CPU.

    The extractor `imagenet` takes the measures that need no classes; its figures begin with `imagenet_`. There is at
    most one other extractor, which takes all measures. Raises BadDataset if there are too few real images.
    """
    if len(dataset) < MIN_EVAL_IMAGES:
        raise BadDataset(f"evaluation needs at least {MIN_EVAL_IMAGES} real images; the data set has {len(dataset)}")
    if test is not None and len(test) < MIN_EVAL_IMAGES:
        test = None
    judges = []
    for extractor in sorted(extractors, key=lambda extractor: extractor.name == "imagenet"):
        real = real_features(extractor, dataset, cache, on_batch)
        real_test = None if test is None else real_features(extractor, test, cache, on_batch)
        named = (IMAGENET_MEASURES, "imagenet_") if extractor.name == "imagenet" else (ALL_MEASURES, "")
        judges.append(Judge(extractor, real, real_test, *named))
    return Evaluator(dataset, tuple(judges), on_batch)


def open_evaluator(
    extractors: Sequence[Extractor],
    settings: Settings,
    name: str,
    dataset: ImageDataset,
    *,
    on_progress: OnProgress = ignore_progress,
    on_batch: OnBatch = ignore_batch,
) -> Evaluator:
    """An evaluator for the named data set; its test images, if any, are measured for comparison. Raises BadDataset.

    `on_progress` is called after each test image that is read, `on_batch` after each batch that is measured.
    """
    test = load_test_images(name, dataset, settings, on_progress)
    cache = ArtifactStore(f"file://{settings.data / 'cache'}")
    return make_evaluator(extractors, dataset, test, cache, on_batch)


def evaluate_generator(
    generator: Generator,
    config: TrainConfig,
    dataset: ImageDataset,
    extractors: Sequence[Extractor],
    count: int,
    *,
    cache: ArtifactStore,
    test: ImageDataset | None = None,
    seed: int = 0,
) -> ModelMetrics:
    """Measures `count` generated images against the training data, and the `test` images for comparison.

    Uses the generator's batch statistics as they are; those of averaged weights must be re-estimated before.
    """
    return make_evaluator(extractors, dataset, test, cache).evaluate(generator, config, count, seed)
