"""Writes a trained classifier to its files, checks the ONNX graph against torch, and loads it back."""

from __future__ import annotations

import copy
from pathlib import Path

import numpy as np
import onnxruntime
import safetensors.torch
import torch

from services.trainer.classifier.network import Classifier
from services.trainer.export.onnx import PARITY_BATCH_SIZES, to_onnx
from shared.errors import CorruptArtifact, ParityFailed
from shared.storage.classifier_files import GRAPH_FILE, WEIGHTS_FILE, ClassifierManifest, read_file, read_manifest
from shared.storage.model_registry import Parity

PARITY_LIMIT = 1e-4  # relative to the largest logit or feature, but at least to 1


def export_classifier(classifier: Classifier, resolution: int = 32) -> tuple[dict[str, bytes], Parity]:
    """The bytes of both files, and the largest difference between the graph and torch. Raises ParityFailed.

    The graph: images [N, 3, H, W] float32 in [-1, 1], H = W = `resolution` -> logits [N, classes], features [N, D].
    """
    network = copy.deepcopy(classifier).cpu().eval().to(memory_format=torch.contiguous_format)
    graph = to_onnx(network, {"images": torch.randn(2, 3, resolution, resolution)}, ["logits", "features"])
    weights = {name: tensor.contiguous() for name, tensor in network.state_dict().items()}
    files = {GRAPH_FILE: graph, WEIGHTS_FILE: safetensors.torch.save(weights)}
    return files, _check_parity(graph, network, resolution)


def load_classifier(folder: Path) -> tuple[Classifier, ClassifierManifest]:
    """The classifier of a folder, on the CPU, in evaluation mode. Raises UnknownClassifier, CorruptArtifact."""
    manifest = read_manifest(folder)
    with torch.device("meta"):  # drawing initial weights would change the random state of the run that loads this
        network = Classifier(manifest.config.width, len(manifest.classes))
    weights = safetensors.torch.load(read_file(folder, manifest, WEIGHTS_FILE))
    try:
        network.load_state_dict(weights, assign=True)
    except RuntimeError as error:
        raise CorruptArtifact(
            f"the classifier in {folder} is another network than this version's, such as the ResNet-18 of 0.2.0; train "
            "one with preset: classifier"
        ) from error
    return network.eval().requires_grad_(False).to(memory_format=torch.channels_last), manifest


def _check_parity(graph: bytes, network: Classifier, resolution: int) -> Parity:
    session = onnxruntime.InferenceSession(graph, providers=["CPUExecutionProvider"])
    rng = torch.Generator().manual_seed(0)
    worst = worst_relative = 0.0
    for size in PARITY_BATCH_SIZES:
        images = torch.rand(size, 3, resolution, resolution, generator=rng) * 2 - 1
        with torch.no_grad():
            expected = [tensor.numpy() for tensor in network(images)]
        actual = session.run(["logits", "features"], {"images": images.numpy()})
        for torch_output, onnx_output in zip(expected, actual, strict=True):
            difference = float(np.abs(torch_output - np.asarray(onnx_output)).max())
            worst = max(worst, difference)
            worst_relative = max(worst_relative, difference / max(1.0, float(np.abs(torch_output).max())))
    if not worst_relative <= PARITY_LIMIT or not np.isfinite(worst):
        raise ParityFailed(
            f"the outputs of ONNX and torch differ by {worst_relative:.3g} of the largest one; "
            f"the limit is {PARITY_LIMIT:g}"
        )
    return Parity(max_abs_difference=worst, batch_sizes=PARITY_BATCH_SIZES)
