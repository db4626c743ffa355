"""One classifier from data set to files: what `python -m services.trainer train-classifier` does."""

from __future__ import annotations

import shlex
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from services.trainer.checkpoint import Checkpoints
from services.trainer.classifier.files import export_classifier
from services.trainer.classifier.training import ClassifierState, class_accuracies, train
from services.trainer.data import load_dataset
from services.trainer.run import device_name, pick_device
from shared.artifacts import ArtifactStore
from shared.classifier import ClassifierConfig, ClassifierManifest, write_classifier
from shared.errors import BadConfig
from shared.settings import Settings


@dataclass(frozen=True)
class ClassifierSpec:
    """What to train, under which name, and where its files go."""

    run_id: str
    config: ClassifierConfig
    dataset: str
    folder: Path
    command: tuple[str, ...] = ()


def train_classifier(
    spec: ClassifierSpec, settings: Settings, say: Callable[[str], None], should_stop: Callable[[], bool]
) -> ClassifierManifest | None:
    """Trains, going on from the last checkpoint if there is one, measures on the test images and writes the files.

    None when it was told to leave before the end. Raises TrainingFailed.
    """
    device = pick_device(settings)
    images = load_dataset(settings.dataset_root, spec.dataset).to(device)
    test = load_dataset(settings.dataset_root, spec.dataset, "test")
    state = ClassifierState(spec.config, len(images.classes), device)
    checkpoints = Checkpoints(ArtifactStore(settings.artifact_url), spec.run_id, attempt=1)
    _restore(state, checkpoints, say)
    started_s = time.monotonic() - state.wall_seconds
    total_nimg = spec.config.epochs * len(images)
    say(f"{len(images):,} images of {len(images.classes)} classes, {total_nimg:,} to see, on {device_name(device)}")

    def save() -> None:
        state.wall_seconds = time.monotonic() - started_s
        checkpoints.save(state.cur_nimg, state.state_dict())

    def tick(row: dict[str, float]) -> None:
        say("  ".join(f"{name} {value:.4g}" if name != "nimg" else f"nimg {value:,.0f}" for name, value in row.items()))

    if train(state, images, tick, save, should_stop) == "leave":
        return None
    say(f"training is done; measuring on {len(test):,} test images")
    accuracies = class_accuracies(state.result, test)
    files, parity = export_classifier(state.result)
    is_right = accuracies * test.labels.bincount(minlength=len(test.classes))
    draft = ClassifierManifest(
        created_at=datetime.now(UTC),
        dataset=spec.dataset,
        classes=images.classes,
        config=spec.config,
        feature_dim=state.result.linear.in_features,
        test_images=len(test),
        test_accuracy=round(is_right.sum().item() / len(test), 6),
        class_accuracy=dict(zip(images.classes, accuracies.tolist(), strict=True)),
        images_seen=state.cur_nimg,
        wall_seconds=round(state.wall_seconds, 1),
        images_per_second=round(state.cur_nimg / state.wall_seconds, 1),
        device=device_name(device),
        command=shlex.join(spec.command),
        parity=parity,
    )
    return write_classifier(spec.folder, draft, files)


def _restore(state: ClassifierState, checkpoints: Checkpoints, say: Callable[[str], None]) -> None:
    saved = checkpoints.load_newest(lambda name, why: say(f"checkpoint {name} is damaged and was passed over: {why}"))
    if saved is None:
        return
    if ClassifierConfig.model_validate_json(saved["config"]) != state.config:
        raise BadConfig("the run's checkpoint was trained with another config; start a run of another name")
    state.load_state_dict(saved)
    say(f"going on after {state.cur_nimg:,} images")
