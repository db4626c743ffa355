"""Reads an image file into a tensor of the networks' resolution."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from PIL import Image
from torch import Tensor
from torchvision.transforms import v2

from services.trainer.networks.build import IMAGE_SIZE
from shared.errors import BadDataset

# The shorter side becomes 32 pixels; then the central 32x32 square is cut out.
_fit: Callable[[Image.Image], Tensor] = v2.Compose([v2.Resize(IMAGE_SIZE), v2.CenterCrop(IMAGE_SIZE), v2.PILToTensor()])


def read_image(path: Path) -> Tensor:
    """uint8 [3, 32, 32] of an image file. Raises BadDataset if Pillow cannot decode the file."""
    try:
        with Image.open(path) as image:
            return _fit(image.convert("RGB"))
    except MemoryError:
        raise
    except Exception as error:  # for damaged bytes Pillow's decoders raise many types, SyntaxError among them
        raise BadDataset(f"{path} cannot be read as an image: {error}") from error
