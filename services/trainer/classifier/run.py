"""One classifier run: loads the data set, trains, measures on test images and writes the files."""

from __future__ import annotations

import shlex
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import torch

from services.trainer.classifier.files import export_classifier
from services.trainer.classifier.training import ClassifierState, class_accuracies, overall_accuracy, train
from services.trainer.data.datasets import ImageDataset
from services.trainer.data.device_memory import image_limit_bytes
from services.trainer.data.loading import load_test_images, load_training_images
from services.trainer.data.packing import Preprocessing
from services.trainer.data.progress import loading_progress
from services.trainer.data.pushed import locate_dataset
from services.trainer.distributed.devices import reserved_gpus
from services.trainer.runs.checkpoint import Checkpoints, check_config, describe_data, load_newest
from services.trainer.runs.device import device_name, pick_device
from services.trainer.runs.spec import run_folder
from shared.configs.classifier import ClassifierConfig
from shared.errors import BadDataset
from shared.jobs.record import Job
from shared.jobs.trainer_messages import (
    ClassifierLine,
    MetricsLine,
    ProgressLine,
    SendEvent,
    SendMessage,
    StopSignal,
    event_sender,
)
from shared.settings import Settings
from shared.storage.artifacts import ArtifactStore
from shared.storage.classifier_files import ClassifierManifest, write_classifier


@dataclass(frozen=True)
class ClassifierSpec:
    """What to train, under which name, and the folder of its files."""

    run_id: str
    config: ClassifierConfig
    dataset: str
    folder: Path
    command: tuple[str, ...] = ()
    attempt: int = 1


def train_classifier(
    spec: ClassifierSpec,
    settings: Settings,
    send: SendMessage,
    should_stop: Callable[[], StopSignal | None],
) -> ClassifierManifest | None:
    """Trains, resuming from the last checkpoint if there is one, measures on the test images and writes the files.

    Returns None if a stop signal ended it before its budget. Raises TrainingFailed.
    """
    with reserved_gpus(1, settings) as gpus:
        return _train_on(pick_device(settings, reserved=gpus.devices), spec, settings, send, should_stop)


def _train_on(
    device: torch.device,
    spec: ClassifierSpec,
    settings: Settings,
    send: SendMessage,
    should_stop: Callable[[], StopSignal | None],
) -> ClassifierManifest | None:
    send_event = event_sender(send)
    preprocessing, on_progress = Preprocessing.of(spec.config), loading_progress(send_event)
    images = load_training_images(spec.dataset, settings, preprocessing, spec.config.on_bad_file, on_progress)
    test = _load_test_images(spec.dataset, images, settings, send_event)
    images = images.to(device, image_limit_bytes(device, settings.device_images_gb))
    state = ClassifierState(spec.config, len(images.classes), device)
    checkpoints = Checkpoints(ArtifactStore(settings.artifact_url), spec.run_id, spec.attempt)
    if not _restore(state, checkpoints, images, send_event):
        with torch.random.fork_rng(devices=[]):
            export_classifier(state.network, images.images.shape[-1])  # what cannot be exported fails before training
    started_s = time.monotonic() - state.wall_seconds
    total_nimg = spec.config.epochs * len(images)
    size = f"{len(images):,} images of {len(images.classes)} classes, {total_nimg:,} images to train on"
    send_event("started", f"{size}, on {device_name(device)}")

    def save() -> None:
        state.wall_seconds = time.monotonic() - started_s
        checkpoints.save(state.cur_nimg, state.state_dict() | {"data": describe_data(images)})
        send_event("checkpoint", f"checkpoint after {state.cur_nimg:,} images", nimg=state.cur_nimg)

    def tick(row: dict[str, float]) -> None:
        send(MetricsLine(row=row))
        rate = row["images_per_second"]
        send(ProgressLine(images_seen=state.cur_nimg, images_per_second=rate, images_total=total_nimg))

    if train(state, images, tick, save, should_stop) == "leave":
        return None
    send_event("measuring", f"training is done; measuring on {len(test):,} test images")
    return _measure_and_write(spec, state, images, test)


def _measure_and_write(
    spec: ClassifierSpec, state: ClassifierState, images: ImageDataset, test: ImageDataset
) -> ClassifierManifest:
    """Measures the trained classifier on the test images and writes its files. Raises ParityFailed."""
    accuracies = class_accuracies(state.network, test)
    crops = class_accuracies(state.network, test, multicrop=True)
    files, parity = export_classifier(state.network, images.images.shape[-1])
    counts = test.labels.bincount(minlength=len(images.classes))
    draft = ClassifierManifest(
        created_at=datetime.now(UTC),
        dataset=spec.dataset,
        classes=images.classes,
        data_digest=images.digest,
        config=spec.config,
        resolution=images.images.shape[-1],
        feature_dim=state.network.linear.in_features,
        test_images=len(test),
        test_accuracy=round(overall_accuracy(accuracies, test), 6),
        multicrop_accuracy=round(overall_accuracy(crops, test), 6),
        class_accuracy={
            name: accuracy
            for name, accuracy, count in zip(images.classes, accuracies.tolist(), counts.tolist(), strict=True)
            if count
        },
        images_seen=state.cur_nimg,
        wall_seconds=round(state.wall_seconds, 3),
        images_per_second=round(state.cur_nimg / state.wall_seconds, 1),
        device=device_name(state.device),
        command=shlex.join(spec.command),
        parity=parity,
    )
    return write_classifier(spec.folder, draft, files)


def run_job(job: Job, settings: Settings, send: SendMessage, should_stop: Callable[[], StopSignal | None]) -> bool:
    """Trains the classifier of a job; False if a stop signal ended it before its budget. Raises TrainingFailed."""
    assert isinstance(job.config, ClassifierConfig)
    folder = run_folder(settings, job.id) / f"export-{job.attempt}"
    spec = ClassifierSpec(job.id, job.config, job.dataset, folder, ("POST", "/jobs"), job.attempt)
    manifest = train_classifier(spec, settings, send, should_stop)
    if manifest is None:
        return False
    send(ClassifierLine(manifest=manifest, folder=str(folder)))
    return True


def _load_test_images(name: str, images: ImageDataset, settings: Settings, send_event: SendEvent) -> ImageDataset:
    """The test images, whose accuracy the classifier is judged by. Raises BadDataset; warns of classes without any."""
    test = load_test_images(name, images, settings, loading_progress(send_event))
    if test is None:
        raise BadDataset(
            f"data set {name} has no test split, which a classifier needs to measure its accuracy: put images that it "
            f"is not trained on into {locate_dataset(name, settings) / 'test'}/<class>"
        )
    counts = test.labels.bincount(minlength=len(images.classes)).tolist()
    if empty := [label for label, count in zip(images.classes, counts, strict=True) if not count]:
        send_event("warning", f"the test split has no images of {', '.join(empty)}; their accuracy is not measured")
    return test


def _restore(state: ClassifierState, checkpoints: Checkpoints, images: ImageDataset, send_event: SendEvent) -> bool:
    saved = load_newest(checkpoints, images, send_event)
    if saved is None:
        return False
    check_config(saved, state.config)
    state.load_state_dict(saved)
    send_event("resumed", f"resuming after {state.cur_nimg:,} images", nimg=state.cur_nimg)
    return True
