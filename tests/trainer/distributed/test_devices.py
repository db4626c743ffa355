"""Trainers of one machine take different GPUs."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from services.trainer.distributed.devices import reserved
from services.trainer.runs.device import pick_device
from shared.errors import EnvironmentFailed
from shared.settings import Settings

GPUS = ["GPU-a", "GPU-b", "GPU-c"]


def test_two_trainers_on_one_machine_train_on_different_gpus(tmp_path: Path) -> None:
    with reserved(1, GPUS, tmp_path) as first, reserved(2, GPUS, tmp_path) as second:
        assert (first.devices, first.is_shared) == ((0,), False)
        assert (second.devices, second.is_shared) == ((1, 2), False)


def test_a_gpu_is_free_again_when_its_run_ends(tmp_path: Path) -> None:
    with reserved(2, GPUS, tmp_path):
        pass
    with reserved(3, GPUS, tmp_path) as later:
        assert (later.devices, later.is_shared) == ((0, 1, 2), False)


def test_trainers_that_see_the_gpus_in_another_order_still_take_different_ones(tmp_path: Path) -> None:
    """As with CUDA_VISIBLE_DEVICES=1,0 for the second: device 0 is another GPU there, device 1 is the first one's."""
    with reserved(1, GPUS, tmp_path) as first, reserved(2, ["GPU-b", "GPU-a"], tmp_path) as second:
        assert (first.devices, first.is_shared) == ((0,), False)
        assert (second.devices, second.is_shared) == ((0, 1), True)
    with reserved(1, GPUS, tmp_path) as first, reserved(1, ["GPU-a", "GPU-b"], tmp_path) as second:
        assert (first.devices, second.devices, second.is_shared) == ((0,), (1,), False)


def test_without_a_free_gpu_a_run_shares_one_and_reports_it(tmp_path: Path) -> None:
    with reserved(2, GPUS, tmp_path), reserved(2, GPUS, tmp_path) as second:
        assert (second.devices, second.is_shared) == ((0, 2), True)


def test_more_gpus_than_the_worker_sees_are_refused(tmp_path: Path) -> None:
    with pytest.raises(EnvironmentFailed, match=r"needs 4 GPUs, and this worker sees 3"), reserved(4, GPUS, tmp_path):
        pass


def test_fp32_means_tf32_in_convolutions_and_all_bits_in_matrix_products() -> None:
    torch.backends.cudnn.allow_tf32 = False
    torch.backends.cuda.matmul.allow_tf32 = True
    pick_device(Settings(threads=1))
    assert torch.backends.cudnn.allow_tf32
    assert not torch.backends.cuda.matmul.allow_tf32


HOLD = """
import sys
from pathlib import Path
from services.trainer.distributed.devices import reserved
with reserved(1, ["GPU-a"], Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""


def test_a_trainer_that_is_killed_frees_its_gpu(tmp_path: Path) -> None:
    # Given another process that holds the only GPU
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "held\n"
        with reserved(1, ["GPU-a"], tmp_path) as reservation:
            assert reservation.is_shared
        # When it is killed, Then the GPU is free
        other.kill()
        other.wait()
        with reserved(1, ["GPU-a"], tmp_path) as reservation:
            assert not reservation.is_shared
