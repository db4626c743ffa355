"""From a trained classifier to its files, with the proof that they agree, and back."""

from __future__ import annotations

import copy
from pathlib import Path

import numpy as np
import onnxruntime
import safetensors.torch
import torch

from services.trainer.classifier.network import Classifier
from services.trainer.export.onnx import PARITY_BATCH_SIZES, to_onnx
from shared.errors import ParityFailed
from shared.storage.classifier_files import GRAPH_FILE, WEIGHTS_FILE, ClassifierManifest, read_file, read_manifest
from shared.storage.model_registry import Parity

PARITY_LIMIT = 1e-3  # of logits and features, which are of the order of ten


def export_classifier(classifier: Classifier) -> tuple[dict[str, bytes], Parity]:
    """The bytes of both files, and how far the graph is from torch. Raises ParityFailed.

    The graph: images [N, 3, 32, 32] float32 in [-1, 1] -> logits [N, classes], features [N, D]; any N.
    """
    network = copy.deepcopy(classifier).cpu().eval().to(memory_format=torch.contiguous_format)
    graph = to_onnx(network, {"images": torch.randn(2, 3, 32, 32)}, ["logits", "features"])
    weights = {name: tensor.contiguous() for name, tensor in network.state_dict().items()}
    files = {GRAPH_FILE: graph, WEIGHTS_FILE: safetensors.torch.save(weights)}
    return files, _check_parity(graph, network)


def load_classifier(folder: Path) -> tuple[Classifier, ClassifierManifest]:
    """The classifier of a folder, on the CPU, ready to guess. Raises UnknownClassifier, CorruptArtifact."""
    manifest = read_manifest(folder)
    with torch.device("meta"):  # initial weights would be thrown away, and their draws would change a run around this
        network = Classifier(manifest.config.width, len(manifest.classes))
    network.load_state_dict(safetensors.torch.load(read_file(folder, manifest, WEIGHTS_FILE)), assign=True)
    return network.eval().requires_grad_(False).to(memory_format=torch.channels_last), manifest


def _check_parity(graph: bytes, network: Classifier) -> Parity:
    session = onnxruntime.InferenceSession(graph, providers=["CPUExecutionProvider"])
    rng = torch.Generator().manual_seed(0)
    worst = 0.0
    for size in PARITY_BATCH_SIZES:
        images = torch.rand(size, 3, 32, 32, generator=rng) * 2 - 1
        with torch.no_grad():
            expected = [tensor.numpy() for tensor in network(images)]
        actual = session.run(["logits", "features"], {"images": images.numpy()})
        for ours, theirs in zip(expected, actual, strict=True):
            worst = max(worst, float(np.abs(ours - np.asarray(theirs)).max()))
    if not worst <= PARITY_LIMIT:
        raise ParityFailed(f"ONNX and torch differ by {worst:.3g} where {PARITY_LIMIT:g} is allowed")
    return Parity(max_abs_difference=worst, batch_sizes=PARITY_BATCH_SIZES)
