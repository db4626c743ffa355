"""References to another run's checkpoint, as configs write them: `<job>` or `<job>@<images>`."""

from __future__ import annotations

from collections.abc import Iterable

from shared.configs.train import TrainConfig

# Two runs can share weights only if these fields are equal: they decide the shapes of the networks.
DISCRIMINATOR_FIELDS = (
    "architecture", "discriminator", "feature_px", "conditional", "per_class", "d_channels", "d_halvings",
    "spectral_norm", "batch_norm",
)  # fmt: skip
NETWORK_FIELDS = (*DISCRIMINATOR_FIELDS, "latent_dim", "g_channels")


def job_of(reference: str) -> str:
    return reference.partition("@")[0]


def differences(config: TrainConfig, other: TrainConfig, fields: Iterable[str]) -> list[str]:
    """The fields that differ, each with the value in `other`: `["latent_dim=100"]`."""
    return [f"{name}={getattr(other, name)}" for name in fields if getattr(config, name) != getattr(other, name)]
