"""The loop: exact resume, sampling without side effects, honest metrics, and every way to end."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from services.trainer.data.augment import to_unit_range
from services.trainer.data.sampler import Sampler
from services.trainer.networks.discriminator import Discriminator
from services.trainer.runs.checkpoint import pack, unpack
from services.trainer.training import loop
from services.trainer.training.losses import LOSSES
from services.trainer.training.state import TrainState
from services.trainer.training.steps import (
    discriminator_step,
    generator_step,
    score_real_and_fake,
    train_iteration,
)
from shared.configs.train import TrainConfig
from shared.errors import Diverged
from shared.jobs.trainer_messages import StopSignal
from tests.trainer.small import (
    CPU,
    LinearCritic,
    random_images,
    small_config,
    small_keras,
    small_projected,
    small_resnet,
)

DATASET = random_images(36)  # not a multiple of the batch size, so batches cross the ends of epochs
ITERATIONS = 6  # of 8 images and more: beyond one epoch

# Ticks have several iterations, so that runs also stop within one. Sample grids take longer than all the training here,
# so they are made at the start and at the end only.
REPORTING = {"tick_nimg": 20, "snapshot_nimg": 10**6}

CASES: dict[str, TrainConfig] = {
    "wgan-gp": small_config("wgan-gp", n_critic=2, total_nimg=ITERATIONS * 16, lr_step_nimg=40, **REPORTING),
    "wgan-gp-conditional": small_config("wgan-gp-conditional", n_critic=2, total_nimg=ITERATIONS * 16, **REPORTING),
    "tiny": small_config("tiny", total_nimg=ITERATIONS * 8, **REPORTING),
    "dcgan, bce, spectral norm": small_config(
        "tiny", loss="bce", spectral_norm=True, total_nimg=ITERATIONS * 8, rotation_degrees=10.0, **REPORTING
    ),
    "keras-dcgan, batch norm, dropout": small_keras("bndrhl", total_nimg=ITERATIONS * 8, **REPORTING),
    "resnet, hinge, spectral norm": small_resnet(
        "tiny", spectral_norm=True, total_nimg=ITERATIONS * 8, lr_d=1e-3, crop_padding=2, **REPORTING
    ),
    "projected, shared batch, DiffAugment": small_projected(
        feature_px=32,
        g_batch="shared",
        diffaugment=["color", "translation", "cutout"],
        diffaugment_p=0.7,
        total_nimg=ITERATIONS * 8,
        **REPORTING,
    ),
    "resnet, wasserstein, penalty": small_resnet(
        "wgan-gp", n_critic=2, ema_halflife_nimg=30, total_nimg=ITERATIONS * 16, **REPORTING
    ),
}


def never() -> None:
    return None


def ignore(message: loop.Message) -> None:
    pass


def after(state: TrainState, iterations: int, stop: StopSignal = "leave") -> Callable[[], StopSignal | None]:
    """A should_stop() that returns `stop` after this number of iterations."""
    nimg = iterations * state.config.n_critic * state.config.real_batch_size
    return lambda: stop if state.cur_nimg >= nimg else None


def new_state(config: TrainConfig) -> TrainState:
    return TrainState(config, len(DATASET.classes), CPU)


def trained(config: TrainConfig) -> TrainState:
    state = new_state(config)
    loop.train(state, DATASET, ignore, never)
    return state


def messages_of(
    config: TrainConfig, stop: Callable[[TrainState], Callable[[], Any]] | None = None
) -> list[loop.Message]:
    messages: list[loop.Message] = []
    state = new_state(config)
    loop.train(state, DATASET, messages.append, stop(state) if stop else never)
    return messages


def sha256_of(value: Any) -> str:
    """Digest of nested dicts and lists; of a tensor, its type, shape and every bit."""
    digest = hashlib.sha256()

    def add(value: Any) -> None:
        if isinstance(value, dict):
            for key in value:
                digest.update(repr(key).encode())
                add(value[key])
        elif isinstance(value, list | tuple):
            for item in value:
                add(item)
        elif isinstance(value, Tensor):
            digest.update(
                f"{value.dtype} {tuple(value.shape)}".encode() + value.detach().contiguous().numpy().tobytes()
            )
        else:
            digest.update(repr(value).encode())

    add(value)
    return digest.hexdigest()


def everything_but_time(state: TrainState) -> dict[str, Any]:
    return {name: value for name, value in state.state_dict().items() if name != "wall_seconds"}


def weights_of(state: TrainState) -> dict[str, Any]:
    return {name: dict(network.named_parameters()) for name, network in state.networks().items()}


# --- stopping and resuming ----------------------------------------------------------------------------------------


@pytest.fixture(scope="module", params=CASES)
def uninterrupted(request: pytest.FixtureRequest) -> TrainState:
    return trained(CASES[request.param])


@pytest.mark.parametrize("stops", [(0,), (4,), tuple(range(1, ITERATIONS))], ids=str)
def test_a_run_that_stops_and_resumes_ends_like_one_that_never_stopped(
    uninterrupted: TrainState, stops: tuple[int, ...]
) -> None:
    # Given a run that writes a checkpoint at each stop and is resumed by another process, which has
    # another random state and its own networks
    state = new_state(uninterrupted.config)
    for iterations in stops:
        saved: list[bytes] = []

        def keep(message: loop.Message, saved: list[bytes] = saved) -> None:
            if isinstance(message, loop.CheckpointMessage):
                saved.append(pack(message.state.state_dict()))

        assert loop.train(state, DATASET, keep, after(state, iterations)) == "leave"
        state = new_state(uninterrupted.config)
        torch.manual_seed(iterations)
        state.load_state_dict(unpack(saved[-1]))
    # When it has ended
    assert loop.train(state, DATASET, ignore, never) == "done"
    # Then weights, optimizers, random state and metrics are the same to the bit
    assert state.metrics == uninterrupted.metrics
    assert sha256_of(weights_of(state)) == sha256_of(weights_of(uninterrupted))
    assert sha256_of(everything_but_time(state)) == sha256_of(everything_but_time(uninterrupted))


def test_a_step_with_several_threads_is_reproducible() -> None:
    # Given one saved state, and two threads
    config = small_config("tiny", g_channels=[32, 32, 32], d_channels=[32, 32, 32])
    saved = pack(new_state(config).state_dict())
    real, labels = to_unit_range(DATASET.images[:8]), DATASET.labels[:8]

    def digest_after_a_step() -> str:
        state = new_state(config)
        state.load_state_dict(unpack(saved))
        discriminator_step(state, real, labels)
        generator_step(state, torch.arange(10))
        return sha256_of(everything_but_time(state))

    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        # When the same step is repeated from it, Then the result is always the same
        assert len({digest_after_a_step() for _ in range(3)}) == 1
    finally:
        torch.set_num_threads(threads)


def test_training_changes_the_weights_and_so_does_the_seed(uninterrupted: TrainState) -> None:
    """Guards the comparison above: the compared runs do not end where they started."""
    fresh = weights_of(new_state(uninterrupted.config))
    final = weights_of(uninterrupted)
    moved = [not torch.equal(fresh[net][name], final[net][name]) for net in final for name in final[net]]
    assert moved.count(False) <= 1  # a critic's last bias cancels out of its loss
    assert len(moved) > 20
    other = trained(uninterrupted.config.model_copy(update={"seed": 1}))
    assert sha256_of(weights_of(other)) != sha256_of(weights_of(uninterrupted))


@pytest.mark.parametrize("case", ["wgan-gp", "resnet, hinge, spectral norm"])
def test_sampling_and_saving_do_not_change_a_run(case: str) -> None:
    # Given a run that samples and saves only at its end, and one that does so at every step
    blind = trained(CASES[case].model_copy(update={"tick_nimg": 10**9, "snapshot_nimg": 10**9}))
    watched = new_state(CASES[case].model_copy(update={"tick_nimg": 1, "snapshot_nimg": 1, "checkpoint_every_s": 0.0}))
    kinds: list[type] = []

    def look(message: loop.Message) -> None:
        kinds.append(type(message))
        if isinstance(message, loop.CheckpointMessage):
            pack(message.state.state_dict())

    # When both have ended
    loop.train(watched, DATASET, look, never)
    # Then their weights and their random states are the same
    assert kinds.count(loop.SamplesMessage) == ITERATIONS + 1
    assert kinds.count(loop.MetricsMessage) == kinds.count(loop.CheckpointMessage) == ITERATIONS
    assert sha256_of(weights_of(watched)) == sha256_of(weights_of(blind))
    assert sha256_of(everything_but_time(watched)["networks"]) == sha256_of(everything_but_time(blind)["networks"])
    assert torch.equal(watched.state_dict()["rng_cpu"], blind.state_dict()["rng_cpu"])


def test_leave_saves_a_checkpoint_and_stops() -> None:
    # Given a run that gets the signal `leave` after 3 steps of 8
    state = new_state(CASES["tiny"])
    messages: list[loop.Message] = []
    outcome = loop.train(state, DATASET, messages.append, after(state, 3, "leave"))
    # Then it stops there, and its last message is a checkpoint
    assert (outcome, state.cur_nimg) == ("leave", 24)
    assert isinstance(messages[-1], loop.CheckpointMessage)


def test_finish_stops_as_early_and_returns_done() -> None:
    state = new_state(CASES["tiny"])
    messages: list[loop.Message] = []
    outcome = loop.train(state, DATASET, messages.append, after(state, 3, "finish"))
    assert (outcome, state.cur_nimg) == ("done", 24)
    assert isinstance(messages[-1], loop.CheckpointMessage)


def test_a_finished_run_does_nothing_when_it_resumes() -> None:
    # Given a run that has ended
    state = trained(CASES["tiny"])
    before = sha256_of(everything_but_time(state))
    # When it resumes, because its worker died before it published the model
    messages: list[loop.Message] = []
    outcome = loop.train(state, DATASET, messages.append, never)
    # Then it ends at once
    assert (outcome, messages) == ("done", [])
    assert sha256_of(everything_but_time(state)) == before


# --- budget and messages -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("n_critic", "total_nimg", "expected"), [(1, 1, 8), (1, 24, 24), (1, 25, 32), (3, 25, 48), (3, 48, 48)]
)
def test_a_run_ends_with_the_iteration_that_reaches_its_budget(n_critic: int, total_nimg: int, expected: int) -> None:
    # Given steps of 8 images, n_critic of them per iteration
    state = trained(small_config("wgan-gp", n_critic=n_critic, total_nimg=total_nimg))
    # Then it stops after the first iteration that reaches the budget
    assert state.cur_nimg == expected
    assert state.opt_d.state_dict()["state"][0]["step"].item() == expected / 8
    assert state.opt_g.state_dict()["state"][0]["step"].item() == expected / 8 / n_critic


def test_ticks_and_snapshots_follow_the_images_seen() -> None:
    # Given 10 steps of 8 images, a row every 20, a sample grid every 50
    messages = messages_of(small_config(total_nimg=80, tick_nimg=20, snapshot_nimg=50))
    # Then rows follow the steps that cross 20, 40, 60, 80, and grids are made at the start, after 50 and at the end
    assert [r.row["nimg"] for r in messages if isinstance(r, loop.MetricsMessage)] == [24, 40, 64, 80]
    assert [r.nimg for r in messages if isinstance(r, loop.SamplesMessage)] == [0, 56, 80]
    # And the last progress is that of the full budget
    progress = [r for r in messages if isinstance(r, loop.ProgressMessage)]
    assert progress[-1].nimg == 80
    assert progress[-1].images_per_second > 0


def test_a_run_ends_with_a_row_even_between_ticks() -> None:
    messages = messages_of(small_config(total_nimg=24, tick_nimg=10**6))
    assert [r.row["nimg"] for r in messages if isinstance(r, loop.MetricsMessage)] == [24]


def test_checkpoints_follow_snapshots_and_the_clock() -> None:
    def checkpoints(**reporting: Any) -> int:
        messages = messages_of(small_config(total_nimg=80, **reporting))
        return sum(isinstance(message, loop.CheckpointMessage) for message in messages)

    assert checkpoints(snapshot_nimg=50, checkpoint_every_s=10**6) == 2
    assert checkpoints(snapshot_nimg=10**6, checkpoint_every_s=10**6) == 1
    assert checkpoints(snapshot_nimg=10**6, checkpoint_every_s=0) == 10


COLUMNS = {"nimg", "loss_d", "loss_g", "d_accuracy_real", "d_accuracy_fake", "lr"}


@pytest.mark.parametrize("case", CASES)
def test_rows_have_the_documented_columns_and_finite_values(case: str) -> None:
    rows = [message.row for message in messages_of(CASES[case]) if isinstance(message, loop.MetricsMessage)]
    expected = COLUMNS | {"gradient_penalty"} if CASES[case].gp_weight else COLUMNS
    assert len(rows) >= 2
    for row in rows:
        assert set(row) == expected
        assert all(math.isfinite(value) for value in row.values())
        assert 0 <= row["d_accuracy_real"] <= 1
        assert 0 <= row["d_accuracy_fake"] <= 1


@pytest.mark.parametrize(
    ("loss", "gp_weight", "expected"),
    [
        ("bce", 0.0, {"loss_d": math.log(2), "loss_g": math.log(2)}),
        ("hinge", 0.0, {"loss_d": 2.0, "loss_g": 0.0}),
        ("wasserstein", 10.0, {"loss_d": 0.0, "loss_g": 0.0, "gradient_penalty": 1.0}),
    ],
)
def test_rows_are_means_over_all_steps(loss: str, gp_weight: float, expected: dict[str, float]) -> None:
    # Given a discriminator of zeros, which no gradient changes: it always scores 0, with slope 0
    config = small_config("wgan-gp", loss=loss, gp_weight=gp_weight, n_critic=3, total_nimg=5 * 24, tick_nimg=40)
    state = new_state(config)
    for parameter in state.discriminator.parameters():
        parameter.data.zero_()
    # When it trains, Then each row has the loss of a score of 0, whatever the number of steps in the tick
    loop.train(state, DATASET, ignore, never)
    assert [row["nimg"] for row in state.metrics] == [48, 96, 120]
    accuracies = {"d_accuracy_real": 0.0, "d_accuracy_fake": 1.0}  # no score is above the threshold
    for row in state.metrics:
        assert {k: row[k] for k in expected | accuracies} == pytest.approx(expected | accuracies, abs=1e-6)


def test_a_row_has_the_learning_rate_of_its_last_step() -> None:
    # Given a rate that is divided by ten every 24 images, and steps of 8
    config = small_config(lr=0.1, total_nimg=64, lr_tail=0.0, lr_step_nimg=24, lr_step_factor=0.1, tick_nimg=8)
    # Then each rate is used for three steps; the eighth step starts at 56
    rates = [message.row["lr"] for message in messages_of(config) if isinstance(message, loop.MetricsMessage)]
    assert rates == pytest.approx([0.1, 0.1, 0.1, 0.01, 0.01, 0.01, 0.001, 0.001])


def test_each_optimizer_follows_the_schedule_from_its_own_rate() -> None:
    state = new_state(small_config(lr=0.1, lr_d=0.4, total_nimg=100, lr_tail=0.5))
    state.cur_nimg = 75
    assert state.set_learning_rates() == pytest.approx(0.05)
    assert [group["lr"] for group in state.opt_g.param_groups] == pytest.approx([0.05])
    assert [group["lr"] for group in state.opt_d.param_groups] == pytest.approx([0.2])


# --- divergence ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_loss_that_is_not_finite_ends_the_run_with_its_name(value: float) -> None:
    # Given a discriminator with one broken weight
    state = new_state(small_config(total_nimg=80, tick_nimg=16))
    next(state.discriminator.parameters()).data[0, 0, 0, 0] = value
    # When it trains, Then the first row raises an error, and no row and no checkpoint is sent
    messages: list[loop.Message] = []
    with pytest.raises(Diverged, match=r"loss_d is nan.* after 16 images"):
        loop.train(state, DATASET, messages.append, never)
    assert state.metrics == []
    assert not any(isinstance(message, loop.MetricsMessage | loop.CheckpointMessage) for message in messages)


def poison_weights(state: TrainState) -> None:
    next(state.generator.parameters()).data[0, 0] = math.nan


def poison_average(state: TrainState) -> None:
    next(state.ema.parameters()).data[0, 0] = math.inf


def poison_statistics(state: TrainState) -> None:
    next(value for name, value in state.discriminator.named_buffers() if "running_var" in name).fill_(math.inf)


def poison_moments(state: TrainState) -> None:
    """As after a gradient whose square overflows: the weight never moves again, though all losses are finite."""
    next(iter(state.opt_d.state.values()))["exp_avg_sq"][0, 0] = math.inf


def poison_sums(state: TrainState) -> None:
    state.sums[0] = math.nan


@pytest.mark.parametrize(
    ("poison", "name"),
    [
        (poison_weights, r"(loss_d|generator\.convolutions\.0\.weight)"),
        (poison_average, r"ema\.convolutions\.0\.weight"),
        (poison_statistics, r"discriminator\.norms\.1\.running_var"),
        (poison_moments, r"the optimizer's exp_avg_sq of discriminator\.convolutions\.0\.weight"),
        (poison_sums, "loss_d"),
    ],
)
@pytest.mark.parametrize("by", ["the clock", "leaving"])
def test_a_diverged_run_keeps_its_last_good_checkpoints(
    poison: Callable[[TrainState], None], name: str, by: str
) -> None:
    # Given a run with a distant tick, which saves good checkpoints and then diverges
    config = small_config(total_nimg=80, tick_nimg=10**6, snapshot_nimg=10**6, checkpoint_every_s=0.0)
    state = new_state(config)
    saved: list[dict[str, Any]] = []

    def save(message: loop.Message) -> None:
        if isinstance(message, loop.CheckpointMessage):
            saved.append(unpack(pack(message.state.state_dict())))
            if len(saved) == 3 and by == "the clock":
                poison(state)

    def stop() -> StopSignal | None:
        if len(saved) == 3 and by == "leaving":
            poison(state)
            return "leave"
        return None

    # When the next checkpoint is due, Then the run ends as diverged, and the error names the value that is not finite
    with pytest.raises(Diverged, match=f"{name} is not finite after (24|32) images"):
        loop.train(state, DATASET, save, stop)
    # And no checkpoint after the good ones replaces them: each can be resumed
    assert len(saved) == 3
    for checkpoint in saved:
        resumed = new_state(config)
        resumed.load_state_dict(checkpoint)
        assert resumed.find_nonfinite() is None


def test_one_infinite_step_in_a_tick_ends_the_run() -> None:
    # Given sums in which one step has added an infinity
    state = trained(small_config(total_nimg=16, tick_nimg=10**6))
    state.sums[1], state.steps_summed = math.inf, 2
    # When the tick is closed, Then the error names the generator's loss
    with pytest.raises(Diverged, match=r"^loss_g is inf after 16 images"):
        loop.close_tick(state, 1e-3)


# --- single steps -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("case", CASES)
def test_each_step_changes_its_own_network_only(case: str) -> None:
    state = new_state(CASES[case])
    real, labels = to_unit_range(DATASET.images[:8]), DATASET.labels[:8]

    def changed_by(step: Callable[[], Tensor]) -> set[str]:
        before = {name: sha256_of(parameters) for name, parameters in weights_of(state).items()}
        step()
        return {name for name, parameters in weights_of(state).items() if sha256_of(parameters) != before[name]}

    assert changed_by(lambda: discriminator_step(state, real, labels)) == {"discriminator"}
    assert all(parameter.grad is None for parameter in state.generator.parameters())
    assert changed_by(lambda: generator_step(state, torch.arange(10))) == {"generator"}
    assert changed_by(lambda: discriminator_step(state, real, labels)) == {"discriminator"}


class Witness(Discriminator):
    """A discriminator that scores every image the same and records its inputs."""

    def __init__(self) -> None:
        super().__init__()
        self.score = nn.Parameter(torch.zeros(()))
        self.seen: list[tuple[Tensor, Tensor]] = []

    def forward_with_logits(self, images: Tensor, labels: Tensor) -> tuple[Tensor, None]:
        self.seen.append((images.detach(), labels))
        return self.score + 0 * images.sum((1, 2, 3)), None


def test_every_discriminator_step_sees_the_next_images_with_their_classes() -> None:
    # Given two discriminator steps per generator step, and no augmentation
    config = small_config(n_critic=2, total_nimg=80, flip=False)
    state = new_state(config)
    witness = state.discriminator = Witness()
    # When a run of 80 images is over
    loop.train(state, DATASET, ignore, never)
    # Then the discriminator saw them in the sampler's order, and as many fake images of the same classes
    both = [(images, labels) for images, labels in witness.seen if len(images) == 16]
    chosen = Sampler(len(DATASET), config.seed).batch(0, 80)
    assert torch.equal(torch.cat([images[:8] for images, _ in both]), to_unit_range(DATASET.images[chosen]))
    assert torch.equal(torch.cat([labels[:8] for _, labels in both]), DATASET.labels[chosen])
    assert all(torch.equal(labels[:8], labels[8:]) for _, labels in both)
    # And the generator steps used fake images of other classes
    assert [len(images) for images, _ in witness.seen] == [16, 16, 8] * 5


def test_a_shared_batch_trains_the_generator_on_the_images_that_the_discriminator_saw() -> None:
    # Given a discriminator that records its inputs
    state = new_state(small_config(g_batch="shared", total_nimg=24, flip=False))
    witness = state.discriminator = Witness()
    # When a run of three iterations is over
    loop.train(state, DATASET, ignore, never)
    # Then each generator step used the fake half of the discriminator step before it, with its classes
    assert [len(images) for images, _ in witness.seen] == [16, 8] * 3
    for (both, labels), (fake, fake_labels) in zip(witness.seen[::2], witness.seen[1::2], strict=True):
        assert torch.equal(both[8:], fake)
        assert torch.equal(labels[8:], fake_labels)


def test_diffaugment_changes_real_and_generated_images_in_both_steps() -> None:
    # Given a generator of black images, black training images, and cutout, which greys a square
    state = new_state(small_config(flip=False, diffaugment=["cutout"]))
    witness, state.generator = Witness(), BlackImages()
    state.discriminator = witness
    dataset = replace(DATASET, images=torch.zeros_like(DATASET.images))
    # When both networks are trained
    train_iteration(state, dataset, torch.arange(8))
    # Then every image of both steps has a grey square
    assert [len(images) for images, _ in witness.seen] == [16, 8]
    assert all((images == 0).flatten(1).any(1).all() for images, _ in witness.seen)


class BlackImages(nn.Module):
    """A generator that makes the same image of every latent."""

    def __init__(self) -> None:
        super().__init__()
        self.color = nn.Parameter(torch.tensor(-1.0))

    def forward(self, z: Tensor, _labels: Tensor) -> Tensor:
        return self.color.expand(len(z), 3, 32, 32)


def test_the_gradient_penalty_is_multiplied_by_its_weight() -> None:
    # Given a linear critic of slope 5, weight 10, and black images on both sides
    state = new_state(small_config("wgan-gp", gp_weight=10.0))
    critic = state.discriminator = LinearCritic(3.0, 4.0)
    for parameter in state.generator.parameters():
        parameter.data.zero_()
    # When it takes a step
    discriminator_step(state, torch.zeros(8, 3, 32, 32), torch.zeros(8, dtype=torch.int64))
    # Then the step follows 10 * 2 (|w| - 1) w / |w|
    assert critic.weight.grad is not None
    assert critic.weight.grad[:3].tolist() == pytest.approx([48.0, 64.0, 0.0])


def test_the_class_loss_is_multiplied_by_its_weight() -> None:
    # Given the same networks with a class weight of almost zero, of 1 and of 3, and one step of each network
    real, labels = torch.randn(8, 3, 32, 32), torch.arange(8)
    gradients: dict[str, list[Tensor]] = {"d": [], "g": []}
    for weight in (1e-9, 1.0, 3.0):
        state = new_state(small_config(class_weight=weight, lr=1e-9))
        discriminator_step(state, real, labels)
        gradients["d"].append(gradient_of(state.discriminator))
        generator_step(state, torch.arange(10))
        gradients["g"].append(gradient_of(state.generator))
    # Then with a weight of 3, both gradients change three times as much as with 1
    for without, once, thrice in gradients.values():
        assert (once - without).abs().max() > 1e-3
        torch.testing.assert_close(thrice - without, 3 * (once - without), rtol=1e-3, atol=1e-5)


def gradient_of(network: nn.Module) -> Tensor:
    """The gradients of all parameters as one vector."""
    return torch.cat([parameter.grad.flatten() for parameter in network.parameters() if parameter.grad is not None])


def test_a_discriminator_learns_classes_from_real_images_only() -> None:
    # Given real images in two shades, one per class, and a generator that does not change
    state = new_state(small_config(class_weight=2.0, lr=1e-3))
    labels = torch.arange(8) % 2
    real = (labels * 2.0 - 1)[:, None, None, None].expand(8, 3, 32, 32)
    # When the discriminator alone takes sixty steps
    for _ in range(60):
        discriminator_step(state, real, labels)
    # Then it recognises the classes, whatever labels it gets
    _, logits = state.discriminator.forward_with_logits(real, 1 - labels)
    assert logits is not None
    assert logits.argmax(1).tolist() == labels.tolist()


def test_a_row_has_class_losses_if_the_config_has_a_class_weight() -> None:
    rows = {}
    for weight in (0.0, 2.0):
        state = new_state(small_config(class_weight=weight))
        train_iteration(state, DATASET, torch.arange(8))
        rows[weight] = loop.close_tick(state, 0.1)
    assert rows[2.0].keys() - rows[0.0].keys() == {"class_loss_d", "class_loss_g"}
    # An untrained network guesses among ten classes
    assert rows[2.0]["class_loss_d"] == pytest.approx(math.log(10), rel=0.1)
    assert rows[2.0]["class_loss_g"] == pytest.approx(math.log(10), rel=0.1)


@pytest.mark.parametrize("loss", LOSSES)
def test_a_discriminator_learns_to_tell_real_from_fake(loss: str) -> None:
    # Given white images and a generator that does not change
    state = new_state(small_config(loss=loss, lr=1e-3))
    real, labels = torch.ones(8, 3, 32, 32), torch.zeros(8, dtype=torch.int64)
    # When the discriminator alone takes forty steps
    for _ in range(40):
        discriminator_step(state, real, labels)
    # Then it scores real images higher
    fake = state.generator(torch.randn(8, 8), labels).detach()
    real_scores, fake_scores, _ = score_real_and_fake(state, real, fake, labels)
    assert real_scores.min() > fake_scores.max()


@pytest.mark.parametrize("loss", LOSSES)
def test_a_generator_learns_what_its_discriminator_scores_high(loss: str) -> None:
    # Given a discriminator that was shown white images
    state = new_state(small_config(loss=loss, lr=1e-2))
    real, labels = torch.ones(8, 3, 32, 32), torch.zeros(8, dtype=torch.int64)
    for _ in range(40):
        discriminator_step(state, real, labels)
    z = torch.randn(64, 8)
    before = state.generator(z, torch.arange(64) % 10).mean().item()
    # When the generator alone takes forty steps, Then its images are brighter
    for _ in range(40):
        generator_step(state, torch.arange(10))
    assert state.generator(z, torch.arange(64) % 10).mean().item() > before + 0.1


def test_without_batch_norm_one_call_scores_like_two() -> None:
    state = new_state(small_resnet())
    real, fake, labels = torch.randn(4, 3, 32, 32), torch.randn(4, 3, 32, 32), torch.arange(4)
    real_scores, fake_scores, _ = score_real_and_fake(state, real, fake, labels)
    torch.testing.assert_close(real_scores, state.discriminator(real, labels))
    torch.testing.assert_close(fake_scores, state.discriminator(fake, labels))


def test_batch_norm_normalises_real_and_fake_images_separately() -> None:
    state = new_state(small_config())
    real, fake, labels = torch.randn(4, 3, 32, 32), 3 + torch.randn(4, 3, 32, 32), torch.arange(4)
    pair = torch.cat(score_real_and_fake(state, real, fake, labels)[:2])
    apart = torch.cat([state.discriminator(real, labels), state.discriminator(fake, labels)])
    together = state.discriminator(torch.cat([real, fake]), torch.cat([labels, labels]))
    torch.testing.assert_close(pair, apart)
    assert (pair - together).abs().max() > 1e-3


def test_averaged_weights_move_towards_the_current_ones_by_the_decay() -> None:
    # Given a half-life of 100 images, an average of zeros and present weights of one
    state = new_state(small_config(ema_halflife_nimg=100))
    for average, present in zip(state.ema.parameters(), state.generator.parameters(), strict=True):
        average.data.zero_()
        present.data.fill_(1.0)
    state.cur_nimg = 10**6
    # When a hundred images pass, twice
    averages = []
    for _ in range(2):
        state.update_ema(100)
        averages.append({value for p in state.ema.parameters() for value in p.flatten().tolist()})
    # Then the average has moved by a half, and then by half of the rest
    assert averages == [{0.5}, {0.75}]


def test_without_averaging_the_averaged_generator_equals_the_generator() -> None:
    weights = weights_of(trained(CASES["wgan-gp"]))
    assert sha256_of(weights["ema"]) == sha256_of(weights["generator"])
    averaged = weights_of(trained(CASES["tiny"]))
    assert sha256_of(averaged["ema"]) != sha256_of(averaged["generator"])
