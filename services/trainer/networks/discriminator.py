"""The base class of all discriminators: scores, and class logits if the config has a class loss."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

_RENAMED = {"class_filters": "class_projection"}  # in checkpoints that older versions wrote


class Discriminator(nn.Module):
    """(images [N, 3, 32, 32], labels [N]) -> scores [N]. Subclasses define `forward_with_logits`."""

    def forward(self, images: Tensor, labels: Tensor) -> Tensor:
        return self.forward_with_logits(images, labels)[0]

    def forward_with_logits(self, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor | None]:
        """Scores [N], and logits [N, classes] where the config has a class loss."""
        raise NotImplementedError

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        for old, new in _RENAMED.items():
            for key in [key for key in state_dict if key.startswith(f"{prefix}{old}.")]:
                state_dict[key.replace(old, new, 1)] = state_dict.pop(key)
        super()._load_from_state_dict(state_dict, prefix, *args)
