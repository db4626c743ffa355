"""Classification accuracy score: the accuracy on real test images of a classifier trained on generated images only.

Ravuri and Vinyals 2019, arXiv:1905.10887. A model scores high if its images show their classes, in most of their
variety; no loss of its training measures this. The same recipe on real images gives the upper end of the scale.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from services.trainer.classifier.training import ClassifierState, class_accuracies, overall_accuracy, train
from services.trainer.data.datasets import ImageDataset
from services.trainer.data.labels import labels_in_proportion
from services.trainer.data.loading import load_test_images
from services.trainer.data.pushed import locate_dataset
from services.trainer.data.sampler import Sampler
from services.trainer.metrics.evaluation import Generator, generate
from shared.configs.classifier import ClassifierConfig
from shared.configs.train import MIN_EVAL_IMAGES, TrainConfig
from shared.errors import BadDataset, InvalidInput
from shared.settings import Settings

EPOCHS = 5  # enough to rank models, at 5/12 of the cost of the shipped classifier
MIN_STEPS_PER_EPOCH = 40  # small sets get smaller batches: a handful of steps teaches nothing
MAX_EPOCHS = 1000
NO_CHECKPOINT_S = 86_400.0
RECORDED_FIELDS = {"width", "epochs", "batch_size", "precision", "seed"}


@dataclass(frozen=True)
class AccuracyScore:
    """The accuracy of two classifiers on the same real test images, and what each cost."""

    score: float  # trained on generated images
    real_score: float  # trained on as many real images of the same classes
    images: int
    test_images: int
    seconds: float  # for generating the images, training and testing
    real_seconds: float
    classifier: dict[str, Any]  # how both were trained; its seed also drew the latents and classes


@dataclass(frozen=True)
class ScoreSpec:
    """How many images the classifier learns from, and how."""

    images: int
    classifier: ClassifierConfig


@dataclass(frozen=True)
class AccuracyScorer:
    """Scores generators. Trains on the real images at the first score, and once only."""

    real: ImageDataset
    test: ImageDataset
    spec: ScoreSpec
    device: torch.device

    def score(self, generator: Generator, config: TrainConfig) -> AccuracyScore | None:
        """None for an unconditional generator, whose images have no labels to learn. Raises Diverged."""
        if not (config.conditional or config.per_class):
            return None
        started_s, seed = time.monotonic(), self.spec.classifier.seed
        labels = labels_in_proportion(self.real.labels, self.spec.images, seed)
        batches = [images.cpu() for images, _ in generate(generator, config.latent_dim, labels, seed, self.device)]
        score = self._train_and_test(torch.cat(batches), labels)
        seconds = time.monotonic() - started_s
        real_score, real_seconds = self._real_score
        return AccuracyScore(
            score=score,
            real_score=real_score,
            images=self.spec.images,
            test_images=len(self.test),
            seconds=round(seconds, 1),
            real_seconds=round(real_seconds, 1),
            classifier=self.spec.classifier.model_dump(include=RECORDED_FIELDS),
        )

    @cached_property
    def _real_score(self) -> tuple[float, float]:
        """Accuracy after training on real images of the same classes in the same order, and its seconds."""
        started_s = time.monotonic()
        # The images whose labels `labels_in_proportion` returns.
        rows = Sampler(len(self.real), self.spec.classifier.seed).batch(0, self.spec.images)
        images, labels = self.real.images[rows.to(self.real.images.device)], self.real.labels.cpu()[rows]
        return self._train_and_test(images, labels), time.monotonic() - started_s

    def _train_and_test(self, images: Tensor, labels: Tensor) -> float:
        training = ImageDataset(images, labels, self.real.classes)
        return train_and_test(self.spec.classifier, training, self.test, self.device)


def score_spec(images: int, epochs: int = EPOCHS, seed: int = 0) -> ScoreSpec:
    """The shipped classifier's recipe with fewer epochs, and smaller batches for less than 40,960 images.

    `seed` also draws the latents and classes of the images. Raises InvalidInput for too few images or epochs.
    """
    if images < MIN_EVAL_IMAGES:
        raise InvalidInput.of("cas", images, f"must be at least {MIN_EVAL_IMAGES}, or 0 for no score")
    if not 1 <= epochs <= MAX_EPOCHS:
        raise InvalidInput.of("cas-epochs", epochs, f"must be between 1 and {MAX_EPOCHS}")
    batch_size = min(1024, max(2, images // MIN_STEPS_PER_EPOCH))
    return ScoreSpec(images, ClassifierConfig(epochs=epochs, batch_size=batch_size, seed=seed))


def open_scorer(
    settings: Settings, name: str, real: ImageDataset, device: torch.device, spec: ScoreSpec
) -> AccuracyScorer:
    """A scorer for the named data set, with its training images. Raises BadDataset if it has no test images."""
    test = load_test_images(name, real, settings)
    if test is None:
        raise BadDataset(
            f"data set {name} has no test split, on which the classification accuracy score is measured: put real "
            f"images into {locate_dataset(name, settings) / 'test'}/<class>, or evaluate without --cas"
        )
    return AccuracyScorer(real, test, spec, device)


def train_and_test(config: ClassifierConfig, images: ImageDataset, test: ImageDataset, device: torch.device) -> float:
    """Share of the test images that a classifier recognises after training on `images`. Raises Diverged."""
    quiet = config.model_copy(update={"tick_nimg": config.epochs * len(images), "checkpoint_every_s": NO_CHECKPOINT_S})
    state = ClassifierState(quiet, len(images.classes), device)
    images, test = _in_colour(images), _in_colour(test)
    train(state, images.to(device), lambda _: None, lambda: None, lambda: None)
    return overall_accuracy(class_accuracies(state.network, test), test)


def _in_colour(dataset: ImageDataset) -> ImageDataset:
    """The data set with three channels, which the classifier expects: a grey one three times."""
    return ImageDataset(dataset.images.expand(-1, 3, -1, -1), dataset.labels, dataset.classes)
