"""The rows of report 2's second way to images by class: both reports' networks, one pair for each class."""

from __future__ import annotations

from dataclasses import replace

from shared.configs.preset_tables import Preset, keras_dcgan, wgan_gp

WAY = "report 2, conclusion: one GAN for each class"


def _per_class(row: Preset) -> Preset:
    return replace(
        row,
        name=f"{row.name}-per-class",
        summary=f"Report 2: a GAN for each class, of its images only, in one model; each is a `{row.name}`.",
        config=row.config.model_copy(update={"per_class": True}),
        sources={**row.sources, "per_class": WAY},
    )


ROWS = (_per_class(wgan_gp.ROWS[0]), _per_class(keras_dcgan.ROWS[0]))
