"""Exported graphs have one signature, any batch size and torch's images, and name no file of this machine."""

from __future__ import annotations

import re
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime
import pytest
import torch
from torch import nn

from services.trainer.export.fuse import fuse_for_inference
from services.trainer.export.onnx import PARITY_LIMIT, check_parity, export_generator
from services.trainer.networks.build import build_networks
from services.trainer.training.sampling import standing_statistics
from shared.configs.train import TrainConfig
from shared.errors import ParityFailed
from tests.trainer.small import small_config, small_keras, small_resnet

KINDS = {
    "dcgan, conditional": small_config(),
    "dcgan": small_config("wgan-gp"),
    "keras-dcgan, conditional, batch norm, softmax": small_keras(conditional=True, batch_norm=True, g_output="softmax"),
    "resnet": small_resnet("wgan-gp"),
    "resnet, conditional": small_resnet(),
}


@dataclass(frozen=True)
class Exported:
    config: TrainConfig
    generator: nn.Module
    graph: bytes
    session: Any

    def run(self, z: npt.NDArray[np.float32], labels: list[int]) -> npt.NDArray[np.float32]:
        images: npt.NDArray[np.float32]
        (images,) = self.session.run(["images"], {"z": z, "labels": np.array(labels, dtype=np.int64)})
        return images


@pytest.fixture(scope="module", params=KINDS)
def exported(request: pytest.FixtureRequest) -> Exported:
    """A generator with weights like those of a trained one, and its graph."""
    torch.manual_seed(0)
    config = KINDS[request.param]
    generator, _ = build_networks(config, num_classes=10)
    for parameter in generator.parameters():
        parameter.data += 0.2 * torch.randn_like(parameter)
    standing_statistics(generator, config, torch.arange(10), images=256)
    generator.to(memory_format=torch.channels_last).train()
    graph = export_generator(generator, config)
    return Exported(config, generator, graph, onnxruntime.InferenceSession(graph, providers=["CPUExecutionProvider"]))


def latents(count: int) -> npt.NDArray[np.float32]:
    return np.random.default_rng(0).standard_normal((count, 8)).astype(np.float32)


def test_every_model_has_the_same_signature(exported: Exported) -> None:
    z, labels = exported.session.get_inputs()
    (images,) = exported.session.get_outputs()
    assert (z.name, z.type, z.shape[1:]) == ("z", "tensor(float)", [8])
    assert (labels.name, labels.type, labels.shape[1:]) == ("labels", "tensor(int64)", [])
    assert (images.name, images.type, images.shape[1:]) == ("images", "tensor(float)", [3, 32, 32])
    # The batch is one symbol, the same for all three.
    assert isinstance(z.shape[0], str)
    assert z.shape[0] == labels.shape[0] == images.shape[0]


@pytest.mark.parametrize("count", [1, 2, 37])
def test_a_batch_may_have_any_size(exported: Exported, count: int) -> None:
    images = exported.run(latents(count), [i % 10 for i in range(count)])
    assert images.shape == (count, 3, 32, 32)
    assert np.abs(images).max() <= 1 + 1e-6  # onnxruntime's tanh overshoots by a bit of float32
    assert images.std() > 0.1


def test_images_of_a_batch_are_independent(exported: Exported) -> None:
    z, labels = latents(5), [3, 1, 4, 1, 5]
    together = exported.run(z, labels)
    alone = np.concatenate([exported.run(z[i : i + 1], labels[i : i + 1]) for i in range(5)])
    np.testing.assert_allclose(together, alone, atol=1e-5)


def test_labels_matter_to_conditional_models_only(exported: Exported) -> None:
    difference = np.abs(exported.run(latents(1), [0]) - exported.run(latents(1), [7])).max()
    assert (difference > 0.01) if exported.config.conditional else (difference == 0)


def test_the_graph_computes_what_torch_computes(exported: Exported) -> None:
    parity = check_parity(exported.graph, exported.generator, exported.config, num_classes=10)
    assert parity.max_abs_difference <= 1e-4
    assert parity.batch_sizes == (1, 2, 37)
    # And other latents, compared by hand, agree as well
    z, labels = latents(4), [0, 9, 5, 2]
    exported.generator.eval()
    with torch.no_grad():
        expected = exported.generator(torch.from_numpy(z), torch.tensor(labels)).numpy()
    exported.generator.train()
    np.testing.assert_allclose(exported.run(z, labels), expected, atol=1e-4)


@pytest.mark.parametrize("change", [1.01, float("nan")])
def test_a_graph_of_other_weights_fails(exported: Exported, change: float) -> None:
    # Given a generator that changed after the export
    weight = max(exported.generator.parameters(), key=lambda p: p.dim())
    original = weight.data.clone()
    weight.data *= change
    # When they are compared, then the difference is named
    try:
        with pytest.raises(ParityFailed, match=r"differ by .*; the limit is half a step of an 8-bit pixel, 0\.0039"):
            check_parity(exported.graph, exported.generator, exported.config, num_classes=10)
    finally:
        weight.data = original


def test_rounding_that_changes_no_pixel_by_two_values_is_accepted(exported: Exported) -> None:
    # Given a difference as from the rounding of extreme weights: more than usual, less than half a pixel step
    weight = max(exported.generator.parameters(), key=lambda p: p.dim())
    original = weight.data.clone()
    weight.data *= 1.0002
    try:
        parity = check_parity(exported.graph, exported.generator, exported.config, num_classes=10)
    finally:
        weight.data = original
    assert 1e-4 < parity.max_abs_difference < PARITY_LIMIT == 1 / 255


def test_a_graph_whose_images_are_not_finite_fails_even_if_torchs_are_not_either() -> None:
    config = small_config("wgan-gp")
    generator, _ = build_networks(config, num_classes=10)
    next(generator.parameters()).data.fill_(float("nan"))
    with pytest.raises(ParityFailed):
        check_parity(export_generator(generator, config), generator, config, num_classes=10)


def test_exporting_does_not_change_the_generator(exported: Exported) -> None:
    assert exported.generator.training
    assert all(p.requires_grad for p in exported.generator.parameters())
    weight = max(exported.generator.parameters(), key=lambda p: p.dim())
    assert weight.is_contiguous(memory_format=torch.channels_last)


def test_the_graph_names_no_file_of_this_machine(exported: Exported) -> None:
    # Given the graph without its numbers, in which any letters may occur by chance
    model = onnx.load_from_string(exported.graph)
    assert len(model.graph.initializer) > 0
    for initializer in model.graph.initializer:
        initializer.ClearField("raw_data")
    text = model.SerializeToString()
    # Then there is no path in it
    places = [Path(__file__).parents[3], Path(torch.__file__).parents[1], Path(sys.prefix), Path.home()]
    assert [str(place) for place in places if str(place).encode() in text] == []
    assert re.findall(rb"[\w/.]*(?:\.py\b|site-packages|/home/|/usr/)[\w/.]*", text) == []
    assert re.findall(rb"stack_trace|Traceback|File \"", text) == []


def test_the_graph_is_hardly_larger_than_its_weights(exported: Exported) -> None:
    network = fuse_for_inference(exported.generator)
    numbers = [*network.parameters(), *network.buffers()]
    # 21,169 at most: folding adds nodes, not numbers
    assert 0 < len(exported.graph) - 4 * sum(n.numel() for n in numbers) < 25_000
