"""How often the shipped classifier recognises images as the class that they were requested for.

    KILN_URL=http://127.0.0.1:8000 python -m benchmarks.by_class --images 50 MODEL...

For a conditional or per-class model this measures the model. For an unconditional model the classifier itself selects
the images, so only the cost of rejection sampling is informative: draws per image.
"""

from __future__ import annotations

import argparse
import io
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from kiln import InvalidInput, Kiln
from services.generator.classifier import Classifier
from shared.settings import read_settings

SEED = 0


@dataclass(frozen=True)
class ClassResult:
    """The response for one class: the method, and the classifier's verdict on the images."""

    method: str
    recognised: float  # share that the classifier recognises as the class
    confidence: float  # mean probability of the class
    draws: float  # per image
    problem: str = ""


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.by_class", description=__doc__.split("\n")[0])
    parser.add_argument("models", nargs="+", metavar="MODEL", help="ids or aliases")
    parser.add_argument("--images", type=int, default=50, help="images per class")
    parser.add_argument("--threshold", type=float, help="threshold of rejection sampling")
    parser.add_argument("--max-draws", type=int, help="most draws of rejection sampling")
    options = parser.parse_args()
    classifier = Classifier(read_settings())
    print("| model | method | class | recognised | mean confidence | draws per image |")
    print("| --- | --- | --- | ---: | ---: | ---: |")
    with Kiln(timeout_s=600) as kiln:
        for model in options.models:
            is_conditional = kiln.models.get(model).manifest["conditional"]
            sampling = {} if is_conditional else {"threshold": options.threshold, "max_draws": options.max_draws}
            results = [measure(kiln, classifier, model, name, options.images, sampling) for name in classifier.classes]
            for name, result in zip(classifier.classes, results, strict=True):
                _print(model, name, result)
            _print(model, "**all**", _mean([result for result in results if not result.problem]))
    return 0


def measure(
    kiln: Kiln, classifier: Classifier, model: str, name: str, count: int, sampling: dict[str, float | None]
) -> ClassResult:
    params = {"class": name, "n": count, "seed": SEED, "model": model, "columns": count} | sampling
    try:
        response = kiln.get("/generate", params, accept="image/png")
    except InvalidInput as error:  # too few images were accepted, or the model has no such class
        return ClassResult("-", 0.0, 0.0, 0.0, str(error))
    probabilities = classifier.probabilities(_tiles(response.content, count))
    label = classifier.classes.index(name)
    return ClassResult(
        response.headers["x-kiln-class-method"], float((probabilities.argmax(1) == label).mean()),
        float(probabilities[:, label].mean()), int(response.headers.get("x-kiln-draws", count)) / count,
    )  # fmt: skip


def _tiles(png: bytes, count: int) -> NDArray[np.uint8]:
    """A row of tiles -> [N, 32, 32, 3]."""
    with Image.open(io.BytesIO(png)) as image:
        row = np.asarray(image.convert("RGB"))
    return row.reshape(32, count, 32, 3).swapaxes(0, 1)


def _mean(results: Sequence[ClassResult]) -> ClassResult:
    if not results:
        return ClassResult("-", 0.0, 0.0, 0.0, "no class returned images")
    rows = [[result.recognised, result.confidence, result.draws] for result in results]
    recognised, confidence, draws = np.mean(rows, axis=0)
    return ClassResult(results[0].method, float(recognised), float(confidence), float(draws))


def _print(model: str, name: str, result: ClassResult) -> None:
    figures = f"{result.recognised:.0%} | {result.confidence:.2f} | {result.draws:.1f}"
    print(f"| `{model}` | {result.method} | {name} | {result.problem or figures} |", flush=True)


if __name__ == "__main__":
    raise SystemExit(main())
