"""Evaluation: the generated images, their reference, and the protocol of each metric."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from services.trainer.data.augment import to_bytes, to_unit_range
from services.trainer.data.datasets import ImageDataset
from services.trainer.metrics.evaluation import (
    Evaluator,
    class_accuracies,
    evaluate_generator,
    generate,
    make_evaluator,
)
from services.trainer.metrics.extractor import (
    Extracted,
    Extractor,
    batches_of,
    classifier_extractor,
    extract,
    find_extractor,
    inception_extractor,
)
from services.trainer.metrics.reference import real_features
from shared.errors import BadDataset, InvalidInput, UnknownClassifier
from shared.settings import Settings
from shared.storage.artifacts import ArtifactStore
from tests.trainer.small import CPU, random_images, small_config

TRAIN = random_images(60)


def patterns(count: int, seed: int) -> ImageDataset:
    """Ten classes of noise, each with a white bar at another position."""
    rng = torch.Generator().manual_seed(seed)
    images = torch.randint(0, 120, (count, 3, 32, 32), generator=rng, dtype=torch.uint8)
    labels = torch.arange(count) % 10
    for image, label in zip(images, labels.tolist(), strict=True):
        image[:, 3 * label : 3 * label + 3] = 255
    return ImageDataset(images, labels, TRAIN.classes)


@pytest.fixture
def extractor(shipped_classifier: Path) -> Extractor:
    return classifier_extractor(shipped_classifier, CPU)


@pytest.fixture
def cache(tmp_path: Path) -> ArtifactStore:
    return ArtifactStore(f"file://{tmp_path / 'cache'}")


def copyist(dataset: ImageDataset) -> Callable[[Tensor, Tensor], Tensor]:
    """A "generator" that returns each image of the data set once, by class."""
    left = {label: list(dataset.images[dataset.labels == label]) for label in range(len(dataset.classes))}
    return lambda _, labels: to_unit_range(torch.stack([left[label].pop() for label in labels.tolist()]))


def grey(z: Tensor, labels: Tensor) -> Tensor:
    return torch.zeros(len(z), 3, 32, 32)


# Generating ----------------------------------------------------------------------------------------------------------


def first_latents(z: Tensor, labels: Tensor) -> Tensor:
    """Images that show their first three latents."""
    return z[:, :3, None, None].expand(-1, 3, 32, 32).tanh()


def test_generated_images_depend_on_the_seed_only() -> None:
    labels = torch.arange(600) % 10
    before = torch.get_rng_state()
    runs = [torch.cat([images for images, _ in generate(first_latents, 8, labels, seed, CPU)]) for seed in (0, 0, 1)]
    assert torch.equal(torch.get_rng_state(), before)
    assert runs[0].shape == (600, 3, 32, 32)
    assert runs[0].dtype == torch.uint8
    assert torch.equal(runs[0], runs[1])
    assert not torch.equal(runs[0], runs[2])
    # Each image is of another latent, from a normal distribution
    assert len({tuple(image[:, 0, 0].tolist()) for image in runs[0]}) > 590
    assert (runs[0].float() / 127.5 - 1).atanh().clamp(-4, 4).std().item() == pytest.approx(1, abs=0.1)


# Figures -------------------------------------------------------------------------------------------------------------


def test_the_training_images_themselves_are_perfect(extractor: Extractor, cache: ArtifactStore) -> None:
    # Given a generator that returns the training images
    train = patterns(60, seed=0)
    metrics = evaluate_generator(copyist(train), small_config(), train, [extractor], 60, cache=cache)
    # Then FID is zero and precision is one; KID, which compares no image with itself, is at most zero
    assert metrics.fid == pytest.approx(0, abs=1e-9)
    assert (metrics.precision, metrics.recall) == (1.0, 1.0)
    assert metrics.kid is not None
    assert metrics.kid <= 0
    # And its classes are recognised as often as those of the training images
    real = extract(extractor, batches_of(train))
    assert metrics.class_accuracy == (real.logits.argmax(1) == real.labels).double().mean().item()


def test_one_grey_image_has_a_high_fid_and_no_diversity(extractor: Extractor, cache: ArtifactStore) -> None:
    train = patterns(60, seed=0)
    worse = evaluate_generator(grey, small_config(), train, [extractor], 40, cache=cache)
    other = evaluate_generator(copyist(patterns(60, seed=1)), small_config(), train, [extractor], 40, cache=cache)
    assert worse.inception_score == pytest.approx(1.0)
    assert (worse.precision, worse.recall) == (0.0, 0.0)
    assert worse.fid is not None
    assert other.fid is not None
    assert worse.fid > 2 * other.fid > 0


def test_an_evaluation_is_reproducible(extractor: Extractor, cache: ArtifactStore) -> None:
    evaluator = make_evaluator([extractor], TRAIN, random_images(20), cache)
    first = evaluator.evaluate(first_latents, small_config(), 30)
    torch.rand(1)
    assert evaluator.evaluate(first_latents, small_config(), 30) == first
    assert evaluator.evaluate(first_latents, small_config(), 30, seed=1) != first


def test_every_metric_carries_its_protocol(extractor: Extractor, cache: ArtifactStore) -> None:
    metrics = evaluate_generator(
        first_latents, small_config(), TRAIN, [extractor], 30, cache=cache, test=random_images(20), seed=5
    )
    protocol = metrics.protocol
    assert protocol is not None
    assert protocol["extractor"] == {
        "name": "classifier", "digest": extractor.digest, "resolution": 32, "test_accuracy": 0.1, "features": 32
    }  # fmt: skip
    assert (protocol["images"], protocol["seed"]) == (30, 5)
    assert protocol["reference"] == {"split": "train", "images": 60, "digest": TRAIN.digest}
    assert protocol["kid"] == {"subsets": 100, "subset_size": 30, "seed": 0}
    assert protocol["precision_recall"] == {"k": 3, "images": 30, "reference_images": 60}
    assert protocol["density_coverage"] == {"k": 5}
    assert protocol["class_accuracy"].keys() == set(TRAIN.classes)
    # And the same figures of real images, for scale
    real = protocol["real"]
    assert (real["split"], real["images"]) == ("test", 20)
    assert {"fid", "kid", "inception_score", "precision", "recall", "class_accuracy"} < real.keys()


def test_the_floor_is_that_of_as_many_real_images(extractor: Extractor, cache: ArtifactStore) -> None:
    # Given 40 test images, of which all are in the sample of 40 and some in that of 20
    test = patterns(40, seed=1)
    evaluator = make_evaluator([extractor], patterns(60, seed=0), test, cache)
    floors = {count: evaluator.real_figures(count) for count in (20, 40, 500)}
    assert [floor and floor["images"] for floor in floors.values()] == [20, 40, 40]
    assert floors[40] == floors[500]
    # Then fewer images have a higher FID, which is that of these images
    assert floors[20] is not None
    assert floors[40] is not None
    assert floors[20]["fid"] > floors[40]["fid"]
    assert evaluator.first.score(test.images)["fid"] == pytest.approx(floors[40]["fid"], rel=1e-9)


def test_without_test_images_the_protocol_has_no_real_metrics(extractor: Extractor, cache: ArtifactStore) -> None:
    metrics = evaluate_generator(first_latents, small_config(), TRAIN, [extractor], 30, cache=cache)
    assert metrics.protocol is not None
    assert metrics.protocol["real"] is None


@pytest.mark.parametrize("preset", ["tiny", "wgan-gp"])
def test_class_accuracy_needs_a_conditional_model_and_known_classes(
    extractor: Extractor, cache: ArtifactStore, preset: str
) -> None:
    config = small_config(preset)
    known = evaluate_generator(first_latents, config, TRAIN, [extractor], 30, cache=cache)
    assert (known.class_accuracy is not None) == config.conditional == (preset == "tiny")
    others = dataclasses.replace(TRAIN, classes=tuple("abcdefghij"))
    unknown = evaluate_generator(first_latents, config, others, [extractor], 30, cache=cache)
    assert unknown.class_accuracy is None
    assert unknown.fid is not None


def test_a_second_judge_measures_the_same_images_under_names_of_its_own(
    extractor: Extractor, cache: ArtifactStore
) -> None:
    # Given the classifier and a second network, whose features are the mean colours
    def colors(images: Tensor) -> tuple[Tensor, Tensor]:
        features = images.float().mean((2, 3))
        return features, features

    second = dataclasses.replace(extractor, name="imagenet", digest="c" * 64, classes=None, run=colors)
    config, test = small_config(), random_images(20)
    both = evaluate_generator(first_latents, config, TRAIN, [extractor, second], 30, cache=cache, test=test)
    first = evaluate_generator(first_latents, config, TRAIN, [extractor], 30, cache=cache, test=test)
    alone = evaluate_generator(first_latents, config, TRAIN, [second], 30, cache=cache, test=test)
    # Then each measures what it measures alone, without the second one's classes
    names = ("fid", "kid", "precision", "recall", "density", "coverage")
    assert [getattr(both, name) for name in names] == [getattr(first, name) for name in names]
    assert [getattr(both, f"imagenet_{name}") for name in names] == [
        getattr(alone, f"imagenet_{name}") for name in names
    ]
    assert alone.fid is None
    assert both.class_accuracy == first.class_accuracy
    assert first.imagenet_fid is None
    # And the protocol names both networks, and has the floor under both
    assert both.protocol is not None
    assert (both.protocol["extractor"]["name"], both.protocol["imagenet_extractor"]["digest"]) == (
        "classifier",
        "c" * 64,
    )
    assert {"fid", "imagenet_fid", "imagenet_coverage"} < both.protocol["real"].keys()


def test_the_imagenet_judge_pools_features_of_enlarged_images() -> None:
    judge = find_extractor("imagenet", None, Settings(), CPU)
    images = patterns(4, seed=0).images
    features, logits = judge.run(images)
    assert (features.shape, logits.shape) == ((4, 1280), (4, 0))
    assert (judge.name, judge.resolution, judge.classes, len(judge.digest)) == ("imagenet", 96, None, 64)
    # An image of 64 pixels that shows the same has nearly the same features
    large, _ = judge.run(images.repeat_interleave(2, 2).repeat_interleave(2, 3))
    assert (large - features).norm() < 0.5 * (features - features.flip(0)).norm()


def test_accuracy_by_class_by_hand() -> None:
    logits = torch.eye(3)[torch.tensor([0, 1, 1, 2])]
    extracted = Extracted(torch.zeros(4, 1), logits, torch.tensor([0, 0, 1, 1]))
    assert class_accuracies(extracted, ("a", "b", "c")) == {"a": 0.5, "b": 0.5}


def test_too_few_real_images_are_refused(extractor: Extractor, cache: ArtifactStore) -> None:
    with pytest.raises(BadDataset, match="evaluation needs at least 10 real images; the data set has 9"):
        make_evaluator([extractor], random_images(9), None, cache)


# Features of real images ---------------------------------------------------------------------------------------------


def broken(images: Tensor) -> tuple[Tensor, Tensor]:
    raise AssertionError("the features were to come from the cache")


def test_features_of_real_images_are_computed_once(extractor: Extractor, cache: ArtifactStore) -> None:
    # Given features that were computed once
    first = real_features(extractor, TRAIN, cache)
    # When they are requested again, Then no network runs
    again = real_features(dataclasses.replace(extractor, run=broken), TRAIN, cache)
    for name in ("features", "logits", "labels"):
        assert torch.equal(getattr(first, name), getattr(again, name))
    # But another network or another data set has its own features
    own = dataclasses.replace(extractor, run=broken)
    for network, dataset in ((dataclasses.replace(own, digest="f" * 64), TRAIN), (own, random_images(61))):
        with pytest.raises(AssertionError, match="from the cache"):
            real_features(network, dataset, cache)


def test_a_damaged_cache_is_replaced(extractor: Extractor, cache: ArtifactStore) -> None:
    first = real_features(extractor, TRAIN, cache)
    (name,) = cache.list("features")
    complete = cache.read(f"features/{name}")
    cache.write(f"features/{name}", complete[: len(complete) // 2])
    assert torch.equal(real_features(extractor, TRAIN, cache).features, first.features)
    assert cache.read(f"features/{name}") == complete


def test_a_data_sets_digest_covers_images_labels_and_classes() -> None:
    digest = TRAIN.digest
    assert random_images(60).digest == digest
    moved = ImageDataset(TRAIN.images.flip(0), TRAIN.labels, TRAIN.classes)
    relabelled = ImageDataset(TRAIN.images, TRAIN.labels.flip(0), TRAIN.classes)
    renamed = ImageDataset(TRAIN.images, TRAIN.labels, TRAIN.classes[::-1])
    assert len({digest, *(other.digest for other in (moved, relabelled, renamed))}) == 4


def test_features_do_not_depend_on_the_batch(extractor: Extractor) -> None:
    complete = extract(extractor, [(TRAIN.images, TRAIN.labels)])
    pieces = extract(extractor, zip(torch.split(TRAIN.images, 7), torch.split(TRAIN.labels, 7), strict=True))
    assert torch.allclose(complete.features, pieces.features, atol=1e-4)
    assert torch.equal(complete.labels, pieces.labels)


# Extractors ----------------------------------------------------------------------------------------------------------


def test_an_unavailable_extractor_is_named(tmp_path: Path) -> None:
    settings = Settings(data=tmp_path, classifier=tmp_path / "none")
    with pytest.raises(UnknownClassifier, match="there is no classifier in"):
        find_extractor("classifier", None, settings, CPU)
    with pytest.raises(InvalidInput, match="judges: must be classifier, imagenet or inception"):
        find_extractor("resnet", None, settings, CPU)
    with pytest.raises(InvalidInput, match=r"weights: expected a file: .*weights-inception-2015-12-05-6726825d\.pth"):
        find_extractor("inception", None, settings, CPU)
    (tmp_path / "other.pth").write_bytes(b"other")
    with pytest.raises(InvalidInput, match="weights: is not weights-inception"):
        inception_extractor(tmp_path / "other.pth", CPU)


def test_evaluation_uses_8_bit_images(extractor: Extractor, cache: ArtifactStore) -> None:
    """Users get PNGs, so metrics of finer values would be misleading."""
    evaluator: Evaluator = make_evaluator([extractor], TRAIN, None, cache)
    (exact,) = evaluator.extract(first_latents, small_config(), 20)
    (rounded,) = evaluator.extract(lambda z, y: to_unit_range(to_bytes(first_latents(z, y))), small_config(), 20)
    assert torch.equal(exact.features, rounded.features)
