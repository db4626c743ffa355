"""`TrainConfig`: everything that decides what a training run computes, and what values are allowed.

Progress is counted in real images shown to the discriminator (`nimg`); every schedule is a plain function of it.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator
from pydantic_core import PydanticCustomError

# A JSON array arrives as a list; the config keeps it as a tuple so that it stays frozen.
Channels = Annotated[tuple[Annotated[int, Field(ge=1, le=4096)], ...], Field(strict=False, min_length=2, max_length=6)]


MIN_EVAL_IMAGES = 10  # fewer have no neighbours, and no covariance to speak of

CLASSIFIER = "classifier"  # what init_discriminator_from calls the classifier that measures models
_START = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}(@[0-9]{1,12})?$"

# By architecture: how many values g_channels takes, and d_channels.
_STAGES = {
    "dcgan": (3, range(3, 4)), "keras-dcgan": (3, range(2, 3)), "resnet": (4, range(2, 5)),
    "resnet-18": (4, range(4, 5)),
}  # fmt: skip
# Options of one architecture: their absence, and whose they are.
_OPTIONS: dict[str, tuple[Any, str]] = {
    "batch_norm": (False, "keras-dcgan"),
    "dropout": (0.0, "keras-dcgan"),
    "g_activation": (None, "keras-dcgan"),
    "g_output": ("tanh", "keras-dcgan"),
    "d_halvings": (None, "resnet"),
}


class EarlyStop(BaseModel):
    """When a run is done before its budget is spent. What is exported then is the best model, not the last."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)

    metric: Literal["fid", "inception_score", "class_accuracy", "recall"] = Field(description="What has to improve.")
    patience: int = Field(ge=1, le=10_000, description="Measurements without improvement after which it stops.")
    minimum: float = Field(0.0, ge=0, le=1e9, description="The smallest improvement that counts as one.")


class TrainConfig(BaseModel):
    """Everything that decides what a training run computes. Frozen; unknown fields are refused; types are strict."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)

    # Networks
    architecture: Literal["dcgan", "keras-dcgan", "resnet", "resnet-18"] = Field(
        description="Family of both networks; see services/trainer/networks."
    )
    conditional: bool = Field(description="Condition both networks on the class.")
    per_class: bool = Field(
        False, description="Train a GAN of its own for each class, one after another, and publish them as one model."
    )
    latent_dim: int = Field(ge=1, le=1024, description="Length of the latent vector z.")
    g_channels: Channels = Field(description="Generator channels, from the fewest pixels upward.")
    d_channels: Channels = Field(description="Discriminator channels, from the image downward.")
    d_halvings: int | None = Field(
        None, ge=1, le=4, description="resnet: how many of D's blocks, the first ones, halve the image; null: all."
    )
    spectral_norm: bool = Field(False, description="Divide each discriminator weight by its spectral norm.")
    batch_norm: bool = Field(
        False, description="keras-dcgan: batch norm after each activation of both networks. Others have it by design."
    )
    dropout: float = Field(0.0, ge=0, lt=1, description="keras-dcgan: drop so much after each activation of D.")
    g_activation: Literal["leaky_relu", "relu"] | None = Field(
        None, description="keras-dcgan: the generator's; null: leaky_relu there, and what others have by design."
    )
    g_output: Literal["tanh", "softmax"] = Field(
        "tanh", description="keras-dcgan: end of the generator; softmax is over the three colours of a pixel."
    )

    # Objective
    loss: Literal["wasserstein", "hinge", "bce"] = Field(
        description="Adversarial loss; see services/trainer/training/losses.py."
    )
    gp_weight: float = Field(0.0, ge=0, le=1e6, description="Weight of the gradient penalty; 0 leaves it out.")
    class_weight: float = Field(
        0.0, ge=0, le=1e6, description="Weight of an auxiliary class loss for both networks; 0 leaves it out."
    )
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
    early_stop: EarlyStop | None = Field(
        None, description="Stop when a figure no longer improves, and export the best model; null: spend the budget."
    )

    # Beginning
    from_checkpoint: str | None = Field(
        None, pattern=_START, description="Go on from a job's newest checkpoint, or `<job>@<images>` for another one."
    )
    init_discriminator_from: str | None = Field(
        None,
        pattern=_START,
        description="Begin with a job's discriminator (`<job>`, `<job>@<images>`), or as the `classifier` (resnet-18).",
    )
    seed: int = Field(0, ge=0, lt=2**63, description="Seed of everything random in the run.")

    @model_validator(mode="after")
    def _networks_fit_32_pixels(self) -> Self:
        # Each resolution up to 32x32 has its place in the tuple; another length is another image size.
        name, (g_stages, d_stages) = self.architecture, _STAGES[self.architecture]
        lengths = " to ".join(str(n) for n in sorted({d_stages.start, d_stages.stop - 1}))
        _check("g_channels", self.g_channels, len(self.g_channels) == g_stages, f"{name} takes {g_stages} values")
        _check("d_channels", self.d_channels, len(self.d_channels) in d_stages, f"{name} takes {lengths} values")
        if name == "resnet-18":
            doubled = tuple(self.d_channels[0] * 2**stage for stage in range(4))
            _check("d_channels", self.d_channels, self.d_channels == doubled, f"resnet-18 doubles them: {doubled}")
            _check("spectral_norm", self.spectral_norm, not self.spectral_norm, "resnet-18 has batch norm instead")
        return self

    @model_validator(mode="after")
    def _options_go_together(self) -> Self:
        for name, (nothing, owner) in _OPTIONS.items():
            value = getattr(self, name)
            is_known = self.architecture == owner or value == nothing
            _check(name, value, is_known, f"{self.architecture} has no such option; {owner} has")
        blocks = len(self.d_channels)
        _check("d_halvings", self.d_halvings, (self.d_halvings or 0) <= blocks, f"d_channels has {blocks} blocks only")
        # torch refuses to call a spectrally normalised network twice in one step, which either would need.
        both = self.spectral_norm and self.gp_weight > 0
        _check("gp_weight", self.gp_weight, not both, "a gradient penalty and spectral_norm exclude each other")
        both = self.spectral_norm and self.batch_norm
        _check("batch_norm", self.batch_norm, not both, "batch_norm and spectral_norm exclude each other")
        knows = self.conditional or self.class_weight == 0
        _check("class_weight", self.class_weight, knows, "a class loss needs a conditional config")
        is_same = self.gpus == 1 or self.dropout == 0
        _check("gpus", self.gpus, is_same, "dropout draws anew on each device, so the result would not be the same")
        is_even = self.batch_size % self.gpus == 0 and self.batch_size >= 2 * self.gpus
        _check("gpus", self.gpus, is_even, f"a batch of {self.batch_size} cannot be shared evenly, two images each")
        return self

    @model_validator(mode="after")
    def _parts_stand_alone(self) -> Self:
        if self.per_class:
            _check("conditional", self.conditional, not self.conditional, "with per_class no network needs a class")
            _check("gpus", self.gpus, self.gpus == 1, "per_class trains on one device")
            rarely = self.eval_every_nimg is None
            _check("eval_every_nimg", self.eval_every_nimg, rarely, "with per_class the model is whole at the end only")
            for name in ("from_checkpoint", "init_discriminator_from"):
                value = getattr(self, name)
                _check(name, value, value is None, "per_class begins each class anew")
        return self

    @model_validator(mode="after")
    def _beginning_and_end_can_be(self) -> Self:
        enough = self.eval_images == 0 or self.eval_images >= MIN_EVAL_IMAGES
        _check("eval_images", self.eval_images, enough, f"at least {MIN_EVAL_IMAGES}, or 0 for none")
        if self.early_stop is not None:
            told, is_seen = self.early_stop.model_dump(), self.eval_images > 0 and self.eval_every_nimg is not None
            _check("early_stop", told, is_seen, "needs eval_images and eval_every_nimg, or there is nothing to watch")
            can_be = self.conditional or self.early_stop.metric != "class_accuracy"
            _check("early_stop", told, can_be, "an unconditional model has no class_accuracy")
        start = self.init_discriminator_from
        _check("init_discriminator_from", start, not (start and self.from_checkpoint), "from_checkpoint brings its own")
        fits = start != CLASSIFIER or self.architecture == "resnet-18"
        _check("init_discriminator_from", start, fits, "the classifier's trunk is a discriminator of resnet-18 only")
        return self


def _check(name: str, value: Any, holds: bool, message: str) -> None:
    if not holds:
        raise PydanticCustomError("config", "{message}", {"message": message, "field": name, "value": value})
