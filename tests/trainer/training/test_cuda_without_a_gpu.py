"""Training on CUDA, checked on a machine without a GPU: devices, precisions, and no wait for the device.

Under torch's FakeTensorMode tensors have a device, a type and a shape, but no values. An operation that mixes devices
raises, and so does `.item()`. Autograd's engine needs a real device, so gradients are replaced by zeros.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensor, FakeTensorMode

from services.trainer.data.augment import augment
from services.trainer.data.datasets import ImageDataset
from services.trainer.training.runtime import fastest
from services.trainer.training.state import TrainState
from services.trainer.training.steps import train_iteration
from shared.configs.train import TrainConfig
from tests.trainer.small import small_config, small_keras, small_projected, small_resnet

CUDA = torch.device("cuda")
AUGMENTED: dict[str, Any] = {"flip": True, "rotation_degrees": 10.0, "crop_padding": 2}

CASES: dict[str, TrainConfig] = {
    "dcgan, penalty": small_config("wgan-gp", n_critic=2),
    "dcgan, penalty, classes": small_config("wgan-gp-conditional", n_critic=2, **AUGMENTED),
    "dcgan, class loss": small_config("tiny", class_weight=2.0, **AUGMENTED),
    "dcgan, spectral norm": small_config("tiny", loss="bce", spectral_norm=True),
    "keras-dcgan": small_keras("bndrhl"),
    "keras-dcgan, classes": small_keras("dcgan", conditional=True),
    "resnet": small_resnet("tiny", spectral_norm=True),
    "resnet, penalty": small_resnet("wgan-gp", n_critic=2),
    "projected": small_projected(
        g_batch="shared",
        diffaugment=["color", "translation", "cutout"],
    ),
}


@pytest.fixture
def fake_cuda(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(nn.Module, "to", _move)
    monkeypatch.setattr(Tensor, "backward", _zero_gradients)
    monkeypatch.setattr(torch.autograd, "grad", lambda outputs, inputs, **_: (inputs * outputs * 0,))
    monkeypatch.setattr(FakeTensor, "__deepcopy__", _clone, raising=False)
    monkeypatch.setattr("torch.cuda.amp.common.amp_definitely_not_available", lambda: False)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda *_: True)
    with FakeTensorMode():
        yield


def _move(network: nn.Module, *args: Any, **kwargs: Any) -> nn.Module:
    """Module.to, which swaps tensors in place; fake ones do not support that."""

    def convert(tensor: Tensor) -> Tensor:
        return tensor if "memory_format" in kwargs and tensor.dim() != 4 else tensor.to(*args, **kwargs)

    with torch.no_grad():
        for module in network.modules():
            for name, parameter in module._parameters.items():
                if parameter is not None:
                    module._parameters[name] = nn.Parameter(convert(parameter), parameter.requires_grad)
            for name, buffer in module._buffers.items():
                if buffer is not None:
                    module._buffers[name] = convert(buffer)
    return network


def _clone(tensor: Tensor, _memo: dict[int, Any]) -> Tensor:
    """Tensor.__deepcopy__, which reads the memory that a fake tensor does not have."""
    with torch.no_grad():
        clone = tensor.clone()
    return nn.Parameter(clone, tensor.requires_grad) if isinstance(tensor, nn.Parameter) else clone


def _zero_gradients(loss: Tensor, inputs: list[nn.Parameter]) -> None:
    assert loss.requires_grad
    for parameter in inputs:
        parameter.grad = torch.zeros_like(parameter)


def cuda_state(config: TrainConfig, precision: str) -> TrainState:
    config = config.model_copy(update={"precision": precision})
    return TrainState(config, 10, CUDA, replace(fastest(CUDA), capture=False))


def cuda_dataset() -> ImageDataset:
    images = torch.zeros(40, 3, 32, 32, dtype=torch.uint8, device=CUDA)
    return ImageDataset(images, torch.zeros(40, dtype=torch.int64, device=CUDA), tuple("0123456789"))


@pytest.mark.usefixtures("fake_cuda")
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("case", CASES)
def test_an_iteration_on_cuda_stays_on_the_device_and_reads_nothing_from_it(case: str, precision: str) -> None:
    # Given a run on CUDA
    state = cuda_state(CASES[case], precision)
    # When it trains on a batch whose indices come from the CPU, as the sampler's do
    train_iteration(state, cuda_dataset(), torch.arange(state.config.n_critic * state.config.real_batch_size))
    state.update_ema(8)
    # Then no operation mixed devices or read a value, and everything that stays is on the device, in fp32
    tensors = [state.sums.float(), *state.generator.parameters(), *state.ema.parameters()]
    tensors += list(state.discriminator.parameters())
    tensors += [value for moments in state.opt_d.state.values() for value in moments.values()]
    assert {(tensor.device.type, tensor.dtype) for tensor in tensors} == {("cuda", torch.float32)}


@pytest.mark.usefixtures("fake_cuda")
@pytest.mark.parametrize(("precision", "expected"), [("fp32", torch.float32), ("bf16", torch.bfloat16)])
@pytest.mark.parametrize("case", CASES)
def test_both_forward_passes_compute_in_the_precision_of_the_config(
    case: str, precision: str, expected: torch.dtype
) -> None:
    # Given networks on CUDA, and hooks that record the type of each convolution's result
    state, types = cuda_state(CASES[case], precision), set()
    for network in (state.generator, state.discriminator):
        for module in network.modules():
            if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
                module.register_forward_hook(lambda _module, _inputs, output: types.add(output.dtype))
    # When they make images and score them
    with torch.no_grad(), state.autocast():
        labels = state.draw_labels(cuda_dataset().labels)
        images = state.generate(state.draw_latents(), labels)
        scores, logits = state.discriminate(state.discriminator.features(images), labels)
    # Then each convolution computed in that precision, on the device
    assert types == {expected}
    assert images.shape == (8, 3, 32, 32)
    assert len(scores) == 8
    assert {tensor.device.type for tensor in (images, scores, scores if logits is None else logits)} == {"cuda"}


@pytest.mark.usefixtures("fake_cuda")
@pytest.mark.parametrize("option", [{}, *({name: value} for name, value in AUGMENTED.items()), AUGMENTED])
def test_augmentation_on_cuda_makes_fp32_images_on_the_device(option: dict[str, Any]) -> None:
    config = small_config("tiny", **{"flip": False, "rotation_degrees": 0.0, "crop_padding": 0} | option)
    images = augment(cuda_dataset().images[:8], config)
    assert (images.device.type, images.dtype, images.shape) == ("cuda", torch.float32, (8, 3, 32, 32))


@pytest.mark.usefixtures("fake_cuda")
def test_the_test_bed_refuses_reads_and_mixed_devices() -> None:
    """Guards the tests above."""
    with pytest.raises(DataDependentOutputException):
        torch.ones((), device=CUDA).item()
    with pytest.raises(DataDependentOutputException):
        bool(torch.ones((), device=CUDA) > 0)
    with pytest.raises(RuntimeError, match="device"):
        torch.ones(3, device=CUDA) + torch.ones(3)
