"""Images of a class from any model: a conditional model takes the class as input, an unconditional one uses rejection
sampling with the classifier.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from services.api.images.class_names import class_index
from services.api.inference.classifier import LazyClassifier
from services.api.inference.loaded_model import MAX_BATCH, LoadedModel, Pixels
from services.generator.classifier import Classifier
from services.generator.latents import stream_of
from shared.errors import InvalidInput

THRESHOLD = 0.5  # above one half, no image belongs to two classes
MAX_DRAWS = 20_000
DRAWS_PER_IMAGE, MIN_DRAWS = 100, 1000  # the default limit
HEADERS = ("X-Kiln-Class-Method", "X-Kiln-Draws", "X-Kiln-Confidence")

Method = Literal["conditional", "per-class", "classifier"]


@dataclass(frozen=True)
class ClassSamplingRequest:
    """n images of each of `classes`, by name or number. The images of a seed and class are numbered from 0, and the
    first requested one has the number `first_index`.
    """

    classes: Sequence[str]
    n: int
    seed: int
    first_index: int = 0
    truncation: float | None = None
    threshold: float | None = None
    max_draws: int | None = None

    @property
    def draws_allowed(self) -> int:
        last = self.first_index + self.n
        return self.max_draws or min(MAX_DRAWS, max(MIN_DRAWS, DRAWS_PER_IMAGE * last * len(self.classes)))

    def expected_draws(self, num_classes: int) -> int:
        """The number of draws if all classes are equally frequent. All requested classes share the draws."""
        return min(self.draws_allowed, (self.first_index + self.n) * num_classes)


@dataclass(frozen=True)
class ClassSamples:
    """The images of one class and how they were chosen. `name` is None when no class was requested.

    Only rejection sampling fills the fields below `method`.
    """

    images: Pixels  # [N, H, W, C]
    name: str | None
    method: Method | None
    indices: Sequence[int] = ()  # [N], which draws of the seed were accepted
    confidences: Sequence[float] = ()  # [N], the classifier's probability of the class
    classifier: str | None = None  # its digest
    threshold: float | None = None

    @property
    def draws(self) -> int:
        """How many images were drawn to get the accepted ones."""
        return max(self.indices, default=-1) + 1

    def only(self, position: int) -> ClassSamples:
        """One of the images, with the provenance of a request for this image alone."""
        i = slice(position, position + 1)
        return replace(self, images=self.images[i], indices=self.indices[i], confidences=self.confidences[i])

    @property
    def provenance(self) -> dict[str, Any]:
        """How the images were chosen, for PNG files and JSON."""
        if self.method != "classifier":
            return {"class_method": self.method} if self.method else {}
        return {
            "class_method": self.method, "indices": list(self.indices), "draws": self.draws,
            "confidences": [round(confidence, 4) for confidence in self.confidences],
            "classifier": self.classifier, "threshold": self.threshold,
        }  # fmt: skip


def headers_of(rows: Sequence[ClassSamples]) -> dict[str, str]:
    """The response headers HEADERS for these samples."""
    method = rows[0].method
    if method != "classifier":
        return {HEADERS[0]: method} if method else {}
    confidences = [confidence for row in rows for confidence in row.confidences]
    least, mean = min(confidences), sum(confidences) / len(confidences)
    values = (method, str(max(row.draws for row in rows)), f"min={least:.4f}, mean={mean:.4f}")
    return dict(zip(HEADERS, values, strict=True))


def method_of(model: LoadedModel) -> Method | None:
    """How a model takes a class as input; None for an unconditional model."""
    if not model.manifest.conditional:
        return None
    return "per-class" if model.manifest.config.per_class else "conditional"


async def rejection_sample(
    request: ClassSamplingRequest, model: LoadedModel, classifier: LazyClassifier
) -> list[ClassSamples]:
    """Draws images in order of their index, and accepts for each class those that the classifier assigns to it.

    Accepted images depend on model, class, seed, index and the classifier alone. Raises InvalidInput for unknown
    classes, and when `draws_allowed` images are too few; Overloaded; NoModelReady when there is no classifier.
    """
    opened = await classifier.get()
    threshold = THRESHOLD if request.threshold is None else request.threshold
    accepted = [
        _Accepted(class_index(value, opened.classes, "the classifier"), request.first_index + request.n)
        for value in request.classes
    ]
    drawn, limit = 0, request.draws_allowed
    with classifier.reserve(request.expected_draws(len(opened.classes))):
        while (missing := max(row.missing for row in accepted)) and drawn < limit:
            # One draw in K belongs to a class on average; a larger batch would often generate unused images.
            count = min(limit - drawn, MAX_BATCH, max(8, missing * len(opened.classes)))
            latents = stream_of(request.seed, range(drawn, drawn + count), request.truncation)
            images = await model.sample(latents, [0] * count)
            probabilities = await classifier.probabilities(images)
            for row in accepted:
                row.add(drawn, images, probabilities[:, row.label], threshold)
            drawn += count
    if missing:
        raise _too_few(request, accepted, threshold, opened)
    return [row.as_samples(request, opened, threshold) for row in accepted]


class _Accepted:
    """The images of one class that were accepted so far, in the order of their draws."""

    def __init__(self, label: int, needed: int) -> None:
        self.label, self.needed = label, needed
        self.indices: list[int] = []
        self.images: list[Pixels] = []
        self.confidences: list[float] = []

    @property
    def missing(self) -> int:
        return self.needed - len(self.indices)

    def add(self, first: int, images: Pixels, probabilities: NDArray[np.float32], threshold: float) -> None:
        for position in np.flatnonzero(probabilities >= threshold)[: self.missing].tolist():
            self.indices.append(first + position)
            self.images.append(images[position])
            self.confidences.append(float(probabilities[position]))

    def as_samples(self, request: ClassSamplingRequest, classifier: Classifier, threshold: float) -> ClassSamples:
        start, name = request.first_index, classifier.classes[self.label]
        images, indices, confidences = np.stack(self.images[start:]), self.indices[start:], self.confidences[start:]
        return ClassSamples(images, name, "classifier", indices, confidences, classifier.digest, threshold)


def _too_few(
    request: ClassSamplingRequest, accepted: Sequence[_Accepted], threshold: float, classifier: Classifier
) -> InvalidInput:
    """Lists the accepted images class by class, so that the caller sees which class is rare."""
    classes = classifier.classes
    counts = ", ".join(f"{len(row.indices)} of {row.needed} of class '{classes[row.label]}'" for row in accepted)
    return InvalidInput.of(
        "max_draws", request.draws_allowed,
        f"the classifier accepted {counts} among {request.draws_allowed:,} images of seed {request.seed} at threshold "
        f"{threshold:g}; allow more draws, lower the threshold, or request fewer images",
    )  # fmt: skip
