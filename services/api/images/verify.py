"""/verify: checks whether this server reproduces an image file, by generating it again from its provenance.

A PNG holds the generated pixels, and a JPEG or WebP an approximation of them. The same bytes show of all formats that
the file is what this server generates. Other bytes of a lossy file show only how far its pixels are from that.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from pydantic import ValidationError

from services.api.images.generate import MAX_GRID_PIXELS, resolve_generation
from services.api.images.interpolate import resolve_interpolation
from services.api.images.render import render
from services.api.inference.bounded_pool import BoundedPool
from services.api.inference.classifier import LazyClassifier
from services.api.inference.loaded_model import LoadedModel
from services.api.inference.model_pool import ModelPool
from services.api.schemas.images import GenerateBody, InterpolateQuery, Verification
from services.generator import lossy, png
from shared.errors import InvalidInput, NoModelReady, NotFound

GENERATED = ("n", "first_index", "seed", "truncation", "columns", "scale", "compress", "format", "quality")
INTERPOLATED = (
    "from", "to", "steps", "seed", "from_index", "to_index", "truncation", "format", "columns", "scale", "compress",
    "frame_ms",
)  # fmt: skip


class _Reader(NamedTuple):
    """The functions that read a file format."""

    read_provenance: Callable[[bytes], dict[str, Any] | None]
    read_size: Callable[[bytes], tuple[int, int, int]]
    read_frames: Callable[[bytes, tuple[int, ...]], NDArray[np.uint8]]


_PNG = _Reader(png.read_provenance, png.read_size, png.read_frames)
_LOSSY = _Reader(lossy.read_provenance, lossy.read_size, lossy.read_frames)


async def verify(data: bytes, pool: ModelPool, classifier: LazyClassifier, encoders: BoundedPool) -> Verification:
    """Compares the file byte for byte, then pixel for pixel.

    Raises InvalidInput for anything but a PNG, JPEG or WebP, and Overloaded.
    """
    reader = _reader_of(data)
    try:
        provenance, (frames, height, width) = reader.read_provenance(data), reader.read_size(data)
    except ValueError as error:
        raise InvalidInput.of("body", f"{len(data)} bytes", str(error)) from None
    if provenance is None:
        return _not_reproduced("the file has no Kiln provenance, so Kiln did not write it", None)
    if frames * height * width > MAX_GRID_PIXELS:
        claim = f"{frames} x {width} x {height} (frames x width x height)"
        return _not_reproduced(f"the file is {claim}; Kiln writes at most {MAX_GRID_PIXELS:,} pixels", provenance)
    try:
        ours = await _generate_again(provenance, await _model_of(provenance, pool), classifier, encoders)
        reason = None if ours == data else await encoders.run(_difference, data, ours)
    except (InvalidInput, ValidationError) as error:
        return _not_reproduced(f"the provenance in the file cannot be generated: {_first_problem(error)}", provenance)
    except (NotFound, NoModelReady, ValueError) as error:
        return _not_reproduced(str(error), provenance)
    if reason is not None:
        return _not_reproduced(reason, provenance)
    rewritten = None if ours == data else "the pixels are the same, but another program wrote the file"
    return Verification(reproduced=ours == data, same_pixels=True, reason=rewritten, provenance=provenance)


def _reader_of(data: bytes) -> _Reader:
    return _PNG if lossy.lossy_format_of(data) is None else _LOSSY


def _not_reproduced(reason: str, provenance: dict[str, Any] | None) -> Verification:
    return Verification(reproduced=False, same_pixels=False, reason=reason, provenance=provenance)


async def _model_of(provenance: Mapping[str, Any], pool: ModelPool) -> LoadedModel:
    """The model of the file's id, if it has the file's digest, or else a loaded model of that digest.

    Another server may use the id for another model, and two models may have the same digest.
    Raises UnknownModel, NoModelReady, InvalidInput.
    """
    model_id, digest = provenance.get("model"), provenance.get("digest")
    if not isinstance(model_id, str) or not isinstance(digest, str):
        raise InvalidInput.of("model", model_id, "the file names no model")
    same_digest = pool.find_digest(digest)
    try:
        named = await pool.get(model_id)
    except (NotFound, NoModelReady):
        if same_digest is None:
            raise
        return same_digest
    if named.manifest.digest == digest:
        return named
    if same_digest is None:
        raise InvalidInput.of("digest", digest, f"this server's model '{model_id}' has another digest")
    return same_digest


async def _generate_again(
    provenance: Mapping[str, Any], model: LoadedModel, classifier: LazyClassifier, encoders: BoundedPool
) -> bytes:
    """Raises InvalidInput and ValidationError for a provenance that cannot be generated, and Overloaded."""
    fields = INTERPOLATED if "steps" in provenance else GENERATED
    known = {name: provenance[name] for name in fields if name in provenance}
    if known.get("seed") is None:
        raise InvalidInput.of("seed", None, "the file names no seed")
    if "steps" in provenance:
        interpolation = resolve_interpolation(InterpolateQuery.model_validate(known), model)
        return (await render(interpolation, encoders)).body
    name = provenance.get("class")
    known["class"] = [name] if isinstance(name, str) else name
    if provenance.get("class_method") == "classifier":
        draws = provenance.get("draws")
        most = max((n for n in draws if isinstance(n, int)), default=None) if isinstance(draws, list) else draws
        known |= {"threshold": provenance.get("threshold"), "max_draws": most}
    generation = await resolve_generation(GenerateBody.model_validate(known), model, classifier)
    return (await render(generation, encoders)).body


def _difference(data: bytes, ours: bytes) -> str | None:
    """How the pixels of two files differ, in a sentence; None if they are equal. Raises ValueError."""
    reader = _reader_of(ours)
    if _reader_of(data) is not reader:
        return "the file has another format than its provenance says"
    expected = reader.read_frames(ours, reader.read_size(ours))
    pixels = reader.read_frames(data, expected.shape)
    different = (pixels != expected).any(axis=-1)
    if not different.any():
        return None
    frame, row, column = np.argwhere(different)[0].tolist()
    at = f"column {column}, row {row}" + (f" of frame {frame}" if len(expected) > 1 else "")
    has, generates = pixels[frame, row, column].tolist(), expected[frame, row, column].tolist()
    count = f"{int(different.sum()):,} of {different.size:,} pixels differ"
    if reader is _LOSSY:
        farthest = int(np.abs(pixels.astype(np.int16) - expected).max())
        return f"{count}, by up to {farthest} of 255; another program may have compressed the file again"
    return f"{count}; the first, at {at}, is {has} in the file, but this server generates {generates}"


def _first_problem(error: Exception) -> str:
    if isinstance(error, ValidationError):
        first = error.errors()[0]
        return f"{'.'.join(str(part) for part in first['loc'])}: {first['msg']}"
    return str(error)
