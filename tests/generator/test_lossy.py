"""JPEG and WebP files carry their provenance, and their readers decode no pixel that they need not."""

from __future__ import annotations

import io
from contextlib import suppress
from typing import Any

import numpy as np
import pytest
from PIL import Image

from services.generator.lossy import (
    LOSSY_FORMATS,
    MAX_PROVENANCE_BYTES,
    LossyFormat,
    encode_lossy,
    lossy_format_of,
    read_frames,
    read_provenance,
    read_size,
)

PROVENANCE: dict[str, Any] = {"model": "first", "class": "café 🐈", "seed": 3}
EACH = pytest.mark.parametrize("form", LOSSY_FORMATS)


def gradient(channels: int = 3, height: int = 32, width: int = 64) -> np.ndarray:
    ramp = np.linspace(0, 255, height * width * channels).reshape(height, width, channels)
    return ramp.astype(np.uint8)


@EACH
def test_a_file_keeps_its_provenance_and_its_pixels_within_the_quality(form: LossyFormat) -> None:
    data = encode_lossy(gradient(), PROVENANCE, form, 90)

    assert (lossy_format_of(data), read_provenance(data), read_size(data)) == (form, PROVENANCE, (1, 32, 64))
    difference = np.abs(read_frames(data, (1, 32, 64, 3))[0].astype(int) - gradient())
    assert 0 < difference.mean() < 4
    assert encode_lossy(gradient(), PROVENANCE, form, 90) == data
    assert len(encode_lossy(gradient(), PROVENANCE, form, 20)) < len(data)


@EACH
def test_an_image_with_one_channel_makes_a_grey_file(form: LossyFormat) -> None:
    with Image.open(io.BytesIO(encode_lossy(gradient(channels=1), {}, form, 90))) as image:
        assert image.mode == {"jpeg": "L", "webp": "RGB"}[form]  # WebP has no grey mode
        red, _, blue = (np.asarray(band, dtype=int) for band in image.convert("RGB").split())
    assert np.abs(red - blue).max() <= 2


@EACH
def test_a_provenance_that_is_too_long_for_the_file_is_refused(form: LossyFormat) -> None:
    with pytest.raises(ValueError, match="the provenance has"):
        encode_lossy(gradient(), {"class": "x" * MAX_PROVENANCE_BYTES}, form, 90)


@EACH
def test_a_file_of_another_program_has_no_provenance(form: LossyFormat) -> None:
    buffer, exif = io.BytesIO(), Image.Exif()
    exif[0x010E] = '{"seed": 3}'
    Image.fromarray(gradient()).save(buffer, form.upper(), exif=exif)

    assert read_provenance(buffer.getvalue()) is None


def test_a_webp_file_without_the_header_that_exif_needs_is_refused() -> None:
    buffer = io.BytesIO()
    Image.fromarray(gradient()).save(buffer, "WEBP")

    assert read_provenance(buffer.getvalue()) is None
    with pytest.raises(ValueError, match="so Kiln did not write it"):
        read_size(buffer.getvalue())


@EACH
def test_another_size_is_refused_before_decoding(form: LossyFormat) -> None:
    data = encode_lossy(gradient(), PROVENANCE, form, 90)

    with pytest.raises(ValueError, match="1 x 64 x 32"):
        read_frames(data, (1, 64, 64, 3))


@pytest.mark.filterwarnings("ignore::UserWarning")  # Pillow warns of damaged EXIF
@EACH
def test_a_damaged_file_raises_nothing_but_value_error(form: LossyFormat) -> None:
    data = encode_lossy(gradient(), PROVENANCE, form, 90)
    for position in range(len(data)):
        damaged = data[:position] + bytes([data[position] ^ 0xFF]) + data[position + 1 :]
        for part in (damaged, data[:position]):
            if lossy_format_of(part) is None:
                continue
            read_provenance(part)
            with suppress(ValueError):
                read_frames(part, (1, 32, 64, 3))
