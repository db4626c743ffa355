"""What a run begins with other than chance: another run's checkpoint, or a discriminator that exists."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import safetensors.torch
import torch
from pydantic import ValidationError
from torch import Tensor

from services.trainer.classifier.files import load_classifier
from services.trainer.networks import resnet18
from services.trainer.runs.checkpoint import unpack
from services.trainer.training.state import TrainState
from shared.configs.checkpoint_refs import DISCRIMINATOR_FIELDS, NETWORK_FIELDS, differences, is_classifier
from shared.configs.train import TrainConfig
from shared.errors import BadConfig, CorruptArtifact, UnknownClassifier
from shared.settings import Settings
from shared.storage.artifacts import ArtifactStore
from shared.storage.starting_points import StartingPoint, find_starting_points

Tell = Callable[[str, str], None]  # (kind of event, message)


def begin(state: TrainState, artifacts: ArtifactStore, settings: Settings, tell: Tell) -> None:
    """Does what the config says of a fresh state's beginning. Raises BadConfig when that cannot be."""
    config = state.config
    if config.from_checkpoint is not None:
        go_on_from(config.from_checkpoint, state, artifacts, tell)
    elif config.init_discriminator_from is not None and is_classifier(config.init_discriminator_from):
        _take_trunk(state, settings)
        tell("initialized", "the discriminator begins as the classifier")
    elif config.init_discriminator_from is not None:
        saved, point = _read(config.init_discriminator_from, artifacts, tell)
        _check_fit(state.config, saved, DISCRIMINATOR_FIELDS, "init_discriminator_from")
        _load(state.discriminator, saved["networks"]["discriminator"])
        tell("initialized", f"the discriminator begins as {config.init_discriminator_from} after {point.nimg:,} images")


def go_on_from(text: str, state: TrainState, artifacts: ArtifactStore, tell: Tell) -> None:
    """Takes up another run: networks, optimizers, position, metrics and, with the same seed, its random numbers."""
    saved, point = _read(text, artifacts, tell)
    theirs = _check_fit(state.config, saved, NETWORK_FIELDS, "from_checkpoint")
    if point.nimg >= state.config.total_nimg:
        raise BadConfig(f"{text} has seen {point.nimg} images already; total_nimg must be more")
    if not point.is_whole:
        for name, network in state.networks().items():
            _load(network, saved["networks"][name])
        state.cur_nimg = point.nimg
        tell("resumed", f"going on from the weights of {text}; the optimizers begin anew")
        return
    drawn = torch.get_rng_state()
    _load(state, saved)
    if theirs.seed != state.config.seed:
        torch.set_rng_state(drawn)
    state.wall_seconds = 0.0  # max_minutes is this run's own time
    if theirs.early_stop != state.config.early_stop:
        state.best = None  # it was the best by another rule
    tell("resumed", f"going on from {text} after {state.cur_nimg:,} images")


def _take_trunk(state: TrainState, settings: Settings) -> None:
    try:
        classifier, manifest = load_classifier(settings.classifier)
    except (UnknownClassifier, CorruptArtifact) as error:
        raise BadConfig(f"init_discriminator_from: {error}") from None
    width = state.config.d_channels[0]
    if not isinstance(state.discriminator, resnet18.Discriminator) or width != manifest.config.width:
        expected = [manifest.config.width * 2**stage for stage in range(4)]
        raise BadConfig(f"init_discriminator_from: the classifier's shape is resnet-18 with d_channels={expected}")
    trunk = {name: value for name, value in classifier.state_dict().items() if not name.startswith("linear.")}
    state.discriminator.trunk.load_state_dict(trunk, strict=False)  # all but its last layer, which names classes


def _read(text: str, artifacts: ArtifactStore, tell: Tell) -> tuple[dict[str, Any], StartingPoint]:
    """The first of the starting points that is whole. Raises BadConfig."""
    try:
        points = find_starting_points(text, artifacts)
    except LookupError as error:
        raise BadConfig(str(error)) from None
    for point in points:
        try:
            data = artifacts.read(point.key)
            return (unpack(data) if point.is_whole else _unpack_weights(data)), point
        except FileNotFoundError:
            continue  # that job still trains, and has put newer ones in its place
        except CorruptArtifact as error:
            tell("warning", f"{point.key} is damaged and was passed over: {error}")
    raise BadConfig(f"{text}: none of its checkpoints can be read")


def _unpack_weights(data: bytes) -> dict[str, Any]:
    """Of a snapshot (checkpoint.pack_weights), what it has in common with a checkpoint."""
    try:
        tensors = safetensors.torch.load(data)
        header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
        about = json.loads(header["__metadata__"]["kiln"])
    except (safetensors.SafetensorError, KeyError, ValueError) as error:
        raise CorruptArtifact(f"no snapshot of a run: {error}") from None
    networks: dict[str, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        network, _, key = name.partition(".")
        networks.setdefault(network, {})[key] = tensor
    return {"config": json.dumps(about["config"]), "networks": networks}


def _check_fit(config: TrainConfig, saved: dict[str, Any], fields: tuple[str, ...], field: str) -> TrainConfig:
    try:
        theirs = TrainConfig.model_validate_json(saved["config"])
    except ValidationError:
        raise BadConfig(f"{field}: that run trained no GAN") from None
    if found := differences(config, theirs, fields):
        raise BadConfig(f"{field}: its networks have another shape: {', '.join(found)}")
    return theirs


def _load(what: Any, saved: dict[str, Any]) -> None:
    try:
        what.load_state_dict(saved)
    except RuntimeError as error:  # another number of classes, say, which is the data set's and not the config's
        raise BadConfig(f"its networks do not fit: {str(error).splitlines()[-1].strip()}") from None
