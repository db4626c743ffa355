"""PNG files: grids of tiles and their provenance."""

from __future__ import annotations

import io
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from PIL import Image

from services.generator.png import COMPRESSIONS, encode_png, read_provenance, tile


def squares(count: int) -> np.ndarray:
    """Every pixel of image i has the value i."""
    return np.stack([np.full((32, 32, 3), value, dtype=np.uint8) for value in range(1, count + 1)])


@pytest.mark.parametrize(
    ("count", "columns", "size"),
    [(1, None, (1, 1)), (16, None, (4, 4)), (5, None, (2, 3)), (10, 5, (2, 5)), (3, 7, (1, 7))],
)
def test_tiles_are_placed_row_by_row_without_padding(count: int, columns: int | None, size: tuple[int, int]) -> None:
    grid = tile(squares(count), columns)

    rows, across = size
    assert grid.shape == (rows * 32, across * 32, 3)
    for index in range(rows * across):
        row, column = divmod(index, across)
        expected = index + 1 if index < count else 0  # black where there is no image
        assert (grid[row * 32 : row * 32 + 32, column * 32 : column * 32 + 32] == expected).all()


def test_scale_enlarges_pixels() -> None:
    images = np.random.default_rng(0).integers(0, 256, (2, 32, 32, 3), dtype=np.uint8)

    grid = tile(images, 2, scale=3)

    assert grid.shape == (96, 192, 3)
    np.testing.assert_array_equal(grid[1::3, 2::3], tile(images, 2))


@pytest.mark.parametrize("compress", COMPRESSIONS)
@given(pixels=arrays(np.uint8, st.tuples(st.integers(1, 70), st.integers(1, 70), st.just(3))))
def test_a_png_holds_the_pixels_and_their_provenance(compress: str, pixels: np.ndarray) -> None:
    provenance = {"seed": 2**62, "class": "Füchse", "truncation": None}

    png = encode_png(pixels, provenance, compress)

    with Image.open(io.BytesIO(png)) as image:
        image.load()
        np.testing.assert_array_equal(np.asarray(image), pixels)
    assert read_provenance(png) == provenance
    assert encode_png(pixels, provenance, compress) == png


@pytest.mark.parametrize("compress", COMPRESSIONS)
def test_pngcheck_accepts_the_file(compress: str, tmp_path: Path) -> None:
    """pngcheck checks the order, lengths and checksums of the chunks, and that no byte follows them."""
    pngcheck = shutil.which("pngcheck")
    if pngcheck is None:
        pytest.skip("needs pngcheck")
    pixels = np.random.default_rng(0).integers(0, 256, (320, 320, 3), dtype=np.uint8)
    file = tmp_path / "file.png"
    file.write_bytes(encode_png(pixels, {"class": "Füchse"}, compress))

    done = subprocess.run([pngcheck, "-v", "-t", file], capture_output=True, text=True, check=False)

    assert done.returncode == 0, done.stdout
    assert "No errors detected" in done.stdout
    assert "iTXt" in done.stdout


def test_stronger_compression_gives_smaller_files() -> None:
    smooth = np.linspace(0, 255, 128 * 128 * 3).astype(np.uint8).reshape(128, 128, 3)

    none, fast, small = (len(encode_png(smooth, {}, compress)) for compress in COMPRESSIONS)

    assert none > fast > small


def test_a_png_of_another_program_has_no_provenance() -> None:
    buffer = io.BytesIO()
    Image.new("RGB", (4, 4)).save(buffer, "PNG")

    assert read_provenance(buffer.getvalue()) is None
