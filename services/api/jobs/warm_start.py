"""Validates warm starts when a job is submitted: does the checkpoint exist, and does it fit the config and the data?"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from services.api.jobs.class_names import ClassNames, shown
from shared.configs.checkpoint_refs import DISCRIMINATOR_FIELDS, NETWORK_FIELDS, differences, job_of
from shared.configs.train import TrainConfig
from shared.errors import InvalidInput, UnknownJob
from shared.jobs.record import JobConfig
from shared.jobs.store import JobStore
from shared.storage.artifacts import ArtifactStore
from shared.storage.model_registry import ModelRegistry
from shared.storage.starting_points import StartingPoint, find_starting_points, find_warm_start


@dataclass(frozen=True)
class SourceRun:
    """The run that a job starts from, known by its job record or by the manifest of its model."""

    config: JobConfig
    dataset: str
    classes: tuple[str, ...] | None  # None if it has not published a model


def find_source_run(reference: str | None, store: JobStore, registry: ModelRegistry) -> SourceRun | None:
    """None without a reference, and for a run that is in neither the job store nor the registry."""
    if reference is None:
        return None
    job_id = job_of(reference)
    manifest = next((manifest for manifest in registry.list() if manifest.job_id == job_id), None)
    try:
        job = store.get(job_id)
    except UnknownJob:
        return SourceRun(manifest.config, manifest.dataset, manifest.classes) if manifest else None
    return SourceRun(job.config, job.dataset, manifest.classes if manifest else None)


def check_warm_start(config: TrainConfig, source: SourceRun | None, artifacts: ArtifactStore, starter: Path) -> None:
    """Raises InvalidInput. Only the trainer can check a checkpoint without a source run."""
    if config.from_checkpoint is not None:
        point = _find("from_checkpoint", config.from_checkpoint, artifacts)
        _check_networks("from_checkpoint", config, NETWORK_FIELDS, source)
        if point.nimg >= config.total_nimg:
            message = f"must be more than the {point.nimg} images that {config.from_checkpoint} has seen already"
            raise InvalidInput.of("overrides.total_nimg", config.total_nimg, message)
    if config.init_discriminator_from is not None:
        _find("init_discriminator_from", config.init_discriminator_from, artifacts)
        _check_networks("init_discriminator_from", config, DISCRIMINATOR_FIELDS, source)
    if config.warm_start_from is not None:  # the trainer copies the layers that fit
        try:
            find_warm_start(config.warm_start_from, artifacts, starter)
        except LookupError as error:
            raise InvalidInput.of("overrides.warm_start_from", config.warm_start_from, str(error)) from None


def check_classes(config: TrainConfig, dataset: str, source: SourceRun | None, names: ClassNames) -> None:
    """Raises InvalidInput if the data set has other classes than those that the source's networks were trained for."""
    if source is None or not config.conditional:
        return
    trained, wanted = source.classes or names.of_dataset(source.dataset), names.of_dataset(dataset)
    if trained is None or wanted is None or trained == wanted:
        return
    if config.from_checkpoint is None and len(trained) == len(wanted):
        return  # a discriminator can be trained further for other classes
    field = "from_checkpoint" if config.from_checkpoint else "init_discriminator_from"
    message = (
        f"{field} names a run on data set {source.dataset!r} with {shown(trained)}. This data set has {shown(wanted)}. "
        f"Train on data with the same classes, or without {field}"
    )
    raise InvalidInput.of("dataset", dataset, message)


def _find(field: str, reference: str, artifacts: ArtifactStore) -> StartingPoint:
    try:
        return find_starting_points(reference, artifacts)[0]
    except LookupError as error:
        raise InvalidInput.of(f"overrides.{field}", reference, str(error)) from None


def _check_networks(field: str, config: TrainConfig, fields: Iterable[str], source: SourceRun | None) -> None:
    """Compares `fields` of the config with those of the source run."""
    if source is None:
        return
    reference = getattr(config, field)
    if not isinstance(source.config, TrainConfig):
        message = "this job trained no GAN; name one that did"
        raise InvalidInput.of(f"overrides.{field}", reference, message)
    if differing := differences(config, source.config, fields):
        message = f"its networks have another shape; set these overrides as in that job: {', '.join(differing)}"
        raise InvalidInput.of(f"overrides.{field}", reference, message)
