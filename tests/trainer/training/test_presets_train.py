"""Every preset trains: one iteration of its own networks and losses on a small batch.

What POST /jobs makes of the rows at their own batch sizes: tests/e2e/test_presets.py.
"""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from services.trainer.training import loop, sampling
from services.trainer.training.state import TrainState
from shared.configs.presets import PRESETS, resolve
from tests.trainer.small import CPU, random_images

DATASET = random_images()


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_trains(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    # Batch statistics from fewer images, because they would take most of the time of the largest networks
    monkeypatch.setattr(sampling, "BATCH", 4)
    nimg = 4 * PRESETS[name].config.n_critic
    state = TrainState(resolve(name, {"batch_size": 4, "total_nimg": nimg, "tick_nimg": nimg}), 10, CPU)
    shape = state.config.image_shape
    dataset = replace(DATASET, images=torch.randint(0, 256, (len(DATASET), *shape), dtype=torch.uint8))
    parameters = [*state.generator.parameters(), *state.discriminator.parameters()]
    before = [parameter.clone() for parameter in parameters]
    reports: list[loop.Message] = []
    loop.train(state, dataset, reports.append, lambda: None)
    (row,) = [report.row for report in reports if isinstance(report, loop.MetricsMessage)]
    assert row["nimg"] == nimg
    assert 0 <= row["d_accuracy_real"] <= 1
    assert not any(torch.equal(one, other) for one, other in zip(before, parameters, strict=True))
    assert sampling.sample_grid(state.ema, state.config, dataset).shape == (100, *shape)
