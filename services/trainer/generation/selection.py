"""Chooses the images of the next shard: which class comes next, and which draws the classifier accepts.

What is chosen depends on the config and the position alone, so a job that resumes at a position makes the same shards.
"""

from __future__ import annotations

import heapq
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice

import numpy as np
from numpy.typing import NDArray

from services.trainer.generation.images import Draw, ImageMaker, MadeImage
from shared.configs.generate import GenerateConfig
from shared.errors import BadConfig
from shared.storage.generated_datasets import Position

THRESHOLD = 0.5  # above one half, no image belongs to two classes; as in /generate
MAX_REJECTED = 20_000  # draws in a row, as in /generate
MIN_DRAWS = 16  # of a class at a time, when the classifier may reject some
NO_CLASS = ""

OnImages = Callable[[int], None]  # called after each batch with the number of accepted images


@dataclass(frozen=True)
class Selected:
    """An accepted image. `index` numbers the images of its class, as `first_index` of /generate does."""

    name: str  # of its class, or NO_CLASS
    label: int | None  # the position of the class among the model's classes, or the classifier's
    index: int
    draw: int
    pixels: NDArray[np.uint8]  # [H, W, 3]
    confidence: float | None = None  # the classifier's probability of the class


def select_shard(
    config: GenerateConfig, maker: ImageMaker, position: Position, on_images: OnImages
) -> tuple[list[Selected], Position]:
    """The images of the shard that starts at the position, and the position of the next shard.

    Raises BadConfig if the classifier accepts hardly any image.
    """
    if config.classes and not maker.manifest.conditional:
        return _by_classifier(config, maker, position, on_images)
    return _by_class(config, maker, position, on_images)


def class_order(counts: Mapping[str, int], made: Mapping[str, int]) -> Iterator[str]:
    """The class of each further image. Each stretch of the order holds the classes in proportion to their counts."""

    def places(number: int, name: str, count: int) -> Iterator[tuple[float, int, str]]:
        return (((i + 0.5) / count, number, name) for i in range(made.get(name, 0), count))

    streams = [places(number, name, count) for number, (name, count) in enumerate(counts.items())]
    return (name for _, _, name in heapq.merge(*streams))


def _by_class(
    config: GenerateConfig, maker: ImageMaker, position: Position, on_images: OnImages
) -> tuple[list[Selected], Position]:
    """Draws for each class on its own; without a class, for all images."""
    order = list(islice(class_order(config.classes or {NO_CLASS: config.n}, position.made), config.shard_images))
    needed, next_draw = Counter(order), dict(position.next_draw)
    accepted: dict[str, deque[Selected]] = {name: deque() for name in needed}
    labels = {name: 0 if name == NO_CLASS else maker.manifest.classes.index(name) for name in needed}
    names = {label: name for name, label in labels.items()}
    rejected = Counter[str]()
    while missing := {name: count for name in needed if (count := needed[name] - len(accepted[name]))}:
        draws = [
            Draw(labels[name], index)
            for name, count in missing.items()
            for index in _indices(next_draw.get(name, 0), count, is_filtered=maker.classifier is not None)
        ]
        for batch in maker.make(draws):
            for image in batch:
                name = names[image.draw.label]
                if len(accepted[name]) == needed[name]:
                    continue  # drawn on the chance that the classifier would reject others
                next_draw[name] = image.draw.number + 1
                selected = _selected(image, name, config, maker)
                rejected[name] = 0 if selected else rejected[name] + 1
                if selected:
                    accepted[name].append(selected)
                elif rejected[name] > MAX_REJECTED:
                    raise _too_strict(config, name)
            on_images(sum(map(len, accepted.values())))
    made = Counter(position.made) + needed
    return [accepted[name].popleft() for name in order], Position(made=dict(made), next_draw=next_draw)


def _indices(start: int, count: int, *, is_filtered: bool) -> range:
    return range(start, start + (max(count, MIN_DRAWS) if is_filtered else count))


def _selected(image: MadeImage, name: str, config: GenerateConfig, maker: ImageMaker) -> Selected | None:
    """The image as one of the class; None if the classifier rejects it."""
    label = None if name == NO_CLASS else image.draw.label
    if image.probabilities is None or maker.classifier is None:
        return Selected(name, label, image.draw.number, image.draw.number, image.pixels)
    confidence = float(image.probabilities[maker.classifier.classes.index(name)])
    if confidence < (config.min_confidence or 0):
        return None
    return Selected(name, label, image.draw.number, image.draw.number, image.pixels, confidence)


def _by_classifier(
    config: GenerateConfig, maker: ImageMaker, position: Position, on_images: OnImages
) -> tuple[list[Selected], Position]:
    """Rejection sampling, as in /generate: draws images of an unconditional model, and the classifier names them."""
    assert maker.classifier is not None  # opened for every such job
    threshold = config.min_confidence or THRESHOLD
    wanted = {name: maker.classifier.classes.index(name) for name in config.classes}
    made, next_draw = Counter(position.made), position.next_draw.get(NO_CLASS, 0)
    size = min(config.shard_images, config.n - made.total())
    chosen: list[Selected] = []
    rejected = 0
    while len(chosen) < size:
        count = min(1024, max(64, (size - len(chosen)) * len(maker.classifier.classes)))
        for image in (image for batch in maker.make([Draw(0, next_draw + i) for i in range(count)]) for image in batch):
            assert image.probabilities is not None
            if len(chosen) == size:
                break
            next_draw = image.draw.number + 1
            name = next((n for n, label in wanted.items() if image.probabilities[label] >= threshold), None)
            if name is None or made[name] == config.classes[name]:
                rejected += 1
                continue
            rejected = 0
            confidence = float(image.probabilities[wanted[name]])
            chosen.append(Selected(name, wanted[name], made[name], image.draw.number, image.pixels, confidence))
            made[name] += 1
        on_images(len(chosen))
        if rejected > MAX_REJECTED:
            raise _too_strict(config, ", ".join(n for n in wanted if made[n] < config.classes[n]))
    return chosen, Position(made=dict(made), next_draw={NO_CLASS: next_draw})


def _too_strict(config: GenerateConfig, name: str) -> BadConfig:
    confidence = "" if config.min_confidence is None else f" at min_confidence {config.min_confidence:g}"
    return BadConfig(
        f"the classifier accepted none of {MAX_REJECTED:,} images in a row as {name}{confidence}; lower "
        "min_confidence, or choose another model"
    )
