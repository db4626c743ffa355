"""Request for a job that generates a data set, and the description of the result."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import ConfigDict, Discriminator, Field, Tag, model_validator

from services.api.schemas.jobs import JobRequest
from services.api.schemas.request import RequestModel
from shared.configs.generate import GENERATE, MAX_DATASET_IMAGES, Compression, DatasetFormat

MAX_CLASSES = 1000
MAX_CLASS_NAME = 255  # characters; no file system allows a folder a longer name
DATASET_NAME = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$"

Count = Annotated[int, Field(ge=0, le=MAX_DATASET_IMAGES)]
ClassName = Annotated[str, Field(min_length=1, max_length=MAX_CLASS_NAME)]


class Balance(RequestModel):
    """A data set whose smaller classes are to be filled up to the size of its largest class."""

    dataset: Annotated[str, Field(pattern=DATASET_NAME, description="Name of the data set.")]


class GenerateJobRequest(RequestModel):
    """Body of POST /jobs for a job that generates a data set. Exactly one of `n`, `classes` and `balance` is given."""

    model_config = ConfigDict(strict=True, protected_namespaces=())

    kind: Literal["generate"] = GENERATE
    model: Annotated[
        str | None, Field(min_length=1, max_length=200, description="Model id or alias. Default: the alias `default`.")
    ] = None
    n: Annotated[
        int | None,
        Field(ge=1, le=MAX_DATASET_IMAGES, description="Number of images, in equal shares for the model's classes."),
    ] = None
    classes: Annotated[
        dict[ClassName, Count] | None,
        Field(min_length=1, max_length=MAX_CLASSES, description="Number of images of each class, by the class's name."),
    ] = None
    balance: Annotated[
        Balance | None, Field(description="Fills up each class of this data set to the size of its largest class.")
    ] = None
    format: Annotated[
        DatasetFormat,
        Field(description="`imagefolder`: ZIP files with a folder per class. `webdataset`: tar shards of samples."),
    ] = "imagefolder"
    seed: Annotated[int, Field(ge=0, lt=2**63, description="The same seed gives the same images, as in /generate.")] = 0
    truncation: Annotated[float | None, Field(ge=0.05, le=10, allow_inf_nan=False, description="As in /generate.")] = (
        None
    )
    min_confidence: Annotated[
        float | None,
        Field(
            gt=0,
            le=1,
            allow_inf_nan=False,
            description="Keep only images to whose class the classifier gives at least this probability. Default: keep "
            "all. The manifest says how many were rejected. Unconditional models: at least 0.5, which is the default.",
        ),
    ] = None
    compress: Annotated[Compression, Field(description="PNG compression, as in /generate.")] = "fast"
    name: Annotated[str | None, Field(max_length=200, description="A label of your choice.")] = None

    @model_validator(mode="after")
    def _one_size(self) -> Self:
        if sum(size is not None for size in (self.n, self.classes, self.balance)) != 1:
            raise ValueError("give exactly one of n, classes and balance")
        return self


TRAIN_TAG, GENERATE_TAG = "train job", "generate job"  # pydantic puts them into the paths of errors


def _tag_of(body: Any) -> str:
    kind = body.get("kind") if isinstance(body, dict) else getattr(body, "kind", None)
    return GENERATE_TAG if kind == GENERATE else TRAIN_TAG


AnyJobRequest = Annotated[
    Annotated[JobRequest, Tag(TRAIN_TAG)] | Annotated[GenerateJobRequest, Tag(GENERATE_TAG)], Discriminator(_tag_of)
]
