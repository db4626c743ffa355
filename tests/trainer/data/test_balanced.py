"""Drawing each class equally often: the order of images, the classes of generated images, and the event about it."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from services.trainer.data.datasets import ImageDataset
from services.trainer.data.sampler import BalancedSampler, make_sampler
from services.trainer.runs.data import announce, draw_factors
from services.trainer.training import loop
from services.trainer.training.state import TrainState
from tests.trainer.small import CPU, EventLog, random_images, small_config

sizes = st.lists(st.integers(0, 12), min_size=1, max_size=6).filter(any)
seeds = st.integers(0, 2**63 - 1)


def labels_of(sizes: list[int]) -> torch.Tensor:
    """Labels of a data set with this many images of each class, mixed."""
    labels = torch.cat([torch.full((size,), label) for label, size in enumerate(sizes)])
    return labels[torch.randperm(len(labels), generator=torch.Generator().manual_seed(0))]


@given(sizes, seeds)
@settings(deadline=None)
def test_each_round_has_one_image_of_every_class(sizes: list[int], seed: int) -> None:
    labels, present = labels_of(sizes), [label for label, size in enumerate(sizes) if size]
    drawn = labels[BalancedSampler(labels, seed).batch(0, 20 * len(present))].view(20, len(present))
    assert drawn.sort(1).values.tolist() == [present] * 20


@given(sizes, seeds, st.integers(0, 40))
@settings(deadline=None)
def test_all_images_of_a_class_are_drawn_before_one_comes_again(sizes: list[int], seed: int, times: int) -> None:
    labels = labels_of(sizes)
    present = sum(size > 0 for size in sizes)
    drawn = BalancedSampler(labels, seed).batch(0, (times + 1) * max(sizes) * present)
    for label, size in enumerate(sizes):
        own = drawn[labels[drawn] == label]
        for start in range(0, size and len(own) - size + 1, size or 1):
            assert sorted(own[start : start + size].tolist()) == (labels == label).nonzero()[:, 0].tolist()


@given(sizes, seeds, st.lists(st.integers(1, 40), min_size=1, max_size=6))
@settings(deadline=None)
def test_batches_of_any_size_follow_the_same_sequence(sizes: list[int], seed: int, counts: list[int]) -> None:
    labels = labels_of(sizes)
    expected = BalancedSampler(labels, seed).batch(0, sum(counts)).tolist()
    sampler, pieces = BalancedSampler(labels, seed), list[int]()
    for count in counts:
        pieces += sampler.batch(len(pieces), count).tolist()
    assert pieces == expected


@given(sizes, seeds, st.integers(0, 10**5), st.integers(0, 10**5))
@settings(deadline=None)
def test_a_batch_depends_on_its_position_only(sizes: list[int], seed: int, nimg: int, other: int) -> None:
    labels = labels_of(sizes)
    used, fresh = BalancedSampler(labels, seed), BalancedSampler(labels, seed)
    used.batch(other, 5)
    assert torch.equal(used.batch(nimg, 5), fresh.batch(nimg, 5))


def test_classes_of_the_same_size_and_other_seeds_have_other_orders() -> None:
    labels = torch.arange(2).repeat(500)  # two classes of 500, whose images alternate
    drawn = BalancedSampler(labels, 0).batch(0, 1000)
    even, odd = drawn[labels[drawn] == 0] // 2, drawn[labels[drawn] == 1] // 2
    assert not torch.equal(even, odd)
    assert not torch.equal(drawn, BalancedSampler(labels, 1).batch(0, 1000))
    assert not torch.equal(drawn, BalancedSampler(labels, 0).batch(1000, 1000))


def imbalanced() -> ImageDataset:
    """90 images of `common`, 8 of `rare`, 2 of `rarest`, and none of `missing`."""
    labels = torch.tensor([0] * 90 + [1] * 8 + [2] * 2)
    return ImageDataset(random_images(100).images, labels, ("common", "rare", "rarest", "missing"))


@pytest.mark.parametrize(("balance", "expected"), [(True, [1 / 3, 1 / 3, 1 / 3, 0]), (False, [0.9, 0.08, 0.02, 0])])
def test_training_shows_both_networks_the_classes_in_these_proportions(
    balance: bool, expected: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    # Given a run that records the classes of the real and the generated images of each step
    real: list[torch.Tensor] = []
    generated: list[torch.Tensor] = []
    config = small_config(total_nimg=1200, balance_classes=balance)
    state = TrainState(config, 4, CPU)
    generate, draw = state.generate, state.draw_labels

    def record_real(z: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        real.append(labels)
        return generate(z, labels)

    def record_generated(labels: torch.Tensor) -> torch.Tensor:
        generated.append(draw(labels))
        return generated[-1]

    monkeypatch.setattr(state, "generate", record_real)
    monkeypatch.setattr(state, "draw_labels", record_generated)
    loop.train(state, imbalanced(), list[loop.Message]().append, lambda: None)
    assert config.n_critic == 1
    for labels in (torch.cat(real[::2]), torch.cat(generated)):
        shares = labels.bincount(minlength=4) / len(labels)
        assert shares.tolist() == pytest.approx(expected, abs=0.05)


def test_the_order_of_a_run_without_balance_is_that_of_the_plain_sampler() -> None:
    labels = imbalanced().labels
    assert type(make_sampler(labels, 0, balance_classes=False)).__name__ == "Sampler"
    assert isinstance(make_sampler(labels, 0, balance_classes=True), BalancedSampler)


def test_an_event_says_how_often_each_class_is_drawn() -> None:
    assert draw_factors(imbalanced()) == [("rarest", 2, 16.667), ("rare", 8, 4.167), ("common", 90, 0.37)]
    events = EventLog()
    announce(imbalanced(), small_config(balance_classes=True), "CPU", events)
    assert events[-1] == (
        "balanced",
        "each class is drawn equally often; class 'rarest': 2 images, drawn 17 times as often, class 'rare': 8 images, "
        "drawn 4.2 times as often, class 'common': 90 images, drawn 0.37 times as often",
    )
