"""Checkpoints are loaded intact or refused, and never run code."""

from __future__ import annotations

import hashlib
import io
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch

from services.trainer.runs.checkpoint import Checkpoints, pack, pack_weights, unpack
from services.trainer.training.state import TrainState
from shared.configs.train import TrainConfig
from shared.errors import CorruptArtifact
from shared.storage.artifacts import ArtifactStore
from tests.trainer.small import CPU, random_images, small_config, small_resnet

FOLDER = "jobs/a-run/checkpoints"


@pytest.fixture
def artifacts(tmp_path: Path) -> ArtifactStore:
    return ArtifactStore(f"file://{tmp_path}")


def fail_if_damaged(name: str, problem: str) -> None:
    pytest.fail(f"{name} should be intact: {problem}")


def test_a_state_survives_packing_and_unpacking() -> None:
    # Given tensors of several types and layouts, numbers, strings and lists
    state = {
        "weights": {
            "a": torch.randn(2, 3, 4, 4).to(memory_format=torch.channels_last),
            "b": torch.tensor([1.5]).double(),
        },
        "rng": torch.get_rng_state(),
        "metrics": [{"nimg": 64, "loss": 0.1}],
        "config": "{}",
        "nothing": None,
    }  # fmt: skip
    # When it is packed and unpacked
    back = unpack(pack(state))
    # Then it is the same to the bit
    assert {k: v for k, v in back.items() if k not in ("weights", "rng")} == {
        "metrics": [{"nimg": 64, "loss": 0.1}], "config": "{}", "nothing": None,
    }  # fmt: skip
    assert torch.equal(back["weights"]["a"], state["weights"]["a"])  # type: ignore[index]
    assert back["weights"]["a"].is_contiguous(memory_format=torch.channels_last)
    assert back["weights"]["b"].dtype == torch.float64
    assert torch.equal(back["rng"], state["rng"])  # type: ignore[arg-type]


def test_a_run_without_checkpoints_starts_afresh(artifacts: ArtifactStore) -> None:
    assert Checkpoints(artifacts, "a-run", 1).load_newest(fail_if_damaged) is None


def test_the_newest_is_loaded_and_the_last_two_are_kept(artifacts: ArtifactStore) -> None:
    # Given checkpoints whose numbers sort differently as text
    checkpoints = Checkpoints(artifacts, "a-run", 1)
    for nimg in (9, 64, 500, 1000):
        checkpoints.save(nimg, {"nimg": nimg})
    # Then the newest is loaded, and one older checkpoint remains
    assert checkpoints.load_newest(fail_if_damaged) == {"nimg": 1000}
    assert artifacts.list(FOLDER) == ["0001-000000000500.ckpt", "0001-000000001000.ckpt"]


def test_a_later_attempt_is_newer_even_with_fewer_images(artifacts: ArtifactStore) -> None:
    # Given a worker that lost its job but still trains, and the next attempt
    Checkpoints(artifacts, "a-run", 10).save(500, {"from": "new owner"})
    Checkpoints(artifacts, "a-run", 9).save(900, {"from": "old owner"})
    # Then the checkpoint of the next attempt is the newest
    assert Checkpoints(artifacts, "a-run", 11).load_newest(fail_if_damaged) == {"from": "new owner"}


def test_runs_do_not_see_each_other(artifacts: ArtifactStore) -> None:
    Checkpoints(artifacts, "a-run", 1).save(64, {"nimg": 64})
    assert Checkpoints(artifacts, "another-run", 1).load_newest(fail_if_damaged) is None


def truncated(data: bytes) -> bytes:
    return data[:-1]


def with_a_flipped_bit(data: bytes) -> bytes:
    middle = len(data) // 2
    return data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1 :]


def with_another_digest(data: bytes) -> bytes:
    return data[:8] + bytes(32) + data[40:]


def emptied(data: bytes) -> bytes:
    return b""


def with_something_appended(data: bytes) -> bytes:
    return data + b"\0"


def without_magic(data: bytes) -> bytes:
    return data[8:]


DAMAGES = [truncated, with_a_flipped_bit, with_another_digest, emptied, with_something_appended, without_magic]


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_newest_checkpoint_is_named_and_the_previous_one_loaded(
    artifacts: ArtifactStore, damage: Callable[[bytes], bytes]
) -> None:
    # Given two checkpoints, of which the newer is damaged
    checkpoints = Checkpoints(artifacts, "a-run", 1)
    checkpoints.save(64, {"nimg": 64})
    checkpoints.save(128, {"nimg": 128})
    newest = f"{FOLDER}/0001-000000000128.ckpt"
    artifacts.write(newest, damage(artifacts.read(newest)))
    # When the newest is loaded
    warnings: list[tuple[str, str]] = []
    loaded = checkpoints.load_newest(lambda name, problem: warnings.append((name, problem)))
    # Then the older one is loaded, and the warning names the damaged one
    assert loaded == {"nimg": 64}
    assert [name for name, _ in warnings] == ["0001-000000000128.ckpt"]
    assert "do not match their digest" in warnings[0][1]


def test_a_damaged_checkpoint_does_not_count_as_one_of_the_two(artifacts: ArtifactStore) -> None:
    # Given a damaged newest checkpoint, which was skipped
    checkpoints = Checkpoints(artifacts, "a-run", 1)
    checkpoints.save(64, {"nimg": 64})
    checkpoints.save(128, {"nimg": 128})
    artifacts.write(f"{FOLDER}/0001-000000000128.ckpt", b"")
    checkpoints.load_newest(lambda *_: None)
    # When the next attempt saves its first checkpoint
    Checkpoints(artifacts, "a-run", 2).save(100, {"nimg": 100})
    # Then both remaining checkpoints are intact
    assert [unpack(artifacts.read(f"{FOLDER}/{name}")) for name in artifacts.list(FOLDER)] == [
        {"nimg": 64},
        {"nimg": 100},
    ]


def test_if_all_checkpoints_are_damaged_the_run_starts_afresh_with_warnings(artifacts: ArtifactStore) -> None:
    checkpoints = Checkpoints(artifacts, "a-run", 1)
    for nimg in (64, 128):
        checkpoints.save(nimg, {"nimg": nimg})
        artifacts.write(f"{FOLDER}/0001-{nimg:012d}.ckpt", b"\0" * 100)
    warnings: list[str] = []
    assert checkpoints.load_newest(lambda name, _: warnings.append(name)) is None
    assert warnings == ["0001-000000000128.ckpt", "0001-000000000064.ckpt"]


def test_a_checkpoint_that_another_worker_deletes_meanwhile_is_skipped(artifacts: ArtifactStore) -> None:
    # Given a listing that contains a file which another worker has just deleted
    checkpoints = Checkpoints(artifacts, "a-run", 1)
    checkpoints.save(64, {"nimg": 64})
    folder = Path(artifacts._path(FOLDER))
    (folder / "0001-000000000128.ckpt").symlink_to(folder / "gone")

    assert checkpoints.load_newest(lambda *_: None) == {"nimg": 64}


@pytest.mark.parametrize("damage", DAMAGES)
def test_unpack_refuses_damaged_bytes(damage: Callable[[bytes], bytes]) -> None:
    with pytest.raises(CorruptArtifact):
        unpack(damage(pack({"nimg": 64})))


class Trap:
    """Creates a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[str, str]]:
        return open, (str(self.path), "w")


def test_code_in_a_checkpoint_is_refused_even_with_the_right_digest(tmp_path: Path) -> None:
    # Given a pickle that runs code, in the format of a checkpoint
    sprung = tmp_path / "sprung"
    buffer = io.BytesIO()
    torch.save({"weights": Trap(sprung)}, buffer)
    payload = buffer.getvalue()
    wrapped = pack({})[:8] + hashlib.sha256(payload).digest() + payload
    # When it is unpacked, Then torch refuses, and nothing has run
    with pytest.raises(pickle.UnpicklingError, match="Weights only load failed"):
        unpack(wrapped)
    assert not sprung.exists()
    # (The trap is a real one.)
    buffer.seek(0)
    with torch.load(buffer, weights_only=False)["weights"]:
        assert sprung.exists()


@pytest.mark.parametrize("config", [small_config(), small_resnet(spectral_norm=True)], ids=["dcgan", "resnet"])
def test_snapshots_hold_the_weights_of_all_networks(config: TrainConfig) -> None:
    state = TrainState(config, 10, CPU)

    weights = safetensors.torch.load(pack_weights(state, random_images()))

    assert {name.partition(".")[0] for name in weights} == {"generator", "discriminator", "ema"}
    for name, network in state.networks().items():
        for key, value in network.state_dict().items():
            assert torch.equal(weights[f"{name}.{key}"], value)


def test_weights_of_equal_states_are_equal_files() -> None:
    files = {pack_weights(TrainState(small_config(), 10, CPU), random_images()) for _ in range(8)}

    assert len(files) == 1
