"""Resolves a request for a data set: which model, and how many images of which class."""

from __future__ import annotations

from services.api.jobs.class_names import ClassNames, shown
from services.api.schemas.generated import Balance, GenerateJobRequest
from shared.configs.generate import MAX_DATASET_IMAGES, SHARD_IMAGES, GenerateConfig
from shared.errors import InvalidInput, UnknownAlias, UnknownModel, did_you_mean
from shared.storage.model_registry import DEFAULT_ALIAS, ModelManifest, ModelRegistry

MAX_SHARD_PIXEL_BYTES = 64 << 20  # a worker holds the pixels of two files
MIN_THRESHOLD = 0.5  # of rejection sampling: above one half, no image belongs to two classes


def resolve_generation(
    request: GenerateJobRequest, registry: ModelRegistry, class_names: ClassNames
) -> tuple[GenerateConfig, str]:
    """-> (the config, the data set that the model was trained on). Raises InvalidInput."""
    manifest = _find_model(request.model or DEFAULT_ALIAS, registry)
    counts = _counts(request, manifest, class_names)
    total = sum(counts.values()) or request.n or 0
    if not 1 <= total <= MAX_DATASET_IMAGES:
        raise InvalidInput.of("classes", total, f"a data set has 1 to {MAX_DATASET_IMAGES:,} images")
    _check_classes(counts, request, manifest, class_names)
    config = GenerateConfig(
        model=manifest.id,
        model_digest=manifest.digest,
        classes=counts,
        n=total,
        format=request.format,
        seed=request.seed,
        truncation=request.truncation,
        min_confidence=request.min_confidence,
        compress=request.compress,
        shard_images=shard_images_of(manifest),
    )
    return config, manifest.dataset


def shard_images_of(manifest: ModelManifest) -> int:
    """Images per file: SHARD_IMAGES, or fewer of large images, so that a worker needs little memory."""
    return min(SHARD_IMAGES, MAX_SHARD_PIXEL_BYTES // (manifest.channels * manifest.resolution**2))


def _find_model(name: str, registry: ModelRegistry) -> ModelManifest:
    """By alias or id. Raises InvalidInput."""
    try:
        try:
            return registry.get(registry.resolve(name))
        except UnknownAlias:
            return registry.get(name)
    except UnknownModel:
        raise InvalidInput.of("model", name, "there is no model or alias of this name; see GET /models") from None


def _counts(request: GenerateJobRequest, manifest: ModelManifest, class_names: ClassNames) -> dict[str, int]:
    """Images of each class; empty for images without a class."""
    if request.balance is not None:
        return _missing(request.balance, class_names)
    if request.classes is not None:
        return {name: count for name, count in request.classes.items() if count}
    if not manifest.conditional or request.n is None:
        return {}
    share, rest = divmod(request.n, len(manifest.classes))
    counts = {name: share + (number < rest) for number, name in enumerate(manifest.classes)}
    return {name: count for name, count in counts.items() if count}


def _missing(balance: Balance, class_names: ClassNames) -> dict[str, int]:
    """What each class of a data set lacks to be as large as the largest. Raises InvalidInput."""
    counts = class_names.class_counts(balance.dataset)
    if counts is None:
        message = (
            "the API has no folder of this data set, so it cannot count its images; give the number of images of each "
            "class in `classes`"
        )
        raise InvalidInput.of("balance.dataset", balance.dataset, message)
    largest = max(counts.values())
    missing = {name: largest - count for name, count in counts.items() if count < largest}
    if not missing:
        message = f"all of its {len(counts)} classes have {largest:,} images, so nothing is missing"
        raise InvalidInput.of("balance.dataset", balance.dataset, message)
    return missing


def _check_classes(
    counts: dict[str, int], request: GenerateJobRequest, manifest: ModelManifest, class_names: ClassNames
) -> None:
    """Raises InvalidInput for classes that the model or the classifier does not have."""
    by_classifier = bool(counts) and not manifest.conditional
    field = "balance.dataset" if request.balance else "classes"
    if manifest.conditional:
        _check_known(counts, manifest.classes, f"model '{manifest.id}'", field)
    elif request.min_confidence is not None and not counts:
        message = f"model '{manifest.id}' makes images without a class; name classes, or leave this out"
        raise InvalidInput.of("min_confidence", request.min_confidence, message)
    elif request.min_confidence is not None and request.min_confidence < MIN_THRESHOLD:
        message = f"must be at least {MIN_THRESHOLD:g} for an unconditional model, so that no image has two classes"
        raise InvalidInput.of("min_confidence", request.min_confidence, message)
    if by_classifier or request.min_confidence is not None:
        _check_known(counts, class_names.of_classifier(), "the classifier", field)


def _check_known(counts: dict[str, int], known: tuple[str, ...], owner: str, field: str) -> None:
    for name in counts:
        if name not in known:
            classes = shown(known) if known else "no classes"
            raise InvalidInput.of(field, name, f"unknown class; {owner} has {classes}{did_you_mean(name, known)}")
