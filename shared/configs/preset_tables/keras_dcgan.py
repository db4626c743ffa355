"""The presets of report 2: a DCGAN made with Keras, and every variation in its study."""

from __future__ import annotations

from typing import Any

from shared.configs.preset_tables import Preset, changed
from shared.configs.train import TrainConfig

REPORT_2 = "report 2 (hyper-parameters of a DCGAN made with Keras)"
KERAS = "Keras' default; report 2 does not state it"
TUTORIAL = "Brownlee, 'How to Develop a GAN for Generating MNIST Handwritten Digits', which report 2 cites and follows"
EPOCH = 25_000  # real images: 50,000 / batch_size steps, in each of which half of D's batch is real

_BASE = TrainConfig(
    architecture="keras-dcgan",
    conditional=False,
    latent_dim=100,
    g_channels=(128, 64, 32),
    d_channels=(32, 64),
    loss="bce",
    batch_size=256,
    total_nimg=30 * EPOCH,
    d_batch="stacked_half",
    frozen_norm="running",
    leaky_slope=0.2,
    pixel_range="unit",
    lr=2e-4,
    adam_beta1=0.5,
    adam_beta2=0.999,
    tick_nimg=EPOCH,
    snapshot_nimg=10 * EPOCH,
)

_SOURCES = {
    **dict.fromkeys(_BASE.model_fields_set - {"tick_nimg", "snapshot_nimg"}, REPORT_2),
    **dict.fromkeys(("d_batch", "frozen_norm", "leaky_slope", "adam_beta1"), TUTORIAL),
    "adam_beta2": KERAS,
    "ema_halflife_nimg": "0: report 2 averages no weights",
}

_G, _D = 920_515, 23_489  # derived by hand in tests/trainer/networks/test_keras_dcgan.py


def _row(name: str, summary: str, generator: int = _G, discriminator: int = _D, **changes: Any) -> Preset:
    parameters = {"generator": generator, "discriminator": discriminator}
    config = changed(_BASE, **changes)
    sources = _SOURCES | dict.fromkeys(changes.keys() - {"snapshot_nimg"}, REPORT_2)
    return Preset(name, summary, config, parameters, sources)


ROWS = (
    _row("dcgan", "Report 2's base: a small unconditional DCGAN, 30 epochs of CIFAR-10."),
    _row("dcgan-lr-high", "Report 2: ten times the learning rate.", lr=2e-3),
    _row("dcgan-lr-low", "Report 2: a tenth of the learning rate.", lr=2e-5),
    _row("dcgan-batchnorm", "Report 2: batch norm after every LeakyReLU.", _G + 448, _D + 192, batch_norm=True),
    _row("dcgan-dropout", "Report 2: 40 % dropout after each LeakyReLU of the discriminator.", dropout=0.4),
    _row("dcgan-latent-50", "Report 2: a latent vector of 50.", _G - 50 * 8192, latent_dim=50),
    _row("dcgan-latent-150", "Report 2: a latent vector of 150.", _G + 50 * 8192, latent_dim=150),
    _row("dcgan-relu", "Report 2: ReLU in the generator.", g_activation="relu"),
    _row("dcgan-softmax", "Report 2: ReLU, and softmax at the end.", g_activation="relu", g_output="softmax"),
    _row("dcgan-epochs-10", "Report 2: 10 epochs.", total_nimg=10 * EPOCH),
    _row("dcgan-epochs-50", "Report 2: 50 epochs.", total_nimg=50 * EPOCH),
    _row("dcgan-batch-100", "Report 2: batches of 100.", batch_size=100),
    _row("dcgan-batch-400", "Report 2: batches of 400.", batch_size=400),
    _row(
        "bndrhl",
        "Report 2: batch norm, dropout and a latent vector of 150 for 400 epochs.",
        _G + 448 + 50 * 8192, _D + 192,
        batch_norm=True, dropout=0.4, latent_dim=150, total_nimg=400 * EPOCH, snapshot_nimg=50 * EPOCH,
    ),
    _row(
        "dcgan-large-batch", "Report 2: batches of 400 for 1000 epochs.",
        batch_size=400, total_nimg=1000 * EPOCH, snapshot_nimg=100 * EPOCH,
    ),
)  # fmt: skip
