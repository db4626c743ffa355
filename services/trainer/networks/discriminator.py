"""The base class of all discriminators: frozen features, scores, and class logits if the config has a class loss."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

_RENAMED = {"class_filters": "class_projection"}  # in checkpoints that older versions wrote


class Discriminator(nn.Module):
    """(images [N, 3, H, W], labels [N]) -> scores [N] or [N, positions].

    Subclasses define `forward_with_logits`, the part that is trained. A subclass with a frozen part also defines
    `features`, so that a training step computes them once and uses them twice.
    """

    def forward(self, images: Tensor, labels: Tensor) -> Tensor:
        return self.forward_with_logits(self.features(images), labels)[0]

    def features(self, images: Tensor) -> Tensor:
        """What the trained part sees of images in [-1, 1]: the images themselves, unless there is a frozen part."""
        return images

    def calibrate(self, images: Tensor) -> None:
        """Prepares a frozen part for the data, by real images, uint8 [N, 3, H, W]. Does nothing without one."""

    def forward_with_logits(self, features: Tensor, labels: Tensor) -> tuple[Tensor, Tensor | None]:
        """Scores, and logits [N, classes], or [N, classes, heads], where the config has a class loss."""
        raise NotImplementedError

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        for old, new in _RENAMED.items():
            for key in [key for key in state_dict if key.startswith(f"{prefix}{old}.")]:
                state_dict[key.replace(old, new, 1)] = state_dict.pop(key)
        super()._load_from_state_dict(state_dict, prefix, *args)
