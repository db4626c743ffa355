"""Validates warm-start references when a job is submitted: does the checkpoint exist, and do its networks fit?"""

from __future__ import annotations

from collections.abc import Iterable

from shared.configs.checkpoint_refs import DISCRIMINATOR_FIELDS, NETWORK_FIELDS, differences, is_classifier, job_of
from shared.configs.train import TrainConfig
from shared.errors import InvalidInput, UnknownJob
from shared.jobs.store import JobStore
from shared.storage.artifacts import ArtifactStore
from shared.storage.starting_points import StartingPoint, find_starting_points


def check_warm_start(config: TrainConfig, store: JobStore, artifacts: ArtifactStore) -> None:
    """Raises InvalidInput. The trainer alone checks a checkpoint whose job is no longer in the job store."""
    if config.from_checkpoint is not None:
        point = _find("from_checkpoint", config.from_checkpoint, artifacts)
        _check_networks("from_checkpoint", config, NETWORK_FIELDS, store)
        if point.nimg >= config.total_nimg:
            message = f"must be more than the {point.nimg} images that {config.from_checkpoint} has seen already"
            raise InvalidInput.of("overrides.total_nimg", config.total_nimg, message)
    start = config.init_discriminator_from
    if start is not None and not is_classifier(start):
        _find("init_discriminator_from", start, artifacts)
        _check_networks("init_discriminator_from", config, DISCRIMINATOR_FIELDS, store)


def _find(field: str, text: str, artifacts: ArtifactStore) -> StartingPoint:
    try:
        return find_starting_points(text, artifacts)[0]
    except LookupError as error:
        raise InvalidInput.of(f"overrides.{field}", text, str(error)) from None


def _check_networks(field: str, config: TrainConfig, fields: Iterable[str], store: JobStore) -> None:
    """Compares `fields` of the config with those of the job that `field` names."""
    text = str(getattr(config, field))
    try:
        other = store.get(job_of(text)).config
    except UnknownJob:
        return
    if not isinstance(other, TrainConfig):
        message = "this job trained a classifier; name a job that trained a GAN"
        raise InvalidInput.of(f"overrides.{field}", text, message)
    if differing := differences(config, other, fields):
        message = f"its networks have another shape; set these overrides as in that job: {', '.join(differing)}"
        raise InvalidInput.of(f"overrides.{field}", text, message)
