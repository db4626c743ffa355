"""`ClassifierConfig`: the hyper-parameters of the classifier that measures models."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from shared.configs.overrides import validate_overrides
from shared.configs.presets import resolve
from shared.configs.reading import Background, Crop, OnBadFile
from shared.configs.train import TrainConfig

CLASSIFIER = "classifier"  # the preset of a job that trains a classifier


class ClassifierConfig(BaseModel):
    """All values that determine the training of a classifier. Frozen; rejects unknown fields."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)

    # Below 8, torch 2.15 writes out of bounds in the backward pass of strided 1x1 convolutions (CPU, channels-last).
    width: int = Field(64, ge=8, le=256, description="Channels of the first stage. ResNet-18 has 64.")
    epochs: int = Field(30, ge=1, le=1000, description="Passes over the training images.")
    batch_size: int = Field(128, ge=2, le=4096, description="Images per step.")
    lr: float = Field(0.2, gt=0, le=10, description="Maximum learning rate of SGD.")
    warmup: float = Field(
        0.2, ge=0, lt=1, description="Fraction of the budget over which the learning rate rises to its maximum."
    )
    momentum: float = Field(0.9, gt=0, lt=1, description="Nesterov momentum.")
    weight_decay: float = Field(5e-4, ge=0, le=1, description="Weight decay. Batch norms and biases have none.")
    label_smoothing: float = Field(0.1, ge=0, lt=1, description="Label smoothing: probability spread over all classes.")
    flip: bool = Field(True, description="Flip half of the images horizontally.")
    crop_padding: int = Field(4, ge=0, le=16, description="Pad by this many pixels, then crop at random.")
    cutout_px: int = Field(0, ge=0, le=32, description="Side of the black square on each image, in pixels. 0: none.")
    small_px: int = Field(
        32,
        ge=8,
        le=32,
        description="Side of the images at the start of training, in pixels. 32: full size from the start.",
    )
    small_share: float = Field(
        0.6, ge=0, lt=1, description="Fraction of the budget during which images have the side `small_px`."
    )
    ema_halflife_nimg: int = Field(
        0, ge=0, description="Half-life of the averaged weights (EMA), in images. 0: no averaging."
    )
    crop: Crop = "centre"
    background: Background = "#ffffff"
    on_bad_file: OnBadFile = "fail"
    tick_nimg: int = Field(10_000, ge=1, description="Images between two rows of metrics.")
    checkpoint_every_s: float = Field(120.0, ge=0, description="Seconds between two checkpoints.")
    seed: int = Field(0, ge=0, lt=2**63, description="Seed of all random numbers of the run.")


def resolve_classifier(overrides: Mapping[str, Any]) -> ClassifierConfig:
    """The defaults with some values replaced. Raises InvalidInput; fields are named `overrides.<field>`."""
    return validate_overrides(ClassifierConfig, overrides)


def resolve_job(preset: str, overrides: Mapping[str, Any]) -> TrainConfig | ClassifierConfig:
    """The config of a job with this preset: a GAN's, or the classifier's. Raises InvalidInput."""
    return resolve_classifier(overrides) if preset == CLASSIFIER else resolve(preset, overrides)
