"""Saves and restores checkpoints: the complete state of a run in one file with a digest; the newest two are kept."""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Callable
from typing import Any

import safetensors.torch
import torch
from pydantic import ValidationError

from services.trainer.data.datasets import ImageDataset
from services.trainer.training.state import Resumable
from shared.configs.classifier import ClassifierConfig
from shared.configs.train import TrainConfig
from shared.errors import BadConfig, CorruptArtifact, EnvironmentFailed
from shared.jobs.trainer_messages import MetricsLine, SendEvent, SendMessage, event_sender
from shared.storage.artifacts import ArtifactStore

MAX_CHECKPOINTS = 2
LEFTOVER_AGE_S = 3600.0  # an unfinished file of this age belongs to no live process
_MAGIC = b"KILNCKP1"
_DIGEST_BYTES = hashlib.sha256().digest_size


class Checkpoints:
    """The checkpoints of one run. Names are `<attempt>-<images seen>`, so that they sort by age."""

    def __init__(self, artifacts: ArtifactStore, run_id: str, attempt: int) -> None:
        self._artifacts, self._attempt = artifacts, attempt
        self._prefix = f"jobs/{run_id}/checkpoints"

    def save(self, nimg: int, state: dict[str, Any]) -> None:
        """Stores a checkpoint atomically, then drops the oldest beyond MAX_CHECKPOINTS."""
        self._artifacts.write(f"{self._prefix}/{self._attempt:04d}-{nimg:012d}.ckpt", pack(state))
        for name in self._artifacts.list(self._prefix)[:-MAX_CHECKPOINTS]:
            self._artifacts.delete(f"{self._prefix}/{name}")

    def load_newest(self, on_corrupt: Callable[[str, str], None]) -> dict[str, Any] | None:
        """The newest intact checkpoint, or None. Calls `on_corrupt(name, problem)` for each damaged one."""
        self._artifacts.sweep(self._prefix, LEFTOVER_AGE_S)
        missing: set[str] = set()
        while names := [name for name in self._artifacts.list(self._prefix) if name not in missing]:
            try:
                return unpack(self._artifacts.read(f"{self._prefix}/{names[-1]}"))
            except FileNotFoundError:
                missing.add(
                    names[-1]
                )  # a worker that lost this job still runs, and has replaced the file by a newer one
            except CorruptArtifact as error:
                on_corrupt(names[-1], str(error))
                # Delete it; otherwise the next save would keep it as one of the newest two.
                self._artifacts.delete(f"{self._prefix}/{names[-1]}")
        return None


def describe_data(dataset: ImageDataset) -> dict[str, Any]:
    """The description of a data set that checkpoints and snapshots store."""
    return {"classes": list(dataset.classes), "digest": dataset.digest, "images": len(dataset)}


def check_config(saved: dict[str, Any], config: TrainConfig | ClassifierConfig) -> None:
    """Raises BadConfig for a checkpoint of another config, EnvironmentFailed for one of another version of Kiln."""
    try:
        trained = type(config).model_validate_json(saved["config"])
    except ValidationError as error:
        raise EnvironmentFailed(
            f"the checkpoint was written by another version of Kiln; resume the run with that version ({error})"
        ) from error
    if trained != config:
        raise BadConfig("the run's checkpoint was trained with another config; start a run with another name")


def check_data(saved: dict[str, Any], dataset: ImageDataset, send_event: SendEvent) -> None:
    """Compares the data set with the one of a checkpoint: other images are a warning event.

    Raises EnvironmentFailed for other classes, because the networks would confuse classes.
    """
    data = saved.get("data")
    if data is None:  # a checkpoint of an older version
        return
    trained, present = data["classes"], list(dataset.classes)
    if trained != present:
        missing = ", ".join(f"'{name}'" for name in trained if name not in present) or "none"
        added = ", ".join(f"'{name}'" for name in present if name not in trained) or "none"
        raise EnvironmentFailed(
            f"the classes of the data set have changed since the checkpoint: missing {missing}, new {added}. Restore "
            "the class folders and resume, or start a new run"
        )
    if data["digest"] != dataset.digest:
        send_event(
            "warning",
            f"the data set has changed since the checkpoint: {data['images']:,} images with digest "
            f"{data['digest'][:12]} then, {len(dataset):,} with {dataset.digest[:12]} now; training continues",
        )


def load_newest(checkpoints: Checkpoints, dataset: ImageDataset, send_event: SendEvent) -> dict[str, Any] | None:
    """The newest intact checkpoint, or None; sends a warning for each damaged one, and if the images have changed.

    Raises EnvironmentFailed for a checkpoint that was trained on other classes.
    """

    def warn(name: str, problem: str) -> None:
        send_event("warning", f"checkpoint {name} is damaged and was skipped: {problem}", checkpoint=name)

    if (saved := checkpoints.load_newest(warn)) is not None:
        check_data(saved, dataset, send_event)
    return saved


def restore(state: Resumable, checkpoints: Checkpoints, dataset: ImageDataset, send: SendMessage) -> bool:
    """Loads the run's newest intact checkpoint into `state`; False if there is none.

    Raises BadConfig for another config, EnvironmentFailed for other classes or another version of Kiln.
    """
    saved = load_newest(checkpoints, dataset, event_sender(send))
    if saved is None:
        return False
    check_config(saved, state.config)
    state.load_state_dict(saved)
    # Training after the checkpoint is repeated. Rows up to it are sent again, in case the last worker died before it
    # could store them.
    for row in state.metrics:
        send(MetricsLine(row=row))
    event_sender(send)("resumed", f"resuming after {state.cur_nimg:,} images", nimg=state.cur_nimg)
    return True


def pack(state: dict[str, Any]) -> bytes:
    buffer = io.BytesIO()
    torch.save(state, buffer)
    payload = buffer.getvalue()
    return _MAGIC + hashlib.sha256(payload).digest() + payload


def pack_weights(state: Resumable, dataset: ImageDataset) -> bytes:
    """The weights of all networks as safetensors; names begin with `generator.`, `discriminator.` or `ema.`"""
    tensors = {
        f"{name}.{key}": value.contiguous()
        for name, network in state.networks().items()
        for key, value in network.state_dict().items()
    }
    # One entry: safetensors orders several by a hash map whose seed differs between processes.
    metadata = {"nimg": state.cur_nimg, "config": state.config.model_dump(mode="json"), "data": describe_data(dataset)}
    return safetensors.torch.save(tensors, {"kiln": json.dumps(metadata)})


def unpack(data: bytes) -> dict[str, Any]:
    """The state that `pack` made these bytes from. Raises CorruptArtifact if any byte differs."""
    start = len(_MAGIC) + _DIGEST_BYTES
    if data[: len(_MAGIC)] != _MAGIC or hashlib.sha256(data[start:]).digest() != data[len(_MAGIC) : start]:
        raise CorruptArtifact(f"its {len(data):,} bytes do not match their digest")
    state: dict[str, Any] = torch.load(io.BytesIO(data[start:]), map_location="cpu", weights_only=True)
    return state
