"""Opens a model for evaluation: one of the registry, a folder with its files, or a snapshot of a run's weights."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import safetensors
import safetensors.torch
import torch
from torch import Tensor

from services.trainer.data.datasets import ImageDataset
from services.trainer.metrics.evaluation import Generator
from services.trainer.networks.build import build_networks
from services.trainer.training.sampling import NORM_IMAGES, standing_statistics
from shared.configs.train import TrainConfig
from shared.errors import CorruptArtifact, InvalidInput
from shared.settings import Settings
from shared.storage.artifacts import ArtifactStore
from shared.storage.model_registry import GENERATOR_FILE, MANIFEST_FILE, ModelManifest, ModelRegistry, read_folder


@dataclass(frozen=True)
class Subject:
    """A generator to evaluate, and its training data set; None for a snapshot, whose file does not name it."""

    name: str
    generator: Generator
    config: TrainConfig
    dataset: str | None
    images_seen: int


def open_subject(
    name: str, settings: Settings, load_data: Callable[[TrainConfig], ImageDataset], device: torch.device
) -> Subject:
    """Opens a model by id or path. `load_data` is called for a snapshot only, whose file does not hold the classes.

    Raises InvalidInput for a path that is neither a folder nor a snapshot, UnknownModel, CorruptArtifact.
    """
    path = Path(name)
    if path.suffix == ".safetensors" and path.is_file():
        return _open_snapshot(path, load_data, device)
    if path.is_dir():
        return _open_folder(path, device)
    if path.exists() or path.suffix:
        raise InvalidInput.of("MODEL", name, "must be a model's id, its folder, or a run's weights/*.safetensors")
    registry = ModelRegistry(ArtifactStore(settings.artifact_url))
    manifest = registry.get(name)
    return _of_manifest(manifest, registry.read_file(manifest, GENERATOR_FILE), device)


def onnx_generator(graph: bytes, device: torch.device) -> Generator:
    """The graph as a function of tensors; runs on CUDA if available, and passes images through the CPU."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    gpu = ["CUDAExecutionProvider"] if device.type == "cuda" else []
    session = onnxruntime.InferenceSession(graph, options, providers=[*gpu, "CPUExecutionProvider"])

    def run(z: Tensor, labels: Tensor) -> Tensor:
        (images,) = session.run(["images"], {"z": z.cpu().numpy(), "labels": labels.cpu().numpy()})
        return torch.from_numpy(np.asarray(images))

    return run


def _open_folder(folder: Path, device: torch.device) -> Subject:
    try:
        manifest, files = read_folder(folder)
    except FileNotFoundError:
        raise InvalidInput.of("MODEL", str(folder), f"the folder has no {MANIFEST_FILE}") from None
    return _of_manifest(manifest, files[GENERATOR_FILE], device)


def _of_manifest(manifest: ModelManifest, graph: bytes, device: torch.device) -> Subject:
    generator = onnx_generator(graph, device)
    return Subject(manifest.id, generator, manifest.config, manifest.dataset, manifest.images_seen)


def _open_snapshot(path: Path, load_data: Callable[[TrainConfig], ImageDataset], device: torch.device) -> Subject:
    """The averaged generator of a snapshot, with standing batch statistics."""
    kind = "a snapshot of a run"
    try:
        with safetensors.safe_open(path, "pt") as file:
            metadata = file.metadata() or {}
        stored = json.loads(metadata["kiln"]) if "kiln" in metadata else _before_0_1(metadata)
        config, nimg = TrainConfig.model_validate_json(json.dumps(stored["config"])), int(stored["nimg"])
        weights = safetensors.torch.load_file(path)
        dataset = load_data(config)
        kind = f"a snapshot of a run on {len(dataset.classes)} classes"
        generator, _ = build_networks(config, len(dataset.classes))
        ema = {key.removeprefix("ema."): value for key, value in weights.items() if key.startswith("ema.")}
        generator.load_state_dict(ema)
    except (safetensors.SafetensorError, KeyError, ValueError, RuntimeError) as error:
        raise CorruptArtifact(f"{path} is not {kind}: {error}") from error
    generator = generator.to(device).to(memory_format=torch.channels_last).requires_grad_(False)
    standing_statistics(generator, config, dataset.labels, NORM_IMAGES)
    return Subject(path.stem, generator, config, None, nimg)


def _before_0_1(metadata: dict[str, str]) -> dict[str, Any]:
    """Reads the metadata of snapshots before version 0.1, which stored config and position separately."""
    return {"config": json.loads(metadata["config"]), "nimg": metadata["nimg"]}
