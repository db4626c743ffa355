"""The presets that train one GAN per class, as report 2 concludes, with the networks of both reports."""

from __future__ import annotations

from dataclasses import replace

from shared.configs.preset_tables import Preset, keras_dcgan, wgan_gp

WAY = "report 2, conclusion: one GAN for each class"


def _per_class(row: Preset) -> Preset:
    return replace(
        row,
        name=f"{row.name}-per-class",
        summary=f"Report 2: one GAN per class, each a `{row.name}` trained on its class only, published as one model.",
        config=row.config.model_copy(update={"per_class": True}),
        sources={**row.sources, "per_class": WAY},
    )


ROWS = (_per_class(wgan_gp.ROWS[0]), _per_class(keras_dcgan.ROWS[0]))
