"""What can be trained: `TrainConfig`, the table of presets, and `resolve(preset, overrides)`.

Progress is counted in real images shown to the discriminator (`nimg`); every schedule is a plain function of it.
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from pydantic_core import PydanticCustomError

from shared.errors import FieldProblem, InvalidInput

# A JSON array arrives as a list; the config keeps it as a tuple so that it stays frozen.
Channels = Annotated[tuple[Annotated[int, Field(ge=1, le=4096)], ...], Field(strict=False, min_length=2, max_length=6)]


MIN_EVAL_IMAGES = 10  # fewer have no neighbours, and no covariance to speak of


class TrainConfig(BaseModel):
    """Everything that decides what a training run computes. Frozen; unknown fields are refused; types are strict."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)

    # Networks
    architecture: Literal["dcgan", "resnet"] = Field(
        description="Family of both networks; see services/trainer/networks."
    )
    conditional: bool = Field(description="Condition both networks on the class.")
    latent_dim: int = Field(ge=1, le=1024, description="Length of the latent vector z.")
    g_channels: Channels = Field(description="Generator channels, from 4x4 pixels upward.")
    d_channels: Channels = Field(description="Discriminator channels, from the image downward.")
    spectral_norm: bool = Field(False, description="Divide each discriminator weight by its spectral norm.")

    # Objective
    loss: Literal["wasserstein", "hinge", "bce"] = Field(
        description="Adversarial loss; see services/trainer/losses.py."
    )
    gp_weight: float = Field(0.0, ge=0, le=1e6, description="Weight of the gradient penalty; 0 leaves it out.")
    n_critic: int = Field(1, ge=1, le=100, description="Discriminator steps per generator step.")

    # Optimization
    batch_size: int = Field(64, ge=2, le=4096, description="Images per step.")
    total_nimg: int = Field(ge=1, le=10**10, description="Budget: real images shown to the discriminator.")
    lr: float = Field(gt=0, le=1, description="Learning rate of Adam, both networks.")
    lr_d: float | None = Field(
        None, gt=0, le=1, description="The discriminator's own learning rate; null: the same as lr."
    )
    adam_beta1: float = Field(0.5, ge=0, lt=1, description="Adam's beta 1.")
    adam_beta2: float = Field(0.999, ge=0, lt=1, description="Adam's beta 2.")
    lr_step_nimg: int | None = Field(
        None, ge=1, description="Multiply the learning rates every so many images; null: never."
    )
    lr_step_factor: float = Field(0.1, gt=0, le=1, description="What to multiply them with.")
    lr_tail: float = Field(0.0, ge=0, le=1, description="Share of the budget, at its end, over which lr falls to zero.")
    ema_halflife_nimg: int = Field(
        0, ge=0, description="Half-life of the averaged generator, in images; 0: no averaging."
    )

    precision: Literal["fp32", "bf16"] = Field(
        "fp32", description="Arithmetic of the networks; bf16 is fast on recent GPUs. Weights and losses stay fp32."
    )
    gpus: int = Field(
        1, ge=1, le=64, description="Devices of one machine that share each batch; the result is the same."
    )
    max_minutes: float | None = Field(
        None, gt=0, le=10**6, description="Time for the whole run; every schedule is stretched to end with it."
    )

    # Data
    flip: bool = Field(False, description="Flip half of the real images horizontally.")
    rotation_degrees: float = Field(0.0, ge=0, le=180, description="Rotate real images by up to this angle.")
    crop_padding: int = Field(0, ge=0, le=16, description="Pad by so many pixels, then crop at random.")

    # Reporting
    tick_nimg: int = Field(50_000, ge=1, description="Images between two rows of the metrics series.")
    snapshot_nimg: int = Field(500_000, ge=1, description="Images between two sample grids with checkpoints.")
    eval_images: int = Field(
        0, ge=0, le=10**6, description="Images that the model is measured by at the end of the run; 0: it is not."
    )
    eval_every_nimg: int | None = Field(
        None, ge=1, description="Images between two measurements during the run, at ticks; null: none before the end."
    )
    checkpoint_every_s: float = Field(
        120.0, ge=0, description="Seconds between two checkpoints, besides the snapshots'."
    )
    seed: int = Field(0, ge=0, lt=2**63, description="Seed of everything random in the run.")

    @model_validator(mode="after")
    def _networks_fit_32_pixels(self) -> Self:
        # Each resolution from 4x4 to 32x32 has its place in the tuple; another length is another image size.
        g_stages, d_stages = {"dcgan": (3, range(3, 4)), "resnet": (4, range(2, 5))}[self.architecture]
        _check(
            "g_channels",
            self.g_channels,
            len(self.g_channels) == g_stages,
            f"{self.architecture} takes {g_stages} values",
        )
        lengths = " to ".join(str(n) for n in sorted({d_stages.start, d_stages.stop - 1}))
        _check(
            "d_channels",
            self.d_channels,
            len(self.d_channels) in d_stages,
            f"{self.architecture} takes {lengths} values",
        )
        enough = self.eval_images == 0 or self.eval_images >= MIN_EVAL_IMAGES
        _check("eval_images", self.eval_images, enough, f"at least {MIN_EVAL_IMAGES}, or 0 for none")
        # torch refuses to call a spectrally normalised network twice in one step, which the penalty would need.
        both = self.spectral_norm and self.gp_weight > 0
        _check("gp_weight", self.gp_weight, not both, "a gradient penalty and spectral_norm exclude each other")
        is_even = self.batch_size % self.gpus == 0 and self.batch_size >= 2 * self.gpus
        _check("gpus", self.gpus, is_even, f"a batch of {self.batch_size} cannot be shared evenly, two images each")
        return self


def _check(name: str, value: Any, holds: bool, message: str) -> None:
    if not holds:
        raise PydanticCustomError("config", "{message}", {"message": message, "field": name, "value": value})


@dataclass(frozen=True)
class Preset:
    """One row of the table: a complete config, where its values come from, and what it builds."""

    name: str
    summary: str
    config: TrainConfig
    parameters: Mapping[str, int]  # of the two networks with ten classes; tests count the real ones
    sources: Mapping[str, str] = field(default_factory=dict)  # field -> where its value comes from


REPORT_1 = "report 1 (WGAN-GP on CIFAR-10)"
WGAN_GP_PAPER = "Gulrajani et al. 2017, arXiv:1704.00028"

_WGAN_GP = TrainConfig(
    architecture="dcgan",
    conditional=False,
    latent_dim=100,
    g_channels=(512, 256, 128),
    d_channels=(128, 256, 512),
    loss="wasserstein",
    gp_weight=10.0,
    n_critic=5,
    batch_size=64,
    total_nimg=100 * 50_000,
    lr=2e-4,
    adam_beta1=0.5,
    adam_beta2=0.999,
    lr_step_nimg=30 * 50_000,
    lr_step_factor=0.1,
    flip=True,
    rotation_degrees=10.0,
    crop_padding=4,
    tick_nimg=50_000,
    snapshot_nimg=10 * 50_000,
)

_WGAN_GP_SOURCES = {
    **dict.fromkeys(_WGAN_GP.model_fields_set - {"conditional"}, REPORT_1),
    "n_critic": f"{WGAN_GP_PAPER}, algorithm 1; the report does not state it",
    "ema_halflife_nimg": "0: report 1 averages no weights",
}

_TINY = TrainConfig(
    architecture="dcgan",
    conditional=True,
    latent_dim=64,
    g_channels=(128, 96, 64),
    d_channels=(48, 96, 192),
    loss="hinge",
    batch_size=32,
    total_nimg=80_000,
    lr=4e-4,
    adam_beta1=0.5,
    adam_beta2=0.999,
    lr_tail=0.4,
    ema_halflife_nimg=5_000,
    flip=True,
    tick_nimg=2_000,
    snapshot_nimg=20_000,
    checkpoint_every_s=20.0,
)

_TINY_SOURCES = {
    "lr": "docs/experiments.md, 2026-11-21: 2e-4 leaves the classes indistinct after 66 thousand images",
    "batch_size": "docs/experiments.md, 2026-11-21, run 7: more detail than 64 after as many images",
    "loss": "docs/experiments.md, 2026-11-21, runs 1 and 2: as good as BCE, a little calmer",
    "architecture": "docs/experiments.md, 2026-11-21: more than twice the images per second of small residual networks",
}

PRESETS: dict[str, Preset] = {
    row.name: row
    for row in (
        Preset(
            name="wgan-gp",
            summary="Report 1 as described: a DCGAN-shaped WGAN-GP, unconditional, 100 epochs of CIFAR-10.",
            config=_WGAN_GP,
            parameters={"generator": 3_448_576, "discriminator": 2_637_312},
            sources=_WGAN_GP_SOURCES,
        ),
        Preset(
            name="wgan-gp-conditional",
            summary="Report 1 with the class given to both networks.",
            config=_WGAN_GP.model_copy(update={"conditional": True}),
            parameters={"generator": 3_464_704, "discriminator": 2_719_232},
            sources=_WGAN_GP_SOURCES
            | {"conditional": "conditional batch norm (arXiv:1610.07629) and projection (arXiv:1802.05637)"},
        ),
        Preset(
            name="tiny",
            summary="Small, class-conditional, for two CPU cores: classes look different after about three minutes.",
            config=_TINY,
            parameters={"generator": 434_816, "discriminator": 405_312},
            sources=_TINY_SOURCES,
        ),
    )
}


def find_preset(name: str) -> Preset:
    """The preset of that name. Raises InvalidInput, which lists the names there are."""
    preset = PRESETS.get(name)
    if preset is None:
        raise InvalidInput.of(
            "preset", name, f"unknown preset; there are {', '.join(PRESETS)}{_nearest(name, PRESETS)}"
        )
    return preset


def resolve(preset: str, overrides: Mapping[str, Any]) -> TrainConfig:
    """The preset's config with some values replaced, all of them checked.

    Raises InvalidInput with one problem per wrong value; fields are named `overrides.<field>`.
    """
    base = find_preset(preset).config
    try:
        return TrainConfig.model_validate(base.model_dump() | dict(overrides))
    except ValidationError as error:
        found = error.errors(include_url=False)
        # A tuple whose items were refused is reported again, as too short; the items say it.
        inside = {details["loc"][:-1] for details in found if len(details["loc"]) > 1}
        raise InvalidInput([_problem(dict(details)) for details in found if details["loc"] not in inside]) from None


def parse_overrides(pairs: Iterable[str]) -> dict[str, Any]:
    """`lr=1e-4` -> {"lr": 1e-4}; what is no JSON is a string. Raises InvalidInput."""
    overrides: dict[str, Any] = {}
    for pair in pairs:
        field, separator, text = pair.partition("=")
        if not separator:
            raise InvalidInput.of("override", pair, "expected FIELD=VALUE")
        try:
            overrides[field] = json.loads(text)
        except ValueError:
            overrides[field] = text
    return overrides


def _problem(details: dict[str, Any]) -> FieldProblem:
    path = ".".join(str(part) for part in details["loc"])
    message, value = details["msg"], details["input"]
    if details["type"] == "config":  # a rule over several fields; it says itself which one to change
        path, value = details["ctx"]["field"], details["ctx"]["value"]
    if details["type"] == "extra_forbidden":
        message = f"unknown override{_nearest(path, TrainConfig.model_fields)}"
    return FieldProblem(f"overrides.{path}", value, message)


def _nearest(name: str, names: Mapping[str, Any]) -> str:
    close = difflib.get_close_matches(name, names, n=1)
    return f"; did you mean {close[0]!r}?" if close else ""
