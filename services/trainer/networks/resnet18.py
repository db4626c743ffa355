"""The classifier's ResNet-18 as a discriminator, so that it can start from the trained classifier's weights."""

from __future__ import annotations

from typing import cast

from torch import Tensor, nn

from services.trainer.classifier.network import Classifier
from services.trainer.networks import discriminator
from services.trainer.networks.strided import PLAIN_PRODUCTS, Products
from shared.configs.train import TrainConfig


class Discriminator(discriminator.Discriminator):
    """ResNet-18 with one logit as the score, plus a projection of its features onto the class. [N, 3, 32, 32] -> [N]"""

    def __init__(self, config: TrainConfig, num_classes: int | None, _products: Products = PLAIN_PRODUCTS) -> None:
        super().__init__()
        self.trunk = Classifier(config.d_channels[0], num_classes=1)
        self.class_embedding = None if num_classes is None else nn.Embedding(num_classes, config.d_channels[-1])
        if self.class_embedding is not None:
            nn.init.orthogonal_(self.class_embedding.weight)
        has_classes = num_classes is not None and config.class_weight > 0
        self.classify = nn.Linear(config.d_channels[-1], cast(int, num_classes)) if has_classes else None

    def forward_with_logits(self, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor | None]:
        logits, features = self.trunk(images)  # [N, 1], [N, D]
        score = cast(Tensor, logits).flatten()
        if self.class_embedding is not None:
            score = score + (self.class_embedding(labels) * features).sum(1)
        return score, None if self.classify is None else self.classify(features)
