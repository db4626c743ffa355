"""One training run from data set to exported model: what a job does, and what the command line does by hand."""

from __future__ import annotations

import io
import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from services.trainer.data.datasets import ImageDataset, load_dataset
from services.trainer.distributed.processes import ALONE, Ranks, joined, started
from services.trainer.export.onnx import check_parity, export_generator
from services.trainer.metrics.evaluation import Evaluator
from services.trainer.metrics.in_training import extend_last_row, final_metrics, open_evaluation
from services.trainer.networks.per_class_generator import PerClassGenerator
from services.trainer.runs import per_class
from services.trainer.runs.checkpoint import Checkpoints, pack, pack_weights, unpack
from services.trainer.runs.early_stop import take_best
from services.trainer.runs.monitor import TrainingMonitor
from services.trainer.runs.per_class import PerClassState
from services.trainer.runs.starting_points import begin
from services.trainer.training import loop
from services.trainer.training.compiler import check_compiler
from services.trainer.training.profiling import profiled
from services.trainer.training.runtime import choose_runtime
from services.trainer.training.sampling import NORM_IMAGES, sample_grid, standing_statistics
from services.trainer.training.state import Resumable, TrainState
from shared.configs.presets import TrainConfig
from shared.errors import DISK_FULL, BadConfig
from shared.jobs.record import Event
from shared.jobs.trainer_messages import EventLine, MetricsLine, ProgressLine, ResultLine, StopSignal, TrainerLine
from shared.settings import Settings
from shared.storage.artifacts import ArtifactStore
from shared.storage.model_registry import GENERATOR_FILE, PREVIEW_FILE, ModelManifest, model_id_of


@dataclass(frozen=True)
class RunSpec:
    """What to train, and under which name."""

    run_id: str
    preset: str
    config: TrainConfig
    dataset: str
    attempt: int = 1


def run(
    spec: RunSpec,
    settings: Settings,
    emit: Callable[[TrainerLine], None],
    should_stop: Callable[[], StopSignal | None],
    profile: Path | None = None,
) -> bool:
    """Trains, going on from the last checkpoint if there is one, and exports. `profile`: where to write a trace.

    False when it was told to leave before the end. Raises TrainingFailed, MemoryError, OSError.
    """
    # Several devices: this process has the first and starts one for each of the others, which call `follow`.
    told = settings.model_dump(mode="json", include={"datasets", "threads", "require_cuda", "fast_paths"})
    description = json.dumps({"config": spec.config.model_dump(), "dataset": spec.dataset, "settings": told})
    with started(spec.config.gpus, description) as ranks, profiled(should_stop, profile) as stop:
        return _run(spec, settings, emit, stop, ranks=ranks)


def _run(
    spec: RunSpec,
    settings: Settings,
    emit: Callable[[TrainerLine], None],
    should_stop: Callable[[], StopSignal | None],
    *,
    ranks: Ranks,
) -> bool:
    device = pick_device(settings, ranks)
    tell(
        emit,
        "loading",
        f"loading data set {spec.dataset} from {settings.dataset_root}; CIFAR-10 is downloaded if absent",
    )
    artifacts = ArtifactStore(settings.artifact_url)
    checkpoints = Checkpoints(artifacts, spec.run_id, spec.attempt)
    dataset = load_dataset(settings.dataset_root, spec.dataset).to(device)
    state = _open_state(spec.config, dataset, settings, ranks, emit)
    where = device_name(device) if ranks.count == 1 else f"{ranks.count} x {device_name(device)}"
    tell(emit, "started", f"{len(dataset):,} images of {len(dataset.classes)} classes, on {where}")
    if not restore(state, checkpoints, emit) and isinstance(state, TrainState):
        begin(state, artifacts, settings, partial(tell, emit))
        for row in state.metrics:  # of the run whose checkpoint was taken up
            emit(MetricsLine(row=row))
    if isinstance(state, TrainState) and ranks.count > 1:
        ranks.broadcast_bytes(pack(state.state_dict()))
    evaluator = open_evaluation(state, settings, spec.dataset, dataset, partial(tell, emit))
    oversight = TrainingMonitor(state, dataset, partial(tell, emit))

    def on_report(report: loop.Report) -> None:
        match report:
            case loop.ProgressReport():
                emit(ProgressLine(images_seen=report.nimg, **{k: v for k, v in asdict(report).items() if k != "nimg"}))
            case loop.MetricsReport(row):  # the newest of state.metrics
                extend_last_row(state, evaluator)
                emit(MetricsLine(row=row))
                oversight.on_metrics()
            case loop.SamplesReport(nimg, images):
                oversight.look_at_grid(images)
                key = f"jobs/{spec.run_id}/samples/{nimg:012d}.png"
                with _surviving_a_full_disk(emit, "sample grid", nimg):
                    artifacts.write(key, grid_png(images))
                    tell(emit, "sample", f"sample grid after {nimg:,} images", nimg=nimg, key=key)
            case loop.CheckpointReport(saved, is_snapshot):
                with _surviving_a_full_disk(emit, "checkpoint", saved.cur_nimg):
                    checkpoints.save(saved.cur_nimg, saved.state_dict())
                    if is_snapshot:
                        artifacts.write(
                            f"jobs/{spec.run_id}/weights/{saved.cur_nimg:012d}.safetensors", pack_weights(saved)
                        )
                    tell(emit, "checkpoint", f"checkpoint after {saved.cur_nimg:,} images", nimg=saved.cur_nimg)

    def stop() -> StopSignal | None:
        return should_stop() or ("finish" if oversight.is_done else None)

    if isinstance(state, PerClassState):
        how = per_class.train(state, dataset, on_report, stop)
    else:
        how = loop.train(state, dataset, on_report, stop)
    if how == "leave":
        return False
    tell(emit, "exporting", "training is done; exporting to ONNX")
    images_seen = take_best(state, partial(tell, emit)) if isinstance(state, TrainState) else state.cur_nimg
    emit(export(spec, state, dataset, settings, evaluator, images_seen=images_seen))
    return True


def follow(description: str, rank: int, rendezvous: str) -> None:
    """What each further process of a run on several devices does: train along, and say nothing."""
    spec = json.loads(description)
    settings = Settings(**spec["settings"])
    config = TrainConfig.model_validate_json(json.dumps(spec["config"]))
    with joined(rank, config.gpus, rendezvous) as ranks:
        device = pick_device(settings, ranks)
        dataset = load_dataset(settings.dataset_root, spec["dataset"]).to(device)
        state = make_state(config, dataset, settings, ranks, _ignore)
        state.load_state_dict(unpack(ranks.broadcast_bytes(b"")))
        loop.train(state, dataset, _ignore, lambda: None)


def _open_state(
    config: TrainConfig,
    dataset: ImageDataset,
    settings: Settings,
    ranks: Ranks,
    emit: Callable[[TrainerLine], None],
) -> TrainState | PerClassState:
    def make(config: TrainConfig, dataset: ImageDataset) -> TrainState:
        return make_state(config, dataset, settings, ranks, emit)

    return PerClassState(config, dataset, make) if config.per_class else make(config, dataset)


def make_state(
    config: TrainConfig,
    dataset: ImageDataset,
    settings: Settings,
    ranks: Ranks,
    emit: Callable[[TrainerLine], None],
) -> TrainState:
    """A fresh state with the fast paths that the settings allow and this machine can go."""
    device = dataset.images.device
    runtime = choose_runtime(device, settings)
    if ranks.count > 1:
        runtime = replace(runtime, capture=False, compile=False)  # neither is tested with collectives
    num_classes = len(dataset.classes)
    state = TrainState(config, num_classes, device, runtime, ranks)
    if why_not := check_compiler(state, num_classes):
        tell(emit, "warning", f"torch.compile does not work here, training goes on without it: {why_not}")
        state = TrainState(config, num_classes, device, replace(runtime, compile=False), ranks)
    return state


def export(
    spec: RunSpec,
    state: Resumable,
    dataset: ImageDataset,
    settings: Settings,
    evaluator: Evaluator | None = None,
    *,
    images_seen: int | None = None,
) -> ResultLine:
    """Writes the model's files into a folder of the run, and describes and measures them. Raises ParityFailed.

    `images_seen` is said where the averaged generator is not the latest.
    """
    config = spec.config
    generator = state.ema
    if isinstance(generator, PerClassGenerator):
        if len(generator.parts) < len(dataset.classes):
            evaluator = None  # told to finish early, it has no images of some classes to be measured by
        dataset = replace(dataset, classes=dataset.classes[: len(generator.parts)])
    else:
        standing_statistics(generator, config, len(dataset.classes), NORM_IMAGES)
    graph = export_generator(generator, config)
    parity = check_parity(graph, generator, config, len(dataset.classes))
    # One folder per attempt: a trainer that was left behind by a worker that is gone may still be writing to its own.
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


def pick_device(settings: Settings, ranks: Ranks = ALONE) -> torch.device:
    """CUDA if there is any, else the CPU with the threads of the settings. Raises BadConfig where there are too few."""
    if torch.cuda.is_available():
        if ranks.count > torch.cuda.device_count():
            raise BadConfig(f"the config asks for {ranks.count} GPUs; this machine has {torch.cuda.device_count()}")
        torch.cuda.set_device(ranks.rank)
        return torch.device("cuda", ranks.rank)
    if settings.require_cuda:
        raise BadConfig("KILN_REQUIRE_CUDA is set and torch sees no CUDA device")
    torch.set_num_threads(max(1, (settings.threads or os.cpu_count() or 1) // ranks.count))
    return torch.device("cpu")


def device_name(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"CPU, {torch.get_num_threads()} threads"


def run_folder(settings: Settings, run_id: str) -> Path:
    """Scratch space of a run on this machine: its log and its export. Nothing in it is needed to go on elsewhere."""
    return settings.data / "work" / run_id


def grid_png(images: Tensor) -> bytes:
    """PNG of images [N, 3, H, W] uint8, ten to a row."""
    count, _, height, width = images.shape
    columns = min(10, count)
    rows = -(-count // columns)
    sheet = torch.zeros(rows * columns, 3, height, width, dtype=torch.uint8)
    sheet[:count] = images
    pixels = (
        sheet.view(rows, columns, 3, height, width).permute(0, 3, 1, 4, 2).reshape(rows * height, columns * width, 3)
    )
    buffer = io.BytesIO()
    Image.fromarray(pixels.numpy()).save(buffer, "PNG")
    return buffer.getvalue()


def restore(state: Resumable, checkpoints: Checkpoints, emit: Callable[[TrainerLine], None]) -> bool:
    """Takes up the run's newest whole checkpoint; says whether there is one. Raises BadConfig."""
    saved = load_newest(checkpoints, emit)
    if saved is None:
        return False
    if TrainConfig.model_validate_json(saved["config"]) != state.config:
        raise BadConfig("the run's checkpoint was trained with another config; start a run of another name")
    state.load_state_dict(saved)
    # What was trained beyond the checkpoint is trained again; what was reported up to it stands, and is told again
    # in case the last worker died before it could pass it on.
    for row in state.metrics:
        emit(MetricsLine(row=row))
    tell(emit, "resumed", f"going on after {state.cur_nimg:,} images", nimg=state.cur_nimg)
    return True


def load_newest(checkpoints: Checkpoints, emit: Callable[[TrainerLine], None]) -> dict[str, Any] | None:
    """The newest whole checkpoint, if there is one; warns of each damaged one that is passed over."""

    def on_corrupt(name: str, why: str) -> None:
        tell(emit, "warning", f"checkpoint {name} is damaged and was passed over: {why}", checkpoint=name)

    return checkpoints.load_newest(on_corrupt)


@contextmanager
def _surviving_a_full_disk(emit: Callable[[TrainerLine], None], what: str, nimg: int) -> Iterator[None]:
    """Training is worth more than one grid or one checkpoint: the last checkpoint stays, and the next one may fit."""
    try:
        yield
    except OSError as error:
        if error.errno not in DISK_FULL:
            raise
        tell(emit, "warning", f"the {what} after {nimg:,} images could not be written: {error.strerror}", nimg=nimg)


def _ignore(report: object) -> None:
    pass


def tell(emit: Callable[[TrainerLine], None], kind: str, message: str, **data: object) -> None:
    """An event of the run."""
    emit(EventLine(event=Event(kind=kind, message=message, data=data)))
