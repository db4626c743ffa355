"""The fields of a config that say how images are read from their files. docs/reference/data-sets.md has the rules."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

Crop = Annotated[
    Literal["centre", "resize", "pad"],
    Field(
        description="How images of a folder become square. centre: the largest square in the middle. resize: width and "
        "height are scaled separately. pad: the whole image on the background."
    ),
]
Background = Annotated[
    str,
    Field(pattern=r"^#[0-9a-fA-F]{6}$", description="Colour behind transparent pixels and around padded images."),
]
OnBadFile = Annotated[
    Literal["fail", "skip"],
    Field(description="What a damaged image file does. fail: end the job. skip: train without the file."),
]
