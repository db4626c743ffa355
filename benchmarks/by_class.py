"""How often the shipped classifier recognises images as the class that they were requested for.

    KILN_URL=http://127.0.0.1:8000 python -m benchmarks.by_class --images 50 MODEL...

For a conditional or per-class model this measures the model. For an unconditional model, the classifier itself selects
the images; then the result shows the cost of rejection sampling: draws per image.
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
from services.api.inference.classifier import Classifier
from shared.settings import read_settings

SEED = 0


@dataclass(frozen=True)
class Asked:
    """The response for one class: the method, and the classifier's verdict on the images."""

    method: str
    right: float  # share that the classifier recognises as the class
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
    judge = Classifier(read_settings())
    print("| model | method | class | recognised | mean confidence | draws per image |")
    print("| --- | --- | --- | ---: | ---: | ---: |")
    with Kiln(timeout_s=600) as kiln:
        for model in options.models:
            is_told = kiln.models.get(model).manifest["conditional"]
            picking = {} if is_told else {"threshold": options.threshold, "max_draws": options.max_draws}
            answers = [ask(kiln, judge, model, name, options.images, picking) for name in judge.classes]
            for name, asked in zip(judge.classes, answers, strict=True):
                _print(model, name, asked)
            _print(model, "**all**", _mean([asked for asked in answers if not asked.problem]))
    return 0


def ask(kiln: Kiln, judge: Classifier, model: str, name: str, count: int, picking: dict[str, float | None]) -> Asked:
    params = {"class": name, "n": count, "seed": SEED, "model": model, "columns": count} | picking
    try:
        response = kiln.get("/generate", accept="image/png", **params)
    except InvalidInput as error:  # too few images were accepted, or the model has no such class
        return Asked("-", 0.0, 0.0, 0.0, str(error))
    probabilities = judge.probabilities(_tiles(response.content, count))
    label = judge.classes.index(name)
    return Asked(
        response.headers["x-kiln-class-method"], float((probabilities.argmax(1) == label).mean()),
        float(probabilities[:, label].mean()), int(response.headers.get("x-kiln-draws", count)) / count,
    )  # fmt: skip


def _tiles(png: bytes, count: int) -> NDArray[np.uint8]:
    """A row of tiles -> [N, 32, 32, 3]."""
    with Image.open(io.BytesIO(png)) as image:
        row = np.asarray(image.convert("RGB"))
    return row.reshape(32, count, 32, 3).swapaxes(0, 1)


def _mean(answers: Sequence[Asked]) -> Asked:
    if not answers:
        return Asked("-", 0.0, 0.0, 0.0, "no class was answered")
    right, confidence, draws = np.mean([[asked.right, asked.confidence, asked.draws] for asked in answers], axis=0)
    return Asked(answers[0].method, float(right), float(confidence), float(draws))


def _print(model: str, name: str, asked: Asked) -> None:
    figures = f"{asked.right:.0%} | {asked.confidence:.2f} | {asked.draws:.1f}"
    print(f"| `{model}` | {asked.method} | {name} | {asked.problem or figures} |", flush=True)


if __name__ == "__main__":
    raise SystemExit(main())
