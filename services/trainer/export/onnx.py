"""Exports a torch generator to an ONNX graph and checks that both generate the same images."""

from __future__ import annotations

import copy
import logging
import warnings
from collections.abc import Mapping, Sequence

import numpy as np
import onnx
import onnxruntime
import torch
from torch import Tensor, nn

from services.trainer.export.fuse import fuse_for_inference
from services.trainer.export.per_class_graph import merge_per_class_graphs
from services.trainer.networks.per_class_generator import PerClassGenerator
from shared.configs.train import TrainConfig
from shared.errors import ParityFailed
from shared.storage.model_registry import Parity

PARITY_BATCH_SIZES = (1, 2, 37)  # 37: an odd size that no kernel is tuned for
# Half the distance between two 8-bit pixel values, in the range [-1, 1]: a smaller difference changes a pixel by one
# value at most. Trained networks differ by 1e-6 to 1e-4; the rounding of extreme weights can exceed that.
PARITY_LIMIT = 0.5 * 2 / 255


class _Graph(nn.Module):
    """The signature of every model: z [N, latent] float32, labels [N] int64 -> images [N, C, H, W] in [-1, 1]."""

    def __init__(self, generator: nn.Module) -> None:
        super().__init__()
        self.generator = generator

    def forward(self, z: Tensor, labels: Tensor) -> Tensor:
        images: Tensor = self.generator(z, labels)
        return images


def export_generator(generator: nn.Module, config: TrainConfig) -> bytes:
    """ONNX bytes of the generator in evaluation mode, with a dynamic batch; labels are an input even if unused.

    The graph is the one of `fuse_for_inference`; check_parity compares it with the original network.
    """
    if isinstance(generator, PerClassGenerator):
        return merge_per_class_graphs([export_generator(part, config) for part in generator.parts])
    inputs = {"z": torch.randn(2, config.latent_dim), "labels": torch.zeros(2, dtype=torch.int64)}
    return to_onnx(_Graph(fuse_for_inference(generator)), inputs, ["images"])


def to_onnx(network: nn.Module, inputs: Mapping[str, Tensor], outputs: Sequence[str]) -> bytes:
    """ONNX bytes of a network on the CPU; `inputs` maps argument names to example tensors of any batch size."""
    batch = torch.export.Dim("batch", min=1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the exporter's warnings about its own internals
        logging.getLogger("torch.onnx").setLevel(logging.ERROR)
        program = torch.onnx.export(
            network,
            tuple(inputs.values()),
            input_names=list(inputs),
            output_names=list(outputs),
            dynamic_shapes={name: {0: batch} for name in inputs},
            dynamo=True,
            verbose=False,
        )
    assert program is not None
    graph: bytes = _without_provenance(program.model_proto).SerializeToString()
    return graph


def check_parity(graph: bytes, generator: nn.Module, config: TrainConfig, num_classes: int) -> Parity:
    """Runs both on the same inputs, on the CPU. Raises ParityFailed above PARITY_LIMIT, or for images not finite."""
    network = copy.deepcopy(generator).cpu().eval().to(memory_format=torch.contiguous_format)
    session = onnxruntime.InferenceSession(graph, providers=["CPUExecutionProvider"])
    rng = torch.Generator().manual_seed(0)
    worst = 0.0
    for size in PARITY_BATCH_SIZES:
        z = torch.randn(size, config.latent_dim, generator=rng)
        labels = torch.arange(size) % num_classes
        with torch.no_grad():
            expected = network(z, labels).numpy()
        (actual,) = session.run(["images"], {"z": z.numpy(), "labels": labels.numpy()})
        difference = float(np.abs(np.asarray(actual) - expected).max())
        worst = max(worst, difference) if np.isfinite(difference) else float("inf")
    if worst > PARITY_LIMIT:
        raise ParityFailed(
            f"the images of ONNX and torch differ by {worst:.3g} in [-1, 1]; "
            f"the limit is half a step of an 8-bit pixel, {PARITY_LIMIT:.2g}"
        )
    return Parity(max_abs_difference=worst, batch_sizes=PARITY_BATCH_SIZES)


def _without_provenance(model: onnx.ModelProto) -> onnx.ModelProto:
    """Removes the stack traces that the exporter writes into every node; they name files of this machine."""
    del model.metadata_props[:]
    for graph in (model.graph, *model.functions):
        del graph.metadata_props[:]
        graph.doc_string = ""
        for node in graph.node:
            del node.metadata_props[:]
            node.doc_string = ""
    for value in (*model.graph.value_info, *model.graph.input, *model.graph.output, *model.graph.initializer):
        del value.metadata_props[:]
    return model
