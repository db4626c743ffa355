"""Warm starts from another run's checkpoint, or with its discriminator."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from services.trainer.runs.checkpoint import Checkpoints, pack_weights
from services.trainer.runs.starting_points import apply_starting_point
from services.trainer.training import loop
from services.trainer.training.state import TrainState
from shared.configs.train import TrainConfig
from shared.errors import BadConfig
from shared.settings import Settings
from shared.storage.artifacts import ArtifactStore
from tests.trainer.small import CPU, EventLog, random_images, small_config

DATASET = random_images()
HALF: dict[str, Any] = {"total_nimg": 64, "tick_nimg": 16, "snapshot_nimg": 10**6}


@dataclass
class Place:
    """An artifact store, and the events of runs that start from it."""

    artifacts: ArtifactStore
    settings: Settings
    events: EventLog = field(default_factory=EventLog)

    def begin(self, config: TrainConfig, num_classes: int = 10, classes: tuple[str, ...] = ()) -> TrainState:
        state = TrainState(config, num_classes, CPU)
        apply_starting_point(state, classes or DATASET.classes, self.artifacts, self.settings.starter, self.events)
        return state

    def leave(self, run_id: str, state: TrainState, *, snapshot: bool = False) -> TrainState:
        """Saves a checkpoint of a run, or the weights of a snapshot."""
        if snapshot:
            self.artifacts.write(
                f"jobs/{run_id}/weights/{state.cur_nimg:012d}.safetensors", pack_weights(state, DATASET)
            )
        else:
            Checkpoints(self.artifacts, run_id, 1).save(state.cur_nimg, state.state_dict())
        return state


@pytest.fixture
def place(tmp_path: Path, shipped_classifier: Path) -> Place:
    return Place(
        ArtifactStore(f"file://{tmp_path}"), Settings(data=tmp_path, classifier=shipped_classifier, starter=tmp_path)
    )


def ignore(message: loop.Message) -> None:
    pass


def train(state: TrainState, until_nimg: int) -> TrainState:
    loop.train(state, DATASET, ignore, lambda: "leave" if state.cur_nimg >= until_nimg else None)
    return state


def trained(config: TrainConfig, nimg: int) -> TrainState:
    return train(TrainState(config, 10, CPU), nimg)


def after_building(config: TrainConfig) -> Tensor:
    """The random state of a run that has not started."""
    TrainState(config, 10, CPU)
    return torch.get_rng_state()


def weights(network: nn.Module) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in network.state_dict().items()}


def are_equal(one: nn.Module, other: nn.Module) -> bool:
    return all(torch.equal(value, other.state_dict()[name]) for name, value in one.state_dict().items())


# from_checkpoint -----------------------------------------------------------------------------------------------------


def test_a_run_from_another_runs_checkpoint_continues_as_that_run_would_have(place: Place) -> None:
    # Given a run that left a checkpoint half way, and the same run undisturbed
    place.leave("first", trained(small_config(**HALF), 32))
    undisturbed = trained(small_config(**HALF), 64)
    # When a new run starts from it
    state = place.begin(small_config(**HALF, from_checkpoint="first"))
    assert state.cur_nimg == 32
    train(state, 64)
    # Then it ends bit for bit as the undisturbed run, with the same metrics
    assert are_equal(state.generator, undisturbed.generator)
    assert are_equal(state.discriminator, undisturbed.discriminator)
    assert state.metrics == undisturbed.metrics
    assert place.events == [("resumed", "continuing from first after 32 images")]


def test_the_new_run_may_have_another_rate_another_budget_and_another_seed(place: Place) -> None:
    place.leave("first", trained(small_config(**HALF), 32))
    drawn = torch.get_rng_state()
    changed = HALF | {"total_nimg": 640, "lr": 1e-5, "from_checkpoint": "first"}
    # With the same seed, the random numbers continue from the checkpoint, and the time starts at zero
    state = place.begin(small_config(**changed))
    assert torch.equal(torch.get_rng_state(), drawn)
    assert (state.cur_nimg, state.wall_seconds, state.set_learning_rates()) == (32, 0.0, 1e-5)
    # With another seed, the random numbers are those of that seed
    state = place.begin(small_config(**changed, seed=7))
    assert torch.equal(torch.get_rng_state(), after_building(small_config(**changed, seed=7)))
    assert state.cur_nimg == 32


def test_the_newest_or_the_named_checkpoint_is_loaded(place: Place) -> None:
    first = place.leave("first", trained(small_config(**HALF), 16))
    original = weights(first.generator)
    place.leave("first", train(first, 32))
    assert place.begin(small_config(**HALF, from_checkpoint="first")).cur_nimg == 32
    earlier = place.begin(small_config(**HALF, from_checkpoint="first@16"))
    assert earlier.cur_nimg == 16
    assert all(torch.equal(value, original[name]) for name, value in earlier.generator.state_dict().items())


def test_from_a_snapshot_the_optimizers_start_afresh_with_an_event(place: Place) -> None:
    first = place.leave("first", trained(small_config(**HALF), 16), snapshot=True)
    state = place.begin(small_config(**HALF, from_checkpoint="first@16"))
    assert are_equal(state.ema, first.ema)
    assert state.cur_nimg == 16
    assert len(state.opt_g.state) == 0
    assert place.events == [("resumed", "continuing from the weights of first@16; the optimizers start afresh")]


def test_a_damaged_checkpoint_is_skipped_and_kept(place: Place) -> None:
    # Given two checkpoints, of which the newer is truncated
    first = place.leave("first", trained(small_config(**HALF), 16))
    place.leave("first", train(first, 32))
    key = "jobs/first/checkpoints/0001-000000000032.ckpt"
    place.artifacts.write(key, place.artifacts.read(key)[:-1])
    # When a run starts from the newest, Then it loads the older one, and the damaged file is not deleted
    assert place.begin(small_config(**HALF, from_checkpoint="first")).cur_nimg == 16
    assert place.artifacts.exists(key)
    assert place.events.kinds == ["warning", "resumed"]


@pytest.mark.parametrize(
    ("start", "overrides", "complaint"),
    [
        ("nobody", {}, "job nobody has no checkpoint"),
        ("first@17", {}, "job first has no checkpoint at 17 images; it has some at 32"),
        ("first", {"latent_dim": 9}, "from_checkpoint: its networks have another shape: latent_dim=8"),
        ("first", {"g_channels": [8, 8, 4], "conditional": False},
         "its networks have another shape: conditional=True, g_channels=(8, 8, 8)"),
        ("first", {"total_nimg": 32}, "first has seen 32 images; total_nimg must be more than that"),
    ],
)  # fmt: skip
def test_an_impossible_starting_point_is_a_bad_config(
    place: Place, start: str, overrides: dict[str, Any], complaint: str
) -> None:
    place.leave("first", trained(small_config(**HALF), 32))
    with pytest.raises(BadConfig) as caught:
        place.begin(small_config(**HALF | overrides, from_checkpoint=start))
    assert str(caught.value).endswith(complaint)


def test_a_checkpoint_over_other_classes_is_refused(place: Place) -> None:
    place.leave("first", trained(small_config(**HALF), 32))
    with pytest.raises(BadConfig, match="its networks do not fit: size mismatch"):
        place.begin(small_config(**HALF, from_checkpoint="first"), num_classes=2)


# init_discriminator_from ---------------------------------------------------------------------------------------------


def test_only_the_discriminator_of_another_job_is_loaded(place: Place) -> None:
    first = place.leave("first", trained(small_config(**HALF), 32))
    fresh = TrainState(small_config(latent_dim=5), 10, CPU)
    state = place.begin(small_config(latent_dim=5, init_discriminator_from="first"))
    assert are_equal(state.discriminator, first.discriminator)
    assert are_equal(state.generator, fresh.generator)
    assert (state.cur_nimg, state.metrics) == (0, [])
    assert place.events == [("initialized", "the discriminator starts with the weights of first after 32 images")]


def test_a_discriminator_of_another_shape_is_refused(place: Place) -> None:
    place.leave("first", trained(small_config(**HALF), 32))
    with pytest.raises(BadConfig, match=r"init_discriminator_from: .* d_channels=\(8, 8, 8\)"):
        place.begin(small_config(d_channels=[8, 8, 4], init_discriminator_from="first"))
