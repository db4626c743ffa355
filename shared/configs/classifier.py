"""`ClassifierConfig`: the hyper-parameters of the classifier that measures models."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from shared.configs.overrides import validate_overrides
from shared.configs.presets import resolve
from shared.configs.reading import Background, Crop, OnBadFile
from shared.configs.train import TrainConfig

CLASSIFIER = "classifier"  # the preset of a job that trains a classifier


class ClassifierConfig(BaseModel):
    """All values that determine the training of a classifier. Frozen; rejects unknown fields.

    The defaults are those of Jordan 2024, arXiv:2404.00498, with two more epochs.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)

    width: int = Field(64, ge=8, le=256, description="Channels of the first block; the others have four times as many.")
    resolution: Literal[32, 64, 128, 256] = Field(32, description="Side of the images in pixels.")
    epochs: int = Field(12, ge=1, le=1000, description="Passes over the training images.")
    batch_size: int = Field(1024, ge=2, le=4096, description="Images per step.")
    lr: float = Field(
        1.5, gt=0, le=10, description="Maximum learning rate of SGD for 1,024 images per step; in proportion to them."
    )
    lr_start: float = Field(0.2, ge=0, le=1, description="Learning rate of the first step, as a fraction of lr.")
    lr_end: float = Field(0.07, ge=0, le=1, description="Learning rate of the last step, as a fraction of lr.")
    warmup: float = Field(
        0.23, gt=0, lt=1, description="Fraction of the budget over which the learning rate rises to its maximum."
    )
    bias_lr_factor: float = Field(64.0, gt=0, le=1000, description="Learning rate of the biases, as a multiple of lr.")
    momentum: float = Field(0.85, gt=0, lt=1, description="Nesterov momentum.")
    weight_decay: float = Field(1.33e-3, ge=0, le=1, description="Weight decay.")
    label_smoothing: float = Field(0.2, ge=0, lt=1, description="Label smoothing: probability spread over all classes.")
    flip: bool = Field(True, description="Mirror each image in every second epoch.")
    crop_padding: int = Field(2, ge=0, le=16, description="Move each image at random by up to this many pixels.")
    lookahead_every: int = Field(5, ge=1, le=1000, description="Steps between two updates of Lookahead's slow weights.")
    lookahead_decay: float = Field(
        0.95, ge=0, lt=1, description="Decay of the slow weights per step, at the end of the run. 0: no averaging."
    )
    precision: Literal["fp32", "bf16"] = Field(
        "bf16", description="Arithmetic of the network in training. Weights stay fp32, and so does every evaluation."
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
