"""Whether this server makes a given PNG: by making it again from what the file says about itself."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

import numpy as np
from pydantic import ValidationError

from services.api.images.generate import resolve_generation
from services.api.images.interpolate import Interpolation
from services.api.images.png import read_frames, read_provenance
from services.api.inference.classifier import LazyClassifier
from services.api.inference.loaded_model import LoadedModel
from services.api.inference.model_pool import ModelPool
from services.api.schemas.images import GenerateBody, InterpolateQuery, Verification
from shared.errors import InvalidInput, NoModelReady, NotFound

GENERATED = ("n", "first_index", "seed", "truncation", "columns", "scale", "compress")
INTERPOLATED = (
    "from", "to", "steps", "seed", "from_index", "to_index", "truncation", "format", "columns", "scale", "compress",
    "frame_ms",
)  # fmt: skip


async def verify(png: bytes, pool: ModelPool, classifier: LazyClassifier) -> Verification:
    """Raises InvalidInput for what is no PNG, and Overloaded. The file is compared to the byte, then to the pixel."""
    try:
        provenance = await asyncio.to_thread(read_provenance, png)
    except ValueError as error:
        raise InvalidInput.of("body", f"{len(png)} bytes", str(error)) from None
    if provenance is None:
        return _no("the file does not say how it was made, so Kiln did not write it", None)
    try:
        ours = await _make_again(provenance, await _model_of(provenance, pool), classifier)
        reason = None if ours == png else await asyncio.to_thread(_difference, png, ours)
    except (InvalidInput, ValidationError) as error:
        return _no(f"what the file says about itself cannot be made: {_first_line(error)}", provenance)
    except (NotFound, NoModelReady, ValueError) as error:
        return _no(str(error), provenance)
    if reason is not None:
        return _no(reason, provenance)
    rewritten = None if ours == png else "the pixels are the same, but the file was written by somebody else"
    return Verification(reproduced=ours == png, same_pixels=True, reason=rewritten, provenance=provenance)


def _no(reason: str, provenance: dict[str, Any] | None) -> Verification:
    return Verification(reproduced=False, same_pixels=False, reason=reason, provenance=provenance)


async def _model_of(provenance: Mapping[str, Any], pool: ModelPool) -> LoadedModel:
    """By its digest: an id may be taken by another model elsewhere. Raises UnknownModel, NoModelReady, InvalidInput."""
    model_id, digest = provenance.get("model"), provenance.get("digest")
    if not isinstance(model_id, str) or not isinstance(digest, str):
        raise InvalidInput.of("model", model_id, "the file names no model")
    if model := pool.find_digest(digest):
        return model
    model = await pool.get(model_id)
    if model.manifest.digest != digest:
        raise InvalidInput.of("digest", digest, f"the model {model_id} that is here is another one")
    return model


async def _make_again(provenance: Mapping[str, Any], model: LoadedModel, classifier: LazyClassifier) -> bytes:
    """Raises InvalidInput and ValidationError for what cannot be made, and Overloaded."""
    fields = INTERPOLATED if "steps" in provenance else GENERATED
    known = {name: provenance[name] for name in fields if name in provenance}
    if known.get("seed") is None:
        raise InvalidInput.of("seed", None, "the file names none")
    if "steps" in provenance:
        interpolation = Interpolation(InterpolateQuery.model_validate(known), model)
        return (await interpolation.answer()).body
    wanted = provenance.get("class")
    known["class"] = [wanted] if isinstance(wanted, str) else wanted
    if provenance.get("class_method") == "classifier":
        draws = provenance.get("draws")
        most = max((n for n in draws if isinstance(n, int)), default=None) if isinstance(draws, list) else draws
        known |= {"threshold": provenance.get("threshold"), "max_draws": most}
    return (await (await resolve_generation(GenerateBody.model_validate(known), model, classifier)).answer()).body


def _difference(png: bytes, ours: bytes) -> str | None:
    """What tells the pixels of two files apart, in a sentence; None if nothing does. Raises ValueError."""
    expected = read_frames(ours)
    found = read_frames(png, expected.shape)
    different = (found != expected).any(axis=-1)
    if not different.any():
        return None
    frame, row, column = np.argwhere(different)[0].tolist()
    at = f"column {column}, row {row}" + (f" of frame {frame}" if len(expected) > 1 else "")
    has, makes = found[frame, row, column].tolist(), expected[frame, row, column].tolist()
    count = f"{int(different.sum()):,} of {different.size:,} pixels differ"
    return f"{count}; the first, at {at}, is {has} in the file, and this server makes {makes}"


def _first_line(error: Exception) -> str:
    if isinstance(error, ValidationError):
        first = error.errors()[0]
        return f"{'.'.join(str(part) for part in first['loc'])}: {first['msg']}"
    return str(error)
