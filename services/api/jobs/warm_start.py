"""Whether what a job is to begin with is there and fits, so that its user hears it now and not from a worker."""

from __future__ import annotations

from collections.abc import Iterable

from services.api.state import AppState
from shared.configs.checkpoint_refs import DISCRIMINATOR_FIELDS, NETWORK_FIELDS, differences, is_classifier, job_of
from shared.configs.train import TrainConfig
from shared.errors import InvalidInput, UnknownJob
from shared.storage.starting_points import StartingPoint, find_starting_points


def check_beginning(config: TrainConfig, state: AppState) -> None:
    """Raises InvalidInput. A job that is no longer in the job store is looked at by the trainer only."""
    if config.from_checkpoint is not None:
        point = _check("from_checkpoint", config.from_checkpoint, config, NETWORK_FIELDS, state)
        if point.nimg >= config.total_nimg:
            message = f"{config.from_checkpoint} has seen {point.nimg} images already; it must be more"
            raise InvalidInput.of("overrides.total_nimg", config.total_nimg, message)
    start = config.init_discriminator_from
    if start is not None and not is_classifier(start):
        _check("init_discriminator_from", start, config, DISCRIMINATOR_FIELDS, state)


def _check(field: str, text: str, config: TrainConfig, fields: Iterable[str], state: AppState) -> StartingPoint:
    try:
        point = find_starting_points(text, state.artifacts)[0]
    except LookupError as error:
        raise InvalidInput.of(f"overrides.{field}", text, str(error)) from None
    try:
        theirs = state.store.get(job_of(text)).config
    except UnknownJob:
        return point
    if not isinstance(theirs, TrainConfig):
        raise InvalidInput.of(f"overrides.{field}", text, "it trained a classifier")
    if found := differences(config, theirs, fields):
        raise InvalidInput.of(f"overrides.{field}", text, f"its networks have another shape: {', '.join(found)}")
    return point
