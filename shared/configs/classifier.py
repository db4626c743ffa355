"""`ClassifierConfig`: the hyper-parameters of the classifier that measures models."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from shared.configs.overrides import validate_overrides
from shared.configs.presets import resolve
from shared.configs.train import TrainConfig

CLASSIFIER = "classifier"  # the preset of a job that trains one


class ClassifierConfig(BaseModel):
    """Everything that decides what training a classifier computes. Frozen; unknown fields are refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)

    # Below 8, torch 2.15's 1x1 convolutions of stride 2 write beside their memory on a CPU (channels-last, backward).
    width: int = Field(64, ge=8, le=256, description="Channels of the first stage; ResNet-18 has 64.")
    epochs: int = Field(30, ge=1, le=1000, description="Times that every image is shown.")
    batch_size: int = Field(128, ge=2, le=4096, description="Images per step.")
    lr: float = Field(0.2, gt=0, le=10, description="Learning rate of SGD at its highest.")
    warmup: float = Field(0.2, ge=0, lt=1, description="Share of the budget over which the rate rises.")
    momentum: float = Field(0.9, gt=0, lt=1, description="Nesterov momentum.")
    weight_decay: float = Field(5e-4, ge=0, le=1, description="Of weights; batch norms and biases have none.")
    label_smoothing: float = Field(0.1, ge=0, lt=1, description="Probability spread over all classes.")
    flip: bool = Field(True, description="Flip half of the images horizontally.")
    crop_padding: int = Field(4, ge=0, le=16, description="Pad by so many pixels, then crop at random.")
    cutout_px: int = Field(0, ge=0, le=32, description="Side of the black square put on each image; 0: none.")
    small_px: int = Field(32, ge=8, le=32, description="Images are shrunk to this side at first; 32: they are not.")
    small_share: float = Field(0.6, ge=0, lt=1, description="Share of the budget that counts as 'at first'.")
    ema_halflife_nimg: int = Field(0, ge=0, description="Half-life of the averaged weights, in images; 0: none.")
    tick_nimg: int = Field(10_000, ge=1, description="Images between two lines of the log.")
    checkpoint_every_s: float = Field(120.0, ge=0, description="Seconds between two checkpoints.")
    seed: int = Field(0, ge=0, lt=2**63, description="Seed of everything random in the run.")


def resolve_classifier(overrides: Mapping[str, Any]) -> ClassifierConfig:
    """The defaults with some values replaced. Raises InvalidInput; fields are named `overrides.<field>`."""
    return validate_overrides(ClassifierConfig, overrides)


def resolve_job(preset: str, overrides: Mapping[str, Any]) -> TrainConfig | ClassifierConfig:
    """The config of a job with this preset: a GAN's, or the classifier's. Raises InvalidInput."""
    return resolve_classifier(overrides) if preset == CLASSIFIER else resolve(preset, overrides)
