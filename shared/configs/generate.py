"""`GenerateConfig`: what a job that generates a data set makes, with which model and which seed."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

GENERATE: Literal["generate"] = "generate"  # stands for the preset in the record of such a job
MAX_DATASET_IMAGES = 10_000_000
SHARD_IMAGES = 1000

DatasetFormat = Literal["imagefolder", "webdataset"]
Compression = Literal["none", "fast", "small"]


class GenerateConfig(BaseModel):
    """A resolved request for a data set: every value that determines its bytes. Frozen; rejects unknown fields."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False, protected_namespaces=())

    model: str = Field(description="Id of the model; aliases are resolved when the job is submitted.")
    model_digest: str = Field(description="SHA-256 of its generator.")
    classes: dict[str, int] = Field(description="Images of each class. Empty: images without a class.")
    n: int = Field(ge=1, le=MAX_DATASET_IMAGES, description="Images of all classes together.")
    format: DatasetFormat = Field("imagefolder", description="ZIP files with a folder per class, or tar shards.")
    seed: int = Field(0, ge=0, lt=2**63, description="Seed of the images, as in /generate.")
    truncation: float | None = Field(None, ge=0.05, le=10, description="As in /generate.")
    min_confidence: float | None = Field(
        None, gt=0, le=1, description="Probability that the classifier must give to the class of an image."
    )
    compress: Compression = Field("fast", description="Compression of the PNG files, as in /generate.")
    shard_images: int = Field(SHARD_IMAGES, ge=1, le=10_000, description="Images per file; a job resumes after a file.")
