"""Exports a trained generator: ONNX graph, preview and manifest, in a folder ready to be published."""

from __future__ import annotations

import io
from dataclasses import replace
from datetime import UTC, datetime

import torch
from PIL import Image
from torch import Tensor

from services.trainer.data.datasets import ImageDataset
from services.trainer.export.onnx import check_parity, export_generator
from services.trainer.metrics.evaluation import Evaluator
from services.trainer.metrics.in_training import final_metrics
from services.trainer.networks.per_class_generator import PerClassGenerator
from services.trainer.runs.device import device_name
from services.trainer.runs.spec import RunSpec, run_folder
from services.trainer.training.sampling import NORM_IMAGES, sample_grid, standing_statistics
from services.trainer.training.state import Resumable
from shared.jobs.trainer_messages import ResultLine
from shared.settings import Settings
from shared.storage.model_registry import GENERATOR_FILE, PREVIEW_FILE, ModelManifest, model_id_of


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
    if isinstance(generator, PerClassGenerator):
        if len(generator.parts) < len(dataset.classes):
            evaluator = None  # the run finished early and makes no images of some classes
        dataset = replace(dataset, classes=dataset.classes[: len(generator.parts)])
    else:
        standing_statistics(generator, config, len(dataset.classes), NORM_IMAGES)
    graph = export_generator(generator, config)
    parity = check_parity(graph, generator, config, len(dataset.classes))
    # One folder per attempt: a trainer whose worker is gone may still be writing to its own.
    folder = run_folder(settings, spec.run_id) / f"export-{spec.attempt}"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / GENERATOR_FILE).write_bytes(graph)
    (folder / PREVIEW_FILE).write_bytes(grid_png(sample_grid(generator, config, dataset, reestimate=False)))
    manifest = ModelManifest(
        id=model_id_of(spec.run_id, spec.preset),
        job_id=spec.run_id,
        created_at=datetime.now(UTC),
        preset=spec.preset,
        config=config,
        dataset=spec.dataset,
        classes=dataset.classes,
        latent_dim=config.latent_dim,
        conditional=config.conditional or config.per_class,
        metrics=final_metrics(state, evaluator),
        parity=parity,
        images_seen=state.cur_nimg if images_seen is None else images_seen,
        device=device_name(state.device),
        wall_seconds=round(state.wall_seconds, 1),
    )
    return ResultLine(manifest=manifest, folder=str(folder))


def grid_png(images: Tensor) -> bytes:
    """PNG of images [N, 3, H, W] uint8, ten per row."""
    count, _, height, width = images.shape
    columns = min(10, count)
    rows = -(-count // columns)
    sheet = torch.zeros(rows * columns, 3, height, width, dtype=torch.uint8)
    sheet[:count] = images
    tiles = sheet.view(rows, columns, 3, height, width)
    pixels = tiles.permute(0, 3, 1, 4, 2).reshape(rows * height, columns * width, 3)
    buffer = io.BytesIO()
    Image.fromarray(pixels.numpy()).save(buffer, "PNG")
    return buffer.getvalue()
