"""`TrainConfig`: all values that determine a training run, and the rules that they must satisfy.

Progress is counted in real images that the discriminator has seen (`nimg`). Every schedule is a function of it.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator
from pydantic_core import PydanticCustomError

from shared.configs.reading import Background, Crop, OnBadFile

# A JSON array arrives as a list. The config stores a tuple, so that it stays frozen.
Channels = Annotated[tuple[Annotated[int, Field(ge=1, le=4096)], ...], Field(strict=False, min_length=2, max_length=8)]

DiffAugment = Annotated[tuple[Literal["color", "translation", "cutout"], ...], Field(strict=False, max_length=3)]

MIN_EVAL_IMAGES = 10  # fewer images have too few neighbours and no useful covariance

_START = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}(@[0-9]{1,12})?$"

RESOLUTIONS = (32, 64, 128, 256)
# Fields that only one architecture has: the value that means 'unused', and the architecture.
_OPTIONS: dict[str, tuple[Any, str]] = {
    "batch_norm": (False, "keras-dcgan"),
    "dropout": (0.0, "keras-dcgan"),
    "g_activation": (None, "keras-dcgan"),
    "g_output": ("tanh", "keras-dcgan"),
    "leaky_slope": (0.3, "keras-dcgan"),
    "pixel_range": ("symmetric", "keras-dcgan"),
    "frozen_norm": ("batch", "keras-dcgan"),
    "d_halvings": (None, "resnet"),
}


class EarlyStop(BaseModel):
    """Ends a run before its budget is spent, when a metric stops improving. The run then exports its best model."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)

    metric: Literal["fid", "inception_score", "class_accuracy", "recall"] = Field(
        description="The metric that has to improve."
    )
    patience: int = Field(
        ge=1, le=10_000, description="Number of evaluations without improvement after which the run ends."
    )
    minimum: float = Field(0.0, ge=0, le=1e9, description="Smallest change that counts as an improvement.")


class TrainConfig(BaseModel):
    """All values that determine a training run. Frozen; rejects unknown fields; types are strict."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)

    # Networks
    architecture: Literal["dcgan", "keras-dcgan", "resnet"] = Field(
        description="Architecture of both networks; see services/trainer/networks."
    )
    discriminator: Literal["own", "projected"] = Field(
        "own",
        description="own: the architecture's. projected: small heads on features of a frozen ImageNet network; see "
        "services/trainer/networks/projected.py.",
    )
    feature_px: int | None = Field(
        None,
        ge=32,
        le=512,
        multiple_of=32,
        description="projected: side of the enlarged images that the frozen network sees, in pixels. null: twice the "
        "images' own, but at most 256.",
    )
    conditional: bool = Field(description="Condition both networks on the class.")
    per_class: bool = Field(
        False, description="Train one GAN per class, one after another, and publish them as one model."
    )
    resolution: Literal[32, 64, 128, 256] = Field(32, description="Side of the images in pixels.")
    channels: Literal[1, 3] | None = Field(
        None, description="1: grey images, 3: colour. null: grey if all images of the data set are, otherwise colour."
    )
    latent_dim: int = Field(ge=1, le=1024, description="Length of the latent vector z.")
    g_channels: Channels = Field(description="Generator channels, from the lowest resolution to the highest.")
    d_channels: Channels = Field(
        description="Discriminator channels, from the highest resolution to the lowest. projected: those of its heads."
    )
    d_halvings: int | None = Field(
        None,
        ge=1,
        le=6,
        description="resnet: number of discriminator blocks that halve the resolution, from the first on. null: all.",
    )
    spectral_norm: bool = Field(False, description="Divide each weight of the discriminator by its spectral norm.")
    batch_norm: bool = Field(
        False,
        description="keras-dcgan: batch norm after each activation of both networks. Others have it by design.",
    )
    dropout: float = Field(
        0.0, ge=0, lt=1, description="keras-dcgan: dropout probability after each activation of the discriminator."
    )
    g_activation: Literal["leaky_relu", "relu"] | None = Field(
        None, description="keras-dcgan: activation of the generator. null: leaky_relu."
    )
    g_output: Literal["tanh", "softmax"] = Field(
        "tanh", description="keras-dcgan: output of the generator. softmax runs over the three colours of a pixel."
    )
    leaky_slope: float = Field(0.3, ge=0, lt=1, description="keras-dcgan: slope of LeakyReLU below zero.")
    pixel_range: Literal["symmetric", "unit"] = Field(
        "symmetric",
        description="keras-dcgan: range of real pixels in training, [-1, 1] or [0, 1]. Exported models use [-1, 1].",
    )
    frozen_norm: Literal["batch", "running"] = Field(
        "batch",
        description="keras-dcgan: batch norm statistics of the network that a step does not train. running: as Keras "
        "does for frozen networks and in predict().",
    )

    # Objective
    loss: Literal["wasserstein", "hinge", "bce"] = Field(
        description="Adversarial loss; see services/trainer/training/losses.py."
    )
    gp_weight: float = Field(0.0, ge=0, le=1e6, description="Weight of the gradient penalty. 0: no penalty.")
    class_weight: float = Field(
        0.0, ge=0, le=1e6, description="Weight of an auxiliary class loss for both networks. 0: no class loss."
    )
    n_critic: int = Field(1, ge=1, le=100, description="Discriminator steps per generator step.")

    # Optimization
    batch_size: int = Field(64, ge=2, le=4096, description="Images per step.")
    d_batch: Literal["full", "stacked_half"] = Field(
        "full",
        description="Batch of a discriminator step. full: batch_size real and as many generated images. stacked_half: "
        "one batch of batch_size images, half of them real.",
    )
    g_batch: Literal["new", "shared"] = Field(
        "new",
        description="Images of a generator step. new: freshly generated. shared: those of the discriminator step "
        "before it, which saves a pass through the generator.",
    )
    total_nimg: int = Field(ge=1, le=10**10, description="Budget of the run: real images that the discriminator sees.")
    lr: float = Field(gt=0, le=1, description="Learning rate of Adam, for both networks.")
    lr_d: float | None = Field(
        None, gt=0, le=1, description="Learning rate of the discriminator, if it differs. null: lr."
    )
    adam_beta1: float = Field(0.5, ge=0, lt=1, description="Beta 1 of Adam.")
    adam_beta2: float = Field(0.999, ge=0, lt=1, description="Beta 2 of Adam.")
    lr_step_nimg: int | None = Field(
        None, ge=1, description="Images between two steps of the learning rates. null: no steps."
    )
    lr_step_factor: float = Field(
        0.1, gt=0, le=1, description="Factor by which each step multiplies the learning rates."
    )
    lr_tail: float = Field(
        0.0, ge=0, le=1, description="Fraction of the budget, at its end, over which the learning rates fall to zero."
    )
    ema_halflife_nimg: int = Field(
        0, ge=0, description="Half-life of the averaged generator weights (EMA), in images. 0: no averaging."
    )

    precision: Literal["fp32", "bf16"] = Field(
        "fp32",
        description="Arithmetic of the networks. bf16 is fast on recent GPUs; weights and losses stay fp32. On CUDA, "
        "fp32 convolutions use TF32.",
    )
    gpus: int = Field(
        1, ge=1, le=64, description="Number of GPUs of one machine that share each batch. The result is the same."
    )
    max_minutes: float | None = Field(
        None,
        gt=0,
        le=10**6,
        description="Time budget of the run in minutes. Every schedule is stretched to end with it. null: no limit.",
    )

    # Data
    flip: bool = Field(False, description="Flip half of the real images horizontally.")
    rotation_degrees: float = Field(
        0.0, ge=0, le=180, description="Rotate each real image at random by up to this angle."
    )
    crop_padding: int = Field(0, ge=0, le=16, description="Pad by this many pixels, then crop at random.")
    crop: Crop = "centre"
    background: Background = "#ffffff"
    on_bad_file: OnBadFile = "fail"
    balance_classes: bool = Field(
        False, description="Draw each class equally often, however many images it has. false: each image equally often."
    )

    diffaugment: DiffAugment = Field(
        (),
        description="Augmentations of the real and the generated images that the discriminator sees (DiffAugment): "
        "color, translation, cutout.",
    )
    diffaugment_p: float = Field(1.0, gt=0, le=1, description="Probability of each of these, per image.")

    # Reporting
    tick_nimg: int = Field(50_000, ge=1, description="Images between two rows of the metrics series.")
    snapshot_nimg: int = Field(
        500_000, ge=1, description="Images between two snapshots: sample grid, weights and checkpoint."
    )
    eval_images: int = Field(
        0,
        ge=0,
        le=10**6,
        description="Number of generated images for the evaluation at the end of the run. 0: no evaluation.",
    )
    eval_every_nimg: int | None = Field(
        None, ge=1, description="Images between two evaluations during the run. null: evaluate only at the end."
    )
    checkpoint_every_s: float = Field(
        120.0, ge=0, description="Seconds between two checkpoints, in addition to those of the snapshots."
    )
    early_stop: EarlyStop | None = Field(
        None,
        description="End the run when a metric stops improving, and export the best model. null: use the whole budget.",
    )

    # Warm start
    from_checkpoint: str | None = Field(
        None,
        pattern=_START,
        description="Continue from another job's checkpoint: `<job>` (the newest) or `<job>@<images>`.",
    )
    init_discriminator_from: str | None = Field(
        None,
        pattern=_START,
        description="Initialise the discriminator from another job's checkpoint: `<job>` (the newest) or "
        "`<job>@<images>`.",
    )
    warm_start_from: str | None = Field(
        None,
        pattern=_START,
        description="Start with the weights that fit of a model with other classes or another resolution: `starter`, a "
        "model's id, `<job>` or `<job>@<images>`.",
    )
    seed: int = Field(0, ge=0, lt=2**63, description="Seed of all random numbers of the run.")

    @model_validator(mode="after")
    def _networks_fit_the_resolution(self) -> Self:
        # One value per resolution from 4x4, or from 8x8, up to the images' own. Another length makes other images.
        name, doublings = self.architecture, RESOLUTIONS.index(self.resolution) + 3
        is_possible = name != "keras-dcgan" or self.resolution == 32
        _check("resolution", self.resolution, is_possible, "keras-dcgan makes 32 pixels only; choose resnet or dcgan")
        g_stages = doublings + 1 if name == "resnet" else doublings
        d_stages = {"dcgan": range(doublings, doublings + 1), "keras-dcgan": range(2, 3)}.get(
            name, range(2, doublings + 2)
        )
        if self.discriminator == "projected":
            d_stages = range(2, 5)
        owner = name if self.discriminator == "own" else self.discriminator
        at = f" at {self.resolution} pixels"
        _check("g_channels", self.g_channels, len(self.g_channels) == g_stages, f"{name} takes {g_stages} values{at}")
        lengths = " to ".join(str(n) for n in sorted({d_stages.start, d_stages.stop - 1}))
        _check("d_channels", self.d_channels, len(self.d_channels) in d_stages, f"{owner} takes {lengths} values{at}")
        return self

    @model_validator(mode="after")
    def _projected_options(self) -> Self:
        is_projected = self.discriminator == "projected"
        unused = self.feature_px is None or is_projected
        _check("feature_px", self.feature_px, unused, "only discriminator=projected enlarges images")
        if is_projected:
            message = "frozen features cannot be differentiated twice; set it to 0"
            _check("gp_weight", self.gp_weight, self.gp_weight == 0, message)
        is_pair = self.g_batch == "new" or (self.n_critic == 1 and self.d_batch == "full")
        _check("g_batch", self.g_batch, is_pair, "shared needs n_critic=1 and d_batch=full")
        return self

    @property
    def projected_px(self) -> int:
        """Side of the images that the frozen network of a projected discriminator sees."""
        return self.feature_px or min(256, 2 * self.resolution)

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """[C, H, W] of the images, in colour unless the config says grey."""
        return self.channels or 3, self.resolution, self.resolution

    @model_validator(mode="after")
    def _options_go_together(self) -> Self:
        for name, (unused, owner) in _OPTIONS.items():
            value = getattr(self, name)
            is_allowed = self.architecture == owner or value == unused
            _check(name, value, is_allowed, f"{self.architecture} does not have this option; only {owner} has")
        blocks = len(self.d_channels)
        _check(
            "d_halvings",
            self.d_halvings,
            (self.d_halvings or 0) <= blocks,
            f"must be at most {blocks}, the number of blocks in d_channels",
        )
        # torch cannot call a spectrally normalised network twice in one step, and both options would have to.
        both = self.spectral_norm and self.gp_weight > 0
        _check(
            "gp_weight",
            self.gp_weight,
            not both,
            "a gradient penalty cannot be combined with spectral_norm; disable one of them",
        )
        both = self.spectral_norm and self.batch_norm
        _check(
            "batch_norm",
            self.batch_norm,
            not both,
            "batch_norm cannot be combined with spectral_norm; disable one of them",
        )
        has_classes = self.conditional or self.class_weight == 0
        _check("class_weight", self.class_weight, has_classes, "a class loss needs conditional=true")
        is_same = self.gpus == 1 or self.dropout == 0
        _check(
            "gpus",
            self.gpus,
            is_same,
            "dropout differs between devices, so the result would depend on gpus; set dropout to 0",
        )
        is_halved = self.d_batch == "full" or self.batch_size % (2 * self.gpus) == 0
        _check("batch_size", self.batch_size, is_halved, "stacked_half needs a multiple of twice the number of gpus")
        is_even = self.batch_size % self.gpus == 0 and self.batch_size >= 2 * self.gpus
        _check(
            "gpus",
            self.gpus,
            is_even,
            f"batch_size {self.batch_size} must be a multiple of gpus, with at least two images per GPU",
        )
        return self

    @property
    def real_batch_size(self) -> int:
        """Real images that one discriminator step sees."""
        return self.batch_size if self.d_batch == "full" else self.batch_size // 2

    @model_validator(mode="after")
    def _per_class_excludes(self) -> Self:
        if self.per_class:
            _check(
                "conditional",
                self.conditional,
                not self.conditional,
                "per_class networks have no class input; set conditional to false",
            )
            _check("gpus", self.gpus, self.gpus == 1, "per_class trains on one GPU")
            at_end = self.eval_every_nimg is None
            _check("eval_every_nimg", self.eval_every_nimg, at_end, "a per_class model is complete only at the end")
            for name in ("from_checkpoint", "init_discriminator_from", "warm_start_from"):
                value = getattr(self, name)
                _check(name, value, value is None, "per_class trains each class from scratch")
            balance = self.balance_classes
            _check("balance_classes", balance, not balance, "per_class gives each class an equal share already")
        return self

    @model_validator(mode="after")
    def _start_and_end_are_possible(self) -> Self:
        enough = self.eval_images == 0 or self.eval_images >= MIN_EVAL_IMAGES
        _check("eval_images", self.eval_images, enough, f"must be at least {MIN_EVAL_IMAGES}, or 0 for no evaluation")
        if self.early_stop is not None:
            value, is_measured = self.early_stop.model_dump(), self.eval_images > 0 and self.eval_every_nimg is not None
            _check("early_stop", value, is_measured, "needs eval_images and eval_every_nimg, which measure the metric")
            has_metric = self.conditional or self.early_stop.metric != "class_accuracy"
            _check("early_stop", value, has_metric, "an unconditional model has no class_accuracy")
        start = self.init_discriminator_from
        _check(
            "init_discriminator_from",
            start,
            not (start and self.from_checkpoint),
            "from_checkpoint already sets the discriminator; remove one of the two",
        )
        is_only = not (self.warm_start_from and (start or self.from_checkpoint))
        message = "from_checkpoint and init_discriminator_from set the same weights; remove them or this"
        _check("warm_start_from", self.warm_start_from, is_only, message)
        return self


def _check(name: str, value: Any, holds: bool, message: str) -> None:
    if not holds:
        raise PydanticCustomError("config", "{message}", {"message": message, "field": name, "value": value})
