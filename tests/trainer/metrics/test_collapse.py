"""Mode collapse: the signals on synthetic features, and the event on real runs with and without a collapse."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from services.trainer.data.datasets import ImageDataset
from services.trainer.metrics.collapse import (
    CollapseWatch,
    collapse_signals,
    effective_classes,
    grid_diversity,
    is_collapsed,
    mean_distance,
)
from services.trainer.metrics.extractor import Extracted
from services.trainer.training import loop
from services.trainer.training.state import TrainState
from tests.trainer.small import CPU, EventLog, small_config, small_resnet

CLASSES, PER_CLASS, DIM = 10, 60, 16


def features(spread: float = 1.0, classes: int = CLASSES, seed: int = 1) -> Extracted:
    """Points around one centre per class, all predicted correctly. Only the first `classes` classes occur."""
    rng = torch.Generator().manual_seed(seed)
    centres = 4 * torch.randn(CLASSES, DIM, generator=torch.Generator().manual_seed(0))
    labels = torch.arange(CLASSES * PER_CLASS) % classes
    points = centres[labels] + spread * torch.randn(len(labels), DIM, generator=rng)
    return Extracted(points, torch.nn.functional.one_hot(labels, CLASSES).float(), labels)


REAL = features(seed=2)


def test_distances_and_effective_classes_match_hand_computed_values() -> None:
    points = torch.tensor([[0.0, 0.0], [3.0, 4.0], [0.0, 0.0], [6.0, 8.0]])
    # Six pairs: 0-1, 0-2, 0-3, 1-2, 1-3, 2-3
    assert mean_distance(points) == pytest.approx((5 + 0 + 10 + 5 + 5 + 10) / 6)
    # 5 within the first label, 10 within the second; a label with one image has no pair
    assert mean_distance(points, torch.tensor([0, 0, 2, 2])) == pytest.approx((5 + 10) / 2)
    assert mean_distance(points, torch.tensor([0, 0, 1, 2])) == pytest.approx(5)
    assert effective_classes(torch.tensor([3, 3, 3])) == pytest.approx(1)
    assert effective_classes(torch.arange(10)) == pytest.approx(10)
    assert effective_classes(torch.tensor([0, 0, 0, 1])) == pytest.approx(0.75**-0.75 * 0.25**-0.25)


@pytest.mark.parametrize("conditional", [False, True])
def test_images_like_the_real_ones_are_no_collapse(conditional: bool) -> None:
    signals = collapse_signals(features(), REAL, conditional=conditional)
    assert signals["diversity"] == pytest.approx(1, abs=0.05)
    assert signals["class_coverage"] == pytest.approx(1)
    assert signals["recall"] > 0.8
    assert not is_collapsed(signals)


@pytest.mark.parametrize(
    ("name", "fake", "conditional", "collapsed"),
    [
        ("one image", features(spread=0.001, classes=1), False, True),
        ("two classes of ten, each complete", features(classes=2), False, True),
        ("eight classes of ten", features(classes=8), False, False),
        ("one image per class", features(spread=0.001), True, True),
        ("less spread, all classes", features(spread=0.7), True, False),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_which_images_are_a_collapse(name: str, fake: Extracted, conditional: bool, collapsed: bool) -> None:
    assert is_collapsed(collapse_signals(fake, REAL, conditional=conditional)) is collapsed


def test_a_row_without_signals_is_no_collapse() -> None:
    assert not is_collapsed({"nimg": 100, "loss_d": 0.0})


def test_each_collapse_sends_one_event() -> None:
    # Given a run that is untrained, then good, collapses, recovers and collapses again
    sent: list[str] = []
    state = TrainState(small_config(total_nimg=1000, eval_images=100), 10, CPU)

    def send_event(kind: str, message: str, **data: Any) -> None:
        sent.append(f"{kind} {data['nimg']}")

    watch = CollapseWatch(state, send_event)
    good = {"diversity": 0.9, "class_coverage": 0.9, "recall": 0.3}
    for nimg, row in enumerate([{}, good, {}, {}, good, {}], start=1):
        state.cur_nimg = 90 * nimg
        state.metrics.append({"nimg": state.cur_nimg} | {"diversity": 0.01, "class_coverage": 0.1, "recall": 0.0} | row)
        watch.on_metrics()
    # Then the untrained beginning sends no event, and each collapse sends one
    assert sent == ["mode_collapse 270", "mode_collapse 540"]


# Runs ----------------------------------------------------------------------------------------------------------------


def plain_colours(count: int = 200) -> ImageDataset:
    """Images of one colour each, any colour."""
    colours = torch.randint(0, 256, (count, 3, 1, 1), generator=torch.Generator().manual_seed(0))
    images = colours.to(torch.uint8).expand(count, 3, 32, 32).contiguous()
    return ImageDataset(images, torch.zeros(count, dtype=torch.int64), ("colour",))


@pytest.mark.parametrize(
    ("overrides", "collapses"),
    [({}, False), ({"lr": 0.01, "lr_d": 1e-9}, True)],
    ids=["both players learn", "the discriminator never learns"],
)
def test_a_run_that_collapses_sends_an_event_and_a_good_one_does_not(
    overrides: dict[str, Any], collapses: bool
) -> None:
    # Given two runs on plain colours. In one the discriminator hardly learns, so one image is always the best output
    # for every latent vector
    config = small_resnet(conditional=False, total_nimg=640, lr_tail=0.0, snapshot_nimg=320, seed=2, **overrides)
    dataset = plain_colours()
    state, events, diversity = TrainState(config, 1, CPU), EventLog(), list[float]()
    watch = CollapseWatch(state, events)

    def on_message(message: loop.Message) -> None:
        if isinstance(message, loop.SamplesMessage):
            diversity.append(grid_diversity(message.images, dataset, conditional=False))
            watch.on_sample_grid(message.images, dataset)

    # When they train
    loop.train(state, dataset, on_message, lambda: None)
    # Then both start with varied images, and one ends with a single image; both values are far from the threshold 0.25
    assert diversity[0] > 0.5
    assert (diversity[-1] < 0.15) if collapses else (diversity[-1] > 0.4)
    assert events.kinds == (["mode_collapse"] if collapses else [])


def test_a_data_set_of_equal_images_never_counts_as_collapse() -> None:
    same = ImageDataset(torch.zeros(3, 3, 32, 32, dtype=torch.uint8), torch.arange(3), ("a", "b", "c"))
    images = torch.zeros(100, 3, 32, 32, dtype=torch.uint8)
    assert grid_diversity(images, same, conditional=False) == 1
    assert grid_diversity(images, same, conditional=True) == 1
