"""Checkpoints: the whole state of a run in one object, with a digest, the last two of each run kept."""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Callable
from typing import Any

import safetensors.torch
import torch

from services.trainer.training.state import Resumable
from shared.errors import CorruptArtifact
from shared.storage.artifacts import ArtifactStore

KEPT = 2
LEFTOVER_AGE_S = 3600.0  # an unfinished file of that age belongs to nobody who lives
_MAGIC = b"KILNCKP1"
_DIGEST_BYTES = hashlib.sha256().digest_size


class Checkpoints:
    """The checkpoints of one run. Names are `<attempt>-<images seen>`, so that they sort by age."""

    def __init__(self, artifacts: ArtifactStore, run_id: str, attempt: int) -> None:
        self._artifacts, self._attempt = artifacts, attempt
        self._prefix = f"jobs/{run_id}/checkpoints"

    def save(self, nimg: int, state: dict[str, Any]) -> None:
        """Stores a checkpoint atomically, then drops the oldest beyond KEPT."""
        self._artifacts.write(f"{self._prefix}/{self._attempt:04d}-{nimg:012d}.ckpt", pack(state))
        for name in self._artifacts.list(self._prefix)[:-KEPT]:
            self._artifacts.delete(f"{self._prefix}/{name}")

    def load_newest(self, on_corrupt: Callable[[str, str], None]) -> dict[str, Any] | None:
        """The newest checkpoint that is whole, or None. `on_corrupt(name, why)` hears of each that is not."""
        self._artifacts.sweep(self._prefix, LEFTOVER_AGE_S)
        gone: set[str] = set()
        while names := [name for name in self._artifacts.list(self._prefix) if name not in gone]:
            try:
                return unpack(self._artifacts.read(f"{self._prefix}/{names[-1]}"))
            except FileNotFoundError:
                gone.add(names[-1])  # a worker that was given up and lives still has put a newer one in its place
            except CorruptArtifact as error:
                on_corrupt(names[-1], str(error))
                # Dropped, or the next save would count it as one of the two to keep.
                self._artifacts.delete(f"{self._prefix}/{names[-1]}")
        return None


def pack(state: dict[str, Any]) -> bytes:
    buffer = io.BytesIO()
    torch.save(state, buffer)
    payload = buffer.getvalue()
    return _MAGIC + hashlib.sha256(payload).digest() + payload


def pack_weights(state: Resumable) -> bytes:
    """The weights of all networks as safetensors, which anything can read: `generator.`, `discriminator.`, `ema.`"""
    tensors = {
        f"{name}.{key}": value.contiguous()
        for name, network in state.networks().items()
        for key, value in network.state_dict().items()
    }
    # One entry: safetensors writes several in the order of a hash map that is seeded anew in each process.
    about = {"nimg": state.cur_nimg, "config": state.config.model_dump(mode="json")}
    return safetensors.torch.save(tensors, {"kiln": json.dumps(about)})


def unpack(data: bytes) -> dict[str, Any]:
    """Raises CorruptArtifact when the bytes are not exactly what `pack` made."""
    start = len(_MAGIC) + _DIGEST_BYTES
    if data[: len(_MAGIC)] != _MAGIC or hashlib.sha256(data[start:]).digest() != data[len(_MAGIC) : start]:
        raise CorruptArtifact(f"{len(data)} bytes that are no whole checkpoint")
    state: dict[str, Any] = torch.load(io.BytesIO(data[start:]), map_location="cpu", weights_only=True)
    return state
