"""POST /verify says whether this server reproduces a PNG, and if not, why."""

from __future__ import annotations

import io
import json
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fastapi.testclient import TestClient
from PIL import Image

from services.generator.lossy import encode_lossy
from services.generator.png import encode_png, read_provenance
from tests.api.conftest import CLASSES, LATENT, publish
from tests.api.graphs import make_generator
from tests.api.images.test_response_cache import get_images, pixels
from tests.api.test_bad_input import assert_problem

QUERY: dict[str, Any] = {"class": "cat", "n": 4, "seed": 3}


def verify(client: TestClient, png: bytes) -> dict[str, Any]:
    answer = client.post("/verify", content=png, headers={"content-type": "image/png"})
    assert answer.status_code == 200, answer.text
    verification: dict[str, Any] = answer.json()
    return verification


def forged(png: bytes, **claims: Any) -> bytes:
    """The same pixels with another provenance."""
    provenance = read_provenance(png)
    assert provenance is not None
    return encode_png(pixels(png), provenance | claims, "none")


@pytest.mark.parametrize("more", [
    {}, {"class": "cat,dog"}, {"class": "all", "n": 2}, {"truncation": 0.7}, {"first_index": 12}, {"columns": 3},
    {"scale": 3}, {"compress": "fast"}, {"compress": "small"},
])  # fmt: skip
def test_a_generated_png_is_reproduced(more: dict[str, Any], served: TestClient) -> None:
    verification = verify(served, get_images(served, **QUERY | more).content)

    assert (verification["reproduced"], verification["same_pixels"], verification["reason"]) == (True, True, None)
    assert verification["provenance"]["seed"] == 3


@pytest.mark.parametrize("form", ["png", "apng"])
def test_an_interpolation_is_reproduced(form: str, served: TestClient) -> None:
    answer = served.get("/interpolate", params={"from": "cat", "to": "dog", "steps": 3, "seed": 1, "format": form})

    assert verify(served, answer.content)["reproduced"]


def test_a_changed_pixel_is_reported_with_its_position(served: TestClient) -> None:
    png = get_images(served, **QUERY).content
    grid = pixels(png).copy()
    grid[40, 7, 1] ^= 1

    verification = verify(served, encode_png(grid, read_provenance(png) or {}, "none"))

    was, now = pixels(png)[40, 7].tolist(), grid[40, 7].tolist()
    assert not verification["reproduced"]
    assert not verification["same_pixels"]
    assert verification["reason"] == (
        "1 of 4,096 pixels differ; the first, at column 7, row 40, "
        f"is {now} in the file, but this server generates {was}"
    )


def test_the_same_pixels_in_another_file_are_not_the_same_file(served: TestClient) -> None:
    verification = verify(served, forged(get_images(served, **QUERY | {"compress": "small"}).content))

    assert (verification["reproduced"], verification["same_pixels"]) == (False, True)
    assert "another program wrote the file" in verification["reason"]


@pytest.mark.parametrize(("claims", "reason"), [
    ({"seed": 4}, "pixels differ"), ({"class": "dog"}, "pixels differ"), ({"n": 9}, "generates 1 x 96 x 96"),
    ({"digest": "0" * 64}, "another digest"), ({"digest": "0" * 64, "model": "nobody"}, "no model 'nobody'"),
    ({"class": "dragon"}, "unknown class"), ({"n": 10**9}, "n: "), ({"seed": "x"}, "seed: "),
    ({"model": None}, "no model"), ({"seed": None}, "cannot be generated"),
])  # fmt: skip
def test_a_false_provenance_is_not_reproduced(claims: dict[str, Any], reason: str, served: TestClient) -> None:
    verification = verify(served, forged(get_images(served, **QUERY).content, **claims))

    assert not verification["reproduced"]
    assert reason in verification["reason"]


def test_a_png_without_provenance_is_not_reproduced(served: TestClient) -> None:
    file = io.BytesIO()
    Image.fromarray(np.zeros((32, 32, 3), dtype=np.uint8)).save(file, "PNG")

    verification = verify(served, file.getvalue())
    assert (verification["reproduced"], verification["provenance"]) == (False, None)
    assert "no Kiln provenance" in verification["reason"]


@pytest.mark.parametrize("body", [b"", b"GIF89a", b"\x89PNG\r\n\x1a\n", json.dumps({"png": "x"}).encode()])
def test_anything_but_a_png_is_invalid_input(body: bytes, served: TestClient) -> None:
    assert_problem(served.post("/verify", content=body), 422, "body", f"{len(body)} bytes")


def test_a_damaged_png_is_never_a_server_error(served: TestClient) -> None:
    png = bytearray(get_images(served, **QUERY).content)
    for position in range(33, len(png), 997):
        damaged = bytes(png[:position]) + bytes([png[position] ^ 0xFF]) + bytes(png[position + 1 :])
        answer = served.post("/verify", content=damaged)
        assert answer.status_code in (200, 422), answer.text
        assert answer.status_code == 422 or not answer.json()["reproduced"]


def test_a_grid_of_1024_images_is_within_the_body_limit(served: TestClient) -> None:
    assert verify(served, get_images(served, **QUERY | {"n": 1024}).content)["reproduced"]
    assert_problem(served.post("/verify", content=bytes(5 << 20)), 413)


def chunk(name: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))


def claiming(
    width: int, height: int, provenance: dict[str, Any] | None, *, frames: int = 1, packed: bool = False
) -> bytes:
    """A small PNG that claims to be large; its black pixels compress to one part in a thousand."""
    rows = zlib.compressobj(9)
    row, pixels = bytes(1 + width * 3), b""
    for _ in range(height):
        pixels += rows.compress(row)
    text = json.dumps(provenance).encode()
    chunks = [chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))]
    if frames > 1:
        chunks.append(chunk(b"acTL", struct.pack(">II", frames, 0)))
    if packed:  # a text that unpacks to 256 MiB
        chunks.append(chunk(b"iTXt", b"kiln\0\1\0\0\0" + zlib.compress(bytes(256 << 20), 9)))
    elif provenance is not None:
        chunks.append(chunk(b"iTXt", b"kiln\0\0\0\0\0" + text))
    chunks += [chunk(b"IDAT", pixels + rows.flush()), chunk(b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


@pytest.mark.parametrize(("size", "more", "reason"), [
    ((13_300, 13_300), {}, "Kiln writes at most 16,777,216 pixels"),
    ((64, 64), {"frames": 2**31}, "Kiln writes at most"),
    ((13_300, 13_300), {"provenance": None}, "no Kiln provenance"), ((64, 64), {"packed": True}, "no Kiln provenance"),
    ((4096, 4096), {}, "this server generates 1 x 64 x 64"),
])  # fmt: skip
def test_a_png_that_claims_too_many_pixels_is_refused_before_any_is_decoded(
    size: tuple[int, int], more: dict[str, Any], reason: str, served: TestClient
) -> None:
    provenance = read_provenance(get_images(served, **QUERY).content)
    png = claiming(*size, **{"provenance": provenance} | more)
    assert len(png) < 2 << 20

    Path("/proc/self/clear_refs").write_text("5")  # resets the peak
    before = memory_mb("VmRSS")
    verification = verify(served, png)

    assert not verification["reproduced"]
    assert reason in verification["reason"]
    assert memory_mb("VmHWM") - before < 40  # one decoded image of 178 megapixels takes 530 MB


def memory_mb(field: str) -> float:
    """VmRSS is the memory of this process now, VmHWM its peak."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line.split()[1] for line in lines if line.startswith(field))) / 1024


@pytest.mark.parametrize("model_id", ["one", "two"])
def test_images_of_two_models_with_the_same_bytes_are_both_reproduced(model_id: str, served: TestClient) -> None:
    # Given two models of the same graph, as when a job is trained twice
    registry = served.app.state.kiln.registry  # type: ignore[attr-defined]
    graph = make_generator(LATENT, len(CLASSES), seed=5)
    for name in ("one", "two"):
        publish(registry, name, graph=graph)
        assert served.get("/generate", params=QUERY | {"model": name}).status_code == 200

    assert verify(served, get_images(served, **QUERY | {"model": model_id}).content)["reproduced"]


LOSSY = pytest.mark.parametrize("form", ["jpeg", "webp"])


@LOSSY
def test_a_lossy_file_is_reproduced_byte_for_byte(form: str, served: TestClient) -> None:
    answer = get_images(served, **QUERY | {"format": form, "quality": 70})

    verification = verify(served, answer.content)
    assert (verification["reproduced"], verification["same_pixels"], verification["reason"]) == (True, True, None)
    assert (verification["provenance"]["format"], verification["provenance"]["quality"]) == (form, 70)


@LOSSY
def test_a_lossy_file_that_was_compressed_again_is_reported_with_its_distance(form: str, served: TestClient) -> None:
    with Image.open(io.BytesIO(get_images(served, **QUERY | {"format": form}).content)) as image:
        again = io.BytesIO()
        image.save(again, form.upper(), quality=50, exif=image.info["exif"])

    verification = verify(served, again.getvalue())
    assert (verification["reproduced"], verification["same_pixels"]) == (False, False)
    assert "of 255; another program may have compressed the file again" in verification["reason"]


@LOSSY
def test_a_lossy_file_with_a_provenance_for_a_png_is_not_reproduced(form: str, served: TestClient) -> None:
    pixels_of_png = get_images(served, **QUERY).content
    forged_file = encode_lossy(pixels(pixels_of_png), read_provenance(pixels_of_png) or {}, form, 90)  # type: ignore[arg-type]

    verification = verify(served, forged_file)
    assert verification["reason"] == "the file has another format than its provenance says"


@pytest.mark.filterwarnings("ignore::UserWarning")  # Pillow warns of damaged EXIF
@LOSSY
def test_a_damaged_lossy_file_is_never_a_server_error(form: str, served: TestClient) -> None:
    data = get_images(served, **QUERY | {"format": form}).content
    for position in range(3, len(data), 97):
        damaged = data[:position] + bytes([data[position] ^ 0xFF]) + data[position + 1 :]
        assert served.post("/verify", content=damaged).status_code in (200, 422)
