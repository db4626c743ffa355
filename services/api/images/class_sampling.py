"""Images by class, whatever the model: a conditional one is told the class; from any other, images are drawn until the
classifier accepts enough of them (rejection sampling by a discriminator of classes).
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from services.api.inference.classifier import Classifier, LazyClassifier
from services.api.inference.latents import draw_latents
from services.api.inference.loaded_model import MAX_BATCH, LoadedModel, index_of_class
from shared.errors import InvalidInput

THRESHOLD = 0.5  # above a half, no image is two classes
MAX_DRAWS = 20_000
DRAWS_PER_IMAGE, MIN_DRAWS = 100, 1000  # the limit where none is set
HEADERS = ("X-Kiln-Class-Method", "X-Kiln-Draws", "X-Kiln-Confidence")

Method = Literal["conditional", "per-class", "classifier"]


@dataclass(frozen=True)
class ClassSamplingRequest:
    """What is to be drawn: n images of each of `classes`, by name or number. Images are counted per seed and class; the
    first has the number `first_index`.
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


@dataclass(frozen=True)
class ClassSamples:
    """The images of one class, and how they came to be of it. Without a name: of no class that anybody asked for."""

    images: NDArray[np.uint8]  # [N, 32, 32, 3]
    name: str | None
    method: Method | None
    indices: Sequence[int] = ()  # [N], which of all draws were accepted; empty where nothing was judged, as the rest
    confidences: Sequence[float] = ()  # [N], what the classifier gave to the class
    classifier: str | None = None  # its digest
    threshold: float | None = None

    @property
    def draws(self) -> int:
        """How many images were looked at."""
        return max(self.indices, default=-1) + 1

    def only(self, position: int) -> ClassSamples:
        """One of the images, as if it alone had been asked for."""
        i = slice(position, position + 1)
        return replace(self, images=self.images[i], indices=self.indices[i], confidences=self.confidences[i])

    @property
    def about(self) -> dict[str, Any]:
        """For a provenance and for JSON."""
        if self.method != "classifier":
            return {"class_method": self.method} if self.method else {}
        return {
            "class_method": self.method, "indices": list(self.indices), "draws": self.draws,
            "confidences": [round(confidence, 4) for confidence in self.confidences],
            "classifier": self.classifier, "threshold": self.threshold,
        }  # fmt: skip


def headers_of(rows: Sequence[ClassSamples]) -> dict[str, str]:
    """What HEADERS are for a request that was answered by these."""
    method = rows[0].method
    if method != "classifier":
        return {HEADERS[0]: method} if method else {}
    confidences = [confidence for row in rows for confidence in row.confidences]
    least, mean = min(confidences), sum(confidences) / len(confidences)
    values = (method, str(max(row.draws for row in rows)), f"min={least:.4f}, mean={mean:.4f}")
    return dict(zip(HEADERS, values, strict=True))


def method_of(model: LoadedModel) -> Method | None:
    """How a model that is told its classes knows them; None of one that knows none."""
    if not model.manifest.conditional:
        return None
    return "per-class" if model.manifest.config.per_class else "conditional"


async def rejection_sample(
    request: ClassSamplingRequest, model: LoadedModel, classifier: LazyClassifier
) -> list[ClassSamples]:
    """Draws image after image, by counter, and keeps of each class those that the classifier accepts.

    Image i depends on model, class, seed, i and the classifier alone. Raises InvalidInput for unknown classes, and when
    the classifier has not accepted enough of the images it was allowed to see; Overloaded; NoModelReady when there is
    no classifier.
    """
    judge = await classifier.judge()
    threshold = THRESHOLD if request.threshold is None else request.threshold
    shelves = [
        _Shelf(index_of_class(wanted, judge.classes, "the classifier knows"), request.first_index + request.n)
        for wanted in request.classes
    ]
    drawn, limit = 0, request.draws_allowed
    while (missing := max(shelf.missing for shelf in shelves)) and drawn < limit:
        # About one in so many will do; a batch is cut short rather than drawn for nothing.
        count = min(limit - drawn, MAX_BATCH, max(8, missing * len(judge.classes)))
        model.check_room(count)
        images = await model.generate(await _latents(request, model, range(drawn, drawn + count)), [0] * count)
        probabilities = await classifier.probabilities(images)
        for shelf in shelves:
            shelf.fill(drawn, images, probabilities[:, shelf.label], threshold)
        drawn += count
    if missing:
        raise _too_few(request, shelves, threshold, judge)
    return [shelf.as_drawn(request, judge, threshold) for shelf in shelves]


class _Shelf:
    """The images of one class that were accepted so far, in the order of their draws."""

    def __init__(self, label: int, wanted: int) -> None:
        self.label, self.wanted = label, wanted
        self.indices: list[int] = []
        self.images: list[NDArray[np.uint8]] = []
        self.confidences: list[float] = []

    @property
    def missing(self) -> int:
        return self.wanted - len(self.indices)

    def fill(self, first: int, images: NDArray[np.uint8], given: NDArray[np.float32], threshold: float) -> None:
        for position in np.flatnonzero(given >= threshold)[: self.missing].tolist():
            self.indices.append(first + position)
            self.images.append(images[position])
            self.confidences.append(float(given[position]))

    def as_drawn(self, request: ClassSamplingRequest, judge: Classifier, threshold: float) -> ClassSamples:
        start, name = request.first_index, judge.classes[self.label]
        images, indices, confidences = np.stack(self.images[start:]), self.indices[start:], self.confidences[start:]
        return ClassSamples(images, name, "classifier", indices, confidences, judge.digest, threshold)


async def _latents(request: ClassSamplingRequest, model: LoadedModel, indices: range) -> NDArray[np.float32]:
    return await asyncio.to_thread(draw_latents, request.seed, indices, model.manifest.latent_dim, request.truncation)


def _too_few(
    request: ClassSamplingRequest, shelves: Sequence[_Shelf], threshold: float, judge: Classifier
) -> InvalidInput:
    """Says what there was, class by class, so that the caller can see which wish was too much."""
    found = ", ".join(f"{len(s.indices)} of {s.wanted} of class {judge.classes[s.label]}" for s in shelves)
    return InvalidInput.of(
        "max_draws", request.draws_allowed,
        f"the classifier accepted {found} among {request.draws_allowed:,} images of seed {request.seed} at a threshold "
        f"of {threshold:g}; allow more draws, lower the threshold, or ask for fewer",
    )  # fmt: skip
