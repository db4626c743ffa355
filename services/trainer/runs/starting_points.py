"""Warm starts: a run that begins with another run's checkpoint, its discriminator, or the weights that fit."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from pydantic import ValidationError
from torch import Tensor

from services.trainer.runs.checkpoint import unpack
from services.trainer.runs.weight_transfer import Classes, Transfer, transfer
from services.trainer.training.state import TrainState
from shared.configs.checkpoint_refs import DISCRIMINATOR_FIELDS, NETWORK_FIELDS, differences
from shared.configs.train import TrainConfig
from shared.datasets.text import listed
from shared.errors import BadConfig, CorruptArtifact
from shared.jobs.trainer_messages import SendEvent
from shared.storage.artifacts import ArtifactStore
from shared.storage.starting_points import StartingPoint, find_starting_points, find_warm_start

LISTED_LAYERS = 20  # in the message of an event; its data has all


def apply_starting_point(
    state: TrainState, classes: tuple[str, ...], artifacts: ArtifactStore, starter: Path, send_event: SendEvent
) -> None:
    """Loads the starting point of the config, if it names one, into a fresh state. Raises BadConfig.

    `starter` is the folder of the starter model.
    """
    config = state.config
    if config.warm_start_from is not None:
        _warm_start(state, classes, _find_warm_start(config.warm_start_from, artifacts, starter), send_event)
    if config.from_checkpoint is not None:
        continue_from(config.from_checkpoint, state, classes, artifacts, send_event)
    elif config.init_discriminator_from is not None:
        reference = config.init_discriminator_from
        saved, point = _read(reference, artifacts, send_event)
        _check_fit(state.config, saved, DISCRIMINATOR_FIELDS, "init_discriminator_from")
        _check_classes(state.config, saved, classes, "init_discriminator_from")
        _load(state.discriminator, saved["networks"]["discriminator"])
        send_event(
            "initialized", f"the discriminator starts with the weights of {reference} after {point.nimg:,} images"
        )


def _find_warm_start(
    reference: str, artifacts: ArtifactStore, starter: Path
) -> tuple[ArtifactStore, list[StartingPoint]]:
    try:
        return find_warm_start(reference, artifacts, starter)
    except LookupError as error:
        raise BadConfig(f"warm_start_from: {error}") from None


def _warm_start(
    state: TrainState,
    classes: tuple[str, ...],
    place: tuple[ArtifactStore, list[StartingPoint]],
    send_event: SendEvent,
) -> None:
    """Copies the layers that fit into all networks. The optimizers and the schedules start afresh."""
    reference, (store, points) = str(state.config.warm_start_from), place
    saved, _ = _read_first(reference, points, store, send_event)
    source = _check_fit(state.config, saved, ("architecture", "per_class"), "warm_start_from")
    trained = tuple((saved.get("data") or {}).get("classes", ()))  # older checkpoints name none; then all are new
    rows = Classes(classes, trained) if state.config.conditional else Classes((), ())
    transfers = {
        name: transfer(network, saved["networks"][name], rows, is_generator=name != "discriminator")
        for name, network in state.networks().items()
        if name in saved["networks"]
    }
    transfers.pop("ema", None)  # the same layers as in the generator
    if not transfers["generator"].copied:
        raise BadConfig(
            f"warm_start_from: no layer of the generator of {reference} has the shape of this one; set latent_dim="
            f"{source.latent_dim} and g_channels as in {source.g_channels}"
        )
    _announce_warm_start(reference, transfers, rows, send_event)


def _announce_warm_start(reference: str, transfers: dict[str, Transfer], rows: Classes, send_event: SendEvent) -> None:
    """One event that lists the layers that were copied and those that are new, and the same of classes."""
    known = [rows.own[row] for row, _ in rows.shared]
    unknown = [name for name in rows.own if name not in known]
    lines = [
        f"{network}: {len(layers.copied)} layers copied, {len(layers.new)} new ({listed(layers.new, LISTED_LAYERS)})"
        if layers.new
        else f"{network}: all {len(layers.copied)} layers copied"
        for network, layers in transfers.items()
    ]
    if rows.own:
        kept = listed(known, LISTED_LAYERS) if known else "none"
        fresh = listed(unknown, LISTED_LAYERS) if unknown else "none"
        lines.append(f"classes that keep their weights: {kept}; new classes: {fresh}")
    data = {name: {"copied": layers.copied, "new": layers.new} for name, layers in transfers.items()}
    message = f"starting with the weights of {reference}; {'; '.join(lines)}"
    send_event("initialized", message, layers=data, classes_kept=known, classes_new=unknown)


def continue_from(
    reference: str, state: TrainState, classes: tuple[str, ...], artifacts: ArtifactStore, send_event: SendEvent
) -> None:
    """Loads another run's networks, optimizers, position, metrics and, if the seed is the same, random state.

    A snapshot holds weights only: the optimizers start afresh.
    """
    saved, point = _read(reference, artifacts, send_event)
    source = _check_fit(state.config, saved, NETWORK_FIELDS, "from_checkpoint")
    _check_classes(state.config, saved, classes, "from_checkpoint")
    if point.nimg >= state.config.total_nimg:
        raise BadConfig(f"from_checkpoint: {reference} has seen {point.nimg} images; total_nimg must be more than that")
    if not point.is_whole:
        for name, network in state.networks().items():
            _load(network, saved["networks"][name])
        state.cur_nimg = point.nimg
        send_event("resumed", f"continuing from the weights of {reference}; the optimizers start afresh")
        return
    own_rng = torch.get_rng_state()
    _load(state, saved)
    if source.seed != state.config.seed:
        torch.set_rng_state(own_rng)
    state.wall_seconds = 0.0  # max_minutes counts this run's own time
    if source.early_stop != state.config.early_stop:
        state.best = None  # the other run compared by another rule
    send_event("resumed", f"continuing from {reference} after {state.cur_nimg:,} images")


def _read(reference: str, artifacts: ArtifactStore, send_event: SendEvent) -> tuple[dict[str, Any], StartingPoint]:
    """The first intact starting point that the reference names. Raises BadConfig."""
    try:
        points = find_starting_points(reference, artifacts)
    except LookupError as error:
        raise BadConfig(str(error)) from None
    return _read_first(reference, points, artifacts, send_event)


def _read_first(
    reference: str, points: list[StartingPoint], artifacts: ArtifactStore, send_event: SendEvent
) -> tuple[dict[str, Any], StartingPoint]:
    """The first intact one of the points. Raises BadConfig."""
    for point in points:
        try:
            data = artifacts.read(point.key)
            return (unpack(data) if point.is_whole else _unpack_weights(data)), point
        except FileNotFoundError:
            continue  # the other job is still training, and has replaced the file by a newer one
        except CorruptArtifact as error:
            send_event("warning", f"{point.key} is damaged and was skipped: {error}")
    raise BadConfig(f"{reference}: none of its checkpoints can be read")


def _unpack_weights(data: bytes) -> dict[str, Any]:
    """Config and networks of a snapshot (checkpoint.pack_weights), as a checkpoint has them."""
    try:
        tensors = safetensors.torch.load(data)
        header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
        metadata = json.loads(header["__metadata__"]["kiln"])
    except (safetensors.SafetensorError, KeyError, ValueError) as error:
        raise CorruptArtifact(f"not a snapshot of a run: {error}") from None
    networks: dict[str, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        network, _, key = name.partition(".")
        networks.setdefault(network, {})[key] = tensor
    return {"config": json.dumps(metadata["config"]), "networks": networks, "data": metadata.get("data")}


def _check_fit(config: TrainConfig, saved: dict[str, Any], fields: tuple[str, ...], field: str) -> TrainConfig:
    try:
        source = TrainConfig.model_validate_json(saved["config"])
    except ValidationError:
        raise BadConfig(f"{field}: that run did not train a GAN") from None
    if different := differences(config, source, fields):
        raise BadConfig(f"{field}: its networks have another shape: {', '.join(different)}")
    return source


def _check_classes(config: TrainConfig, saved: dict[str, Any], classes: tuple[str, ...], field: str) -> None:
    """Raises BadConfig if conditional networks were trained on other classes. Older checkpoints record none."""
    data = saved.get("data")
    if config.conditional and data is not None and tuple(data["classes"]) != classes:
        raise BadConfig(
            f"{field}: that run was trained on the classes {', '.join(data['classes'])}; this data set has "
            f"{', '.join(classes)}. Train on the same classes, or set conditional=false"
        )


def _load(target: Any, saved: dict[str, Any]) -> None:
    try:
        target.load_state_dict(saved)
    except RuntimeError as error:  # for example another number of classes, which depends on the data set
        raise BadConfig(f"its networks do not fit: {str(error).splitlines()[-1].strip()}") from None
