"""Warm starts with other classes or another resolution: which weights are copied, and which stay new."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from services.trainer.networks.build import build_networks
from services.trainer.runs.checkpoint import Checkpoints, describe_data, pack_weights
from services.trainer.runs.starting_points import apply_starting_point
from services.trainer.runs.weight_transfer import Classes, transfer
from services.trainer.training.state import TrainState
from shared.configs.train import TrainConfig
from shared.errors import BadConfig
from shared.storage.artifacts import ArtifactStore
from shared.storage.model_registry import GENERATOR_FILE, ModelRegistry
from tests.shared.examples import a_model
from tests.trainer.small import CPU, EventLog, random_images, small_config, small_resnet

ANIMALS = ("cat", "dog", "owl")
OTHERS = ("owl", "fox", "cat", "elk")
LARGER: dict[str, dict[str, Any]] = {
    "resnet": {"g_channels": [8, 8, 8, 4, 4], "d_channels": [4, 8, 8, 8]},
    "dcgan": {"g_channels": [8, 8, 8, 4], "d_channels": [4, 8, 8, 8]},
}


def trained(config: TrainConfig, classes: tuple[str, ...]) -> TrainState:
    """A state whose weights differ from initial ones, and whose averaged generator differs from its generator."""
    state = TrainState(config, len(classes), CPU)
    with torch.no_grad():
        for network, offset in (("generator", 1.0), ("discriminator", 2.0), ("ema", 3.0)):
            for number, parameter in enumerate(state.networks()[network].parameters()):
                parameter.add_(offset + 0.01 * number)
    return state


def leave(folder: Path, state: TrainState, classes: tuple[str, ...], run_id: str = "first") -> ArtifactStore:
    """Saves a checkpoint of the run, with the names of its classes."""
    artifacts = ArtifactStore(folder.as_uri())
    data = describe_data(replace(random_images(6, len(classes)), classes=classes))
    Checkpoints(artifacts, run_id, 1).save(state.cur_nimg, state.state_dict() | {"data": data})
    return artifacts


def begin(
    config: TrainConfig, classes: tuple[str, ...], artifacts: ArtifactStore, events: EventLog, starter: Path = Path()
) -> TrainState:
    state = TrainState(config, len(classes), CPU)
    apply_starting_point(state, classes, artifacts, starter, events)
    return state


def test_classes_of_the_same_name_keep_their_rows_and_new_ones_start_as_the_mean(tmp_path: Path) -> None:
    # Given a run on three classes
    old = trained(small_config(), ANIMALS)
    with torch.no_grad():
        for table in (old.generator.norms[0].scale, old.ema.norms[0].scale):  # type: ignore[union-attr, index]
            table.weight.copy_(torch.arange(3.0)[:, None].expand(3, 8))
    artifacts, events = leave(tmp_path, old, ANIMALS), EventLog()
    # When a run on four classes, of which two are the same, starts from it
    new = begin(small_config(warm_start_from="first"), OTHERS, artifacts, events)
    # Then the rows follow the names, and all other layers are the same
    rows = new.ema.norms[0].scale.weight[:, 0].tolist()  # type: ignore[union-attr, index]
    assert rows == [2.0, 1.0, 0.0, 1.0]
    assert torch.equal(new.generator.convolutions[0].weight, old.generator.convolutions[0].weight)  # type: ignore[union-attr, index]
    assert torch.equal(new.ema.convolutions[0].weight, old.ema.convolutions[0].weight)  # type: ignore[union-attr, index]
    fresh = TrainState(small_config(), 4, CPU).discriminator.class_projection.weight  # type: ignore[union-attr]
    projection, source = new.discriminator.class_projection.weight, old.discriminator.class_projection.weight  # type: ignore[union-attr]
    assert torch.equal(projection[[0, 2]], source[[2, 0]])  # type: ignore[index]
    assert torch.equal(projection[[1, 3]], fresh[[1, 3]])  # type: ignore[index]
    # And the run begins at its first image, with an event
    assert (new.cur_nimg, len(new.opt_g.state)) == (0, 0)
    ((kind, message),) = events
    assert kind == "initialized"
    assert "starting with the weights of first; generator: all 13 layers copied" in message
    assert message.endswith("classes that keep their weights: owl, cat; new classes: fox, elk")


@pytest.mark.parametrize("family", LARGER)
@pytest.mark.parametrize("spectral_norm", [False, True])
def test_a_larger_resolution_keeps_the_blocks_nearest_to_4x4_pixels(family: str, spectral_norm: bool) -> None:
    small = {"resnet": small_resnet, "dcgan": small_config}[family]
    old = trained(small(spectral_norm=spectral_norm), ANIMALS)
    larger = small(resolution=64, spectral_norm=spectral_norm, **LARGER[family])
    generator, discriminator = build_networks(larger, len(ANIMALS))
    blocks = {"resnet": "blocks", "dcgan": "convolutions"}[family]

    of_g = transfer(generator, old.generator.state_dict(), Classes(ANIMALS, ANIMALS), is_generator=True)
    of_d = transfer(discriminator, old.discriminator.state_dict(), Classes(ANIMALS, ANIMALS), is_generator=False)

    assert any(layer.startswith(f"{blocks}.1") for layer in of_g.copied)
    assert any(layer.startswith(f"{blocks}.3") for layer in of_g.new)  # the block for 64 pixels
    assert any(layer.startswith(f"{blocks}.0") for layer in of_d.new)
    own, source = discriminator.state_dict(), old.discriminator.state_dict()
    for block in (2, 3):  # one further from the images than in the trained network
        convolutions = [name for name in own if name.startswith(f"{blocks}.{block}.") and own[name].ndim == 4]
        assert convolutions
        for name in convolutions:
            assert torch.equal(own[name], source[name.replace(f".{block}", f".{block - 1}", 1)])
    # The networks still work
    with torch.no_grad():
        labels = torch.tensor([0, 2])
        assert torch.isfinite(discriminator(generator(torch.randn(2, 8), labels), labels)).all()


def test_the_frozen_part_and_the_heads_of_a_projected_discriminator_stay_together() -> None:
    # Given heads for features of 32 pixels, and for features of 64, which have one more layer
    small, large = (
        small_config(discriminator="projected", feature_px=px, d_channels=[8, 8], conditional=True) for px in (32, 64)
    )
    _, old = build_networks(small, len(ANIMALS))
    _, new = build_networks(large, len(ANIMALS))

    layers = transfer(new, old.state_dict(), Classes(ANIMALS, ANIMALS), is_generator=False)

    assert "mixing.0" in layers.copied
    assert "heads.0.filters" in layers.copied
    last = sorted(name for name in old.state_dict() if name.startswith("heads.0.body") and name.endswith("bias"))[-1]
    shifted = sorted(name for name in new.state_dict() if name.startswith("heads.0.body") and name.endswith("bias"))[-1]
    assert last != shifted
    assert torch.equal(new.state_dict()[shifted], old.state_dict()[last])


def test_a_model_is_named_by_its_id(tmp_path: Path) -> None:
    old = trained(small_config(), ANIMALS)
    artifacts = leave(tmp_path, old, ANIMALS, run_id="1")
    ModelRegistry(artifacts).publish(a_model("tiny-1"), {GENERATOR_FILE: b""})

    new = begin(small_config(warm_start_from="tiny-1"), ANIMALS, artifacts, EventLog())
    assert_same_parameters(new, old)


def test_the_starter_is_named_by_its_word_and_needs_a_checkpoint_beside_its_graph(tmp_path: Path) -> None:
    old, events = trained(small_config(), ANIMALS), EventLog()
    artifacts, starter = leave(tmp_path, old, ANIMALS), tmp_path / "starter"
    starter.mkdir()
    config = small_config(warm_start_from="starter")
    with pytest.raises(BadConfig, match=r"warm_start_from: the starter model in .* has no checkpoint\.safetensors"):
        begin(config, ANIMALS, artifacts, events, starter)

    dataset = replace(random_images(6, 3), classes=ANIMALS)
    (starter / "checkpoint.safetensors").write_bytes(pack_weights(old, dataset))
    assert_same_parameters(begin(config, ANIMALS, artifacts, events, starter), old)


def assert_same_parameters(new: TrainState, old: TrainState) -> None:
    for name, network in new.networks().items():
        others = dict(old.networks()[name].named_parameters())
        for key, value in network.named_parameters():
            assert torch.equal(value, others[key]), (name, key)


@pytest.mark.parametrize(("config", "complaint"), [
    (small_config(warm_start_from="nobody"), "warm_start_from: job nobody has no checkpoint"),
    (small_resnet(warm_start_from="first"), "another shape: architecture=dcgan"),
    (small_config(warm_start_from="first", conditional=False, latent_dim=9, g_channels=[3, 5, 7]),
     "no layer of the generator of first has the shape"),
], ids=["no checkpoint", "another family", "nothing fits"])  # fmt: skip
def test_an_impossible_warm_start_is_a_bad_config(config: TrainConfig, complaint: str, tmp_path: Path) -> None:
    artifacts = leave(tmp_path, trained(small_config(), ANIMALS), ANIMALS)
    with pytest.raises(BadConfig, match=complaint):
        begin(config, ANIMALS, artifacts, EventLog())
