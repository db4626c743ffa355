"""Requests and responses of /generate, /interpolate and /verify."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, WithJsonSchema, field_validator

from services.api.images.class_sampling import MAX_DRAWS
from services.api.schemas.request import RequestModel
from services.generator.latents import MAX_SEED
from services.generator.lossy import DEFAULT_QUALITY

MAX_IMAGES = 1024
MAX_STEPS = 256
MAX_CLASS_NAME = 255  # characters; no file system allows a folder a longer name
MAX_CLASS_LIST = 16 * 1024  # characters; as a URL with each of them percent-encoded, still below the limit of a URL
CLASS_NUMBERS = "A number is a class's position, from 0, unless a class of the model is named by a number."

ModelName = Annotated[
    str | None, Field(min_length=1, max_length=200, description="Model id or alias. Default: the alias `default`.")
]
Seed = Annotated[
    int | None,
    Field(
        ge=0,
        le=MAX_SEED,
        description="The same seed gives the same images. Default: a random seed, returned in X-Kiln-Seed.",
    ),
]


class _Generate(RequestModel):
    n: Annotated[int, Field(ge=1, le=MAX_IMAGES, description="Number of images per class.")] = 16
    model: ModelName = None
    seed: Seed = None
    first_index: Annotated[
        int,
        Field(
            ge=0,
            le=MAX_SEED,
            description="Index of the first image. The images of a seed and class are numbered from 0.",
        ),
    ] = 0
    truncation: Annotated[
        float | None,
        Field(
            ge=0.05,
            le=10,
            allow_inf_nan=False,
            description="Redraw latent values further from zero than this. Smaller values give less variety.",
        ),
    ] = None
    threshold: Annotated[
        float | None,
        Field(
            gt=0,
            le=1,
            allow_inf_nan=False,
            description="Unconditional models only: the minimum probability that the classifier gives to the class. "
            "Default: 0.5.",
        ),
    ] = None
    max_draws: Annotated[
        int | None,
        Field(
            ge=1,
            le=MAX_DRAWS,
            description="Unconditional models only: how many images rejection sampling may draw. "
            "Default: 100 n, at least 1000.",
        ),
    ] = None
    format: Annotated[
        Literal["png", "jpeg", "webp", "zip", "json", "npy"],
        Field(
            description="`png`, `jpeg`, `webp`: one grid. `zip`: one file per image and a list. `json`: the same, PNGs "
            "in base64. `npy`: uint8 array [N, H, W, C]."
        ),
    ] = "png"
    files: Annotated[
        Literal["png", "jpeg", "webp"] | None, Field(description="Format of the files in a `zip`. Default: png.")
    ] = None
    quality: Annotated[
        int | None,
        Field(
            ge=1,
            le=100,
            description="Quality of JPEG and WebP: larger files are closer to the generated pixels. "
            f"Default: {DEFAULT_QUALITY}.",
        ),
    ] = None
    compress: Annotated[
        Literal["none", "fast", "small"], Field(description="PNG compression: none, fast to write, or smallest file.")
    ] = "none"
    columns: Annotated[
        int | None,
        Field(ge=1, le=MAX_IMAGES, description="Columns of the grid. Default: ceil(sqrt(n)); n for several classes."),
    ] = None
    scale: Annotated[int, Field(ge=1, le=16, description="Enlarge each pixel to scale x scale pixels.")] = 1

    @property
    def file_format(self) -> Literal["png", "jpeg", "webp"]:
        """Format of the grid, or of each file in a ZIP."""
        if self.format in ("jpeg", "webp"):
            return self.format
        return (self.files or "png") if self.format == "zip" else "png"


class GenerateQuery(_Generate):
    """Query of GET /generate."""

    class_: Annotated[
        str | None,
        Field(
            alias="class",
            max_length=MAX_CLASS_LIST,
            description=f"Class name or number; several separated by commas; `all`. {CLASS_NUMBERS}",
        ),
    ] = None


class GenerateBody(_Generate):
    """Body of POST /generate. Types are strict: `true` and `"4"` are not numbers."""

    model_config = ConfigDict(strict=True)

    class_: Annotated[
        str | tuple[str, ...] | None,
        Field(alias="class", description=f"As in GET /generate, or a list of names and numbers. {CLASS_NUMBERS}"),
        WithJsonSchema({
            "anyOf": [
                {"type": "string", "maxLength": MAX_CLASS_LIST},
                {"type": "integer", "minimum": 0},
                {
                    "type": "array", "minItems": 1, "maxItems": MAX_IMAGES, "items": {
                        "anyOf": [{"type": "string", "maxLength": MAX_CLASS_NAME}, {"type": "integer", "minimum": 0}]
                    },
                },
                {"type": "null"},
            ]
        }),
    ] = None  # fmt: skip

    @field_validator("class_", mode="before")
    @classmethod
    def _names(cls, value: Any) -> Any:
        if isinstance(value, list):
            if not 1 <= len(value) <= MAX_IMAGES:
                raise ValueError(f"list 1 to {MAX_IMAGES:,} classes")
            return tuple(cls._name(item, MAX_CLASS_NAME) for item in value)
        return None if value is None else cls._name(value, MAX_CLASS_LIST)

    @staticmethod
    def _name(value: Any, max_length: int) -> str:
        is_class = isinstance(value, str | int) and not isinstance(value, bool)
        if not is_class or (isinstance(value, int) and value >= 10**18) or len(str(value)) > max_length:
            raise ValueError(f"a class is a name of up to {MAX_CLASS_NAME} characters, or a number")
        return str(value)


class InterpolateQuery(RequestModel):
    """Query of GET /interpolate."""

    from_: Annotated[
        str | None, Field(alias="from", max_length=MAX_CLASS_NAME, description="Class of the first image.")
    ] = None
    to: Annotated[str | None, Field(max_length=MAX_CLASS_NAME, description="Class of the last image.")] = None
    steps: Annotated[int, Field(ge=2, le=MAX_STEPS, description="Number of images, both ends included.")] = 16
    model: ModelName = None
    seed: Seed = None
    from_index: Annotated[int, Field(ge=0, le=MAX_SEED, description="Index of the first image in the seed.")] = 0
    to_index: Annotated[
        int,
        Field(
            ge=0,
            le=MAX_SEED,
            description="Index of the last image in the seed. With from_index = to_index only the class changes.",
        ),
    ] = 1
    truncation: Annotated[
        float | None,
        Field(
            ge=0.05,
            le=10,
            allow_inf_nan=False,
            description="Redraw latent values further from zero than this. Smaller values give less variety.",
        ),
    ] = None
    format: Annotated[
        Literal["png", "apng"], Field(description="`png`: the images side by side. `apng`: an animation.")
    ] = "png"
    compress: Annotated[
        Literal["none", "fast", "small"], Field(description="PNG compression: none, fast to write, or smallest file.")
    ] = "none"
    columns: Annotated[
        int | None, Field(ge=1, le=MAX_STEPS, description="Columns of the PNG. Default: all images in one row.")
    ] = None
    scale: Annotated[int, Field(ge=1, le=16, description="Enlarge each pixel to scale x scale pixels.")] = 1
    frame_ms: Annotated[int, Field(ge=10, le=10_000, description="Duration of an animation's frame.")] = 80


class Verification(BaseModel):
    """Response of POST /verify."""

    reproduced: bool = Field(description="Whether this server generates the same file, byte for byte.")
    same_pixels: bool = Field(description="Whether this server generates the same pixels; the file may differ.")
    reason: str | None = Field(description="Why the file is not reproduced.")
    provenance: dict[str, Any] | None = Field(description="The provenance that the file carries.")
