"""Exports a trained generator: ONNX graph, preview and manifest, in a folder ready to be published."""

from __future__ import annotations

import io
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from services.trainer.data.datasets import ImageDataset
from services.trainer.export.onnx import check_parity, export_generator
from services.trainer.metrics.evaluation import Evaluator
from services.trainer.metrics.extractor import BATCH
from services.trainer.metrics.in_training import final_metrics
from services.trainer.metrics.memorisation import memorisation_of
from services.trainer.networks.per_class_generator import PerClassGenerator
from services.trainer.runs.device import device_name
from services.trainer.runs.per_class import PerClassState
from services.trainer.runs.spec import RunSpec, run_folder
from services.trainer.training.sampling import NORM_IMAGES, sample_grid, standing_statistics
from services.trainer.training.state import Resumable, TrainState
from shared.jobs.trainer_messages import ResultLine
from shared.settings import Settings
from shared.storage.model_registry import (
    GENERATOR_FILE,
    NEIGHBOURS_FILE,
    PREVIEW_FILE,
    ModelManifest,
    Parity,
    model_id_of,
)


def export_model(
    spec: RunSpec,
    state: Resumable,
    dataset: ImageDataset,
    settings: Settings,
    evaluator: Evaluator | None = None,
    *,
    images_seen: int | None = None,
) -> ResultLine:
    """Writes the model's files into a folder of the run, describes and evaluates them. Raises ParityFailed.

    `images_seen` is needed only if the averaged generator is not the latest one.
    """
    config, generator = spec.config, state.ema
    classes = dataset.classes
    if isinstance(generator, PerClassGenerator):
        if len(generator.parts) < len(classes):
            evaluator = None  # the run finished early and makes no images of some classes
        classes = classes[: len(generator.parts)]
    else:
        standing_statistics(generator, config, dataset.labels, NORM_IMAGES)
    graph = export_generator(generator, config)
    parity = check_parity(graph, generator, config, len(classes))
    folder = _export_folder(spec, settings)
    (folder / GENERATOR_FILE).write_bytes(graph)
    grid = sample_grid(generator, config, replace(dataset, classes=classes), reestimate=False)
    (folder / PREVIEW_FILE).write_bytes(grid_png(grid))
    memorisation = None
    if evaluator is not None:
        memorisation, pairs = memorisation_of(evaluator, generator, config)
        (folder / NEIGHBOURS_FILE).write_bytes(grid_png(pairs))
    manifest = _manifest(spec, state, dataset, parity).model_copy(
        update={
            "classes": classes,
            "metrics": final_metrics(state, evaluator),
            "memorisation": memorisation,
            "images_seen": state.cur_nimg if images_seen is None else images_seen,
        }
    )
    return ResultLine(manifest=manifest, folder=str(folder))


def rehearse_export(
    spec: RunSpec,
    state: TrainState | PerClassState,
    dataset: ImageDataset,
    settings: Settings,
    evaluator: Evaluator | None,
) -> None:
    """Exports and evaluates the untrained generator, so that an export that cannot work fails before training.

    Leaves the state and torch's CPU random state as they were. Raises ParityFailed, BadConfig, OSError.
    """
    with torch.random.fork_rng(devices=[]):
        part = state.part.ema if isinstance(state, PerClassState) else state.ema
        # One class stands for all: their networks have the same shape.
        generator = PerClassGenerator([part], spec.config.image_shape) if isinstance(state, PerClassState) else part
        parity = check_parity(export_generator(generator, spec.config), generator, spec.config, num_classes=1)
        _manifest(spec, state, dataset, parity).model_dump_json()
        _export_folder(spec, settings)
        if evaluator is not None:
            evaluator.extract(generator, spec.config, min(BATCH, spec.config.eval_images))


def _export_folder(spec: RunSpec, settings: Settings) -> Path:
    # One folder per attempt: a trainer that lost its worker may still write to the folder of its attempt.
    folder = run_folder(settings, spec.run_id) / f"export-{spec.attempt}"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _manifest(spec: RunSpec, state: Resumable, dataset: ImageDataset, parity: Parity) -> ModelManifest:
    """The manifest of the model in its present state, without metrics."""
    config = spec.config
    return ModelManifest(
        id=model_id_of(spec.run_id, spec.preset),
        job_id=spec.run_id,
        created_at=datetime.now(UTC),
        preset=spec.preset,
        config=config,
        dataset=spec.dataset,
        classes=dataset.classes,
        data_digest=dataset.digest,
        resolution=config.resolution,
        channels=config.image_shape[0],
        latent_dim=config.latent_dim,
        conditional=config.conditional or config.per_class,
        parity=parity,
        images_seen=state.cur_nimg,
        device=device_name(state.device),
        wall_seconds=round(state.wall_seconds, 1),
    )


def grid_png(images: Tensor) -> bytes:
    """PNG of images [N, C, H, W] uint8, ten per row; grey if they are."""
    count, channels, height, width = images.shape
    columns = min(10, count)
    rows = -(-count // columns)
    grid = torch.zeros(rows * columns, channels, height, width, dtype=torch.uint8)
    grid[:count] = images
    tiles = grid.view(rows, columns, channels, height, width)
    pixels = tiles.permute(0, 3, 1, 4, 2).reshape(rows * height, columns * width, channels)
    buffer = io.BytesIO()
    Image.fromarray(pixels.squeeze(2).numpy() if channels == 1 else pixels.numpy()).save(buffer, "PNG")
    return buffer.getvalue()
